"""The rules of chapters, tried on small made-up notebooks that keep them and that break them."""

import nbformat
import pytest

import rules

SVG = {"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}
ALT = {"mystnb": {"image": {"alt": "A line that falls and then levels out"}}}
FOLDED = {"tags": ["hide-input"]}


def text(source, id="text"):
    return nbformat.v4.new_markdown_cell(source, id=id)


def code(source="1", id="code", count=1, shows=(), **metadata):
    outputs = [nbformat.v4.new_output("display_data", **show) for show in shows]
    return nbformat.v4.new_code_cell(
        source, id=id, execution_count=count, outputs=outputs, metadata=metadata
    )


def figure(id="fig-sweep", data=SVG, **metadata):
    return code("plt.show()", id, shows=[{"data": data}], **{**FOLDED, **ALT, **metadata})


def claimed(id="gd-x", kind="theory", holds=True, controls=("half",), cell="claim-x"):
    record = {"id": id, "statement": "s", "holds": holds, "kind": kind, "controls": list(controls)}
    html = f'<div id="claim-{id}">'
    show = {"data": {"text/html": html, "text/plain": id}, "metadata": {"dlmini": record}}
    return code(f"claim('{id}')", cell, shows=[show])


def broken(rule, *cells, name="gradient_descent", **owed):
    """What a rule says of a chapter of these cells."""
    owed = {id.replace("_", "-"): kind for id, kind in owed.items()}
    return list(rule(rules.Chapter(list(cells), name, 1, owed)))


def test_a_cell_that_was_not_run_or_ran_out_of_order_is_named():
    rule = rules.every_cell_was_run_in_order
    assert broken(rule, code(), text("x"), code(count=2)) == []
    assert broken(rule, code(), code(id="sweep", count=None), code(id="fig", count=None)) == [
        "chapter: not run, run `make notebooks`: sweep, fig"
    ]
    assert broken(rule, code(id="sweep", count=3)) == ["sweep: ran as number 3, not 1"]


@pytest.mark.parametrize("id", ["2f1c9a04", "2f1c9a04-11aa-4b7e-9c1d-000000000000", "Fig_1", "1-a"])
def test_an_id_that_a_front_end_made_is_no_name(id):
    assert "says what it does" in broken(rules.cells_have_names, code(id=id))[0]


def test_cells_have_names_of_their_own():
    assert broken(rules.cells_have_names, code(id="fig-sweep"), text("x", "text-2")) == []
    assert broken(rules.cells_have_names, code(id="a"), text("x", "a")) == [
        "a: 2 cells have this id"
    ]


def test_visible_cells_are_short_folded_ones_longer_and_no_line_is_wide():
    rule = rules.code_fits_a_phone
    assert broken(rule, code("\n\n".join(["x"] * 12)), code("x\n" * 40, **FOLDED)) == []
    assert "13 lines; a visible cell has at most 12" in broken(rule, code("x\n" * 13))[0]
    assert "41 lines; a folded cell" in broken(rule, code("x\n" * 41, **FOLDED))[0]
    assert broken(rule, code("#" * 66)) == []
    assert broken(rule, code("#" * 67, **FOLDED)) == [f"code: 67 columns, at most 66: {'#' * 67}"]


def test_visible_code_is_counted_over_the_chapter():
    many = [code("x\n" * 12, id=f"c-{i}") for i in range(17)]
    assert broken(rules.code_fits_a_phone, *many) == [
        "chapter: 204 visible lines of code, at most 200; fold what only measures"
    ]


def test_the_picture_and_the_bare_algorithm_come_first():
    rule = rules.it_opens_with_the_thing_itself
    loop = code("for t in range(9):\n    theta -= lr * gradient(theta)")
    assert broken(rule, text("# T"), loop, figure()) == []
    late = [text("x", f"t-{i}") for i in range(6)]
    assert [b.split(":")[1][:14] for b in broken(rule, *late, loop, figure())] == [
        " no picture in",
        " no bare algor",
    ]
    for source in ("x = dl.optim.SGD(p) * 1", "import numpy", "%pip install numpy"):
        assert "no bare algorithm" in broken(rule, figure(), code(source))[0]


def test_a_figure_has_its_caption_in_the_next_cell():
    rule = rules.figures_have_captions_and_alternative_text
    caption = text("**Figure 1.1.** The loss falls and then levels out.\n\nMore.", "cap")
    moved = figure("play", {"text/html": '<div class="dl-play">', "text/plain": "-"}, mystnb={})
    last = text("**Figure 1.2.** Where does the path turn round?", "cap-2")
    assert broken(rule, figure(), caption, moved, last) == []
    assert broken(rule, figure(), text("x")) == [
        "fig-sweep: no caption; the next cell begins with **Figure 1.1.** and what is found"
    ]
    assert "should be Figure 1.1" in broken(rule, figure(), last)[0]
    assert "does not say" in broken(rule, figure(), text("**Figure 1.1.** Loss."))[0]
    assert "no picture in the cell above" in broken(rule, text("x", "a"), caption)[0]
    assert (
        "at the head of a cell" in broken(rule, figure(), caption, text("x\n\n" + last.source))[0]
    )
    two = code(id="two", shows=[{"data": SVG}] * 2, **ALT)
    assert "two: shows 2 pictures" in broken(rule, two, caption)[0]


def test_a_figure_has_alternative_text_and_no_caption_in_metadata():
    rule = rules.figures_have_captions_and_alternative_text
    caption = text("**Figure 1.1.** The loss falls and then levels out.", "cap")
    assert "no alternative text" in broken(rule, figure(mystnb={}), caption)[0]
    kept = {"mystnb": {**ALT["mystnb"], "figure": {"caption": "c"}}}
    assert "not into metadata" in broken(rule, figure(**kept), caption)[0]


def test_equations_are_numbered_in_order():
    rule = rules.equations_are_numbered_in_order
    first, second = "$$ a = b \\tag{1.1} $$", "$$\nc = d \\tag{1.2}\n$$"
    assert broken(rule, text(first + "\n\n" + second)) == []
    assert broken(rule, text(second, "t")) == ["t: equation (1.2) should be (1.1)"]


def test_a_wide_formula_is_broken_into_lines():
    rule = rules.formulas_fit_a_phone
    one, two = r"v_{t+1} = \mu v_t + \nabla L(\theta_t)", r"\theta_{t+1} = \theta_t - \eta v_{t+1}"
    [breach] = broken(rule, text(rf"$$ {one}, \qquad {two} \tag{{1.1}} $$", "t"))
    assert breach.startswith(f"t: break this with aligned, it is too wide for a phone: {one}")
    lines = rf"\begin{{aligned}} {one} \\ {two} \end{{aligned}} \tag{{1.1}}"
    assert broken(rule, text(f"$$ {lines} $$")) == []


def test_a_fraction_is_as_wide_as_its_longer_half():
    assert rules.signs(r"\frac{a}{b + \frac{c}{d}}") == rules.signs("b + c") == 4
    assert rules.signs(r"\rho_{\text{best}} &= 1 - \tfrac12 \left( \lambda_{\max} \right)") == 15


@pytest.mark.parametrize(
    "source",
    ["{cite:p}`cauchy1847`", "{term}`loss`", "```{note}\nx\n```", ":::{note}\nx\n:::",
     "(down)=\n## Down", "{.lead}\nWords"],
)  # fmt: skip
def test_roles_directives_and_labels_are_not_plain(source):
    assert "plain Markdown only" in broken(rules.markdown_is_plain, text(f"Words.\n\n{source}"))[0]


def test_code_and_mathematics_are_plain():
    source = "```python\nd = {1: 2}\n```\n\n$\\{x\\}$ `{x}` and $\\sqrt{d}`$"
    assert broken(rules.markdown_is_plain, text(source)) == []


def test_a_bold_word_is_a_term_of_the_glossary_or_heads_a_paragraph():
    rule = rules.terms_are_in_the_glossary
    term = "**[loss](glossary.md#loss)**"
    good = f"**Notice** the {term}. *So* be it.\n\n**Two lines.** And more.\n\n- **One:** a"
    assert broken(rule, text(good)) == []
    assert "nor the head of a paragraph" in broken(rule, text("Here is **the loss** too"))[0]
    assert "**[Loss](glossary.md#loss)**" in broken(rule, text("**Loss** is a number"))[0]
    assert "**So.** is neither" in broken(rule, text("A word. **So.** Another"))[0]
    assert broken(rule, text(f"a {term}", "a"), text(f"b {term}", "b")) == [
        "b: loss is bold already in a; once, where it is new"
    ]
    early = text("the [loss](glossary.md#loss)", "a")
    assert broken(rule, early) == []
    assert "a: links to glossary.md#loss before b" in broken(rule, early, text(term, "b"))[0]


def test_links_lead_somewhere():
    cells = [
        text("# Title", "t"),
        text("## A `valley` that bends", "v"),
        text("$$ a = b \\tag{1.1} $$", "e"),
        figure(),
        text("**Figure 1.1.** The loss falls and then levels out.", "c"),
        claimed("gd-x"),
    ]
    good = text(
        "[(1.1)](#eq-1-1) [Figure 1.1](#fig-1-1) [1.1](#fig-1-1) [gd-x](#claim-gd-x) "
        "[there](#a-valley-that-bends) [loss](glossary.md#loss) [notation](notation.md) "
        "[step](notation.md#the-step) [Cauchy, 1847](bibliography.md#cauchy1847) "
        "[Robbins and Monro (1951)](bibliography.md#robbins1951) [web](https://example.org/#x)"
    )
    assert broken(rules.links_lead_somewhere, *cells, good) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("[(1.2)](#eq-1-2)", "no such equation"),
        ("[x](#nowhere)", "no such equation, figure, claim or heading"),
        ("[x](notation.md#nowhere)", "no such"),
        ("[x](nothing.md)", "there is no file chapters/nothing.md"),
        ("[x](glossary.md#nothing)", "no such term"),
        ("[x](bibliography.md#nobody1900)", "no such entry in references.bib"),
        ("[Cauchy, 1848](bibliography.md#cauchy1847)", "references.bib says Cauchy, 1847"),
        ("[Cohen, 2021](bibliography.md#cohen2021)", "says Cohen et al., 2021"),
        ("[(1.2)](#eq-1-1)", "the text of this link should be (1.1)"),
        ("by (1.1) it", "cite by a link: [(1.1)](#eq-1-1)"),
        ("in Figure 1.3 it", "cite by a link: [Figure 1.3](#fig-1-3)"),
    ],
)
def test_a_link_that_leads_nowhere_or_says_something_else_is_named(source, problem):
    equation = text("$$ a = b \\tag{1.1} $$", "e")
    [breach] = broken(rules.links_lead_somewhere, equation, text(source, "cell"))
    assert breach.startswith("cell: ")
    assert problem in breach


