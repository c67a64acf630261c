"""Checkers of the chapter on backpropagation."""

import sys
from typing import Any

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

# ∂L/∂x of L = (xy + y)x at x = 3, y = 2.
_x, _y = 3, 2
_q = _x * _y + _y
number(
    "bp-1",
    right=_q + _x * _y,
    praise="8 arrives from the last product and 6 from the first, and they add",
    mistakes=[
        (_q, "that is what arrives from the last product alone; x is used in xy as well"),
        (_x * _y, "that is what arrives from the first product alone; the last one is (…)·x"),
        (_q * _x, "that is the value of L; its slope is asked"),
        (_x**2 + _x, "that is ∂L/∂y; the slope in x is asked"),
        (_q * _x * _y, "slopes that arrive at one number add; they are not multiplied"),
    ],
    otherwise="L = qx with q = xy + y: add what arrives at x from qx and, through q, from xy",
)


@exercise("bp-2")
def _softplus(answer):
    """x̄ = g/(1 + e⁻ˣ)."""
    rng = np.random.default_rng(4)
    x, g = rng.standard_normal(7), rng.standard_normal(7)
    sigmoid = 1 / (1 + np.exp(-x))
    found = expect_array(answer(g.copy(), x.copy()), (7,), "the cotangent of x")
    if close(found, sigmoid):
        raise Wrong("that is the derivative dz/dx; the rule multiplies it by the cotangent g")
    if close(found, sigmoid / g) or close(found, g / sigmoid):
        raise Wrong("one is divided by the other: the rule is g times dz/dx")
    if close(found, g * np.log1p(np.exp(x))):
        raise Wrong("that is g times softplus itself; its derivative is eˣ/(1 + eˣ)")
    if close(found, g * (1 - sigmoid)):
        raise Wrong("the sign in the exponent is turned: dz/dx = 1/(1 + e⁻ˣ) is near 1 for large x")
    if close(found, g * sigmoid * (1 - sigmoid)):
        raise Wrong("that differentiates once too often: the derivative of softplus is the sigmoid")
    if close(found, g / (1 + np.exp(x))):
        raise Wrong("the factor eˣ of the inner derivative is missing: dz/dx = eˣ/(1 + eˣ)")
    if not close(found, g * sigmoid):
        raise Wrong("the rule is g·dz/dx with dz/dx = eˣ/(1 + eˣ)")
    with np.errstate(all="ignore"):
        far = np.asarray(answer(np.array([2.0, 2.0]), np.array([1000.0, -1000.0])), dtype=float)
    if not close(far, [2.0, 0.0], atol=1e-12):
        raise Wrong(
            f"right for small x; for x = ±1000 it gives {far[0]:g} and {far[1]:g}, not g and 0: "
            "some exponential overflows"
        )
    warned: list = []
    with np.errstate(over="call", invalid="call"), _called(warned):
        answer(np.array([2.0, 2.0]), np.array([1000.0, -1000.0]))
    if warned:
        return "right; it overflows on the way, harmlessly: ½(1 + tanh ½x) does not"
    return "the slope of softplus is the sigmoid, here in a form that overflows nowhere"


class _called:
    """Within this block NumPy reports floating-point trouble to a list."""

    def __init__(self, found):
        self.found = found

    def __enter__(self):
        self.before = np.seterrcall(lambda kind, flag: self.found.append(kind))

    def __exit__(self, *_):
        np.seterrcall(self.before)


choice(
    "bp-3",
    {
        "a": "The slope of a sum is 1, so a way of sums costs nothing.",
        "b": "All slopes that arrive at a number are added before it hands on their sum, once.",
        "c": "The tape keeps only the last twenty operations.",
        "d": "Most of the ways cancel each other.",
    },
    right="b",
    praise="twenty numbers, each visited once; two slopes arrive at each, and their sum goes on",
    mistakes={
        "a": "with y = y * y, whose slopes are not 1, there are just as few visits",
        "c": "it keeps all operations; here there are twenty of them",
        "d": "nothing cancels: all ways have the slope 1, and together they give 2²⁰",
    },
)

# Megabytes of 50 tanh layers of 1,000 units, batch 200, four bytes.
_mb = 50 * 200 * 1000 * 4 / 1e6
number(
    "bp-4",
    right=_mb,
    praise="one activation a layer; the batch size is the knob that everybody turns first",
    mistakes=[
        (2 * _mb, "that keeps two arrays a layer; tanh's output serves its own rule and, as input, "
                  "that of the next layer"),
        ([_mb / 4, _mb / 2], "single precision takes 4 bytes a number"),
        (_mb / 200, "that is one image; all 200 of the batch are kept"),
        (_mb / 50, "that is one layer; all 50 are kept for the way back"),
        ([50 * 1000**2 * 4 / 1e6, 50 * 1000 * 1001 * 4 / 1e6],
         "those are the weights; they do not grow with the batch, activations do"),
        ([_mb * 1e6, _mb * 1e3], "in megabytes, 10⁶ bytes"),
    ],
    rtol=0.03,
    otherwise="layers × batch × units × bytes, once for each layer",
)  # fmt: skip


