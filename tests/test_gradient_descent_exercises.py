"""The exercises of the chapter on gradient descent: what each wrong answer is told."""

import functools
import math
import re

import numpy as np
import pytest
from graded import assert_every_rule_is_met

from dlmini.book import exercises
from dlmini.book.exercises import grade
from dlmini.book.exercises.gradient_descent import BROKEN_LOOP


def gradient(scale=2.0, sign=1.0, over="rows"):
    """A gradient of the mean squared error with one thing off."""

    def answer(w, x, y):
        n = {"rows": len(y), "weights": len(w), "nothing": 1}[over]
        return sign * scale * x.T @ (x @ w - y) / n

    return answer


def momentum(velocity, step):
    def answer(theta, v, g, lr, mu):
        new = velocity(v, g, lr, mu)
        return step(theta, v, new, g, lr), new

    return answer


def loop(x, y, w, lr, steps, *, factor=1.0, once=False, in_place=False):
    """The training loop of gd-6 with one thing off."""
    start = w.copy()
    for _ in range(steps):
        step = lr * factor * x.T @ (x @ (start if once else w) - y) / len(y)
        if in_place:
            w -= step
        else:
            w = w - step
    return w


def off(**bug):
    return functools.partial(loop, **bug)


def returns_inside(x, y, w, lr, steps):
    return loop(x, y, w, lr, 1)


def changes_targets(x, y, w, lr, steps):
    w = loop(x, y, w, lr, steps)
    y -= x @ w
    return w


def broken_loop(code=BROKEN_LOOP):
    space = {}
    exec(code, space)
    return space["answer"]


REPAIRED = BROKEN_LOOP.replace("error", "w = w.copy()\n    error", 1)


def right_velocity(v, g, lr, mu):
    return mu * v + g


WRONG = {
    "gd-1": [
        (3.8, "uphill"),
        (2.6, "half of what it should be"),
        (1.4, "twice what it should be"),
        (1.8, "lowest point is at 1"),
        (-5.0, "η = 0.1"),
        (0.8, "the step alone"),
        (7, "work out g"),
        (math.nan, "NaN"),
        ("down", "should be a number"),
    ],
    "gd-2": [
        (gradient(sign=-1), "prediction minus target"),
        (gradient(over="nothing"), "1/N is missing"),
        (gradient(over="nothing", sign=-1), "1/N is missing"),
        (gradient(scale=1), "the 2 is missing"),
        (gradient(over="weights"), "number of weights"),
        (gradient(scale=5), "chain rule"),
        (lambda w, x, y: x @ w - y, r"shape \(8,\).*\(3,\)"),
        (lambda w, x, y: x @ y, "your code raised ValueError"),
    ],
    "gd-3": [
        (0.25, "1/λmax"),
        (1.0, "2/λmin"),
        (2 / 3, "diagonal entry"),
        (4.0, "λmax itself"),
        (1 / 3, "the fastest step"),
        (0.1, "eigvalsh"),
    ],
    "gd-4": [
        (173, "makes the loss"),
        (691, "twice too many"),
        (150, "base 10"),
        (688, "η = 1/λmax"),
        (345, "one step short"),
        (12, "round up"),
    ],
    "gd-5": [
        (momentum(lambda v, g, lr, mu: mu * v + (1 - mu) * g, lambda t, v, n, g, lr: t - lr * n),
         "moving average"),
        (momentum(lambda v, g, lr, mu: mu * v - lr * g, lambda t, v, n, g, lr: t + n),
         "second line"),
        (momentum(lambda v, g, lr, mu: v, lambda t, v, n, g, lr: t - lr * v), "never changes"),
        (momentum(lambda v, g, lr, mu: mu * v, lambda t, v, n, g, lr: t - lr * n), "μv \\+ g"),
        (momentum(right_velocity, lambda t, v, n, g, lr: t - lr * v), "old velocity"),
        (momentum(right_velocity, lambda t, v, n, g, lr: t + lr * n), "climbs"),
        (momentum(right_velocity, lambda t, v, n, g, lr: t - lr * g), "gradient alone"),
        (momentum(right_velocity, lambda t, v, n, g, lr: t - n), "the new θ should be"),
        (lambda theta, v, g, lr, mu: theta - lr * (mu * v + g), "return two things"),
        (lambda theta, v, g, lr, mu: (mu * v + g, theta - lr * (mu * v + g)), "wrong order"),
        (momentum(lambda v, g, lr, mu: mu * v + lr * g, lambda t, v, n, g, lr: t - n),
         "second line only"),
    ],
    "gd-6": [
        (broken_loop(REPAIRED), "start at every step: compute it inside the loop"),
        (off(once=True, in_place=True), "start at every step"),
        (off(once=True, factor=10), "start at every step"),
        (off(in_place=True), "changes the caller's w: begin with w = w.copy\\(\\)"),
        (changes_targets, "changes the caller's y"),
        (off(factor=-1), "uphill"),
        (off(factor=-10), "uphill"),
        (off(factor=10), "1/N is missing"),
        (off(factor=10 / 3), "number of weights"),
        (off(factor=2), "twice what it should be"),
        (off(factor=5), "every step should be"),
        (lambda x, y, w, lr, steps: w, "as it went in"),
        (returns_inside, "return stands inside the loop"),
        (lambda x, y, w, lr, steps: loop(x, y, w, lr, steps + 1), "off by one"),
        (lambda x, y, w, lr, steps: loop(x, y, w, lr, steps - 1), "off by one"),
        (lambda x, y, w, lr, steps: (x @ w - y), r"shape \(10,\)"),
        (3.0, "should be the function, but is of type float"),
    ],
    "gd-7": [
        (320, "variance"),
        (100, "grows by a factor of 100"),
        (32 * math.sqrt(10), "wrong side"),
        (64, "∝ 1/√B"),
    ],
    "gd-8": [
        ("a", "staying on one side"),
        ("b", "climbing needs"),
        ("It jumps across for ever at one height.", "η = 2/λ exactly"),
        ("e", "one of 'a', 'b', 'c', 'd', not 'e'"),
    ],
    "gd-9": [
        ({"lr": 0.1}, "keys lr, momentum and batch_size"),
        ({"lr": -0.1, "momentum": 0, "batch_size": 32}, "positive"),
        ({"lr": 0.1, "momentum": 1.0, "batch_size": 32}, r"\[0, 1\)"),
        ({"lr": 0.1, "momentum": 0.5, "batch_size": 0.5}, "counts examples"),
        ({"lr": 0.001, "momentum": 0.0, "batch_size": 32}, "so short"),
        ({"lr": 30.0, "momentum": 0.9, "batch_size": 64}, "too long"),
    ],
}  # fmt: skip
CASES = [(id, answer, words) for id, cases in WRONG.items() for answer, words in cases]


