"""Claims: a statement, the measurement that supports it, and an error when it does not.

    claim("gd-threshold", "descent diverges beyond 2/λmax", measured, predicted, rtol=0.01)

shows one line in the notebook, leaves a machine-readable record in the metadata of that output, and
raises `ClaimFailed` when the measurement disagrees. `ledger()` gathers the records of all chapters.
"""

import math
import re

import numpy as np

from .ledger import as_html, as_text, ledger, owed, records
from .report import brief, num, plain, show_line

__all__ = ["ClaimFailed", "claim", "ledger", "owed", "records"]

# The form of an identifier: chapter-name.
IDENTIFIER = re.compile(r"^[a-z]+-[a-z0-9-]+$")


class ClaimFailed(AssertionError):
    """The measurement contradicts the claim."""


def claim(
    id: str,
    statement: str,
    measured=None,
    predicted=None,
    rtol: float | None = None,
    atol: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    holds: bool | None = None,
    shown: str | None = None,
) -> None:
    """Check a claim, show it in one line, record it, and raise when it is false.

    Three forms, by what is asked of the measurement m:

    - `predicted` with one tolerance: |m − p| ≤ rtol·|p| or |m − p| ≤ atol, for every pair (m, p);
    - `above` and/or `below`: above < m < below, for every m;
    - `holds`, a truth value that the cell worked out itself, with `shown`, a text with the numbers.

    NaN and infinity never pass.

    Args:
        id: the identifier in the ledger, such as "gd-threshold".
        statement: the claim, in words.
        measured: a number or an array of measurements (NumPy, torch, lists).
        predicted: a number for all measurements, or one for each, obtained without measuring.
        rtol: largest allowed |m/p − 1|.
        atol: largest allowed |m − p|.
        above: lower bound, exclusive.
        below: upper bound, exclusive.
        holds: the verdict, where it is not a comparison of numbers.
        shown: what was measured, in words and numbers; goes with `holds`.

    Raises:
        ClaimFailed: with the worst measurement and what was asked of it.
        TypeError, ValueError: the claim is not stated properly.
    """
    _check_words(id, statement)
    if holds is not None or shown is not None:
        given = {"measured": measured, "predicted": predicted, "rtol": rtol, "atol": atol}
        given |= {"above": above, "below": below}
        verdict: _Verdict | _Bounds | _Comparison = _Verdict(id, holds, shown, given)
    elif above is not None or below is not None:
        verdict = _Bounds(
            id, measured, above, below, {"predicted": predicted, "rtol": rtol, "atol": atol}
        )
    else:
        verdict = _Comparison(id, measured, predicted, rtol, atol)
    record = {"id": id, "statement": statement, "holds": verdict.holds} | verdict.record()
    show_line(as_text(record), as_html(record), {"dlmini": record})
    if not verdict.holds:
        raise ClaimFailed(f"{id} does not hold: {statement}\n{verdict.complaint()}")


# --- the three forms --------------------------------------------------------------------------


