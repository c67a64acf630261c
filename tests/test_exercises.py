"""Exercises: verdicts on right, wrong, untouched and crashing answers; checkers are found."""

import importlib
import pkgutil

import numpy as np
import pytest

from dlmini.book import exercises
from dlmini.book.exercises import Wrong, check, close, exercise, expect_array, expect_number, grade


@pytest.fixture(autouse=True)
def checkers():
    """Two exercises of a chapter that exists only here."""

    @exercise("zz-1")
    def number(answer):
        if not close(expect_number(answer), 0.2):
            raise Wrong("that is not 2/λ")
        return "η = 2/λ"

    @exercise("zz-2")
    def function(answer):
        if answer(2.0) != 4.0:
            raise Wrong("at 2 the square is 4")
        return "squared"

    yield
    for id in ("zz-1", "zz-2"):
        del exercises._checkers[id]


def test_right_and_wrong_answers():
    assert grade("zz-1", 0.2) == exercises.Result("correct", "η = 2/λ")
    assert grade("zz-1", 0.3) == exercises.Result("wrong", "that is not 2/λ")
    assert grade("zz-2", lambda x: x * x).status == "correct"
    assert grade("zz-2", lambda x: x + 1).message == "at 2 the square is 4"


def ellipsis(x): ...


def passes(x):
    """Square x."""


def returns_ellipsis(x):
    return ...


def half_done(x):
    y = x + 1
    return ... if y else y


def pair(x):
    y = x + 1
    return y, ...


def not_implemented(x):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [ellipsis, passes, returns_ellipsis, half_done, pair,
                                  not_implemented, lambda x: ..., lambda x: None])  # fmt: skip
def test_an_untouched_function_is_not_attempted(stub):
    assert grade("zz-2", stub).status == "not attempted"


@pytest.mark.parametrize("stub", [..., None, (..., ...), [1, ...], {"a": ...}, (None, None)])
def test_an_untouched_value_is_not_attempted(stub):
    assert grade("zz-1", stub).status == "not attempted"


def test_a_lost_return_is_not_taken_for_a_stub():
    def square(x):
        y = x * x  # noqa: F841

    assert grade("zz-2", square).message == "square returns None: is the return statement missing?"


def test_a_crash_in_the_answer_is_explained_where_it_happened():
    def square(x):
        y = x
        return y / 0

    result = grade("zz-2", square)
    assert result.status == "wrong"
    assert result.message == (
        "your code raised ZeroDivisionError: float division by zero\n"
        "in square, line 3 of it: return y / 0"
    )


def test_an_answer_the_checker_cannot_use_is_explained():
    result = grade("zz-2", "squared")
    assert result.status == "wrong"
    assert "cannot use 'squared' of type str" in result.message


def test_unknown_exercises_are_errors_that_list_the_known_ones():
    with pytest.raises(ValueError, match=r"no exercise 'zz-9'.*chapters with exercises"):
        grade("zz-9", 1)
    with pytest.raises(TypeError, match="such as 'gd-1'"):
        grade(1, 1)


def test_two_modules_cannot_claim_one_exercise():
    def other(answer): ...

    other.__module__ = "dlmini.book.exercises.other"
    with pytest.raises(ValueError, match=r"'zz-1' has a checker in .*test_exercises"):
        exercise("zz-1")(other)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("0.2", "should be a number, but is '0.2' of type str"),
        (np.ones(3), r"should be one number, but has shape \(3,\)"),
        (np.nan, "contains NaN"),
        (np.inf, "is infinite"),
        (True, "of type bool"),
        (len, "is a function; pass what it returns"),
        ([[1], [2, 3]], "different lengths"),
    ],
)
def test_expect_number_names_what_is_wrong(answer, words):
    with pytest.raises(Wrong, match=words):
        expect_number(answer)


def test_expect_array_names_what_is_wrong():
    assert expect_array([[1, 2, 3]], (None, 3)).dtype == float
    with pytest.raises(Wrong, match=r"θ has shape \(2, 3\), but should have \(3, 2\); it is tr"):
        expect_array(np.ones((2, 3)), (3, 2), "θ")
    with pytest.raises(Wrong, match=r"should have \(any, 2\)$"):
        expect_array(np.ones(2), (None, 2))


def test_close_agrees_with_nothing_that_is_not_finite_or_of_another_shape():
    assert close(1.00001, 1)
    assert not close(np.nan, np.nan)
    assert not close(np.inf, np.inf)
    assert not close(np.ones(3), 1)
    assert close(1e-9, 0, atol=1e-8)


def test_check_shows_words_beside_the_mark(capsys):
    check("zz-1")
    check("zz-1", 0.2)
    check("zz-1", 0.3)
    assert capsys.readouterr().out.splitlines() == [
        "○ zz-1 · not attempted yet: replace the ... in this cell and run it again",
        "✓ zz-1 · correct: η = 2/λ",
        "✗ zz-1 · not yet: that is not 2/λ",
    ]


def test_every_module_of_checkers_belongs_to_a_chapter_and_uses_its_prefix():
    for module in pkgutil.iter_modules(exercises.__path__):
        prefixes = [p for p, name in exercises.CHAPTERS.items() if name == module.name]
        assert len(prefixes) == 1, f"add {module.name} to dlmini.book.exercises.CHAPTERS"
        importlib.import_module(f"dlmini.book.exercises.{module.name}")
        assert exercises.ids(prefixes[0]), f"{module.name} registers nothing under {prefixes[0]}-"
