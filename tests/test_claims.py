"""Claims: what passes, what fails and how, what is shown and recorded, and what nbval compares."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from dlmini.book import claims, ledger
from dlmini.book.claims import ClaimFailed, claim

ROOT = Path(__file__).parent.parent


@pytest.fixture
def shown(monkeypatch):
    """The outputs that a notebook would get: a list of (text, html, record)."""
    outputs = []

    def keep(text, html, metadata=None):
        outputs.append((text, html, metadata["dlmini"]))

    monkeypatch.setattr("dlmini.book.claims.show_line", keep)
    return outputs


def state(*arguments, id="gd-x", says="a statement", kind="identity", **more):
    """A claim of which only the numbers matter."""
    claim(id, says, *arguments, kind=kind, **more)


# --- the measurement ----------------------------------------------------------------------------


def test_many_pairs_are_shown_as_the_range_of_their_ratio(shown):
    predicted = np.geomspace(0.01, 100, 30)
    claim(
        "gd-threshold",
        r"descent diverges beyond $2/\lambda_{\max}$",
        predicted * np.linspace(0.999, 1.001, 30),
        predicted,
        rtol=0.01,
        kind="identity",
    )
    (text, html, record) = shown[0]
    assert text == (
        "✓ gd-threshold · identity · descent diverges beyond 2/λmax · "
        "measured/predicted 0.999–1.001 (n = 30) · asked 1 ± 0.01"
    )
    assert 'id="claim-gd-threshold"' in html
    assert 'aria-label="holds"' in html
    assert '<span class="dl-measured">0.999–1.001</span> (n = 30)' in html
    assert record["holds"] is True
    assert record["kind"] == "identity"
    assert record["n"] == 30
    assert record["tolerance"] == {"rtol": 0.01}
    assert record["controls"] == []
    assert record["measured"].keys() == {"min", "median", "max"}
    assert json.loads(json.dumps(record)) == record


def test_one_prediction_is_shown_beside_the_measurement(shown):
    state(-0.9982, -1, atol=0.05)
    state([0.98, 0.99], 0.985, rtol=0.01)
    assert shown[0][0].endswith("measured −0.998 · predicted −1 ± 0.05")
    assert shown[1][0].endswith("measured 0.9800–0.9900 (n = 2) · predicted 0.985 ± 1 %")
    assert shown[0][2]["measured"] == -0.9982
    assert shown[0][2]["predicted"] == -1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": [1 + 3e-9, 1.0], "predicted": [1.0, 1.0], "rtol": 1e-7},
         "|measured/predicted − 1| at most 3×10⁻⁹ (n = 2) · asked ≤ 10⁻⁷"),
        ({"measured": [0.0, 1e-3], "predicted": [0.0, 0.0], "atol": 1e-2},
         "|measured − predicted| at most 0.001 (n = 2) · asked ≤ 0.01"),
        ({"measured": [1.0, 1.0], "predicted": [[1.0]], "rtol": 0.1}, "predicted 1 ± 10 %"),
        ({"measured": [1.2, 2.9], "below": 3}, "measured 1.2–2.9 (n = 2) · asked < 3"),
        ({"measured": 0.9995, "above": 0.999}, "measured 0.9995 · asked > 0.999"),
        ({"measured": [0.7, 1.1], "above": 0.6, "below": 1.3}, "asked between 0.6 and 1.3"),
        ({"holds": True, "asked": "all of 5 below 2.19", "shown": "5 of 5"},
         "measured 5 of 5 · asked all of 5 below 2.19"),
        ({"holds": np.True_, "asked": "equal bits", "shown": "equal"}, "measured equal"),
        ({"measured": [-2.0, 2.0], "below": 3}, "−2 to 2"),
    ],
)  # fmt: skip
def test_each_form_of_a_true_claim_says_what_was_asked(shown, arguments, words):
    state(**arguments)
    text, html, record = shown[0]
    assert text.startswith("✓ gd-x · identity · a statement · ")
    assert words in text
    assert record["asked"]
    assert "predicted" in html or "asked" in html
    assert record["holds"] is True


def test_a_false_claim_is_shown_and_then_raises_with_both_numbers(shown):
    measured, predicted = np.array([0.2, 0.213, 0.2]), np.full(3, 0.2)
    with pytest.raises(ClaimFailed) as caught:
        state(measured, predicted, rtol=0.01, id="gd-threshold", says="beyond $2/\\lambda$")
    message = str(caught.value)
    assert message.startswith("gd-threshold does not hold: beyond 2/λ\n")
    assert "measured 0.213, predicted 0.2" in message
    assert "1.065" in message
    assert "asked 1 ± 0.01" in message
    assert "the worst of 3, at index 1; 1 of 3 miss" in message
    assert isinstance(caught.value, AssertionError)
    assert shown[0][0].startswith("✗ gd-threshold")
    assert 'aria-label="does not hold"' in shown[0][1]
    assert shown[0][2]["holds"] is False


def test_a_false_verdict_says_what_was_seen_and_what_was_asked(shown):
    with pytest.raises(ClaimFailed, match=r"measured: 3 of 5; asked: all of 5 below 2\.19"):
        state(holds=False, asked="all of 5 below 2.19", shown="3 of 5")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "asked", [{"predicted": 1.0, "rtol": 1e9}, {"predicted": 0.0, "atol": 1e300}, {"above": -1e9}]
)
def test_nan_and_infinity_never_pass(shown, bad, asked):
    for measured in (bad, [1.0, bad]):
        with pytest.raises(ClaimFailed):
            state(measured, **asked)
    assert json.loads(json.dumps(shown[-1][2])) == shown[-1][2]


def test_a_measurement_that_broke_fails_the_claim_whatever_its_wrong_formula_does(shown):
    with pytest.raises(ClaimFailed, match="measured NaN, predicted 1"):
        state(np.nan, 1.0, rtol=0.1, kind="theory", wrong={"twice that": 2.0})


def test_bounds_are_exclusive_and_tolerances_inclusive(shown):
    with pytest.raises(ClaimFailed, match="measured 3, asked < 3"):
        state([1, 3], below=3)
    state(1.1, 1.0, atol=0.1)


def test_measurements_may_come_from_torch_lists_or_tensors(shown):
    torch = pytest.importorskip("torch")
    ones = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    state(ones, 1.0, rtol=0.01, kind="theory", control={"twice": 2 * ones})
    state([torch.ones(()), torch.ones(())], np.float32(1), rtol=0.01)
    no = torch.tensor(False)
    state(holds=torch.tensor(True), asked="equal", shown="equal", control={"unlike": no})
    assert [record["n"] for _, _, record in shown] == [3, 2, None]


# --- the control --------------------------------------------------------------------------------

SEEN = {"holds": True, "asked": "all of 5 below 2.19", "shown": "5 of 5"}
PAIRS = {"measured": [1.0, 2.1], "predicted": [1.0, 2.0], "rtol": 0.2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": 1.02, "predicted": 1.0, "rtol": 0.2, "control": {"labels shuffled": 14}},
         "control labels shuffled: 14, would fail"),
        ({"measured": 1.02, "predicted": 1.0, "rtol": 0.2, "control": {"shuffled": [1.0, 9.0]}},
         "control shuffled: 1–9, would fail"),
        ({"measured": 1.02, "predicted": 1.0, "rtol": 0.2, "wrong": {"$1/B^2$ instead": 3.14159}},
         "control 1/B² instead: predicts 3.14, would fail"),
        ({**PAIRS, "control": {"half left out": [2.0, 28.0]}},
         "control half left out: ratio 2–14, would fail"),
        ({**PAIRS, "wrong": {"the square": [1.0, 4.0]}},
         "control the square: ratio 0.525–1, would fail"),
        ({"measured": [0.0], "predicted": [0.0], "atol": 0.1, "control": {"off": [0.7]}},
         "control off: 0.7, would fail"),
        ({"measured": [0.0, 0.0], "predicted": [0.0, 1e-9], "atol": 0.1,
          "control": {"off": [2, 5]}},
         "control off: off by up to 5, would fail"),
        ({"measured": 1.5, "above": 1.2, "control": {"untuned": 1.02}},
         "control untuned: 1.02, would fail"),
        ({"measured": 1.5, "above": 1.2, "control": {"a": 1.0, "b": 0.9}},
         "asked > 1.2 · control a: 1, would fail · control b: 0.9, would fail"),
        ({**SEEN, "control": {"frozen layers: 0 of 5": False}},
         "control frozen layers: 0 of 5, would fail"),
        ({**SEEN, "control": {"frozen": np.False_}}, "control frozen, would fail"),
    ],
)  # fmt: skip
def test_a_control_goes_through_the_same_criterion_and_is_shown_failing_it(shown, arguments, words):
    state(**arguments, kind="theory")
    text, html, record = shown[0]
    assert text.endswith(words)
    assert "would fail" in html
    assert all(control["fails"] for control in record["controls"])
    assert json.loads(json.dumps(record)) == record


def test_a_control_that_nearly_passes_is_shown_with_the_digits_that_fail(shown):
    state(1.0, 1.0, rtol=0.01, kind="theory", control={"close": 1.010002})
    assert "control close: 1.010002, would fail" in shown[0][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": 1.02, "predicted": 1.0, "rtol": 0.2, "control": {"half": 1.1}},
         "control 'half' passes too: the criterion cannot tell (1.1, asked 1 ± 20 %)"),
        ({**PAIRS, "control": {"half": [1.1, 2.0]}},
         "control 'half' passes too: the criterion cannot tell (ratio 1–1.1, asked 1 ± 0.2)"),
        ({**PAIRS, "wrong": {"the root": [1.1, 2.0]}},
         "control 'the root' passes too: the criterion cannot tell"),
        ({"measured": 1.5, "above": 1.2, "control": {"first": 1.0, "second": 1.3}},
         "control 'second' passes too: the criterion cannot tell (1.3, asked > 1.2)"),
        ({**SEEN, "control": {"frozen": True}},
         "control 'frozen' passes too: the criterion cannot tell (True, asked all of 5"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["identity", "theory", "empirical"])
def test_a_control_that_passes_fails_the_claim(shown, kind, arguments, words):
    with pytest.raises(ClaimFailed) as caught:
        state(**arguments, kind=kind)
    assert str(caught.value).startswith("gd-x shows nothing: a statement\n")
    assert words in str(caught.value)
    assert "first" not in str(caught.value)
    text, _, record = shown[0]
    assert text.startswith("✗")
    assert "passes too" in text
    assert record["holds"] is False


def test_one_measurement_in_range_does_not_save_a_control(shown):
    state([1.0, 1.0], 1.0, rtol=0.1, kind="theory", control={"one of two": [1.0, 3.0]})
    assert shown[0][2]["holds"] is True


# --- the line -----------------------------------------------------------------------------------

FULL = {
    "id": "gd-batch-variance",
    "says": r"the variance of a mini-batch gradient is $\operatorname{tr} C/B$ & <more>",
    "kind": "theory",
    "control": {"half the <examples> left out": [14.0, 28.0]},
    "wrong": {"$1/B^2$ instead": [1.0, 4.0]},
} | PAIRS


def test_the_line_escapes_words_and_typesets_formulas(shown):
    state(**FULL)
    _, html, record = shown[0]
    assert r'nohighlight">\(\operatorname{tr} C/B\)</span> &amp; &lt;more&gt;<div' in html
    assert "half the &lt;examples&gt; left out: " in html
    assert r"\(1/B^2\)" in html
    assert record["statement"] == FULL["says"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_line_fits_a_phone_and_is_read_in_order(shown, open_html, scheme):
    state(**FULL)
    page = "<style>:root{color-scheme:light dark}</style>" + shown[0][1]
    tab = open_html(page, viewport={"width": 360, "height": 700}, color_scheme=scheme)
    line = tab.locator("#claim-gd-batch-variance")
    box = line.bounding_box()
    assert box["x"] + box["width"] <= 360
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.get_by_role("img", name="holds").is_visible()
    words = "gd-batch-variance theory mini-batch measured/predicted asked control would".split()
    places = [line.inner_text().index(word) for word in words]
    assert places == sorted(places)
    facts = [
        fact.bounding_box() for fact in line.locator("> div > span").all() if fact.is_visible()
    ]
    assert len(facts) == 4
    assert all(fact["x"] + fact["width"] <= 360 for fact in facts)
    assert tab.trouble == []


def test_the_line_uses_colours_of_the_page(shown):
    state(**FULL)
    colours = set(re.findall(r"#[0-9a-f]{3,6}|rgba?\([^)]*\)", shown[0][1]))
    assert colours == {"#009e73", "rgba(127,127,127,.1)"}, "the edge and its shade, on any ground"


def test_without_a_notebook_the_line_is_printed(capsys):
    state(1.0, 1.0, rtol=0.1)
    line = "✓ gd-x · identity · a statement · measured 1.00 · predicted 1 ± 10 %\n"
    assert capsys.readouterr().out == line


# --- stated badly -------------------------------------------------------------------------------

GOOD = {
    "id": "gd-x", "statement": "a statement", "measured": 1.0, "predicted": 1.0, "rtol": 0.1,
    "kind": "theory", "control": {"labels shuffled": 2.0},
}  # fmt: skip
BARE = {"measured": None, "predicted": None, "rtol": None, "control": {"a world": False}}
BOUND = {"predicted": None, "rtol": None, "above": 0.5, "control": {"a world": 0.1}}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"id": "Threshold"}, ValueError, "not of the form 'chapter-name'"),
        ({"id": "gd"}, ValueError, "not of the form"),
        ({"id": "gd-x\n"}, ValueError, "not of the form"),
        ({"id": 3}, ValueError, "not of the form"),
        ({"statement": " "}, ValueError, "statement must say what is claimed, in words, not ' '"),
        ({"statement": 3}, TypeError, "statement must say what is claimed, in words, not 3"),
        ({"statement": "a · b"}, ValueError, "without ' · '"),
        ({"measured": None}, TypeError, "measured is missing"),
        ({"predicted": None}, TypeError, "predicted is missing; give measured and predicted"),
        ({"rtol": None}, TypeError, "no tolerance; give exactly one"),
        ({"atol": 0.1}, TypeError, "rtol=0.1 and atol=0.1; give exactly one"),
        ({"rtol": 0}, ValueError, "rtol must be positive"),
        ({"rtol": np.nan}, ValueError, "rtol must be one finite number"),
        ({"predicted": 0.0}, ValueError, "contains 0, where rtol has no meaning; use atol"),
        ({"predicted": np.nan}, ValueError, "predicted contains NaN"),
        ({"measured": []}, ValueError, "measured is empty"),
        ({"measured": [1, 2], "predicted": [1, 2, 3]}, ValueError, r"shape \(2,\) and .* \(3,\)"),
        ({"measured": [[1], [2, 3]]}, ValueError, "ragged"),
        ({"measured": "1"}, TypeError, "must be real numbers"),
        ({"measured": True}, TypeError, "truth values go into holds"),
        ({"measured": 1j}, TypeError, "must be real numbers"),
        ({"below": 2}, TypeError, "above/below cannot be combined with predicted; drop one"),
        ({"holds": True, "asked": "y", "shown": "x"}, TypeError,
         "holds/asked/shown cannot be combined with measured; drop one"),
        ({"asked": "y"}, TypeError, "holds/asked/shown cannot be combined with measured"),
        ({**BARE, "holds": 1, "asked": "y", "shown": "x"}, TypeError,
         r"holds must be True or False, not 1; reduce it with all\(\)"),
        ({**BARE, "holds": True, "asked": "y"}, TypeError,
         "shown must say what was seen, with its numbers, such as '5 of 5', not None"),
        ({**BARE, "holds": True, "shown": "x"}, TypeError,
         "asked must say the criterion, such as 'all of 5 seeds below 2.19', not None"),
        ({**BARE, "holds": True, "asked": " ", "shown": "x"}, ValueError, "asked must say the"),
        ({**BARE, "shown": "x"}, TypeError, "holds must be True or False, not None"),
        ({**BOUND, "below": 0.2}, ValueError, "above=0.5 is not smaller than below=0.2"),
        # the kind
        ({"kind": ""}, TypeError,
         "kind is missing: 'identity', follows by algebra and checks the code; 'theory', a formula "
         "predicts a number on a real run; 'empirical', expected from the literature and might"),
        ({"kind": "law"}, TypeError, "kind 'law' is not one of them: 'identity', follows"),
        # the control
        ({"control": None}, TypeError,
         "'theory' needs a control, the same measurement where the claim is false .labels "
         "shuffled, the method switched off, a broken sampler., which has to fail: control=.'half "
         "the examples left out': 14.2.; or a formula that is not true: wrong=.'1/B² instead'"),
        ({"control": {}, "kind": "empirical"}, TypeError, "'empirical' needs a control"),
        ({"control": 2.0}, TypeError,
         "control must say what was changed, as .'labels shuffled': .*, not 2.0"),
        ({"wrong": 2.0}, TypeError, "wrong must say what was changed"),
        ({"control": {"": 2.0}}, ValueError, "a label in control must say what was changed"),
        ({"control": {3: 2.0}}, TypeError, "a label in control must say what was changed, not 3"),
        ({"control": {"a · b": 2.0}}, ValueError, "a label in control must be one line"),
        ({"control": {"shuffled": None}}, TypeError, "control 'shuffled' is missing"),
        ({"control": {"shuffled": "2"}}, TypeError, "control 'shuffled' must be real numbers"),
        ({"control": {"shuffled": np.nan}}, ValueError,
         "control 'shuffled' contains NaN; an experiment that broke proves nothing: measure "
         "something finite, such as the share of runs that diverged"),
        ({"control": {"shuffled": [2.0, np.inf]}}, ValueError, "control 'shuffled' contains ∞"),
        ({**BOUND, "control": {"shuffled": np.nan}}, ValueError, "control 'shuffled' contains NaN"),
        ({**BOUND, "control": {"shuffled": None}}, TypeError, "control 'shuffled' is missing"),
        ({"measured": [1, 2], "predicted": [1, 2], "control": {"half": [1, 2, 3]}}, ValueError,
         r"control 'half' has shape \(3,\) and predicted \(2,\); give one prediction for all"),
        ({"measured": [1, 2], "wrong": {"1/B": [1, 2, 3]}}, ValueError,
         r"measured has shape \(2,\) and wrong '1/B' \(3,\)"),
        ({"wrong": {"1/B": np.inf}}, ValueError, "wrong '1/B' contains ∞; a prediction is finite"),
        ({"wrong": {"1/B": 0}}, ValueError, "wrong '1/B' contains 0, where rtol has no meaning"),
        ({"wrong": {"1/B": None}}, TypeError, "wrong '1/B' is missing"),
        ({**BOUND, "wrong": {"1/B": 2}}, TypeError,
         "wrong takes the place of predicted, and this claim has none; give a control"),
        ({**BARE, "holds": True, "asked": "y", "shown": "x", "wrong": {"1/B": 2}}, TypeError,
         "wrong takes the place of predicted"),
        ({**BARE, "holds": True, "asked": "y", "shown": "x", "control": {"frozen": 0.5}}, TypeError,
         "control 'frozen' must be True or False, not 0.5"),
    ],
)  # fmt: skip
def test_a_claim_stated_badly_is_an_error_that_names_the_input(shown, change, error, words):
    with pytest.raises(error, match=words) as caught:
        claim(**(GOOD | change))
    assert "claim" in str(caught.value)
    assert not shown


def test_an_identity_needs_no_control(shown):
    claim(**(GOOD | {"kind": "identity", "control": None}))
    assert shown[0][2]["controls"] == []


# --- in a notebook, under nbval -----------------------------------------------------------------

SOURCE = """from dlmini import claim
claim('gd-x', 'ratio is one', [1.004, 1.001], 1.0, rtol=0.01, kind='theory',
      control={'half': 2.01}, wrong={'2 instead': 2.0})"""


def stored(tmp_path, measured, control=1.98, edit=lambda text: text):
    """A notebook that stored `measured`, and which measures 1.004 and 2.01 when run again."""
    verdict = claims._Comparison("gd-x", measured, 1.0, 0.01, None)
    record = {"id": "gd-x", "kind": "theory", "statement": "ratio is one", "holds": verdict.holds}
    record |= verdict.record()
    record["controls"] = [
        {"label": "half", "shown": f"{control}", "fails": True},
        {"label": "2 instead", "shown": "predicts 2", "fails": True},
    ]
    data = {"text/plain": edit(ledger.as_text(record)), "text/html": edit(ledger.as_html(record))}
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell(SOURCE, execution_count=1, outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    return path


def nbval(path):
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", str(path)]
    config = ["--nbval-sanitize-with", str(ROOT / "tests/nbval.cfg"), "-c", "/dev/null"]
    run = subprocess.run(
        [*command, *config], capture_output=True, text=True, cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return run.returncode, run.stdout


@pytest.mark.slow
def test_nbval_lets_measured_digits_differ_and_nothing_else(tmp_path):
    code, report = nbval(stored(tmp_path, [0.997, 1.002]))
    assert code == 0, report
    for measured, edit in [
        ([0.9, 1.1], lambda text: text),
        ([1.004, 1.001], lambda text: text.replace("ratio is one", "ratio is two")),
        ([1.004, 1.001], lambda text: text.replace("theory", "empirical")),
        ([1.004, 1.001], lambda text: text.replace("half", "third")),
        ([1.004, 1.001], lambda text: text.replace("would fail", "passes too")),
        ([1.004, 1.001, 1.0], lambda text: text),
        ([1.004, 1.001], lambda text: re.sub("(±.)1(.%)", r"\g<1>2\2", text)),
    ]:
        code, report = nbval(stored(tmp_path, measured, edit=edit))
        assert code == 1, report