@pytest.mark.parametrize(("id", "answer", "words"), CASES)
def test_a_wrong_answer_is_told_what_is_wrong(id, answer, words):
    if id == "gd-9":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")
    result = grade(id, answer)
    assert result.status == "wrong", result
    assert re.search(words, result.message), result.message


RIGHT = {
    "gd-1": 2.2,
    "gd-2": gradient(),
    "gd-3": 0.5,
    "gd-4": 346,
    "gd-5": momentum(right_velocity, lambda t, v, n, g, lr: t - lr * n),
    "gd-6": off(),
    "gd-7": 3200,
    "gd-8": "c",
}


@pytest.mark.parametrize("id", RIGHT)
def test_a_right_answer_is_right(id):
    result = grade(id, RIGHT[id])
    assert result.status == "correct", result


def test_every_diagnosis_of_a_table_is_met():
    assert_every_rule_is_met(WRONG)


def test_the_broken_loop_as_given_is_not_attempted():
    told = exercises.Result("not attempted", "this is the broken loop as given: find its two bugs")
    assert grade("gd-6", broken_loop()) == told
    assert grade("gd-6", broken_loop(BROKEN_LOOP.replace("\n", "  # look\n"))) == told
    assert grade("gd-6", ...).status == "not attempted"


def test_the_repaired_loop_is_right():
    mended = """
def answer(X, y, w, lr, steps):
    for _ in range(steps):
        gradient = X.T @ (X @ w - y) / len(y)
        w = w - lr * gradient
    return w
"""
    assert grade("gd-6", broken_loop(mended)).status == "correct"


def test_momentum_zero_is_plain_descent_in_the_success_message():
    good = momentum(right_velocity, lambda t, v, n, g, lr: t - lr * n)
    assert "μ = 0" in grade("gd-5", good).message


def test_answers_may_be_numpy_numbers():
    assert grade("gd-1", np.float32(2.2)).status == "correct"