class _Comparison:
    """Every measurement beside its prediction, within one tolerance."""

    def __init__(self, id, measured, predicted, rtol, atol):
        if measured is None or predicted is None:
            missing = "measured" if measured is None else "predicted"
            raise TypeError(
                f"claim {id!r}: {missing} is missing; "
                "give measured and predicted with rtol or atol, "
                "or measured with above or below, or holds with shown"
            )
        if (rtol is None) == (atol is None):
            what = "no tolerance" if rtol is None else f"rtol={rtol} and atol={atol}"
            raise TypeError(f"claim {id!r} has {what}; give exactly one of rtol and atol")
        self.m, self.p = _array(id, "measured", measured), _array(id, "predicted", predicted)
        if self.p.size != 1 and self.p.shape != self.m.shape:
            raise ValueError(
                f"claim {id!r}: measured has shape {self.m.shape} and predicted {self.p.shape}; "
                "give one prediction for all measurements or one for each"
            )
        self.paired = self.p.size > 1
        self.relative = rtol is not None
        self.tol = _positive(
            id, "rtol" if self.relative else "atol", rtol if self.relative else atol
        )
        if not np.isfinite(self.p).all():
            raise ValueError(
                f"claim {id!r}: predicted contains {_first_bad(self.p)}; a prediction is finite"
            )
        if self.relative and (self.p == 0).any():
            raise ValueError(
                f"claim {id!r}: predicted contains 0, where rtol has no meaning; use atol"
            )
        with np.errstate(all="ignore"):
            p = np.broadcast_to(self.p, self.m.shape)
            self.gap = self.m / p - 1 if self.relative else self.m - p
            self.miss = ~(np.abs(self.gap) <= self.tol * (1 + 1e-12))  # so that NaN misses
        self.holds = not bool(self.miss.any())

    def record(self):
        tolerance = {"rtol" if self.relative else "atol": _round(self.tol)}
        return {
            "measured": _summary(self.m),
            "predicted": _summary(self.p),
            "n": int(self.m.size),
            "tolerance": tolerance,
        } | self._words()

    def _words(self):
        if not self.paired:
            spread = f"{num(100 * self.tol)} %" if self.relative else num(self.tol)
            one = _resolution(self.tol * abs(self.p.flat[0]) if self.relative else self.tol)
            return {
                "compared": "measured",
                "shown": _range(self.m, one),
                "asked": f"{num(self.p.flat[0])} ± {spread}",
            }
        if self.relative and self.tol >= 1e-4:
            shown = _range(self.gap + 1, _resolution(self.tol))
            return {
                "compared": "measured/predicted",
                "shown": shown,
                "asked": f"1 ± {num(self.tol)}",
            }
        compared = "|measured/predicted − 1|" if self.relative else "|measured − predicted|"
        worst = np.abs(self.gap).max()
        return {
            "compared": compared,
            "shown": f"at most {num(worst, 2)}",
            "asked": f"≤ {num(self.tol)}",
        }

    def complaint(self):
        worst = _worst(np.abs(self.gap))
        m, p = self.m.flat[worst], np.broadcast_to(self.p, self.m.shape).flat[worst]
        gap = (
            f"measured/predicted = {num(m / p, 6)}"
            if self.relative
            else f"difference {num(m - p, 6)}"
        )
        asked = f"1 ± {num(self.tol)}" if self.relative else f"± {num(self.tol)}"
        return (
            f"measured {num(m, 6)}, predicted {num(p, 6)}: {gap}, asked {asked}"
            f"{_where(self.miss, worst)}"
        )


class _Bounds:
    """Every measurement between two limits, or on one side of a limit."""

    def __init__(self, id, measured, above, below, foreign):
        for name, value in foreign.items():
            if value is not None:
                raise TypeError(
                    f"claim {id!r}: above/below cannot be combined with {name}; drop one of them"
                )
        if measured is None:
            raise TypeError(
                f"claim {id!r}: measured is missing; above and below bound a measurement"
            )
        self.m = _array(id, "measured", measured)
        self.lower = -math.inf if above is None else _number(id, "above", above)
        self.upper = math.inf if below is None else _number(id, "below", below)
        if self.lower >= self.upper:
            raise ValueError(
                f"claim {id!r}: above={num(self.lower)} is not smaller than "
                f"below={num(self.upper)}; the claim asks above < measured < below"
            )
        self.miss = ~((self.m > self.lower) & (self.m < self.upper) & np.isfinite(self.m))
        self.holds = not bool(self.miss.any())

    def _asked(self):
        if self.lower == -math.inf:
            return f"< {num(self.upper)}"
        if self.upper == math.inf:
            return f"> {num(self.lower)}"
        return f"between {num(self.lower)} and {num(self.upper)}"

    def record(self):
        limits = {"above": self.lower, "below": self.upper}
        return {
            "measured": _summary(self.m),
            "predicted": None,
            "n": int(self.m.size),
            "tolerance": {k: _round(v) for k, v in limits.items() if math.isfinite(v)},
            "compared": "measured",
            "shown": _range(self.m),
            "asked": self._asked(),
        }

    def complaint(self):
        with np.errstate(all="ignore"):
            worst = _worst(np.maximum(self.lower - self.m, self.m - self.upper))
        m = num(self.m.flat[worst], 6)
        return f"measured {m}, asked {self._asked()}{_where(self.miss, worst)}"


