"""Exercises: `check` an answer offline and name the likely mistake instead of only failing.

The checkers of a chapter live in a module of this package, imported when one of them is needed:

    @exercise("gd-1")
    def _(answer):
        eta = expect_number(answer)
        if close(eta, 1 / 10):
            raise Wrong("that is 1/λmax; descent still converges at twice that step")
        if not close(eta, 2 / 10):
            raise Wrong("the longest stable step solves |1 − ηλ| = 1 in the steepest direction")
        return "η = 2/λmax"

Where the answer is a number or a choice, a table does it, and serves the static page as well:

    number(
        "gd-1", right=2 / 10, praise="η = 2/λmax",
        mistakes=[(1 / 10, "that is 1/λmax; descent still converges at twice that step")],
        otherwise="the longest stable step solves |1 − ηλ| = 1 in the steepest direction",
    )
"""

import dis
import functools
import importlib
import importlib.util
import inspect
import linecache
import math
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..report import LINE_STYLE, brief, plain, show_line
from ._page import field

__all__ = [
    "Result",
    "Untouched",
    "Wrong",
    "check",
    "choice",
    "close",
    "exercise",
    "expect_array",
    "expect_changed",
    "expect_number",
    "grade",
    "number",
    "validated",
    "within",
]

#: The module of checkers by the prefix of its exercises.
CHAPTERS = {
    "gd": "gradient_descent",
    "bp": "backpropagation",
    "vg": "vanishing_gradients",
    "cd": "conditioning",
    "ad": "adaptive_optimizers",
    "gn": "generalization",
    "rg": "regularization",
    "ph": "physics",
    "bio": "biology",
    "vi": "vision",
    "sc": "scaling_out",
}


class _Known(NamedTuple):
    """An exercise: what checks it, the module that says so, and the table of a declared one."""

    checker: Callable
    module: str
    table: dict | None


_checkers: dict[str, _Known] = {}


class Wrong(Exception):
    """Raised by a checker with a diagnosis: what the answer does, and where to look."""


class Untouched(Exception):
    """Raised by a checker when the answer is still what was given, with what to do."""


@dataclass(frozen=True)
class Result:
    """A verdict, and what to tell the reader.

    Attributes:
        status: "correct", "wrong" or "not attempted".
        message: the diagnosis, or words of success.
    """

    status: str
    message: str


def exercise(id: str) -> Callable:
    """Register a checker: it gets the answer, returns words of success or raises `Wrong`.

    Args:
        id: the exercise, such as "gd-1".
    """

    def register(checker):
        _register(id, checker, checker.__module__)
        return checker

    return register


def number(
    id: str,
    right: float,
    *,
    praise: str,
    otherwise: str,
    mistakes: Sequence[tuple] = (),
    rtol: float = 1e-4,
) -> None:
    """Declare an exercise whose answer is a number; Python and the page judge it by one table.

    The right answer is looked for first, then the mistakes in their order.

    Args:
        id: the exercise, such as "gd-1".
        right: the answer; b fits an answer a where |a − b| ≤ rtol·|b|.
        praise: what a right answer is told.
        otherwise: what an answer is told that is none of the mistakes.
        mistakes: pairs of a number, a list of numbers or an interval `within(low, high)`, and the
            diagnosis; a third entry is the mistake's own rtol.
        rtol: relative tolerance of the right answer and of the mistakes.

    Raises:
        TypeError: a mistake is no such pair.
        ValueError: a number is not finite.
    """
    rules = [_rule(id, right, praise, rtol)]
    for mistake in mistakes:
        if not isinstance(mistake, tuple) or len(mistake) not in (2, 3):
            raise TypeError(
                f"{id}: a mistake is (value, diagnosis) or (value, diagnosis, rtol), "
                f"not {brief(mistake)}"
            )
        value, says, own = (*mistake, rtol)[:3]
        rules.append(_rule(id, value, says, own))
    table = _table(id, rules, otherwise=otherwise, nan=f"the answer {_NAN}",
                   infinite=f"the answer {_INFINITE}")  # fmt: skip

    def checker(answer):
        return _judge(table, expect_number(answer))

    _register(id, checker, _caller(), table)


class _Interval(NamedTuple):
    low: float
    high: float


def within(low: float, high: float) -> _Interval:
    """An interval, both ends included, as a mistake of `number`.

    Args:
        low, high: its ends; ±∞ leaves one open.

    Raises:
        ValueError: it is empty.
    """
    if not low <= high:
        raise ValueError(f"within({low:g}, {high:g}) is empty; give the smaller number first")
    return _Interval(low, high)


