"""The exercises of the chapter on gradient descent: what each wrong answer is told."""

import math
import re

import numpy as np
import pytest

from dlmini.book.exercises import grade


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


def norm(a, axis):
    return np.linalg.norm(a, axis=axis, keepdims=True)


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
        (173, "makes the \\*loss\\*"),
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
        (320, "variance"),
        (100, "grows by a factor of 100"),
        (32 * math.sqrt(10), "wrong side"),
        (64, "∝ 1/√B"),
    ],
    "gd-7": [
        (lambda d, w: d / norm(d, 1), "every row has length one"),
        (lambda d, w: d * np.linalg.norm(w) / np.linalg.norm(d), "whole matrix"),
        (lambda d, w: d * norm(w, 0) / norm(d, 0), "columns"),
        (lambda d, w: d * norm(w, 1), "own length first"),
        (lambda d, w: w, "point along"),
        (lambda d, w: d[0], r"shape \(5,\)"),
    ],
    "gd-8": [
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
    if id == "gd-8":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")
    result = grade(id, answer)
    assert result.status == "wrong", result
    assert re.search(words, result.message), result.message


def test_momentum_zero_is_plain_descent_in_the_success_message():
    good = momentum(right_velocity, lambda t, v, n, g, lr: t - lr * n)
    assert "μ = 0" in grade("gd-5", good).message


def test_answers_may_be_numpy_numbers():
    assert grade("gd-1", np.float32(2.2)).status == "correct"
