"""Checkers of the chapter on vanishing gradients."""

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

# χ = σw²·½(1 + a²) = 1 for a leaky ReLU of slope a = 0.2.
_a = 0.2
number(
    "vg-1",
    right=math.sqrt(2 / (1 + _a**2)),
    rtol=2e-3,
    praise="σw² = 2/(1 + a²): between √2, ReLU's, at a = 0 and 1 at a = 1, where nothing bends",
    mistakes=[
        (2 / (1 + _a**2), "that is σw²; the gain is its root"),
        (math.sqrt(2), "that is the gain of ReLU: the negative half passes something here"),
        ([2 / (1 + _a), math.sqrt(2 / (1 + _a))],
         "that takes the mean of the slope; χ has the mean of its square, ½(1 + 0.2²)"),
        (math.sqrt(1 / (1 + _a**2)),
         "each slope is met by half of the inputs: the mean square is ½(1 + 0.2²)"),
        (math.sqrt((1 + _a**2) / 2), "upside down: the gain makes good for what is lost"),
    ],
    otherwise="set σw²·E[φ′²] = 1 with E[φ′²] = ½·1² + ½·0.2²",
)  # fmt: skip


# 4⁻ᵏ in float32: 2⁻¹⁴⁹ is the smallest number, and half of it is rounded to zero.
number(
    "vg-2",
    right=75,
    rtol=0,
    praise="2⁻¹⁵⁰ is half of the smallest number, and is rounded to zero",
    mistakes=[
        (74, "after 74 layers it is 2⁻¹⁴⁸, twice the smallest number: one layer more"),
        ([76, 74.5], "2⁻¹⁵⁰ is half of the smallest number already, and half is rounded to zero"),
        ([149, 150], "a quarter is 2⁻², so each layer takes two from the exponent"),
        ([63, 64], "that is where full precision ends, 2⁻¹²⁶; smaller numbers go on to 2⁻¹⁴⁹"),
        (within(536, 539), "that is float64, whose numbers go down to 2⁻¹⁰⁷⁴: use np.float32"),
    ],
    otherwise="the gradient is 2⁻²ᵏ after k layers: which k first makes it 2⁻¹⁵⁰ or less?",
)


@exercise("vg-3")
def _layer_norm(answer):
    """z = (x − m)/s: g ↦ (g − mean g − z·mean(g z))/s over the last axis."""
    rng = np.random.default_rng(11)
    x, g, eps = 2 + 3 * rng.standard_normal((4, 6)), rng.standard_normal((4, 6)), 0.3
    got = expect_array(answer(g.copy(), x.copy(), eps), (4, 6), "the gradient")

    def rule(axis=-1, ones=1.0, along=1.0, eps=eps, ddof=0, power=1):
        m = x.mean(axis, keepdims=True)
        s = np.sqrt(x.var(axis, keepdims=True, ddof=ddof) + eps)
        z = (x - m) / s
        parts = g - ones * g.mean(axis, keepdims=True)
        return (parts - along * z * (g * z).mean(axis, keepdims=True)) / s**power

    if close(got, rule(), atol=1e-9):
        return "what is left of g has no part along the ones, and (but for ε) none along z"
    if close(got, rule(ones=0, along=0), atol=1e-9):
        raise Wrong("that treats m and s as constants: both depend on every entry of x")
    if close(got, rule(along=0), atol=1e-9):
        raise Wrong("the share through s is missing: ∂s/∂xⱼ = zⱼ/n")
    if close(got, rule(ones=0), atol=1e-9):
        raise Wrong("the share through m is missing: ∂m/∂xⱼ = 1/n")
    if close(got, rule(along=-1), atol=1e-9) or close(got, rule(ones=-1), atol=1e-9):
        raise Wrong("a sign: both shares, through m and through s, are taken away from g")
    if close(got, rule(ones=6, along=6), atol=1e-9):
        raise Wrong("the shares are means over the units, not sums: divide by n")
    if close(got, rule(axis=0), atol=1e-9):
        raise Wrong("that is batch norm: layer norm works over the units of each example, axis −1")
    if close(got, rule(eps=0), atol=1e-9):
        raise Wrong("ε is missing under the root of s")
    if close(got, rule(ddof=1), atol=1e-9):
        raise Wrong("the variance here divides by n, not by n − 1")
    if close(got, rule(power=0), atol=1e-9):
        raise Wrong("the division by s is missing")
    raise Wrong("not the gradient: (g − mean(g) − z·mean(g·z))/s, means over the last axis")


