"""Checkers of the chapter on gradient descent."""

import math

import numpy as np

from . import Wrong, close, exercise, expect_array, expect_number


@exercise("gd-1")
def _one_step(answer):
    """θ = 3, L = ½·4·(θ − 1)², η = 0.1: θ ← 3 − 0.1·4·2 = 2.2."""
    theta = expect_number(answer)
    if close(theta, 3.8):
        raise Wrong("that walks uphill: the step goes against the gradient, θ − ηg")
    if close(theta, 2.6):
        raise Wrong("the gradient is half of what it should be: d/dθ of ½·4·(θ−1)² is 4(θ−1)")
    if close(theta, 1.4):
        raise Wrong("the gradient is twice what it should be: the ½ cancels the 2 of the square")
    if close(theta, 1.8):
        raise Wrong("the valley's lowest point is at 1, not at 0: the gradient is 4(θ−1)")
    if close(theta, -5.0):
        raise Wrong("the step has the gradient's full length; it should be η = 0.1 of it")
    if close(theta, 0.8) or close(theta, -0.8):
        raise Wrong("that is the step alone; add it to where you stand")
    if not close(theta, 2.2):
        raise Wrong("work out g = 4(θ−1) at θ = 3 first, then θ − ηg")
    return "one step covers 40 % of the way to the lowest point: 1 − ηλ = 0.6 of the error is left"


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


@exercise("gd-3")
def _threshold(answer):
    """H = [[3, 1], [1, 3]] has eigenvalues 2 and 4: η < 2/4."""
    eta = expect_number(answer)
    if close(eta, 0.25):
        raise Wrong("that is 1/λmax; every step shorter than twice that still converges")
    if close(eta, 1.0):
        raise Wrong("that is 2/λmin: the steepest direction diverges long before")
    if close(eta, 2 / 3, rtol=2e-3):
        raise Wrong("3 is a diagonal entry; the directions that matter are the eigenvectors of H")
    if close(eta, 4.0):
        raise Wrong("that is λmax itself; the threshold is 2/λmax")
    if close(eta, 1 / 3, rtol=2e-3):
        raise Wrong("that is 2/(λmin+λmax), the fastest step, not the longest that converges")
    if not close(eta, 0.5):
        raise Wrong("find the eigenvalues of H (np.linalg.eigvalsh) and ask |1 − ηλ| < 1 of each")
    return "η < 2/λmax = 0.5, whatever the diagonal entries are"


@exercise("gd-4")
def _steps(answer):
    """((κ−1)/(κ+1))^t ≤ 1/1000 with κ = 100: t = ⌈ln 1000 / ln(101/99)⌉ = 346."""
    steps = expect_number(answer)
    right = math.log(1000) / math.log(101 / 99)
    if abs(steps - right / 2) <= 1:
        raise Wrong(
            "that makes the *loss* 1,000 times smaller; the error, its root, needs twice that"
        )
    if abs(steps - 2 * right) <= 2:
        raise Wrong("twice too many: one step multiplies the error itself by (κ−1)/(κ+1)")
    if abs(steps - right / math.log(10)) <= 1:
        raise Wrong("one logarithm is to base 10 and the other natural: use the same for both")
    if abs(steps - math.log(1000) / -math.log(0.99)) <= 1.01:
        raise Wrong("that is the rate at η = 1/λmax, 1 − 1/κ; the best η does about twice as well")
    if math.ceil(right) - 1 <= steps < math.ceil(right):
        raise Wrong("one step short: round up, the last part of a step is a step too")
    if steps != math.ceil(right):
        raise Wrong("solve ((κ−1)/(κ+1))^t = 1/1000 for t, and round up")
    return "346 steps; in general about ½·κ·ln(1000), so ten times the κ costs ten times the steps"


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


@exercise("gd-6")
def _batch(answer):
    """Noise of the gradient falls like 1/√B: ten times less needs B = 3,200 where it was 32."""
    batch = expect_number(answer)
    if close(batch, 320):
        raise Wrong("that makes the *variance* ten times smaller, and the noise only √10 times")
    if close(batch, 100):
        raise Wrong("the batch grows by a factor of 100; from 32, that is more than 100")
    if close(batch, 32 * math.sqrt(10), rtol=0.02):
        raise Wrong("the root is on the wrong side: noise ∝ 1/√B, so B ∝ 1/noise²")
    if not close(batch, 3200):
        raise Wrong("the variance is ∝ 1/B, the noise (standard deviation) ∝ 1/√B")
    return "a hundred times the work for a tenth of the noise"


@exercise("gd-7")
def _filter_direction(answer):
    """Each row of the direction as long as the same row of the weights."""
    rng = np.random.default_rng(11)
    weights, d = rng.standard_normal((2, 3, 5)) * np.array([[0.5], [1.0], [3.0]])
    result = expect_array(answer(d.copy(), weights.copy()), (3, 5), "the result")

    def length(a, axis):
        return np.linalg.norm(a, axis=axis, keepdims=True)

    if close(result, d / length(d, 1)):
        raise Wrong("every row has length one; give it the length of the row of W that it changes")
    if close(result, d * np.linalg.norm(weights) / np.linalg.norm(d)):
        raise Wrong("the whole matrix was scaled by one number; each row needs its own")
    if close(result, d * length(weights, 0) / length(d, 0)):
        raise Wrong("those are the columns; what feeds one unit is a row of W")
    if close(result, d * length(weights, 1)):
        raise Wrong("divide by the row's own length first, then multiply by that of the row of W")
    if close(result, d * weights / length(d, 1)) or close(result, d / length(d, 1) * weights):
        raise Wrong("multiply by the *length* of the row of W, not by its entries")
    if not close(result, d / length(d, 1) * length(weights, 1)):
        raise Wrong("row i should point along d[i] and be as long as W[i]")
    return "rescale a layer, and the direction rescales with it: the picture stays the same"


@exercise("gd-8")
def _tune(answer):
    """Settings that bring a fresh network to 94 % on validation images, in 150 steps.

    The test part of the digits stays out of it: whoever tunes on it has no honest test left.
    """
    from dlmini import data, functional, nn, optim, seeded, train

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
    for seed in (101, 102, 103):
        with seeded(seed):
            digits = data.digits()
            part = data.random_split(digits.x_train, digits.y_train)
            net = nn.mlp(64, 32, 10)
            optimizer = optim.SGD(net.parameters(), lr, mu)
            history = train.fit(
                net, functional.cross_entropy, part.x_train, part.y_train, optimizer,
                steps=150, batch_size=int(batch), stop_at_divergence=True,
            )  # fmt: skip
        scores.append(functional.accuracy(net(part.x_test), part.y_test))
        if history.diverged is not None or (scores[-1] < 0.3 and lr / (1 - mu) >= 0.3):
            raise Wrong(
                f"with lr = {lr:g} and momentum = {mu:g} training breaks down (validation "
                f"accuracy {scores[-1]:.0%}): the effective step lr/(1−momentum) = "
                f"{lr / (1 - mu):g} is too long"
            )
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