class _Verdict:
    """A truth value that the cell worked out, and a text that says what was seen."""

    def __init__(self, id, holds, shown, foreign):
        for name, value in foreign.items():
            if value is not None:
                raise TypeError(
                    f"claim {id!r}: holds/shown cannot be combined with {name}; drop one of them"
                )
        if getattr(holds, "shape", None) == () and "bool" in str(getattr(holds, "dtype", "")):
            holds = bool(holds)
        if not isinstance(holds, bool):
            raise TypeError(
                f"claim {id!r}: holds must be True or False, not {brief(holds)}; "
                "reduce it with all()"
            )
        if not isinstance(shown, str) or not shown.strip():
            raise TypeError(
                f"claim {id!r}: shown must be a text with the numbers measured, not {brief(shown)}"
            )
        _check_line(id, "shown", shown)
        self.holds, self.shown = holds, shown.strip()

    def record(self):
        return {
            "measured": None,
            "predicted": None,
            "n": None,
            "tolerance": {},
            "compared": "measured",
            "shown": self.shown,
            "asked": None,
        }

    def complaint(self):
        return f"measured: {self.shown}"


# --- input ------------------------------------------------------------------------------------


def _check_words(id, statement):
    if not isinstance(id, str) or not IDENTIFIER.match(id):
        raise ValueError(
            f"claim id {id!r} is not of the form 'chapter-name' (lower-case letters, digits and "
            "hyphens, such as 'gd-threshold')"
        )
    if not isinstance(statement, str) or not statement.strip():
        raise ValueError(
            f"claim {id!r}: statement must say in words what is claimed, not {brief(statement)}"
        )
    _check_line(id, "statement", statement)


def _check_line(id, name, text):
    if "\n" in text or " · " in text:
        raise ValueError(
            f"claim {id!r}: {name} must be one line without ' · ', which separates its parts"
        )


def _array(id, name, value):
    try:
        array = np.asarray(plain(value))
    except ValueError as error:
        raise ValueError(
            f"claim {id!r}: {name} is ragged; give a number or a regular array of numbers"
        ) from error
    if array.size == 0:
        raise ValueError(
            f"claim {id!r}: {name} is empty (shape {array.shape}); a claim needs a measurement"
        )
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"claim {id!r}: {name} must be real numbers, not {brief(value)} (dtype {array.dtype})"
            + ("; truth values go into holds" if array.dtype.kind == "b" else "")
        )
    return array.astype(np.float64)


def _number(id, name, value):
    array = _array(id, name, value)
    if array.size != 1 or not np.isfinite(array).all():
        raise ValueError(f"claim {id!r}: {name} must be one finite number, not {brief(value)}")
    return float(array.flat[0])


def _positive(id, name, value):
    number = _number(id, name, value)
    if number <= 0:
        raise ValueError(
            f"claim {id!r}: {name} must be positive, not {num(number)}; "
            "for equality give a small one"
        )
    return number


def _first_bad(array):
    return num(array[~np.isfinite(array)].flat[0])


# --- numbers as text --------------------------------------------------------------------------


def _round(x):
    """Six significant digits, and a text where JSON has no number."""
    x = float(x)
    return float(f"{x:.6g}") if math.isfinite(x) else str(x)


def _summary(array):
    if array.size == 1:
        return _round(array.flat[0])
    with np.errstate(all="ignore"):
        stats = {"min": array.min(), "median": np.median(array), "max": array.max()}
    return {k: _round(v) for k, v in stats.items()}


def _resolution(tol):
    """Decimals that resolve a tenth of the tolerance."""
    return max(0, 1 - math.floor(math.log10(tol)))


def _range(array, decimals=None):
    """'0.999–1.001 (n = 30)', or one number where there is one."""
    low, high = (float(v) for v in (array.min(), array.max()))  # min and max carry NaN along

    def text(x):
        if decimals is None or not math.isfinite(x) or abs(x) >= 1e5 or decimals > 6:
            return num(x)
        return f"{x:.{decimals}f}".replace("-", "−")

    ends = list(dict.fromkeys([text(low), text(high)]))
    return (" to " if any("−" in e for e in ends) else "–").join(ends)


def _worst(badness):
    return int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))


def _where(miss, worst):
    n = miss.size
    return "" if n == 1 else f" (the worst of {n}, at index {worst}; {int(miss.sum())} of {n} miss)"