#: What the reader of vg-4 is given.
BROKEN_BLOCK = """\
def answer(x, W, g):
    h = np.tanh(x @ W.T)
    h += x
    slope = 1 - h**2
    return h, (g * slope) @ W
"""


@exercise("vg-4")
def _block(answer):
    """y = x + tanh(xWᵀ) and ∂L/∂x = g + (g·(1 − tanh²)) W."""
    expect_changed(answer, BROKEN_BLOCK, "this is the broken block as given: find its two bugs")
    rng = np.random.default_rng(13)
    x, w, g = (rng.standard_normal(shape) for shape in ((3, 5), (5, 5), (3, 5)))
    mine = {"x": x.copy(), "W": w.copy(), "g": g.copy()}
    result = answer(*mine.values())
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong("return two things: y, and the gradient with respect to x, in this order")
    y, got = (
        expect_array(v, (3, 5), n) for v, n in zip(result, ("y", "the gradient"), strict=True)
    )
    h = np.tanh(x @ w.T)
    right, overwritten = g * (1 - h**2) @ w, g * (1 - (h + x) ** 2) @ w
    if close(y, h):
        raise Wrong("y is the branch alone: the block adds x to it")
    if not close(y, x + h):
        raise Wrong("y should be x + tanh(x Wᵀ)")
    if close(got, right):
        raise Wrong(
            "the slope is right; the shortcut's share of the gradient, g itself, is missing"
        )
    if close(got, g + overwritten):
        raise Wrong(
            "the slope is worked out from y, not from the tanh: h was overwritten by h += x"
        )
    if close(got, overwritten):
        raise Wrong("both bugs are still there: h is overwritten, and the shortcut's share missing")
    if close(got, g + (g * (1 - h**2)) @ w.T):
        raise Wrong("on the way back it is W and not its transpose: x Wᵀ went forward")
    if close(got, 1 + right):
        raise Wrong("the shortcut's slope is 1, its share of the gradient is 1·g")
    if not close(got, g + right):
        raise Wrong("the gradient should be g + (g·(1 − tanh²)) W")
    for name, before in {"x": x, "W": w, "g": g}.items():
        if not np.array_equal(mine[name], before):
            raise Wrong(
                f"the numbers are right, but your function changes the caller's {name}: "
                f"write {name} + … in place of +="
            )
    return "the gradient comes back both ways: whole along the shortcut, and through the branch"


# (1 + s²)^(D/2) = e for D = 200.
_D = 200
number(
    "vg-5",
    right=math.sqrt(math.exp(2 / _D) - 1),
    rtol=5e-3,
    praise="s ≈ √(2/D): four times the depth, half the branch",
    mistakes=[
        (_D**-0.5, "1/√D lets the squared length grow by e, so the length by √e; more is allowed"),
        ([math.exp(2 / _D) - 1, 2 / _D], "that is s²; take the root", 2e-2),
        (1 / _D, "that solves (1 + s)^D = e; the branches add in squares, 1 + s²", 1e-2),
    ],
    otherwise="solve (1 + s²)^(D/2) = e with D = 200",
)  # fmt: skip


