"""Checkers of the chapter on gradient descent."""

import math

import numpy as np

from . import (
    Wrong,
    choice,
    close,
    exercise,
    expect_array,
    expect_changed,
    expect_number,
    number,
    validated,
    within,
)

# One step at θ = 3 on L = ½·4·(θ − 1)², with η = 0.1.
_θ, _λ, _lowest, _η = 3, 4, 1, 0.1
_g = _λ * (_θ - _lowest)
number(
    "gd-1",
    right=_θ - _η * _g,
    praise="one step covers 40 % of the way to the lowest point: 1 − ηλ = 0.6 of the error is left",
    mistakes=[
        (_θ + _η * _g, "that walks uphill: the step goes against the gradient, θ − ηg"),
        (_θ - _η * _g / 2,
         "the gradient is half of what it should be: d/dθ of ½·4·(θ−1)² is 4(θ−1)"),
        (_θ - _η * 2 * _g,
         "the gradient is twice what it should be: the ½ cancels the 2 of the square"),
        (_θ - _η * _λ * _θ, "the valley's lowest point is at 1, not at 0: the gradient is 4(θ−1)"),
        (_θ - _g, "the step has the gradient's full length; it should be η = 0.1 of it"),
        ([_η * _g, -_η * _g], "that is the step alone; add it to where you stand"),
    ],
    otherwise="work out g = 4(θ−1) at θ = 3 first, then θ − ηg",
)  # fmt: skip


@exercise("gd-2")
def _gradient(answer):
    """L(w) = mean (Xw − y)², g = 2 Xᵀ(Xw − y)/N."""
    rng = np.random.default_rng(7)
    w, x, y = rng.standard_normal(3), rng.standard_normal((8, 3)), rng.standard_normal(8)
    g = expect_array(answer(w.copy(), x.copy(), y.copy()), (3,), "gradient(w, X, y)")
    right = 2 * x.T @ (x @ w - y) / 8
    if close(g, -right):
        raise Wrong("the sign is turned: the error is prediction minus target, Xw − y")
    if close(abs(g), abs(right) * 8) or close(abs(g), abs(right) * 4):
        raise Wrong("the 1/N is missing: the loss is the mean over the examples, not their sum")
    if close(g, right / 2):
        raise Wrong("the 2 is missing: d/de of e² is 2e (this loss has no ½ in front)")
    if close(g, right * 8 / 3):
        raise Wrong("you divide by the number of weights; N counts the examples, the rows of X")
    if not close(g, right):
        raise Wrong("not the gradient of mean((X @ w - y)**2): the chain rule gives 2 Xᵀ(Xw − y)/N")
    return "each example pulls along its own input, in proportion to its error"


# The longest step for H = [[3, 1], [1, 3]], whose eigenvalues are 2 and 4.
_λmin, _λmax = 2, 4
number(
    "gd-3",
    right=2 / _λmax,
    praise="η < 2/λmax = 0.5, whatever the diagonal entries are",
    mistakes=[
        (1 / _λmax, "that is 1/λmax; every step shorter than twice that still converges"),
        (2 / _λmin, "that is 2/λmin: the steepest direction diverges long before"),
        (2 / 3, "3 is a diagonal entry; the directions that matter are the eigenvectors of H",
         2e-3),
        (_λmax, "that is λmax itself; the threshold is 2/λmax"),
        (2 / (_λmin + _λmax),
         "that is 2/(λmin+λmax), the fastest step, not the longest that converges", 2e-3),
    ],
    otherwise="find the eigenvalues of H (np.linalg.eigvalsh) and ask |1 − ηλ| < 1 of each",
)  # fmt: skip


# Steps until the error is 1,000 times smaller with κ = 100 and the best η: each leaves
# (κ−1)/(κ+1) of it.
_steps = math.log(1000) / math.log(101 / 99)
_plain = math.log(1000) / -math.log(1 - 1 / 100)
number(
    "gd-4",
    right=math.ceil(_steps),
    rtol=0,
    praise=(
        "346 steps; in general about ½·κ·ln(1000), so ten times the κ costs ten times the steps"
    ),
    mistakes=[
        (within(_steps / 2 - 1, _steps / 2 + 1),
         "that makes the loss 1,000 times smaller; the error, its root, needs twice that"),
        (within(2 * _steps - 2, 2 * _steps + 2),
         "twice too many: one step multiplies the error itself by (κ−1)/(κ+1)"),
        (within(_steps / math.log(10) - 1, _steps / math.log(10) + 1),
         "one logarithm is to base 10 and the other natural: use the same for both"),
        (within(_plain - 1.01, _plain + 1.01),
         "that is the rate at η = 1/λmax, 1 − 1/κ; the best η does about twice as well"),
        (within(math.floor(_steps), math.ceil(_steps)),
         "one step short: round up, the last part of a step is a step too"),
    ],
    otherwise="solve ((κ−1)/(κ+1))^t = 1/1000 for t, and round up",
)  # fmt: skip