def choice(
    id: str, options: dict[str, str], right: str, *, praise: str, mistakes: dict[str, str]
) -> None:
    """Declare an exercise in which one of a few options is chosen, in Python by its letter.

    Args:
        id: the exercise, such as "gd-8".
        options: what is offered, by its letter.
        right: the letter of the right one.
        praise: what the right one is told.
        mistakes: what each of the others is told, by its letter.

    Raises:
        ValueError: an option has no words, or words have no option.
    """
    if {right, *mistakes} != set(options) or right in mistakes:
        raise ValueError(
            f"{id}: each option but the right one needs its diagnosis; options "
            f"{', '.join(options)}; right {right}; mistakes {', '.join(mistakes) or 'none'}"
        )
    words = {right: praise} | mistakes
    rules = [{"is": letter, "says": says} for letter, says in words.items()]
    table = _table(id, rules, options=list(options.items()))
    letters = {text.casefold(): key for key, said in options.items() for text in (key, said)}

    def checker(answer):
        letter = letters.get(answer.strip().casefold()) if isinstance(answer, str) else None
        if letter is None:
            raise Wrong(
                f"the answer should be one of {', '.join(map(repr, options))}, not {brief(answer)}"
            )
        return _judge(table, letter)

    _register(id, checker, _caller(), table)


def check(id: str, answer=...) -> None:
    """Grade an answer and show the verdict in one line.

    While the answer is untouched and is a number or a choice, a field stands below the line and
    takes it without a kernel.

    Args:
        id: the exercise, such as "gd-1".
        answer: a number, an array or a function, as the exercise asks.
    """
    result = grade(id, answer)
    mark, hue, word = _LOOKS[result.status]
    text = f"{mark} {id} · {word}: {result.message}"
    table = _checkers[id].table if result.status == "not attempted" else None
    html = (
        f'<div class="dl-check" id="check-{id}" style="{LINE_STYLE.format(hue=hue)}">'
        f'<div role="status"><span aria-hidden="true">{mark}</span> '
        f"<strong>{id} · {word}</strong>: "
        f'<span style="white-space:pre-line">{escape(result.message)}</span></div>'
        f"{field(f'check-{id}', table) if table else ''}</div>"
    )
    show_line(text, html)


def grade(id: str, answer) -> Result:
    """Grade an answer without showing anything.

    Args:
        id, answer: as `check`.

    Returns:
        A `Result`.

    Raises:
        ValueError: there is no such exercise.
    """
    checker = _find(id).checker
    if _is_stub(answer):
        return _NOT_ATTEMPTED
    try:
        message = checker(_watch(answer))
    except Untouched as untouched:
        return Result("not attempted", str(untouched) or _NOT_ATTEMPTED.message)
    except Wrong as wrong:
        return Result("wrong", str(wrong))
    except Exception as error:
        return Result("wrong", _explain_crash(error, answer))
    return Result("correct", str(message or "well done"))


def ids(prefix: str) -> list[str]:
    """The exercises of one chapter, in order: ids("gd") → ["gd-1", "gd-2", …].

    Args:
        prefix: the chapter, a key of `CHAPTERS`.
    """
    _load(prefix)
    mine = [id for id in _checkers if id.split("-")[0] == prefix]
    return sorted(mine, key=lambda id: [(len(part), part) for part in id.split("-")])


# --- for checkers -----------------------------------------------------------------------------


def close(a, b, rtol: float = 1e-4, atol: float = 0.0) -> bool:
    """Whether two numbers or arrays a and b have one shape and agree; NaN and ∞ agree with nothing.

    Args:
        a, b: numbers or arrays.
        rtol, atol: |a − b| ≤ atol + rtol·|b|, for every entry.
    """
    a, b = np.asarray(plain(a), dtype=float), np.asarray(plain(b), dtype=float)
    same = a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all()
    return bool(same and (np.abs(a - b) <= atol + rtol * np.abs(b)).all())


def expect_number(answer, name: str = "the answer") -> float:
    """The answer as a float, or a diagnosis of why it is not a finite number.

    Args:
        answer: what the reader gave.
        name: what the diagnosis calls it.

    Raises:
        Wrong: the diagnosis.
    """
    array = _numbers(answer, name, "a number")
    if array.size != 1:
        raise Wrong(
            f"{name} should be one number, but has shape {array.shape}; is a sum or mean missing?"
        )
    return float(array.flat[0])