# Batch norm before |z|: E φ′² = 1, Var|z| = 1 − 2/π.
number(
    "vg-6",
    right=math.pi / (math.pi - 2),
    rtol=3e-3,
    praise="π/(π − 2); no part of |z| is a straight line, so every term of the series counts",
    mistakes=[
        (1.0, "that divides by the mean square, 1; batch norm divides by the variance"),
        (
            math.sqrt(math.pi / (math.pi - 2)),
            "that is the growth of the length; its square is asked",
        ),
        (math.pi / (math.pi - 1), "that is ReLU's; here both halves have slope ±1"),
        (1 - 2 / math.pi, "that is the variance, which belongs below the line"),
        (1 / (1 - math.sqrt(2 / math.pi)), "the variance is E z² − (E|z|)²: square the mean"),
    ],
    otherwise="E φ′² = 1, since the slope is ±1; Var|z| = E z² − (E|z|)²",
)


choice(
    "vg-7",
    {
        "a": "It is 2^(D/2) times as large.",
        "b": "It is about √D times as large.",
        "c": "It is √e times as large.",
        "d": "It is as large.",
    },
    right="b",
    praise="block ℓ multiplies the squared gradient by (ℓ + 1)/ℓ, and the product is about D",
    mistakes={
        "a": "that is without the norm; here the branch sees x divided by its growing size",
        "c": "that needs s = 1/√D in every block; here the scale is 1/√ℓ, larger in early blocks",
        "d": "every block adds something: 1 + 1/ℓ is above 1, and the sum of 1/ℓ grows with D",
    },
)


@exercise("vg-8")
def _thirty(answer):
    """A start and a step with which thirty plain tanh layers read 80 % in 150 steps."""
    from dlmini import nn, optim

    keys = {"start", "gain", "lr", "momentum"}
    if not isinstance(answer, dict) or set(answer) != keys:
        raise Wrong("give a dictionary with the keys start, gain, lr and momentum")
    start = answer["start"]
    if start not in ("normal", "orthogonal"):
        raise Wrong(f"start is {start!r}: choose 'normal' or 'orthogonal'")
    gain, lr, mu = (expect_number(answer[k], k) for k in ("gain", "lr", "momentum"))
    if gain <= 0 or lr <= 0:
        raise Wrong("gain and lr are positive numbers")
    if not 0 <= mu < 1:
        raise Wrong(f"momentum is {mu:g}: it lies in [0, 1), or old gradients never fade")

    def build():
        net = nn.mlp(64, *[32] * 30, 10, activation=nn.Tanh)
        nn.normal_(net, gain)
        for layer in net.layers[::2] if start == "orthogonal" else []:
            nn.orthogonal_(layer.weight, gain)  # type: ignore[attr-defined]
        return net

    scores = []
    for score, diverged in validated(
        build,
        lambda parameters: optim.SGD(parameters, lr, mu),
        steps=150, batch_size=64, seeds=(201, 202, 203),
    ):  # fmt: skip
        if diverged:
            raise Wrong(f"with lr = {lr:g} and momentum = {mu:g} the loss is not finite: too long")
        scores.append(score)
    median = sorted(scores)[1]
    if median >= 0.8:
        return f"validation accuracy {median:.1%}, the median of three fresh networks"
    told = f"validation accuracy {median:.1%} (median of three); 80 % is asked"
    if gain < 0.7:
        raise Wrong(f"{told}: with gain {gain:g} the signal dies on its way up")
    if gain > 2:
        raise Wrong(f"{told}: with gain {gain:g} the units saturate and gradients explode")
    if lr / (1 - mu) < 0.05:
        raise Wrong(f"{told}: lr/(1−momentum) = {lr / (1 - mu):.2g} does not get far in 150 steps")
    if lr / (1 - mu) > (0.15 if start == "orthogonal" else 0.6):
        raise Wrong(f"{told}: lr/(1−momentum) = {lr / (1 - mu):.2g} throws it onto the plateau")
    raise Wrong(f"{told}: does the other start keep lengths better?")
