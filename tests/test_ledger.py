"""The ledger: every claim of the stored notebooks in one table, with what is still owed."""

import re
from pathlib import Path

import nbformat
import pytest

from dlmini.book.claims import ledger, owed, records

CHROMIUM = Path("/usr/bin/chromium")
BOOK = """
[gradient_descent]
title = "Gradient descent"
[gradient_descent.claims]
gd-a = "a holds"
gd-b = "b holds"
[vision]
title = "Vision"
[vision.claims]
vi-a = "<shifts> commute"
"""
RECORD = {
    "id": "gd-a", "statement": "a holds", "holds": True, "n": 30, "compared": "measured/predicted",
    "measured": {"min": 0.1, "median": 0.2, "max": 0.3}, "shown": "0.999–1.001",
    "predicted": {"min": 0.1, "median": 0.2, "max": 0.3}, "asked": "1 ± 0.01",
    "tolerance": {"rtol": 0.01},
}  # fmt: skip
SEEN = {
    "id": "gd-b", "statement": "b <holds>", "holds": True, "n": None, "compared": "measured",
    "measured": None, "predicted": None, "shown": "5 of 5", "asked": None, "tolerance": {},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "claims.toml").write_text(BOOK, encoding="utf-8")

    def write(*found):
        results = [
            nbformat.v4.new_output("display_data", {"text/plain": ""}, metadata={"dlmini": record})
            for record in found
        ]
        cell = nbformat.v4.new_code_cell("", outputs=results)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# x"), cell])
        nbformat.write(notebook, tmp_path / "gradient_descent.ipynb")
        return tmp_path

    return write


@pytest.fixture
def html(monkeypatch):
    """What the ledger of a folder shows in a notebook."""
    shown = []
    monkeypatch.setattr("dlmini.book.ledger.show_line", lambda text, html: shown.append(html))

    def of(folder):
        ledger(folder)
        return shown[-1]

    return of


def test_records_are_read_from_the_stored_notebook(folder):
    path = folder(RECORD, SEEN) / "gradient_descent.ipynb"
    assert records(path) == [RECORD, SEEN]


def test_every_claim_has_a_row_with_link_measurement_prediction_and_tolerance(folder, html):
    page = html(folder(RECORD, SEEN))
    assert len(re.findall("<tr data-claim=", page)) == 2
    assert '<a href="gradient_descent.html#claim-gd-a">gd-a</a>' in page
    assert "n = 30, ratio 0.999–1.001" in page
    assert "ratio 1&nbsp;±&nbsp;0.01" in page
    assert page.count("<td ") == 6
    assert '<td data-name="predicted">0.1 to 0.3</td>' in page
    assert "b &lt;holds&gt;" in page
    assert "2 of 3 claims measured; all of them hold." in page
    assert "&lt;shifts&gt; commute" in page


def test_failing_and_owed_claims_are_counted(folder, capsys):
    ledger(folder(RECORD | {"holds": False}))
    assert capsys.readouterr().out.splitlines() == [
        "1 of 3 claims measured; 1 of them do not hold.",
        "✗ gd-a · a holds · measured/predicted 0.999–1.001 (n = 30) · asked 1 ± 0.01",
        "○ Gradient descent: 1 to come",
        "○ Vision: 1 to come",
    ]


def test_an_empty_book_has_a_ledger_too(folder, html):
    page = html(folder())
    assert "0 of 3 claims measured" in page
    assert "<table>" not in page


def test_a_folder_without_a_book_is_an_error_that_says_where_to_go(tmp_path):
    with pytest.raises(FileNotFoundError, match="in the book's chapters folder"):
        owed(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium")
def test_typing_filters_the_rows(folder, html, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    page_file = tmp_path / "ledger.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page_file.write_text(head + html(folder(RECORD, SEEN)), encoding="utf-8")
    with playwright.sync_playwright() as browsers:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        browser = browsers.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"file://{page_file}")
        rows = page.locator("tr[data-claim]:visible")
        assert rows.count() == 2
        page.get_by_label("Find a claim").fill("gd-b holds")
        assert rows.count() == 1
        assert page.locator("output").inner_text() == "1 of 2 shown"
        page.get_by_label("Find a claim").fill("nothing")
        assert rows.count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not errors
        browser.close()