def expect_array(answer, shape: tuple | None = None, name: str = "the answer") -> np.ndarray:
    """The answer as a float array of the shape, or a diagnosis of why it is none.

    Args:
        answer: what the reader gave.
        shape: of the array; None in it fits any length.
        name: what the diagnosis calls it.

    Raises:
        Wrong: the diagnosis.
    """
    array = _numbers(answer, name, "an array")
    if shape is not None:
        fits = len(shape) == array.ndim and all(
            s in (None, t) for s, t in zip(shape, array.shape, strict=True)
        )
        if not fits:
            hint = (
                "; it is transposed" if array.shape == tuple(shape)[::-1] and len(shape) > 1 else ""
            )
            wanted = str(tuple(shape)).replace("None", "any")
            raise Wrong(f"{name} has shape {array.shape}, but should have {wanted}{hint}")
    return array


def expect_changed(answer, given: str, told: str) -> None:
    """Nothing, once the reader's function is another one than was given to be repaired.

    Args:
        answer: what the reader gave.
        given: the code to be repaired; it defines a function `answer`. Comments and spaces do not
            count as a change.
        told: what to say while it is unchanged.

    Raises:
        Wrong: the answer is no function.
        Untouched: it is the code as given.
    """
    if not callable(answer):
        raise Wrong(f"the answer should be the function, but is of type {type(answer).__name__}")
    space: dict = {}
    exec(given, space)
    before, code = space["answer"].__code__, getattr(inspect.unwrap(answer), "__code__", None)
    parts = ("co_code", "co_names", "co_consts")
    if code is not None and all(getattr(code, p) == getattr(before, p) for p in parts):
        raise Untouched(told)


def validated(build, optimizer, steps: int, batch_size: int, seeds):
    """Train a network on digits for each seed; yields (validation accuracy, whether it diverged).

    The test part of the digits stays out of it: whoever tunes on it has no honest test left.

    Args:
        build: () ↦ the network.
        optimizer: its parameters ↦ an optimizer.
        steps, batch_size: as in `train.fit`.
        seeds: one for each network.
    """
    from dlmini import data, functional, seeded, train

    for seed in seeds:
        with seeded(seed):
            digits = data.digits()
            part = data.random_split(digits.x_train, digits.y_train)
            net = build()
            history = train.fit(
                net, functional.cross_entropy, part.x_train, part.y_train,
                optimizer(net.parameters()), steps, batch_size, stop_at_divergence=True,
            )  # fmt: skip
            score = functional.accuracy(net(part.x_test), part.y_test)
        yield score, history.diverged is not None


def _numbers(answer, name, wanted):
    if callable(answer) and not hasattr(answer, "shape"):
        raise Wrong(f"{name} should be {wanted}, but is a function; pass what it returns")
    try:
        array = np.asarray(plain(answer))
    except ValueError:
        raise Wrong(f"{name} should be {wanted}, but its rows have different lengths") from None
    if array.dtype.kind not in "iuf":
        raise Wrong(
            f"{name} should be {wanted}, but is {brief(answer)} of type {type(answer).__name__}"
        )
    array = array.astype(float)
    if np.isnan(array).any():
        raise Wrong(f"{name} {_NAN}")
    if np.isinf(array).any():
        raise Wrong(f"{name} {_INFINITE}")
    return array


_NAN = "contains NaN: look for 0/0, the logarithm of a negative number, or a run that diverged"
_INFINITE = "is infinite: look for a division by zero, or a run that diverged"


# --- tables -----------------------------------------------------------------------------------


def _rule(id, value, says, rtol) -> dict[str, Any]:
    """One row: where an answer is `near` numbers, or lies `from` … `to`, and what it is told."""
    if isinstance(value, _Interval):
        largest = sys.float_info.max  # JSON knows no infinity
        low, high = max(value.low, -largest), min(value.high, largest)
        return {"from": _stable(low), "to": _stable(high), "says": says}
    near = [_stable(v) for v in (value if isinstance(value, list) else [value])]
    if not all(map(math.isfinite, near)):
        raise ValueError(f"{id}: {brief(value)} is not finite; no answer is near it")
    return {"near": near, "rtol": rtol, "says": says}


def _stable(value):
    """Without the last digits, which differ between machines: notebooks store the table."""
    return float(f"{value:.13g}")


def _table(id, rules, **rest) -> dict[str, Any]:
    """All that the page needs; the first rule is the right answer's."""
    return {"id": id, "looks": _LOOKS, "rules": rules, **rest}