@exercise("gd-5")
def _momentum(answer):
    """v ← μv + g, θ ← θ − ηv, with the new v."""
    rng = np.random.default_rng(3)
    theta, v, g = rng.standard_normal((3, 4))
    lr, mu = 0.1, 0.8
    result = answer(theta.copy(), v.copy(), g.copy(), lr, mu)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong("return two things: the new θ and the new v, in this order")
    new, speed = expect_array(result[0], (4,), "θ"), expect_array(result[1], (4,), "v")
    right = mu * v + g
    if close(new, right) and close(speed, theta - lr * right):
        raise Wrong("both are right, in the wrong order: return the new θ first, then v")
    if close(speed, mu * v + lr * g):
        raise Wrong("η belongs in the second line only: v ← μv + g, then θ ← θ − ηv")
    if close(speed, mu * v + (1 - mu) * g):
        raise Wrong(
            "that is a moving average, (1−μ)g; here the gradient enters in full: v ← μv + g"
        )
    if close(speed, mu * v - g) or close(speed, mu * v - lr * g):
        raise Wrong("the minus sign, and η, belong in the second line: θ ← θ − ηv")
    if close(speed, v) and close(new, theta - lr * v):
        raise Wrong("the velocity never changes: take up the gradient, v ← μv + g, then move")
    if not close(speed, right):
        raise Wrong("the new velocity should be μv + g")
    if close(new, theta - lr * v):
        raise Wrong("you moved with the old velocity; update v first, then move along the new one")
    if close(new, theta + lr * right):
        raise Wrong("that climbs: θ − ηv")
    if close(new, theta - lr * g):
        raise Wrong("v is right, but θ moved along the gradient alone: use v")
    if not close(new, theta - lr * right):
        raise Wrong("v is right; the new θ should be θ − ηv")
    return (
        "with μ = 0 this is plain descent; a long steady slope is climbed down 1/(1−μ) times faster"
    )


#: What the reader of gd-6 is given.
BROKEN_LOOP = """\
def answer(X, y, w, lr, steps):
    error = X @ w - y
    gradient = X.T @ error / len(y)
    for _ in range(steps):
        w -= lr * gradient
    return w
"""


def _descend(x, y, w, lr, steps, *, once=False):
    """Descent on L(w) = ½·mean (Xw − y)², or with the gradient of the start at every step."""
    start = w
    for _ in range(steps):
        w = w - lr * x.T @ (x @ (start if once else w) - y) / len(y)
    return w


@exercise("gd-6")
def _repair(answer):
    """L(w) = ½·mean (Xw − y)²: w ← w − η Xᵀ(Xw − y)/N, the caller's w left as it was."""
    expect_changed(answer, BROKEN_LOOP, "this is the broken loop as given: find its two bugs")
    rng = np.random.default_rng(5)
    x, y, w = rng.standard_normal((10, 3)), rng.standard_normal(10), rng.standard_normal(3)
    lr, steps, n = 0.05, 8, 10
    mine = {"X": x.copy(), "y": y.copy(), "w": w.copy()}
    result = expect_array(answer(*mine.values(), lr, steps), (3,), "the returned w").copy()

    def is_descent(factor=1.0, steps=steps, once=False):
        return close(result, _descend(x, y, w, factor * lr, steps, once=once))

    if any(is_descent(f, once=True) for f in (1, -1, 2, n, -n)):
        raise Wrong(
            "the gradient is that of the start at every step: compute it inside the loop, "
            "from the w of that moment"
        )
    if is_descent(-1) or is_descent(-n):
        raise Wrong("that walks uphill: the step goes against the gradient, w − ηg")
    if is_descent(n):
        raise Wrong("the 1/N is missing: the loss is the mean over the examples, not their sum")
    if is_descent(n / 3):
        raise Wrong("you divide by the number of weights; N counts the examples, the rows of X")
    if is_descent(2):
        raise Wrong("the gradient is twice what it should be: this loss is ½·mean (Xw − y)²")
    if close(result, w):
        raise Wrong("w comes back as it went in: the steps are lost on the way")
    if is_descent(steps=1):
        raise Wrong(
            "only one step is left of all: either return stands inside the loop, or every step "
            "begins at the first w again"
        )
    if is_descent(steps=steps - 1) or is_descent(steps=steps + 1):
        raise Wrong("the steps are right, their number is off by one: for _ in range(steps)")
    if not is_descent():
        raise Wrong("every step should be w ← w − ηg with g = Xᵀ(Xw − y)/N at the w of that moment")
    for name, before in {"X": x, "y": y, "w": w}.items():
        if not np.array_equal(mine[name], before):
            raise Wrong(
                f"the path is right, but your function changes the caller's {name}: "
                f"begin with {name} = {name}.copy(), or write {name} = {name} − … in place of −="
            )
    return "the slope is measured anew at every step, and whoever calls keeps their w"


