"""The ledger: every claim of the stored notebooks in one table, with what is still owed."""

import re
from pathlib import Path

import nbformat
import pytest

from dlmini.book.ledger import KINDS, owed, records, show, stored

CHAPTERS = Path(__file__).parent.parent / "chapters"
BOOK = r"""
[gradient_descent]
title = "Gradient descent"
[gradient_descent.claims]
gd-a = { kind = "theory", says = "a holds" }
gd-b = { kind = "empirical", says = "b holds" }
gd-c = { kind = "identity", says = "c holds" }
[vision]
title = "Vision"
[vision.claims]
vi-a = { kind = "identity", says = '<shifts> commute, $\eta < 1$' }
"""
PAIRS = {
    "id": "gd-a", "kind": "theory", "statement": r"the rate is $2/\lambda$", "holds": True,
    "n": 30, "compared": "measured/predicted", "shown": "0.999–1.001", "asked": "1 ± 0.01",
    "measured": {"min": 0.1, "median": 0.2, "max": 0.3}, "tolerance": {"rtol": 0.01},
    "predicted": {"min": 0.1, "median": 0.2, "max": 0.31},
    "controls": [{"label": "half <left out>", "shown": "ratio 1–14", "fails": True}],
}  # fmt: skip
SEEN = {
    "id": "gd-b", "kind": "empirical", "statement": "b <holds>", "holds": True, "n": None,
    "compared": "measured", "measured": None, "predicted": None, "shown": "5 of 5",
    "asked": "all of 5 below 2.19", "tolerance": {},
    "controls": [{"label": "frozen: 0 of 5", "shown": "", "fails": True}],
}  # fmt: skip
ONE = {
    "id": "gd-c", "kind": "identity", "statement": "c holds", "holds": True, "n": 1,
    "compared": "measured", "measured": 0.98, "predicted": 1.0, "shown": "0.98",
    "asked": "1 ± 5 %", "tolerance": {"rtol": 0.05}, "controls": [],
}  # fmt: skip
BOUND = ONE | {
    "id": "vi-a", "kind": "empirical", "statement": "more than chance", "predicted": None,
    "asked": "> 0.5", "controls": [{"label": "shuffled", "shown": "0.1", "fails": True}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """folder(chapter=[records], …): a book with those notebooks."""
    (tmp_path / "claims.toml").write_text(BOOK, encoding="utf-8")

    def write(**chapters):
        for name, found in chapters.items():
            results = [
                nbformat.v4.new_output("display_data", {"text/plain": ""}, metadata={"dlmini": r})
                for r in found
            ]
            title = nbformat.v4.new_markdown_cell(f"Before\n\n# My {name}\n\n## Later")
            cells = [title, nbformat.v4.new_code_cell("", outputs=results)]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
        return tmp_path

    return write


@pytest.fixture
def html(monkeypatch):
    """What the ledger of a folder shows in a notebook."""
    shown = []
    monkeypatch.setattr("dlmini.book.ledger.show_line", lambda text, html: shown.append(html))

    def of(folder):
        show(folder)
        return shown[-1]

    return of


def cells(page, id):
    """What the row of a claim shows, by column."""
    row = re.search(f'<tr data-claim="{id}".*?</tr>', page)[0]
    found = re.findall(r'<td data-name="(\w+)"><div>(.*?)</div></td>', row)
    return {name: re.sub("(<[^>]+>| )+", " ", cell).strip() for name, cell in found}


# --- rows ----------------------------------------------------------------------------------------


def test_records_are_read_from_the_stored_notebook(folder):
    path = folder(gradient_descent=[PAIRS, SEEN]) / "gradient_descent.ipynb"
    assert records(path) == [PAIRS, SEEN]
    cells = nbformat.read(path, as_version=4).cells
    assert stored(cells) == [(cells[1].id, PAIRS), (cells[1].id, SEEN)]


def test_every_claim_has_a_row_that_leads_to_its_cell(folder, html):
    page = html(folder(gradient_descent=[PAIRS, SEEN]))
    assert len(re.findall("<tr data-claim=", page)) == 2
    assert '<a href="gradient_descent.ipynb#claim-gd-a">gd-a</a>' in page
    assert "b &lt;holds&gt;" in page
    assert r"\(2/\lambda\)" in page


def test_no_cell_is_blank_whatever_the_form_of_the_claim(folder, html):
    page = html(folder(gradient_descent=[PAIRS, SEEN, ONE], vision=[BOUND]))
    assert cells(page, "gd-a") == {
        "kind": "theory",
        "measured": "0.1 to 0.3 n = 30, ratio 0.999–1.001",
        "predicted": "0.1 to 0.31",
        "asked": "ratio 1\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.01",
        "control": "half &lt;left out&gt;: ratio 1–14 , would fail",
    }
    assert cells(page, "gd-b") == {
        "kind": "empirical",
        "measured": "5 of 5",
        "predicted": "as stated",
        "asked": "all of 5 below 2.19",
        "control": "frozen: 0 of 5 , would fail",
    }
    assert cells(page, "gd-c") == {
        "kind": "identity",
        "measured": "0.98",
        "predicted": "1",
        "asked": "±\N{NO-BREAK SPACE}5\N{NO-BREAK SPACE}%",
        "control": "none: it is algebra",
    }
    assert cells(page, "vi-a") == {
        "kind": "empirical",
        "measured": "0.98",
        "predicted": "a bound",
        "asked": "&gt;\N{NO-BREAK SPACE}0.5",
        "control": "shuffled: 0.1 , would fail",
    }


def test_equal_ends_are_one_number(folder, html):
    zeros = {"min": 0.0, "median": 0.0, "max": 0.0}
    page = html(folder(gradient_descent=[PAIRS | {"predicted": zeros}]))
    assert cells(page, "gd-a")["predicted"] == "0"


# --- counts --------------------------------------------------------------------------------------


def test_claims_are_counted_by_kind_and_the_others_named(folder, html):
    page = html(folder(gradient_descent=[PAIRS, SEEN]))
    assert "2 of 4 claims measured: 0 identity, 1 theory, 1 empirical; all of them hold." in page
    assert "Still to be measured (2)" in page
    assert r"&lt;shifts&gt; commute, <span" in page
    assert r"\(\eta &lt; 1\)</span> <small>(identity)</small>" in page


def test_failing_and_owed_claims_are_counted(folder, capsys):
    show(folder(gradient_descent=[PAIRS | {"holds": False}]))
    assert capsys.readouterr().out.splitlines() == [
        "1 of 4 claims measured: 0 identity, 1 theory, 0 empirical; 1 of them do not hold.",
        "✗ gd-a · theory · the rate is 2/λ · measured/predicted 0.999–1.001 (n = 30) · "
        "asked 1 ± 0.01 · control half <left out>: ratio 1–14, would fail",
        "○ Gradient descent: 2 to come",
        "○ Vision: 1 to come",
    ]


def test_an_empty_book_has_a_ledger_too(folder, html):
    page = html(folder())
    assert "0 of 4 claims measured." in page
    assert "<table>" not in page
    assert "<script>" not in page


# --- a reader's copy -----------------------------------------------------------------------------


def test_without_claims_toml_the_ledger_shows_what_there_is(folder, html, capsys):
    copy = folder(gradient_descent=[PAIRS, SEEN], mine=[], ledger=[ONE])
    (copy / "claims.toml").unlink()
    page = html(copy)
    assert "2 claims measured: 0 identity, 1 theory, 1 empirical; all of them hold." in page
    assert "There is no claims.toml in this folder, so it cannot be told what is still owed" in page
    assert "My gradient_descent</th>" in page
    assert "Notebooks that store no claim: My mine." in page
    assert "Still to be measured" not in page


def test_without_anything_the_ledger_says_where_it_is_gathered(tmp_path, capsys):
    show(tmp_path)
    assert capsys.readouterr().out == (
        "0 claims measured. There is no claims.toml in this folder, so it cannot be told what is "
        "still owed; the whole ledger is gathered in the book's chapters folder.\n"
    )


def test_what_is_owed_is_an_error_where_it_is_not_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match="listed in its chapters folder, beside the noteb"):
        owed(tmp_path)


# --- claims.toml ---------------------------------------------------------------------------------


def test_every_owed_claim_has_a_kind_and_words():
    book = owed(CHAPTERS)
    for chapter, owes in book.items():
        assert owes["title"], chapter
        for id, claim in owes["claims"].items():
            assert re.fullmatch("[a-z]+-[a-z0-9-]+", id)
            assert claim.keys() == {"kind", "says"}, id
            assert claim["kind"] in KINDS, id
            assert claim["says"].count("$") % 2 == 0, id
    ids = [id for owes in book.values() for id in owes["claims"]]
    assert len(ids) == len(set(ids))
    assert list(book)[:1] == ["gradient_descent"]


# --- in a browser --------------------------------------------------------------------------------

ROWS = "tr[data-claim]:visible"
SCHEME = "<style>:root{color-scheme:light dark}</style>"


@pytest.fixture
def page(folder, html):
    return SCHEME + html(folder(gradient_descent=[PAIRS, SEEN, ONE], vision=[BOUND]))


@pytest.mark.slow
def test_words_kind_and_chapter_sift_the_rows_together(page, open_html):
    tab = open_html(page)
    rows, said = tab.locator(ROWS), tab.locator("output")
    assert said.inner_text() == "4 of 4 shown"
    tab.get_by_label("Find").fill("HOLDS gd-b")
    assert rows.count() == 1
    assert said.inner_text() == "1 of 4 shown"
    tab.get_by_label("Find").fill("2/λ half")  # formulas by their signs, and controls
    assert rows.count() == 1
    tab.get_by_label("Find").fill("")
    assert tab.get_by_label("Kind").locator("option").all_inner_texts() == [
        "all", "identity (1)", "theory (1)", "empirical (2)",
    ]  # fmt: skip
    tab.get_by_label("Kind").select_option("empirical")
    assert rows.count() == 2
    tab.get_by_label("Chapter").select_option("Vision")
    assert rows.count() == 1
    assert not tab.get_by_text("Gradient descent", exact=True).and_(tab.locator("th")).is_visible()
    tab.get_by_label("Find").fill("nothing")
    assert rows.count() == 0
    assert said.inner_text() == "0 of 4 shown"
    assert said.get_attribute("aria-live") == "polite"
    assert tab.trouble == []


@pytest.mark.slow
def test_the_keyboard_is_enough(page, open_html):
    tab = open_html(page)
    tab.keyboard.press("Tab")
    tab.keyboard.type("holds")
    tab.keyboard.press("Tab")
    tab.keyboard.type("identity")  # a list takes the entry that begins so
    assert tab.locator(ROWS).count() == 1
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "gd-c"
    inputs = tab.locator("input, select")
    keys = inputs.evaluate_all("e => e.map(x => x.dataset.lmSuppressShortcuts)")
    assert keys == ["true"] * 3, "JupyterLab would take the keys"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_each_claim_is_a_card_of_labelled_lines(page, open_html, scheme):
    tab = open_html(page, viewport={"width": 360, "height": 800}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for control in tab.locator("input, select").all():
        assert control.bounding_box()["height"] >= 44
    cell = tab.locator('tr[data-claim="gd-a"] td[data-name="asked"]')
    assert cell.bounding_box()["width"] > 300
    assert cell.evaluate("e => getComputedStyle(e, '::before').content") != "none"
    text, ground = cell.evaluate(
        """e => [getComputedStyle(e).color, getComputedStyle(document.documentElement).colorScheme
           && (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')]"""
    )
    assert text == ("rgb(255, 255, 255)" if ground == "dark" else "rgb(0, 0, 0)")


@pytest.mark.slow
def test_on_paper_the_table_is_whole_and_says_what_was_sifted(page, open_html):
    tab = open_html(
        f'<div style="font-size:14px">{page}</div>', viewport={"width": 734, "height": 1000}
    )
    tab.get_by_label("Kind").select_option("theory")
    tab.emulate_media(media="print")
    assert not tab.get_by_label("Find").is_visible()
    assert tab.locator("output").inner_text() == "1 of 4 shown"
    assert tab.locator("thead").bounding_box()["height"] > 10, "columns have their names"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 734
    assert tab.locator("thead th").all_inner_texts() == [
        "Claim", "Kind", "Measured", "Predicted", "Asked", "Control",
    ]  # fmt: skip


@pytest.mark.slow
def test_on_paper_what_is_still_to_come_is_unfolded(folder, html, open_html):
    tab = open_html(html(folder(gradient_descent=[PAIRS])))
    assert not tab.get_by_text("b holds").is_visible()
    tab.emulate_media(media="print")
    assert tab.get_by_text("b holds").is_visible()


@pytest.mark.slow
def test_without_scripts_all_rows_are_there_and_no_dead_control(page, open_html):
    tab = open_html(page, java_script_enabled=False)
    assert tab.locator(ROWS).count() == 4
    assert not tab.locator("input").is_visible()
