"""The exercises of the chapter on backpropagation: what each wrong answer is told."""

import math
import re

import numpy as np
import pytest
from graded import assert_every_rule_is_met

from dlmini.book import exercises
from dlmini.book.exercises import grade
from dlmini.book.exercises.backpropagation import BROKEN_RULE


def softplus_rule(slope):
    return lambda g, x: g * slope(x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Number:
    """The tape of bp-5, with one thing off where `bug` says so."""

    def __init__(self, value, tape, made_from=()):
        self.value, self.tape, self.made_from, self.grad = value, tape, made_from, 0.0
        tape.append(self)

    def lift(self, other):
        return other if isinstance(other, Number) else type(self)(other, self.tape)

    def __add__(self, other):
        other = self.lift(other)
        return type(self)(self.value + other.value, self.tape, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = self.lift(other)
        slopes = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, self.tape, slopes)

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self):
        z = math.tanh(self.value)
        return type(self)(z, self.tape, [(self, 1 - z * z)])


def run(f, values, walk, kind=Number):
    tape = []
    inputs = [kind(v, tape) for v in values]
    end = f(*inputs)
    end.grad = 1.0
    walk(end, tape)
    return [x.grad for x in inputs]


def in_a_loop(end, tape):
    for z in reversed(tape):
        for x, slope in z.made_from:
            x.grad += z.grad * slope


def overwriting(end, tape):
    for z in reversed(tape):
        for x, slope in z.made_from:
            x.grad = z.grad * slope


def every_way(end, tape):
    """Recursion along each way on its own: right, and 2²⁰ visits for twenty doublings."""

    def visit(z, g):
        for x, slope in z.made_from:
            x.grad += g * slope
            visit(x, g * slope)

    visit(end, 1.0)


def too_early(end, tape):
    """Breadth first: a number is visited once, but perhaps before all of its slopes are there."""
    queue, seen = [end], {end}
    while queue:
        z = queue.pop(0)
        for x, slope in z.made_from:
            x.grad += z.grad * slope
            if x not in seen:
                seen.add(x)
                queue.append(x)


def deep(end, tape):
    """The order by recursion: right, and dead at depth 3,000."""
    order, seen = [], set()

    def visit(z):
        if z not in seen:
            seen.add(z)
            for x, _ in z.made_from:
                visit(x)
            order.append(z)

    visit(end)
    in_a_loop(end, order)


class Same(Number):
    """A product that hands each factor its own value."""

    def __mul__(self, other):
        other = self.lift(other)
        slopes = [(self, self.value), (other, other.value)]
        return Same(self.value * other.value, self.tape, slopes)


class NoTanh(Number):
    def tanh(self):
        return NoTanh(math.tanh(self.value), self.tape, [(self, 1.0)])


def tape_with(walk=in_a_loop, kind=Number):
    return lambda f, *values: run(f, values, walk, kind)


