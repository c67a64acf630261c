"""Claims: a statement, the measurement that supports it, and an error when it does not.

    claim("gd-batch-variance", "the variance of a mini-batch gradient is $\\operatorname{tr} C/B$",
          variance, predicted=trace / sizes, rtol=0.2,
          kind="theory", control={"half the examples left out": variance_of_half})

shows one line in the notebook, leaves a machine-readable record in the metadata of that output, and
raises `ClaimFailed` when the measurement disagrees, or when a control agrees as well.
`ledger.show()` gathers the records of all chapters.
"""

import math
import re

import numpy as np

from .ledger import KINDS, as_html, as_text
from .report import brief, inline_text, num, plain, show_line

__all__ = ["ClaimFailed", "claim"]

#: The form of an identifier: chapter-name.
IDENTIFIER = re.compile(r"[a-z]+-[a-z0-9-]+")


class ClaimFailed(AssertionError):
    """The measurement contradicts the claim, or a control meets its criterion too."""


def claim(
    id: str,
    statement: str,
    measured=None,
    predicted=None,
    rtol: float | None = None,
    atol: float | None = None,
    *,
    kind: str = "",
    above: float | None = None,
    below: float | None = None,
    holds: bool | None = None,
    asked: str | None = None,
    shown: str | None = None,
    control: dict | None = None,
    wrong: dict | None = None,
) -> None:
    """Check a claim and its controls, show them in one line, record it, and raise when it is false.

    Three forms, by what is asked of the measurement m:

    - `predicted` with one tolerance: |m − p| ≤ rtol·|p| or |m − p| ≤ atol, for every pair (m, p);
    - `above` and/or `below`: above < m < below, for every m;
    - `holds`, a truth value that the cell worked out itself, with `asked`, the criterion in words
      with numbers, and `shown`, what was seen.

    A criterion is worth what it rules out. A control goes through the same one and has to fail it:
    `control` measures where the claim is false (labels shuffled, the method switched off, a broken
    sampler), `wrong` keeps the measurement and puts a wrong formula in the place of `predicted`.
    Theory and empirical claims need at least one of the two. NaN and infinity never pass, and in
    a control they are an error: an experiment that broke proves nothing.

    Args:
        id: the identifier in the ledger, such as "gd-threshold".
        statement: the claim, in words; $…$ in it is a formula.
        measured: a number or an array of measurements (NumPy, torch, lists).
        predicted: a number for all measurements, or one for each, obtained without measuring.
        rtol: largest allowed |m/p − 1|.
        atol: largest allowed |m − p|.
        kind: "identity" (follows by algebra; it checks the code), "theory" (a formula predicts a
            number on a real run) or "empirical" (expected from the literature; it might have been
            otherwise).
        above: lower bound, exclusive.
        below: upper bound, exclusive.
        holds: the verdict, where it is not a comparison of numbers.
        asked: the criterion of `holds`, such as "all of 5 seeds below 2.19".
        shown: what was measured, in words and numbers, such as "5 of 5"; goes with `holds`.
        control: what was changed → what was measured then. Measurements fit `predicted` as
            `measured` does; with `holds` they are verdicts, and the text before them says what
            was seen: {"frozen layers: 0 of 5": False}.
        wrong: what is wrong → what it predicts, of the shape of `predicted`.

    Raises:
        ClaimFailed: with the worst measurement and what was asked of it, or the control that
            passes.
        TypeError, ValueError: the claim is not stated properly.
    """
    _check_words(id, statement)
    _check_kind(id, kind, control, wrong)
    compared = {"predicted": predicted, "rtol": rtol, "atol": atol}
    bounds = {"above": above, "below": below}
    verdict: _Verdict | _Bounds | _Comparison
    if any(given is not None for given in (holds, asked, shown)):
        _refuse(id, "holds/asked/shown", {"measured": measured} | compared | bounds)
        verdict = _Verdict(id, holds, asked, shown)
    elif above is not None or below is not None:
        _refuse(id, "above/below", compared)
        verdict = _Bounds(id, measured, above, below)
    else:
        verdict = _Comparison(id, measured, predicted, rtol, atol)
    controls = _controls(id, "control", control, verdict.with_measured)
    if wrong:
        if not isinstance(verdict, _Comparison):
            raise TypeError(
                f"claim {id!r}: wrong takes the place of predicted, and this claim has none; "
                "give a control"
            )
        controls += _controls(id, "wrong", wrong, verdict.with_predicted)
    passing = [c for c in controls if not c["fails"]]
    good = verdict.holds and not passing
    record = {"id": id, "kind": kind, "statement": statement, "holds": good} | verdict.record()
    record["controls"] = controls
    show_line(as_text(record), as_html(record), {"dlmini": record})
    if not verdict.holds:
        raise ClaimFailed(f"{id} does not hold: {inline_text(statement)}\n{verdict.complaint()}")
    if passing:
        raise ClaimFailed(
            f"{id} shows nothing: {inline_text(statement)}\n"
            + "\n".join(
                f"control {c['label']!r} passes too: the criterion cannot tell "
                f"({c['shown'] or 'True'}, asked {record['asked']})"
                for c in passing
            )
        )