# --- bp-5: the reader's own tape ------------------------------------------------------------------

_LINES = 200_000  # of Python that a walk over 20 numbers may take; a million ways take more


def _slopes(answer, f, *values):
    found = answer(f, *values)
    if not isinstance(found, list | tuple) or len(found) != len(values):
        raise Wrong(
            f"answer(f, *values) should return a list with one slope for each of the "
            f"{len(values)} values, not {found!r:.60}"
        )
    return [expect_number(g, "a slope") for g in found]


def _twice(u, v):
    """u is used again."""
    return u * v + u * 3.0


def _late(u, v):
    """p waits for a slope that takes the longer way; a walk in the wrong order does not."""
    p = u * v
    q = (p + 1.0) * v
    return p * (q + p)


def _doubled(y):
    for _ in range(20):
        y = y + y
    return y


def _chain(y):
    for _ in range(3000):
        y = y + 0.001
    return y


def _everything(u, v):
    h = (2.0 * u + v * u + 0.5).tanh()
    return 1.5 + h * (h + u) * v * (-1.0)


class _TooLong(BaseException):
    """Not an Exception: no `except Exception` of the reader's code swallows it."""


def _within_lines(f, *args):
    """f(*args), given up when it takes more than _LINES lines of Python."""
    left, before = _LINES, sys.gettrace()

    def count(frame, event, arg):
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooLong
        return count

    sys.settrace(count)
    try:
        return f(*args)
    finally:
        sys.settrace(before)


@exercise("bp-5")
def _tape(answer):
    """Slopes by a tape of the reader's own, against the package's."""
    from dlmini import Tensor, grad, tanh

    found = _slopes(answer, lambda u, v: u + v, 2.0, 5.0)
    if found != [1, 1]:
        raise Wrong(f"for u + v both slopes are 1, not {found[0]:g} and {found[1]:g}")
    found = _slopes(answer, lambda u, v: u * v, 2.0, 5.0)
    if close(found, [2, 5]):
        raise Wrong("a product hands each factor its slope times the *other* factor")
    if not close(found, [5, 2]):
        raise Wrong(f"for u·v at (2, 5) the slopes are 5 and 2, not {found[0]:g} and {found[1]:g}")
    found = _slopes(answer, _twice, 2.0, 5.0)
    if close(found, [3, 2]) or close(found, [5, 2]):
        raise Wrong(
            "u·v + 3u uses u twice, and only one of its two slopes is left: "
            "add what arrives (+=), do not overwrite"
        )
    if not close(found, [8, 2]):
        raise Wrong(
            f"for u·v + u·3 at (2, 5) the slopes are 8 and 2, not {found[0]:g} and {found[1]:g}"
        )
    if _slopes(answer, _twice, 2.0, 5.0) != found:
        raise Wrong(
            "the second call gives other slopes than the first: something is left of it, "
            "such as a tape or a sum that does not start anew"
        )
    u, v = 0.7, -0.4
    p, q = u * v, (u * v + 1) * v
    right = [v * (q + p) + p * (v * v + v), u * (q + p) + p * (u * v + p + 1 + u)]
    found = _slopes(answer, _late, u, v)
    if not close(found, right):
        raise Wrong(
            "a number handed on its slope before all of it had arrived: go back in reverse order "
            "of creation (test: p = u·v, q = (p + 1)·v, L = p·(q + p))"
        )
    try:
        found = _within_lines(_slopes, answer, _doubled, 1.0)
    except _TooLong:
        raise Wrong(
            "y = y + y twenty times takes very long: the walk follows every way on its own. "
            "Visit each number once, when all that belongs to it has arrived"
        ) from None
    if found != [2**20]:
        raise Wrong(f"y = y + y twenty times has the slope 2²⁰ = 1048576, not {found[0]:g}")
    try:
        found = _slopes(answer, _chain, 1.0)
    except RecursionError:
        raise Wrong(
            "a chain of 3,000 sums is too deep: the walk calls itself; loop over the tape instead"
        ) from None
    if found != [1]:
        raise Wrong(f"for y + 0.001 + … + 0.001 the slope is 1, not {found[0]:g}")
    a: Any = Tensor([0.3], requires_grad=True)
    b: Any = Tensor([-1.2], requires_grad=True)
    h = tanh(2.0 * a + b * a + 0.5)
    theirs = grad((1.5 + h * (h + a) * b * (-1.0)).sum(), [a, b])
    found = _slopes(answer, _everything, 0.3, -1.2)
    if not close(found, [g.item() for g in theirs], rtol=1e-6):
        raise Wrong(
            "with tanh and plain numbers on either side the slopes differ from the package's: "
            "tanh hands on its slope times 1 − z², plain numbers count as constants"
        )
    return "the same slopes as the package's tape, each number visited once"


# --- bp-6: a planted bug --------------------------------------------------------------------------

#: What the reader of bp-6 is given.
BROKEN_RULE = """\
def answer(g, x, W, b):
    a = x @ W.T + b
    da = g * (g > 0)
    return da @ W, da.T @ x, da.sum(axis=0)
"""