class Forgetful:
    """Sums what arrives in all calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, f, *values):
        self.calls += 1
        g = run(f, values, in_a_loop)
        return g if self.calls < 4 else [2 * v for v in g]


def layer(gate, reduce=np.sum, turned=False):
    def answer(g, x, W, b):
        a = x @ W.T + b
        da = gate(g, a)
        return da @ W, (x.T @ da).T * (-1 if turned else 1), reduce(da, axis=0)

    return answer


def given_rule(code=BROKEN_RULE):
    space = {"np": np}
    exec(code, space)
    return space["answer"]


WRONG = {
    "bp-1": [
        (8, "last product alone"),
        (6, "first product alone"),
        (24, "the value of L"),
        (12, "∂L/∂y"),
        (48, "not multiplied"),
        (3, "add what arrives"),
        (math.nan, "NaN"),
    ],
    "bp-2": [
        (lambda g, x: sigmoid(x), "multiplies it by the cotangent"),
        (lambda g, x: sigmoid(x) / g, "divided by the other"),
        (lambda g, x: g / sigmoid(x), "divided by the other"),
        (softplus_rule(lambda x: np.log1p(np.exp(x))), "softplus itself"),
        (softplus_rule(lambda x: sigmoid(-x) * np.exp(0 * x)), "sign in the exponent"),
        (softplus_rule(lambda x: sigmoid(x) * sigmoid(-x)), "once too often"),
        (softplus_rule(np.tanh), "dz/dx = eˣ/"),
        (softplus_rule(lambda x: np.exp(x) / (1 + np.exp(x))), "some exponential overflows"),
        (lambda g, x: (g * sigmoid(x)).sum(), "shape"),
    ],
    "bp-3": [("a", "y \\* y"), ("c", "keeps all"), ("d", "nothing cancels"), ("e", "one of 'a'")],
    "bp-4": [
        (80, "two arrays a layer"),
        (10, "4 bytes"),
        (20, "4 bytes"),
        (0.2, "one image"),
        (0.8, "one layer"),
        (200, "those are the weights"),
        (40e6, "in megabytes"),
        (7, "layers × batch"),
    ],
    "bp-5": [
        (lambda f, *v: 1.0, "should return a list"),
        (lambda f, *v: [0.0] * len(v), "for u \\+ v both slopes are 1"),
        (tape_with(kind=Same), "\\*other\\* factor"),
        (tape_with(overwriting), "do not overwrite"),
        (tape_with(too_early), "before all of it had arrived"),
        (tape_with(every_way), "follows every way on its own"),
        (tape_with(deep), "too deep"),
        (tape_with(kind=NoTanh), "1 − z²"),
        (Forgetful(), "second call"),
        (lambda f, *v: [f(*v)], "slope"),
    ],
    "bp-6": [
        (layer(lambda g, a: g * (g > 0)), "still looks at the cotangent"),
        (layer(lambda g, a: g), "gate is gone"),
        (layer(lambda g, a: g * (a > 0) * (g > 0)), "negative cotangents pass"),
        (layer(lambda g, a: g * (a < 0)), "wrong way round"),
        (layer(lambda g, a: g * np.maximum(a, 0)), "0 or 1, not its value"),
        (layer(lambda g, a: g * (a > 0), np.mean), "no mean"),
        (layer(lambda g, a: g * (a > 0), turned=True), "cotangent of W"),
        (lambda g, x, W, b: g, "return three things"),
        (3.0, "should be the function"),
    ],
    "bp-7": [
        (20, "the least memory"),
        (40, "mirror image"),
        (8, "only 51 fit"),
        (16, "a smaller divisor does"),
        (25, "a smaller divisor does"),
        (51, "how many activations fit"),
        (9, "no divisor"),
        (5, "too few"),
        (100, "smallest divisor"),
    ],
    "bp-8": [
        (lambda g, z, x: g * (1 - z * z), "wrong by more than"),
        (lambda g, z, x: -g * (1 - z * z), "misleads"),
        (lambda g, z, x: 0 * g, "94 % is asked"),
    ],
}  # fmt: skip
CASES = [(id, answer, words) for id, cases in WRONG.items() for answer, words in cases]


@pytest.mark.parametrize(("id", "answer", "words"), CASES)
def test_a_wrong_answer_is_told_what_is_wrong(id, answer, words):
    if id == "bp-8":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")
    result = grade(id, answer)
    assert result.status == "wrong", result
    assert re.search(words, result.message), result.message


RIGHT = {
    "bp-1": 14,
    "bp-2": softplus_rule(lambda x: 0.5 + 0.5 * np.tanh(x / 2)),
    "bp-3": "b",
    "bp-4": 40,
    "bp-5": tape_with(),
    "bp-6": layer(lambda g, a: g * (a > 0)),
    "bp-7": 10,
    "bp-8": lambda g, z, x: g * (1 - 0.5 * z * z),
}


@pytest.mark.parametrize("id", RIGHT)
def test_a_right_answer_is_right(id):
    result = grade(id, RIGHT[id])
    assert result.status == "correct", result


def test_every_diagnosis_of_a_table_is_met():
    assert_every_rule_is_met(WRONG)


def test_the_broken_rule_as_given_is_not_attempted():
    told = exercises.Result("not attempted", "this is the function as given: find its bug")
    assert grade("bp-6", given_rule()) == told
    assert grade("bp-6", given_rule(BROKEN_RULE.replace("g > 0", "a > 0"))).status == "correct"


def test_an_overflow_on_the_way_is_mentioned_in_the_praise():
    with np.errstate(over="ignore"):
        assert "harmlessly" in grade("bp-2", softplus_rule(sigmoid)).message
    assert "harmlessly" not in grade("bp-2", RIGHT["bp-2"]).message


def test_looking_for_long_walks_leaves_the_debugger_alone():
    import sys

    before = sys.gettrace()
    grade("bp-5", tape_with(every_way))
    assert sys.gettrace() is before