# --- the three forms --------------------------------------------------------------------------


class _Comparison:
    """Every measurement beside its prediction, within one tolerance."""

    def __init__(self, id, measured, predicted, rtol, atol, names=("measured", "predicted")):
        if measured is None or predicted is None:
            missing = names[0] if measured is None else names[1]
            raise TypeError(
                f"claim {id!r}: {missing} is missing; "
                "give measured and predicted with rtol or atol, "
                "or measured with above or below, or holds with asked and shown"
            )
        if (rtol is None) == (atol is None):
            what = "no tolerance" if rtol is None else f"rtol={rtol} and atol={atol}"
            raise TypeError(f"claim {id!r} has {what}; give exactly one of rtol and atol")
        self.id, self.given = id, (measured, predicted, rtol, atol)
        self.m, self.p = _array(id, names[0], measured), _array(id, names[1], predicted)
        self.p = self.p.reshape(()) if self.p.size == 1 else self.p
        if self.p.size != 1 and self.p.shape != self.m.shape:
            raise ValueError(
                f"claim {id!r}: {names[0]} has shape {self.m.shape} and {names[1]} {self.p.shape}; "
                "give one prediction for all measurements or one for each"
            )
        self.paired = self.p.size > 1
        self.relative = rtol is not None
        self.tol = _positive(
            id, "rtol" if self.relative else "atol", rtol if self.relative else atol
        )
        if not np.isfinite(self.p).all():
            raise ValueError(
                f"claim {id!r}: {names[1]} contains {_first_bad(self.p)}; a prediction is finite"
            )
        if self.relative and (self.p == 0).any():
            raise ValueError(
                f"claim {id!r}: {names[1]} contains 0, where rtol has no meaning; use atol"
            )
        self.gap = self._gap(self.m)
        self.miss = self._misses(self.gap)
        self.holds = not bool(self.miss.any())

    def _gap(self, m):
        with np.errstate(all="ignore"):
            return m / self.p - 1 if self.relative else m - self.p

    def _misses(self, gap):
        return ~(np.abs(gap) <= self.tol * (1 + 1e-12))  # so that NaN misses

    def with_measured(self, name, value):
        """The same criterion in another world: what is shown of it, and whether it passes."""
        _, predicted, rtol, atol = self.given
        other = _Comparison(self.id, value, predicted, rtol, atol, (name, "predicted"))
        _check_finite(self.id, name, other.m)
        return other._control(), other.holds

    def with_predicted(self, name, value):
        """The same measurement under another formula."""
        measured, _, rtol, atol = self.given
        other = _Comparison(self.id, measured, value, rtol, atol, ("measured", name))
        alone = not (self.paired or other.paired)
        return f"predicts {num(other.p.flat[0], 3)}" if alone else other._control(), other.holds

    def _control(self):
        if not self.paired:
            return _failing(self.m, lambda m: self._misses(self._gap(m)))
        if self.relative:
            return f"ratio {_failing(self.gap + 1, lambda ratio: self._misses(ratio - 1))}"
        return f"off by up to {_failing(np.abs(self.gap).max(), self._misses)}"

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

    def __init__(self, id, measured, above, below, name="measured"):
        if measured is None:
            raise TypeError(f"claim {id!r}: {name} is missing; above and below bound a measurement")
        self.id, self.given = id, (above, below)
        self.m = _array(id, name, measured)
        self.lower = -math.inf if above is None else _number(id, "above", above)
        self.upper = math.inf if below is None else _number(id, "below", below)
        if self.lower >= self.upper:
            raise ValueError(
                f"claim {id!r}: above={num(self.lower)} is not smaller than "
                f"below={num(self.upper)}; the claim asks above < measured < below"
            )
        self.miss = self._misses(self.m)
        self.holds = not bool(self.miss.any())

    def _misses(self, m):
        return ~((m > self.lower) & (m < self.upper) & np.isfinite(m))

    def with_measured(self, name, value):
        other = _Bounds(self.id, value, *self.given, name)
        _check_finite(self.id, name, other.m)
        return _failing(other.m, other._misses), other.holds

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
    """A truth value that the cell worked out, with its criterion and what was seen."""

    def __init__(self, id, holds, asked, shown):
        self.id, self.holds = id, _truth(id, "holds", holds)
        self.asked = _line(id, "asked", asked, "the criterion, such as 'all of 5 seeds below 2.19'")
        self.shown = _line(id, "shown", shown, "what was seen, with its numbers, such as '5 of 5'")

    def with_measured(self, name, value):
        return "", _truth(self.id, name, value)

    def record(self):
        return {
            "measured": None,
            "predicted": None,
            "n": None,
            "tolerance": {},
            "compared": "measured",
            "shown": self.shown,
            "asked": self.asked,
        }

    def complaint(self):
        return f"measured: {self.shown}; asked: {self.asked}"


