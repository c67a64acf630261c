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


def test_many_pairs_are_shown_as_the_range_of_their_ratio(shown):
    predicted = np.geomspace(0.01, 100, 30)
    claim(
        "gd-threshold",
        "descent diverges beyond 2/λmax",
        predicted * np.linspace(0.999, 1.001, 30),
        predicted,
        rtol=0.01,
    )
    (text, html, record) = shown[0]
    assert text == (
        "✓ gd-threshold · descent diverges beyond 2/λmax · "
        "measured/predicted 0.999–1.001 (n = 30) · asked 1 ± 0.01"
    )
    assert 'id="claim-gd-threshold"' in html
    assert 'aria-label="holds"' in html
    assert '<span class="dl-measured">0.999–1.001</span> (n = 30)' in html
    assert record["holds"] is True
    assert record["n"] == 30
    assert record["tolerance"] == {"rtol": 0.01}
    assert record["measured"].keys() == {"min", "median", "max"}
    assert json.loads(json.dumps(record)) == record


def test_one_prediction_is_shown_beside_the_measurement(shown):
    claim("gd-small", "steps grow as 1/η", -0.9982, -1, atol=0.05)
    claim("gd-rate", "the rate is (κ−1)/(κ+1)", [0.98, 0.99], 0.985, rtol=0.01)
    assert shown[0][0].endswith("measured −0.998 · predicted −1 ± 0.05")
    assert shown[1][0].endswith("measured 0.9800–0.9900 (n = 2) · predicted 0.985 ± 1 %")
    assert shown[0][2]["measured"] == -0.9982
    assert shown[0][2]["predicted"] == -1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": [1 + 3e-9, 1.0], "predicted": [1.0, 1.0], "rtol": 1e-7}, "at most 3×10⁻⁹"),
        ({"measured": [0.0, 1e-3], "predicted": [0.0, 0.0], "atol": 1e-2}, "at most 0.001"),
        ({"measured": [1.2, 2.9], "below": 3}, "measured 1.2–2.9 (n = 2) · asked < 3"),
        ({"measured": 0.9995, "above": 0.999}, "measured 0.9995 · asked > 0.999"),
        ({"measured": [0.7, 1.1], "above": 0.6, "below": 1.3}, "asked between 0.6 and 1.3"),
        ({"holds": True, "shown": "best at 0.3 of 0.01 to 3"}, "measured best at 0.3 of 0.01 to 3"),
        ({"holds": np.True_, "shown": "equal"}, "measured equal"),
        ({"measured": [-2.0, 2.0], "below": 3}, "−2 to 2"),
    ],
)
def test_each_form_of_a_true_claim(shown, arguments, words):
    claim("gd-x", "a statement", **arguments)
    text, _, record = shown[0]
    assert text.startswith("✓ gd-x · a statement · ")
    assert words in text
    assert record["holds"] is True


def test_a_false_claim_is_shown_and_then_raises_with_both_numbers(shown):
    measured, predicted = np.array([0.2, 0.213, 0.2]), np.full(3, 0.2)
    with pytest.raises(ClaimFailed) as caught:
        claim("gd-threshold", "diverges beyond 2/λmax", measured, predicted, rtol=0.01)
    message = str(caught.value)
    assert "measured 0.213, predicted 0.2" in message
    assert "1.065" in message
    assert "asked 1 ± 0.01" in message
    assert "the worst of 3, at index 1; 1 of 3 miss" in message
    assert isinstance(caught.value, AssertionError)
    assert shown[0][0].startswith("✗ gd-threshold")
    assert 'aria-label="does not hold"' in shown[0][1]
    assert shown[0][2]["holds"] is False


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "asked", [{"predicted": 1.0, "rtol": 1e9}, {"predicted": 0.0, "atol": 1e300}, {"above": -1e9}]
)
def test_nan_and_infinity_never_pass(shown, bad, asked):
    for measured in (bad, [1.0, bad]):
        with pytest.raises(ClaimFailed):
            claim("gd-x", "a statement", measured, **asked)
    assert json.loads(json.dumps(shown[-1][2])) == shown[-1][2]


def test_bounds_are_exclusive_and_tolerances_inclusive(shown):
    with pytest.raises(ClaimFailed, match="measured 3, asked < 3"):
        claim("gd-x", "a statement", [1, 3], below=3)
    claim("gd-x", "a statement", 1.1, 1.0, atol=0.1)


def test_measurements_may_come_from_torch_lists_or_tensors(shown):
    torch = pytest.importorskip("torch")
    ones = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    claim("gd-x", "a statement", ones, 1.0, rtol=0.01)
    claim("gd-x", "a statement", [torch.ones(()), torch.ones(())], np.float32(1), rtol=0.01)
    claim("gd-x", "a statement", holds=torch.tensor(True), shown="equal")
    assert [record["n"] for _, _, record in shown] == [3, 2, None]


GOOD = {"measured": 1.0, "predicted": 1.0, "rtol": 0.1}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"id": "Threshold"}, ValueError, "not of the form 'chapter-name'"),
        ({"id": "gd"}, ValueError, "not of the form"),
        ({"id": 3}, ValueError, "not of the form"),
        ({"statement": " "}, ValueError, "must say in words"),
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
        ({"below": 2}, TypeError, "cannot be combined with predicted"),
        ({"holds": True, "shown": "x"}, TypeError, "cannot be combined with measured"),
        ({"measured": None, "predicted": None, "rtol": None, "holds": 1, "shown": "x"}, TypeError,
         "holds must be True or False"),
        ({"measured": None, "predicted": None, "rtol": None, "holds": True}, TypeError,
         "shown must be a text"),
        ({"measured": None, "predicted": None, "rtol": None, "shown": "x"}, TypeError,
         "holds must be True or False"),
        ({"predicted": None, "rtol": None, "above": 2, "below": 1}, ValueError,
         "above=2 is not smaller than below=1"),
    ],
)  # fmt: skip
def test_a_claim_stated_badly_is_an_error_that_names_the_input(shown, change, error, words):
    arguments = {"id": "gd-x", "statement": "a statement"} | GOOD | change
    with pytest.raises(error, match=words):
        claim(**arguments)
    assert not shown


def test_without_a_notebook_the_line_is_printed(capsys):
    claim("gd-x", "a statement", 1.0, 1.0, rtol=0.1)
    assert capsys.readouterr().out.startswith("✓ gd-x · a statement · measured 1.00 · predicted 1")


# --- in a notebook, under nbval -----------------------------------------------------------------


def stored(tmp_path, measured, edit=lambda text: text):
    """A notebook whose stored output was `measured`, and which measures 1.004 when run again."""
    verdict = claims._Comparison("gd-x", measured, 1.0, 0.01, None)
    record = {"id": "gd-x", "statement": "ratio is one", "holds": verdict.holds} | verdict.record()
    data = {"text/plain": edit(ledger.as_text(record)), "text/html": edit(ledger.as_html(record))}
    cell = nbformat.v4.new_code_cell(
        "from dlmini import claim\nclaim('gd-x', 'ratio is one', [1.004, 1.001], 1.0, rtol=0.01)",
        execution_count=1,
        outputs=[nbformat.v4.new_output("display_data", data)],
    )
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
        ([1.004, 1.001, 1.0], lambda text: text),
        ([1.004, 1.001], lambda text: re.sub("(±.)1(.%)", r"\g<1>2\2", text)),
    ]:
        code, report = nbval(stored(tmp_path, measured, edit))
        assert code == 1, report