def test_a_number_in_brackets_that_is_no_equation_is_no_citation():
    assert broken(rules.links_lead_somewhere, text("at the best rate (0.5) it")) == []


def whole(summary="[a](#claim-gd-a) [b](#claim-gd-b) [c](#claim-gd-c) [d](#claim-gd-d)"):
    play = {"text/html": '<div class="dl-play">', "text/plain": "-"}
    parts = "\n\n".join(f"## {part}" for part in rules.PARTS if part != "Summary")
    return [
        text("# T\n\n**You will be able to**\n\n- walk", "t"),
        figure("play", play),
        text(parts, "p"),
        text(f"## Summary\n\n{summary}", "s"),
    ]


def test_a_chapter_has_all_its_parts():
    rule = rules.it_has_all_parts
    assert broken(rule, *whole()) == []
    assert broken(rule, *whole("[a](#claim-gd-a)")) == [
        "chapter: the summary cites 1 claims, at least 4"
    ]
    found = "\n".join(broken(rule, text("x")))
    for part in (*rules.PARTS, "You will be able to", "the title", "that the reader moves"):
        assert part in found


def test_a_chapter_has_its_size():
    rule = rules.it_has_its_size
    good = [text("word " * 4000, "w"), *(figure(f"f-{i}") for i in range(12)), claimed()]
    assert broken(rule, *good) == []
    assert broken(rule, text("word " * 100 + "$x$ [two words](a) `code`")) == [
        "chapter: 103 words; between 3000 and 5500",
        "chapter: 0 figures; between 10 and 18",
        "chapter: 0 claims; between 1 and 16",
    ]