# --- input ------------------------------------------------------------------------------------


def _check_words(id, statement):
    if not isinstance(id, str) or not IDENTIFIER.fullmatch(id):
        raise ValueError(
            f"claim id {id!r} is not of the form 'chapter-name' (lower-case letters, digits and "
            "hyphens, such as 'gd-threshold')"
        )
    _line(id, "statement", statement, "what is claimed, in words")


def _line(id, name, text, what):
    """A text of one line, since the parts of a claim's line stand between dots."""
    if not isinstance(text, str) or not text.strip():
        error = ValueError if isinstance(text, str) else TypeError
        raise error(f"claim {id!r}: {name} must say {what}, not {brief(text)}")
    if "\n" in text or " · " in text:
        raise ValueError(
            f"claim {id!r}: {name} must be one line without ' · ', which separates its parts"
        )
    return text.strip()


def _check_kind(id, kind, control, wrong):
    if kind not in KINDS:
        given = f"kind {kind!r} is not one of them" if kind else "kind is missing"
        kinds = "; ".join(f"{name!r}, {says}" for name, says in KINDS.items())
        raise TypeError(f"claim {id!r}: {given}: {kinds}")
    if kind != "identity" and not control and not wrong:
        raise TypeError(
            f"claim {id!r}: kind {kind!r} needs a control, the same measurement where the claim "
            "is false (labels shuffled, the method switched off, a broken sampler), which has to "
            "fail: control={'half the examples left out': 14.2}; or a formula that is not true: "
            "wrong={'1/B² instead': 0.03}"
        )


def _controls(id, role, worlds, verdict):
    """Each world through the criterion: its label, what is shown of it, and whether it fails."""
    if worlds is not None and not isinstance(worlds, dict):
        raise TypeError(
            f"claim {id!r}: {role} must say what was changed, as {{'labels shuffled': …}}, "
            f"not {brief(worlds)}"
        )
    found = []
    for label, value in (worlds or {}).items():
        label = _line(id, f"a label in {role}", label, "what was changed")
        shown, passes = verdict(f"{role} {label!r}", value)
        found.append({"label": label, "shown": shown, "fails": not passes})
    return found


def _refuse(id, form, given):
    for name, value in given.items():
        if value is not None:
            raise TypeError(
                f"claim {id!r}: {form} cannot be combined with {name}; drop one of them"
            )


def _truth(id, name, value):
    if getattr(value, "shape", None) == () and "bool" in str(getattr(value, "dtype", "")):
        value = bool(value)
    if not isinstance(value, bool):
        raise TypeError(
            f"claim {id!r}: {name} must be True or False, not {brief(value)}; reduce it with all()"
        )
    return value


def _check_finite(id, name, array):
    if not np.isfinite(array).all():
        raise ValueError(
            f"claim {id!r}: {name} contains {_first_bad(array)}; an experiment that broke proves "
            "nothing: measure something finite, such as the share of runs that diverged"
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


def _range(array, decimals=None, digits=4):
    """'0.999–1.001', or one number where there is one."""
    low, high = (float(v) for v in (array.min(), array.max()))  # min and max carry NaN along

    def text(x):
        if decimals is None or not math.isfinite(x) or abs(x) >= 1e5 or decimals > 6:
            return num(x, digits)
        return f"{x:.{decimals}f}".replace("-", "−")

    ends = list(dict.fromkeys([text(low), text(high)]))
    return (" to " if any("−" in e for e in ends) else "–").join(ends)


def _failing(array, misses):
    """The range of a control, with the fewest digits, from three on, that still fail."""

    def rounded(digits):
        return np.reshape([float(f"{x:.{digits}g}") for x in array.flat], array.shape)

    digits = next((d for d in range(3, 16) if misses(rounded(d)).any()), 3)
    return _range(array, digits=digits)


def _worst(badness):
    return int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))


def _where(miss, worst):
    n = miss.size
    return "" if n == 1 else f" (the worst of {n}, at index {worst}; {int(miss.sum())} of {n} miss)"