# Noise of the gradient falls like 1/√B: ten times less needs B = 3,200 where it was 32.
number(
    "gd-7",
    right=32 * 10**2,
    praise="a hundred times the work for a tenth of the noise",
    mistakes=[
        (32 * 10, "that makes the variance ten times smaller, and the noise only √10 times"),
        (10**2, "the batch grows by a factor of 100; from 32, that is more than 100"),
        (32 * math.sqrt(10), "the root is on the wrong side: noise ∝ 1/√B, so B ∝ 1/noise²", 0.02),
    ],
    otherwise="the variance is ∝ 1/B, the noise (standard deviation) ∝ 1/√B",
)


# A walker on a parabola of curvature λ with η = 1.5/λ: each step leaves 1 − ηλ = −0.5.
choice(
    "gd-8",
    {
        "a": "It slides down one side of the valley.",
        "b": "It jumps across and climbs.",
        "c": "It jumps across and descends, halving its distance each time.",
        "d": "It jumps across for ever at one height.",
    },
    right="c",
    praise="1 − ηλ = −0.5: the sign turns at every step, and half the distance is left",
    mistakes={
        "a": "staying on one side needs 1 − ηλ > 0, so η < 1/λ; here 1 − ηλ is negative",
        "b": "climbing needs |1 − ηλ| > 1, so η > 2/λ; here each step leaves less than before",
        "d": "that is η = 2/λ exactly, where 1 − ηλ = −1; here η is shorter",
    },
)


@exercise("gd-9")
def _tune(answer):
    """Settings that bring a fresh network to 94 % on validation images, in 150 steps.

    The test part of the digits stays out of it: whoever tunes on it has no honest test left.
    """
    from dlmini import nn, optim

    if not isinstance(answer, dict) or set(answer) != {"lr", "momentum", "batch_size"}:
        raise Wrong("give a dictionary with the keys lr, momentum and batch_size")
    lr, mu, batch = (expect_number(answer[k], k) for k in ("lr", "momentum", "batch_size"))
    if lr <= 0:
        raise Wrong(f"lr is {lr:g}: a learning rate is positive")
    if not 0 <= mu < 1:
        raise Wrong(f"momentum is {mu:g}: it lies in [0, 1), or old gradients never fade")
    if batch < 1 or batch != int(batch):
        raise Wrong(f"batch_size is {batch:g}: it counts examples")
    scores = []
    for score, diverged in validated(
        lambda: nn.mlp(64, 32, 10),
        lambda parameters: optim.SGD(parameters, lr, mu),
        steps=150, batch_size=int(batch), seeds=(101, 102, 103),
    ):  # fmt: skip
        if diverged or (score < 0.3 and lr / (1 - mu) >= 0.3):
            raise Wrong(
                f"with lr = {lr:g} and momentum = {mu:g} training breaks down (validation "
                f"accuracy {score:.0%}): the effective step lr/(1−momentum) = "
                f"{lr / (1 - mu):g} is too long"
            )
        scores.append(score)
    median = sorted(scores)[1]
    if median < 0.94 and lr / (1 - mu) < 0.3:
        raise Wrong(
            f"validation accuracy {median:.1%} (median of three): the effective step "
            f"lr/(1−momentum) = {lr / (1 - mu):.2g} is so short that 150 of them do not arrive"
        )
    if median < 0.94:
        raise Wrong(
            f"validation accuracy {median:.1%} (median of three); 94 % is asked: keep going"
        )
    return f"validation accuracy {median:.1%}, the median of three fresh networks"