def test_a_claim_is_owed_holds_and_has_a_control():
    rule = rules.claims_are_owed_and_have_controls
    assert broken(rule, claimed(), gd_x="theory") == []
    assert broken(rule, claimed(kind="identity", controls=()), gd_x="identity") == []
    assert "no control that fails" in broken(rule, claimed(controls=()), gd_x="theory")[0]
    assert broken(rule, claimed(), gd_x="empirical") == [
        "claim-x: gd-x is theory; chapters/claims.toml says empirical"
    ]
    assert "does not hold" in broken(rule, claimed(holds=False), gd_x="theory")[0]
    assert "not listed under [gradient_descent]" in broken(rule, claimed())[0]
    assert broken(rule, gd_y="theory") == [
        "chapter: gd-y is owed by chapters/claims.toml and not measured"
    ]
    twice = broken(rule, claimed(), claimed(cell="again"), gd_x="theory")
    assert twice == ["again: gd-x is measured in claim-x already"]
    assert "needs a kind" in broken(rule, claimed(kind=""), gd_x="")[0]


def test_a_section_has_three_claims_at_most():
    rule = rules.claims_are_owed_and_have_controls
    four = [claimed(f"gd-{i}", cell=f"c-{i}") for i in "abcd"]
    owed = {f"gd_{i}": "theory" for i in "abcd"}
    assert broken(rule, text("## One"), *four[:3], text("## Two"), four[3], **owed) == []
    assert broken(rule, text("## One"), *four[:2], text("### Sub"), *four[2:], **owed) == [
        "chapter: 4 claims in “One”, at most 3 in a section"
    ]