@exercise("bp-6")
def _layer(answer):
    """Back through h = max(0, x Wᵀ + b)."""
    expect_changed(answer, BROKEN_RULE, "this is the function as given: find its bug")
    rng = np.random.default_rng(8)
    x, w, b = (rng.standard_normal(s) for s in ((6, 4), (3, 4), (3,)))
    g = rng.standard_normal((6, 3))
    found = answer(g.copy(), x.copy(), w.copy(), b.copy())
    if not isinstance(found, list | tuple) or len(found) != 3:
        raise Wrong("return three things: the cotangents of x, of W and of b")
    names = ("the cotangent of x", "the cotangent of W", "the cotangent of b")
    shapes = ((6, 4), (3, 4), (3,))
    mine = [expect_array(f, s, n) for f, s, n in zip(found, shapes, names, strict=True)]
    a = x @ w.T + b

    def of(da):
        return [da @ w, da.T @ x, da.sum(axis=0)]

    def is_that_of(da):
        return all(close(m, r) for m, r in zip(mine, of(da), strict=True))

    if is_that_of(g * (g > 0)):
        raise Wrong("the gate still looks at the cotangent: it opens where the input a is positive")
    if is_that_of(g):
        raise Wrong("now the gate is gone: a unit that is off passes nothing back")
    if is_that_of(g * (a > 0) * (g > 0)):
        raise Wrong("the gate looks at a, and at g as well; negative cotangents pass, too")
    if is_that_of(g * (a < 0)):
        raise Wrong("the gate is the wrong way round: open where a > 0")
    if is_that_of(g * np.maximum(a, 0)) or is_that_of(g * a):
        raise Wrong("the slope of a ReLU is 0 or 1, not its value")
    if close(mine[2], (g * (a > 0)).mean(axis=0)):
        raise Wrong("b serves every example of the batch, so its slopes add; no mean")
    if not is_that_of(g * (a > 0)):
        off = [n for n, m, r in zip(names, mine, of(g * (a > 0)), strict=True) if not close(m, r)]
        raise Wrong(f"wrong under a random cotangent: {', '.join(off)}")
    return "the gate is set on the way forward, by a; the way back only passes through it"


# Fewest segments of 400 layers of 5 MB in 255 MB: s + 400/s + 1 ≤ 51.
number(
    "bp-7",
    right=10,
    praise="10 + 40 + 1 activations, 255 MB; the whole net would take 2 GB",
    rtol=1e-9,
    mistakes=[
        (20, "that needs the least memory, 41 activations; fewer segments fit as well"),
        (40, "that fits, but so does its mirror image: s and 400/s may change places"),
        (8, "8 + 50 + 1 = 59 activations; only 51 fit. Or did you forget the entrances, s?"),
        (16, "that fits; a smaller divisor does, too"),
        (25, "that fits; a smaller divisor does, too"),
        (51, "that is how many activations fit; now solve s + 400/s + 1 ≤ 51"),
        (within(8.000001, 9.999999), "that is no divisor of 400, or does not fit: s + 400/s + 1"),
        (within(1, 7.999999), "too few: the open segment alone takes 400/s activations of 51"),
    ],
    otherwise="255/5 = 51 activations fit: the smallest divisor s of 400 with s + 400/s + 1 ≤ 51",
)


@exercise("bp-8")
def _wrong_rule(answer):
    """A rule of tanh that a gradient check rejects, and that trains all the same."""
    from dlmini import nn, op, optim, tanh

    x, u = np.linspace(-2, 2, 20), np.random.default_rng(3).standard_normal(20)
    z = np.tanh(x)
    found = expect_array(answer(u.copy(), z.copy(), x.copy()), (20,), "the rule's result")
    right = (1 - z * z) * u
    error = np.abs(found - right).max() / np.abs(right).max()
    factor = (found @ right) / max(found @ found, 1e-300)
    if factor > 0 and close(factor * found, right, rtol=1e-6) and error > 0.1:
        raise Wrong("that is the right rule times a constant: only another learning rate")
    if error <= 0.1:
        raise Wrong(
            f"a gradient check finds an error of {error:.1%}; the rule should be wrong by more "
            "than 10 %"
        )
    made = op(lambda x: tanh(x), lambda g, z, x: answer(g, z, x), name="tanh, your rule")

    class Layer(nn.Module):
        def forward(self, x):
            return made(x)

    scores = []
    for score, diverged in validated(
        lambda: nn.mlp(64, 64, 64, 10, activation=Layer),
        lambda parameters: optim.SGD(parameters, 0.05, 0.9),
        steps=200, batch_size=64, seeds=(201, 202, 203),
    ):  # fmt: skip
        if diverged:
            raise Wrong("with this rule the loss explodes: its slopes are too long")
        scores.append(score)
    median = sorted(scores)[1]
    if median < 0.5:
        raise Wrong(f"validation accuracy {median:.1%} (median of three): this rule misleads")
    if median < 0.94:
        raise Wrong(
            f"validation accuracy {median:.1%} (median of three); 94 % is asked, "
            "and frozen hidden layers reach about 92 %"
        )
    return (
        f"wrong by {error:.0%} and yet {median:.1%} on validation images, median of three networks"
    )