def _fits(rule, x):
    if "is" in rule:
        return rule["is"] == x
    if "from" in rule:
        return rule["from"] <= x <= rule["to"]
    return any(close(x, b, rule["rtol"]) for b in rule["near"])


def _judge(table, x):
    for i, rule in enumerate(table["rules"]):
        if _fits(rule, x):
            if i:
                raise Wrong(rule["says"])
            return rule["says"]
    raise Wrong(table["otherwise"])


# --- finding checkers -------------------------------------------------------------------------


def _register(id, checker, module, table=None):
    known = _checkers.get(id)
    if known is not None and known.module != module:
        raise ValueError(
            f"exercise {id!r} has a checker in {known.module} already; choose another id"
        )
    _checkers[id] = _Known(checker, module, table)


def _caller():
    """The module that declares a table."""
    return sys._getframe(2).f_globals["__name__"]


def _load(prefix):
    """Import the chapter's checkers, and say whether it has any."""
    name = f"{__name__}.{CHAPTERS.get(prefix)}"
    if prefix not in CHAPTERS or importlib.util.find_spec(name) is None:
        return False
    importlib.import_module(name)
    return True


def _find(id):
    if not isinstance(id, str):
        raise TypeError(f"the first argument is the exercise's id, such as 'gd-1', not {brief(id)}")
    prefix = id.split("-")[0]
    if id not in _checkers and not _load(prefix):
        written = [p for p in CHAPTERS if _load(p)]
        raise ValueError(
            f"there is no exercise {id!r}; chapters with exercises: "
            f"{', '.join(written) or 'none yet'}"
        )
    if id not in _checkers:
        raise ValueError(f"there is no exercise {id!r}; this chapter has {', '.join(ids(prefix))}")
    return _checkers[id]


# --- stubs ------------------------------------------------------------------------------------

_NOT_ATTEMPTED = Result("not attempted", "replace the ... in this cell and run it again")


def _is_stub(answer):
    """Untouched: `...` or None, a collection that still holds `...`, a function without a body."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, list | tuple):
        return any(item is ... for item in answer) or (
            bool(answer) and all(item is None for item in answer)
        )
    if isinstance(answer, dict):
        return _is_stub(list(answer.values())) if answer else False
    return isinstance(answer, types.FunctionType) and _is_empty(answer.__code__)


_NOTHING = {
    "RESUME",
    "NOP",
    "POP_TOP",
    "LOAD_CONST",
    "RETURN_CONST",
    "RETURN_VALUE",
    "COPY_FREE_VARS",
    "MAKE_CELL",
}


def _is_empty(code):
    """A body of nothing but a docstring, pass, `...` or `return ...`."""
    steps = list(dis.get_instructions(code))
    if any(step.opname not in _NOTHING for step in steps):
        return False
    returned = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(value is None or value is ... for value in returned)


def _watch(answer):
    """The reader's function, with what it returns looked at: `...` means it is still a stub."""
    if not isinstance(answer, types.FunctionType):
        return answer

    @functools.wraps(answer)
    def watched(*args, **kwargs):
        try:
            value = answer(*args, **kwargs)
        except NotImplementedError:
            raise Untouched from None
        if value is ... or (isinstance(value, list | tuple) and any(v is ... for v in value)):
            raise Untouched
        if value is None:
            raise Wrong(f"{answer.__name__} returns None: is the return statement missing?")
        return value

    return watched


# --- crashes ----------------------------------------------------------------------------------


def _explain_crash(error, answer):
    """Where the reader's code failed; when it is none of theirs, what the checker was given."""
    package = str(Path(__file__).parent.parent)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(answer, "__code__", None)
    mine = [f for f in frames if code and f.filename == code.co_filename]
    if code is None or not mine or mine[-1].filename.startswith(package):
        return f"the check cannot use {brief(answer)} of type {type(answer).__name__} ({what})"
    frame, line = mine[-1], mine[-1].lineno or 0
    source = (frame.line or linecache.getline(frame.filename, line)).strip()
    where = f", line {line - code.co_firstlineno + 1} of it" if code.co_name == frame.name else ""
    return f"your code raised {what}\nin {frame.name}{where}{': ' if source else ''}{source}"


# --- look -------------------------------------------------------------------------------------

_LOOKS = {
    "correct": ("✓", "#009e73", "correct"),
    "wrong": ("✗", "#d55e00", "not yet"),
    "not attempted": ("○", "rgba(127,127,127,.6)", "not attempted yet"),
}