def test_a_prediction_is_revealed_below_itself():
    rule = rules.predictions_come_before_their_answers
    ask = code('dl.predict("gd-q", "How many?", ["one", "two"])', "ask")
    assert broken(rule, code("x = 1")) == []
    assert "ask" in broken(rule, ask)[0]
    assert "never revealed" in broken(rule, ask)[0]


HINTED = "<details>\n<summary>Hint</summary>\n\nLook.\n\n</details>\n\n"
SOLVED = "<details>\n<summary>Solution</summary>\n\n{}\n\n</details>"
WORDS = "The slope is eight, so the step is 0.8, downhill."
PYTHON = "\n\n```python\nanswer = 1\n```"


def exercise(id, solution=WORDS + PYTHON, hint=HINTED):
    question = f"### The one called {id}\n\nHow far?\n\n{hint}{SOLVED.format(solution)}"
    return [
        text(question, f"text-{id}"),
        code(f"answer = ...\ndl.check({id!r}, answer)", f"try-{id}"),
    ]


@pytest.fixture
def six(monkeypatch):
    """A chapter owes gd-1 to gd-6; this puts cells together with the first five of them."""
    monkeypatch.setattr(
        rules.exercises, "ids", lambda prefix: [f"{prefix}-{i}" for i in range(1, 7)]
    )
    rule = rules.exercises_have_checkers_hints_and_solutions

    def run(*last, name="gradient_descent"):
        first = [cell for i in range(1, 6) for cell in exercise(f"gd-{i}")]
        return broken(rule, text("## Exercises", "e"), *first, *last, name=name)

    return run


def test_an_exercise_has_a_hint_and_a_solution_that_explains(six):
    assert six(*exercise("gd-6"), text("## Summary\n\n### More", "s")) == []
    assert "needs a hint, then one solution" in six(*exercise("gd-6", hint=""))[0]
    assert "“The one called gd-6” does not explain" in six(*exercise("gd-6", PYTHON))[0]
    assert "no Python that its check accepts" in six(*exercise("gd-6", WORDS))[0]


def test_an_exercise_on_paper_needs_no_code(six):
    on_paper = exercise("paper", WORDS)[0]
    assert six(*exercise("gd-6"), on_paper) == []


def test_there_are_six_to_nine_exercises_and_each_has_its_checker(six):
    few = six()
    assert "5 exercises, 6 to 9" in few[0]
    assert few[1].endswith("checkers: gd-1, gd-2, gd-3, gd-4, gd-5, gd-6")
    many = [cell for i in range(6, 11) for cell in exercise(f"gd-{i}")]
    assert "10 exercises, 6 to 9" in six(*many)[0]


def test_a_chapter_without_a_prefix_is_told_where_to_put_it(six):
    found = six(*exercise("gd-6"), name="a_new_one")
    assert found == [
        "chapter: no prefix for its exercises; add one for 'a_new_one' to CHAPTERS in "
        "dlmini/book/exercises/__init__.py"
    ]


def test_all_breaches_are_told_at_once():
    cells = [code("#" * 80, id="wide", count=None), text("{term}`loss`", "role")]
    found = rules.breaches(rules.Chapter(cells, "gradient_descent"))
    assert len(found) > 10
    for start in (
        "chapter: not run, run `make notebooks`: wide",
        "wide: 80 columns",
        "role: plain Markdown only",
    ):
        assert any(breach.startswith(start) for breach in found)


def test_a_chapter_that_owes_no_claims_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "claims.toml").write_text("[other]\ntitle = 'Other'\n[other.claims]\n")
    monkeypatch.setattr(rules, "CHAPTERS", tmp_path)
    with pytest.raises(KeyError, match=r"would not be looked at. Add \[new\] with its title"):
        rules.chapter("new")


def test_contributing_states_the_limits_that_are_held():
    text = (rules.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    limits = {row[i].strip(): row[i + 1].strip() for row in rows for i in (1, 3)}
    between = {"words": rules.WORDS, "figures": rules.FIGURES, "exercises": rules.EXERCISES}
    for name, (low, high) in between.items():
        assert limits[name] == f"{low:,}–{high:,}"
    assert limits["claims"] == f"{rules.CLAIMS[1]}, and {rules.CLAIMS_OF_A_SECTION} in a section"
    assert limits["a visible cell"] == f"{rules.LESSON} lines"
    assert limits["a cell tagged `hide-input`"] == f"{rules.FOLDED} lines"
    assert limits["visible code in all"] == f"{rules.VISIBLE} lines"
    assert limits["a line of code"] == f"{rules.COLUMNS} columns"
    for part in rules.PARTS:
        assert f"`{part}`" in text
