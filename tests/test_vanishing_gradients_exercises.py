"""The exercises of the chapter on vanishing gradients: what each wrong answer is told."""

import functools
import math
import re

import numpy as np
import pytest
from graded import assert_every_rule_is_met

from dlmini.book import exercises
from dlmini.book.exercises import grade
from dlmini.book.exercises.vanishing_gradients import BROKEN_BLOCK


def layer_norm(g, x, eps, *, axis=-1, ones=1.0, along=1.0, ddof=0, root=True, scale=1.0):
    """The backward rule of layer norm with one thing off."""
    m = x.mean(axis, keepdims=True)
    s = np.sqrt(x.var(axis, keepdims=True, ddof=ddof) + eps)
    z = (x - m) / s
    rest = g - ones * g.mean(axis, keepdims=True) - along * z * (g * z).mean(axis, keepdims=True)
    return scale * rest / (s if root else 1.0)


def without_eps(g, x, eps):
    return layer_norm(g, x, 0.0)


def norm(**bug):
    return functools.partial(layer_norm, **bug)


def block(x, W, g, *, out="sum", slope="tanh", shortcut="g", turned=False):
    """A residual block and its gradient with one thing off."""
    h = np.tanh(x @ W.T)
    y = {"sum": x + h, "branch": h, "difference": x - h}[out]
    d = 1 - (h if slope == "tanh" else h + x) ** 2
    share = {"g": g, "one": 1.0, "none": 0.0, "half": g / 2}[shortcut]
    return y, share + (g * d) @ (W.T if turned else W)


def made(**bug):
    return functools.partial(block, **bug)


def changes_x(x, W, g):
    result = block(x, W, g)
    x += 1
    return result


def broken_block(code=BROKEN_BLOCK):
    space = {"np": np}
    exec(code, space)
    return space["answer"]


SETTINGS = {"start": "orthogonal", "gain": 1.0, "lr": 0.02, "momentum": 0.9}

WRONG = {
    "vg-1": [
        (2 / 1.04, "that is σw²"),
        (math.sqrt(2), "the gain of ReLU"),
        (math.sqrt(2 / 1.2), "mean of the slope"),
        (1 / math.sqrt(1.04), "half of the inputs"),
        (math.sqrt(0.52), "upside down"),
        (5, "set σw²"),
        (math.nan, "NaN"),
    ],
    "vg-2": [
        (74, "one layer more"),
        (76, "half of the smallest number already"),
        (150, "two from the exponent"),
        (63, "full precision ends"),
        (538, "float64"),
        (20, "2⁻²ᵏ after k layers"),
    ],
    "vg-3": [
        (norm(ones=0, along=0), "as constants"),
        (norm(along=0), "through s is missing"),
        (norm(ones=0), "through m is missing"),
        (norm(along=-1), "a sign"),
        (norm(ones=-1), "a sign"),
        (norm(ones=6, along=6), "not sums"),
        (norm(axis=0), "that is batch norm"),
        (without_eps, "ε is missing"),
        (norm(ddof=1), "not by n − 1"),
        (norm(root=False), "division by s is missing"),
        (norm(scale=2), "not the gradient"),
        (lambda g, x, eps: g.sum(1), r"shape \(4,\)"),
    ],
    "vg-4": [
        (made(out="branch"), "the branch alone"),
        (made(out="difference"), r"y should be x \+ tanh"),
        (made(shortcut="none"), "g itself, is missing"),
        (made(slope="sum"), "h was overwritten"),
        (made(slope="sum", shortcut="none"), "both bugs"),
        (made(turned=True), "not its transpose"),
        (made(shortcut="one"), "its share of the gradient is 1·g"),
        (made(shortcut="half"), "the gradient should be"),
        (changes_x, "changes the caller's x"),
        (lambda x, W, g: x, "return two things"),
        (3.0, "should be the function, but is of type float"),
    ],
    "vg-5": [
        (200**-0.5, "the length by √e"),
        (0.01, "that is s²"),
        (1 / 200, "add in squares"),
        (1.0, "solve"),
    ],
    "vg-6": [
        (1.0, "mean square"),
        (math.sqrt(math.pi / (math.pi - 2)), "growth of the length"),
        (math.pi / (math.pi - 1), "that is ReLU's"),
        (1 - 2 / math.pi, "below the line"),
        (1 / (1 - math.sqrt(2 / math.pi)), "square the mean"),
        (7, "the slope is ±1"),
    ],
    "vg-7": [
        ("a", "without the norm"),
        ("c", "1/√ℓ"),
        ("It is as large.", "above 1"),
        ("e", "one of 'a', 'b', 'c', 'd', not 'e'"),
    ],
    "vg-8": [
        ({"lr": 0.1}, "keys start, gain, lr and momentum"),
        (SETTINGS | {"start": "zeros"}, "choose 'normal' or 'orthogonal'"),
        (SETTINGS | {"gain": -1.0}, "positive numbers"),
        (SETTINGS | {"momentum": 1.0}, r"\[0, 1\)"),
        (SETTINGS | {"gain": 0.3}, "dies on its way up"),
        (SETTINGS | {"gain": 4.0}, "saturate"),
        (SETTINGS | {"lr": 0.0001}, "does not get far"),
        (SETTINGS | {"lr": 0.3}, "onto the plateau"),
        (SETTINGS | {"start": "normal"}, "the other start"),
    ],
}  # fmt: skip
CASES = [(id, answer, words) for id, cases in WRONG.items() for answer, words in cases]


@pytest.mark.parametrize(("id", "answer", "words"), CASES)
def test_a_wrong_answer_is_told_what_is_wrong(id, answer, words):
    if id == "vg-8":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")
    result = grade(id, answer)
    assert result.status == "wrong", result
    assert re.search(words, result.message), result.message


RIGHT = {
    "vg-1": math.sqrt(2 / 1.04),
    "vg-2": 75,
    "vg-3": norm(),
    "vg-4": made(),
    "vg-5": 0.1003,
    "vg-6": math.pi / (math.pi - 2),
    "vg-7": "b",
    "vg-8": SETTINGS,
}


@pytest.mark.parametrize("id", RIGHT)
def test_a_right_answer_is_right(id):
    if id == "vg-8":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")
    result = grade(id, RIGHT[id])
    assert result.status == "correct", result


def test_every_diagnosis_of_a_table_is_met():
    assert_every_rule_is_met(WRONG)


def test_the_broken_block_as_given_is_not_attempted():
    told = exercises.Result("not attempted", "this is the broken block as given: find its two bugs")
    assert grade("vg-4", broken_block()) == told
    assert grade("vg-4", broken_block(BROKEN_BLOCK.replace("\n", "  # look\n"))) == told


def test_float32_loses_a_gradient_of_quarters_in_seventy_five_layers():
    g, layers = np.float32(1), 0
    while g > 0:
        g, layers = g * np.float32(0.25), layers + 1
    assert grade("vg-2", layers).status == "correct"


def test_the_rule_of_layer_norm_is_the_derivative_that_the_package_takes():
    import dlmini as dl

    x, g = np.random.default_rng(0).standard_normal((2, 4, 6))
    t = dl.Tensor(x, requires_grad=True)
    one, zero = np.ones(6), np.zeros(6)
    [theirs] = dl.grad(dl.functional.layer_norm(t, one, zero, 0.3), [t], cotangent=g)
    assert np.allclose(dl.to_numpy(theirs.data), layer_norm(g, x, 0.3), atol=1e-5)
