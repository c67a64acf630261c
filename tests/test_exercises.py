"""Exercises: verdicts on right, wrong, untouched and crashing answers; checkers are found.

Numbers and choices are judged on the page as in Python, word for word.
"""

import importlib
import math
import pkgutil
import re

import numpy as np
import pytest

from dlmini.book import exercises
from dlmini.book.exercises import (
    Untouched,
    Wrong,
    check,
    choice,
    close,
    exercise,
    expect_array,
    expect_number,
    grade,
    number,
    within,
)


@pytest.fixture(autouse=True)
def checkers():
    """Exercises of a chapter that exists only here."""

    @exercise("zz-1")
    def threshold(answer):
        if not close(expect_number(answer), 0.2):
            raise Wrong("that is not 2/λ")
        return "η = 2/λ"

    @exercise("zz-2")
    def square(answer):
        if answer(2.0) != 4.0:
            raise Wrong("at 2 the square is 4")
        return "squared"

    @exercise("zz-3")
    def repair(answer):
        raise Untouched("find the bug")

    number(
        "zz-4", right=-1 / 3, praise="a third, <down>", otherwise="divide", rtol=1e-3,
        mistakes=[
            (1 / 3, "the sign & nothing else"),
            ([3, -3], "upside down"),
            (within(-1, 0), "between −1 and 0"),
            (-2, "far below", 0.1),
            (within(10, math.inf), "10 or more"),
        ],
    )  # fmt: skip
    choice(
        "zz-5", {"a": "uphill", "b": "downhill"}, right="b",
        praise="always", mistakes={"a": "the sign is turned"},
    )  # fmt: skip
    yield
    for id in exercises.ids("zz"):
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


def test_a_checker_can_tell_that_an_answer_is_still_as_it_was_given():
    assert grade("zz-3", len) == exercises.Result("not attempted", "find the bug")


NUMBERS = [
    (-1 / 3, "correct", "a third, <down>"),
    (-0.33333, "correct", "a third, <down>"),
    (-0.33, "wrong", "between −1 and 0"),
    (0.3333, "wrong", "the sign & nothing else"),
    (-3, "wrong", "upside down"),
    (-1, "wrong", "between −1 and 0"),
    (-2.19, "wrong", "far below"),
    (-2.21, "wrong", "divide"),
    (1e300, "wrong", "10 or more"),
    (math.nan, "wrong", "the answer contains NaN: look for 0/0, the logarithm of a negative "
     "number, or a run that diverged"),
    (-math.inf, "wrong", "the answer is infinite: look for a division by zero, or a run that "
     "diverged"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "message"), NUMBERS)
def test_a_number_is_told_what_the_first_rule_that_fits_says(answer, status, message):
    assert grade("zz-4", answer) == exercises.Result(status, message)


def test_a_choice_is_given_by_its_letter_or_its_words():
    assert grade("zz-5", "b") == exercises.Result("correct", "always")
    assert grade("zz-5", " Uphill") == exercises.Result("wrong", "the sign is turned")
    assert grade("zz-5", "c").message == "the answer should be one of 'a', 'b', not 'c'"
    assert grade("zz-5", 2).message == "the answer should be one of 'a', 'b', not 2"


def test_a_table_that_says_nothing_sensible_is_an_error():
    words = {"praise": "yes", "otherwise": "no"}
    with pytest.raises(TypeError, match=r"zz-6: a mistake is \(value, diagnosis\).* not 3$"):
        number("zz-6", 1, mistakes=[3], **words)
    with pytest.raises(ValueError, match="zz-6: inf is not finite; no answer is near it"):
        number("zz-6", math.inf, **words)
    with pytest.raises(ValueError, match=r"within\(2, 1\) is empty; give the smaller"):
        within(2, 1)
    for right, mistakes in [("b", {}), ("c", {"a": "no", "b": "no"}), ("b", {"a": "", "b": ""})]:
        with pytest.raises(ValueError, match="zz-6: each option but the right one needs"):
            choice("zz-6", {"a": "A", "b": "B"}, right, praise="yes", mistakes=mistakes)


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
    with pytest.raises(ValueError, match=r"'gd-1' has a checker in .*gradient_descent"):
        number("gd-1", 1, praise="", otherwise="")


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
        if module.name.startswith("_"):
            continue
        prefixes = [p for p, name in exercises.CHAPTERS.items() if name == module.name]
        assert len(prefixes) == 1, f"add {module.name} to dlmini.book.exercises.CHAPTERS"
        importlib.import_module(f"dlmini.book.exercises.{module.name}")
        assert exercises.ids(prefixes[0]), f"{module.name} registers nothing under {prefixes[0]}-"


# --- on the page ------------------------------------------------------------------------------


@pytest.fixture
def page(open_html, monkeypatch):
    """page("zz-4", "zz-5", …): a tab with what the untouched cells of these exercises show."""

    def start(*ids, style="", **options):
        shown = []
        monkeypatch.setattr(exercises, "show_line", lambda text, html: shown.append(html))
        for id in ids:
            check(id)
        monkeypatch.undo()
        tab = open_html(f"<style>body{{{style}}}</style><main>{' '.join(shown)}</main>", **options)
        tab.set_default_timeout(5_000)
        return tab

    return start


def said(tab, id="zz-4"):
    return tab.locator(f"#check-{id} [role=status]").text_content()


TYPE = """texts => texts.map(text => {
    const input = document.querySelector("input"), button = document.querySelector("button");
    input.value = text;
    button.click();
    return document.querySelector("[role=status]").textContent;
})"""


def test_what_an_answered_cell_shows_has_no_field(monkeypatch):
    shown = []
    monkeypatch.setattr(exercises, "show_line", lambda text, html: shown.append(html))
    for id, answer in [("zz-4", 0.3), ("zz-4", -1 / 3), ("zz-5", "a"), ("zz-1", ...)]:
        check(id, answer)
    assert not any("<script" in html or "<style" in html for html in shown)


def test_the_field_is_small_and_the_same_every_time(monkeypatch):
    shown = []
    monkeypatch.setattr(exercises, "show_line", lambda text, html: shown.append((text, html)))
    ids = [id for prefix in exercises.CHAPTERS for id in exercises.ids(prefix)] + ["zz-4"]
    for id in 2 * [id for id in ids if exercises._checkers[id].table]:
        check(id)
    half = len(shown) // 2
    assert shown[:half] == shown[half:]
    for text, html in shown:
        assert text.endswith("· not attempted yet: replace the ... in this cell and run it again")
        for script in re.findall(r"<script.*?</script>", html, re.S):
            assert len(script.encode()) <= 4000, text
    assert half >= 6


def test_right_and_wrong_numbers_typed_on_the_page(page):
    tab = page("zz-4")
    field, button = tab.get_by_label("Your answer to zz-4"), tab.get_by_role("button", name="Check")
    assert said(tab) == (
        "○ zz-4 · not attempted yet: answer here, or replace the ... in this cell and run it again"
    )
    field.fill("1/3")
    button.click()
    assert said(tab) == "✗ zz-4 · not yet: the sign & nothing else"
    field.fill("-1/3")
    field.press("Enter")
    assert said(tab) == "✓ zz-4 · correct: a third, <down>"
    assert field.evaluate("e => e === document.activeElement")
    field.fill("five")
    button.click()
    assert said(tab) == (
        "○ zz-4 · not attempted yet: “five” cannot be read as a number: write it like 0.5, 1/2 or "
        "1e-3"
    )
    assert not tab.trouble


@pytest.mark.parametrize("prefix", ["zz", "gd"])
def test_page_and_python_judge_alike(page, capsys, prefix):
    rng = np.random.default_rng(0)
    for id in exercises.ids(prefix):
        table = exercises._checkers[id].table
        if not table or "options" in table:
            continue
        numbers = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, 5e-324]
        for rule in table["rules"]:
            for b in rule.get("near", []):
                for edge in (b, b * (1 + rule["rtol"]), b * (1 - rule["rtol"])):
                    numbers += [edge, math.nextafter(edge, 9e9), math.nextafter(edge, -9e9)]
                numbers += [*(b * (1 + 1.2 * rule["rtol"] * rng.uniform(-1, 1, 9))), -b, 1 / b]
            for end in {"from", "to"} & rule.keys():
                end = rule[end]
                numbers += [end, math.nextafter(end, 9e9), math.nextafter(end, -9e9), end + 0.5]
        numbers += [*rng.normal(0, 3, 100), *rng.integers(-9, 800, 100)]
        numbers = [float(x) for x in numbers]
        tab = page(id)
        on_page = tab.evaluate(TYPE, [repr(x) for x in numbers])
        for x in numbers:
            check(id, x)
        assert on_page == capsys.readouterr().out.splitlines()
        told = {line.partition(": ")[2] for line in on_page}
        assert told >= {rule["says"] for rule in table["rules"]} | {table["otherwise"]}
        assert not tab.trouble


READINGS = {
    0.5: ["0.5", ".5", "0,5", ",5", "1/2", " 1 / 2 ", "+0.5", "5e-1", "5E-1", "5×10^-1",
          "5 · 10⁻¹", "5*10**-1", "0.5/1", "50 x 10^-2"],
    -2.0: ["-2", "−2", "– 2", "-2.", "-4/2", "2/-1", "-0.2e1", "−2×10⁰"],
    0.333: ["0.333", "0,333"],
    3200.0: ["3200", "3 200", "3\u202f200", "3,200.0", "3.2e3", "3,2×10³", "32×10^+2"],
    1234567.0: ["1,234,567", "1 234 567", "1234567"],
    0.001: ["10^-3", "10⁻³", "1e-3", "1/1000", "1/1 000"],
    -100.0: ["-10^2"],
}  # fmt: skip
TWO_READINGS = ["3,200", "-3,200", "1/3,200", "12,345"]
UNREADABLE = ["five", "1/2/3", "1 2", "3 1/2", "0x10", "1.2.3", "η = 0.5", "5 %", "/2", "1/", "-",
              "e3", "2^3", "1_000", "210^3", "1.5,200", "<b>2</b>", "True"]  # fmt: skip


def test_numbers_are_read_as_people_write_them(page):
    """What is read is compared through an exercise for each number, which praises only that."""
    for value, texts in READINGS.items():
        number("zz-6", value, rtol=1e-15, praise="read", otherwise="misread")
        tab = page("zz-6")
        said = dict(zip(texts, tab.evaluate(TYPE, texts), strict=True))
        assert said == dict.fromkeys(texts, "✓ zz-6 · correct: read")
    start = "○ zz-6 · not attempted yet: "
    for texts, words in [(TWO_READINGS, "has two readings"), (UNREADABLE, "cannot be read")]:
        for text, line in zip(texts, tab.evaluate(TYPE, texts), strict=True):
            assert line.startswith(f"{start}“{text}” {words}"), line
    assert tab.evaluate(TYPE, ["", "  "]) == [start + "type a number first"] * 2
    endless = tab.evaluate(TYPE, ["1/0", "inf", "-∞", "1e999"])
    assert all("the answer is infinite" in line for line in endless)
    assert all("contains NaN" in line for line in tab.evaluate(TYPE, ["0/0", "NaN", "inf/inf"]))
    assert not tab.trouble


def test_a_choice_by_mouse_and_by_keyboard(page):
    tab = page("zz-5")
    assert tab.get_by_role("group", name="Your answer to zz-5").is_visible()
    tab.get_by_role("button", name="Check").click()
    assert said(tab, "zz-5") == "○ zz-5 · not attempted yet: choose one first"
    tab.get_by_label("a) uphill").check()
    assert "choose one first" in said(tab, "zz-5"), "choosing is not yet answering"
    tab.get_by_role("button", name="Check").click()
    assert said(tab, "zz-5") == "✗ zz-5 · not yet: the sign is turned"
    tab.get_by_label("a) uphill").focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert said(tab, "zz-5") == "✓ zz-5 · correct: always"
    assert not tab.trouble


def test_exercises_of_one_page_do_not_mix(page):
    tab = page("zz-4", "gd-1", "zz-5", "gd-8", "gd-3")
    tab.get_by_label("Your answer to gd-1").fill("2,2")
    tab.get_by_label("Your answer to gd-1").press("Enter")
    tab.get_by_label("b) downhill").check()
    tab.get_by_label("c) It jumps").check()
    assert tab.get_by_label("b) downhill").is_checked()
    tab.locator("#check-gd-8 button").click()
    verdicts = [text.partition(":")[0] for text in tab.get_by_role("status").all_text_contents()]
    assert verdicts == [
        "○ zz-4 · not attempted yet",
        "✓ gd-1 · correct",
        "○ zz-5 · not attempted yet",
        "✓ gd-8 · correct",
        "○ gd-3 · not attempted yet",
    ]


def test_a_script_that_runs_again_builds_one_field(page):
    """JupyterLab puts each script of an output in again, as a new element."""
    tab = page("zz-4")
    tab.evaluate("""() => document.querySelectorAll("script").forEach(old => {
        const again = document.createElement("script");
        for (const a of old.attributes) again.setAttribute(a.name, a.value);
        again.text = old.text;
        old.replaceWith(again);
    })""")
    assert tab.locator("input").count() == tab.locator("button").count() == 1
    tab.get_by_label("Your answer to zz-4").fill("3")
    tab.get_by_role("button").click()
    assert said(tab) == "✗ zz-4 · not yet: upside down"
    assert not tab.trouble


def test_the_field_works_in_a_sandbox_without_forms(page):
    """So Colab shows outputs."""
    tab = page("zz-4")
    inside = tab.locator("main").inner_html()
    inside = re.sub(r'<div class="dl-try">.*?</div>', "", inside)
    tab.set_content("<iframe sandbox='allow-scripts'></iframe>")
    tab.locator("iframe").evaluate("(frame, html) => { frame.srcdoc = html }", inside)
    frame = tab.frame_locator("iframe")
    frame.get_by_label("Your answer to zz-4").fill("3")
    frame.get_by_label("Your answer to zz-4").press("Enter")
    assert frame.get_by_role("status").text_content() == "✗ zz-4 · not yet: upside down"
    assert not tab.trouble


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_field_fits_a_phone_and_a_thumb_and_is_seen(page, scheme):
    ink = {"light": "background:#fff;color:#1f2730", "dark": "background:#171717;color:#dcdfe2"}
    tab = page("zz-4", "gd-8", style=ink[scheme], viewport={"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    low = tab.locator("input[type=text]").bounding_box()
    assert low["y"] == tab.locator("button").first.bounding_box()["y"], "one row"
    for part in tab.locator("input[type=text], button, .dl-choice label").all():
        box = part.bounding_box()
        assert box["height"] >= 44, box
        assert box["x"] + box["width"] <= 360, box
    for part in tab.locator(".dl-try :is(input, button, label)").all():
        color = part.evaluate("e => getComputedStyle(e).color")
        assert color == tab.evaluate("getComputedStyle(document.body).color")
    assert all(
        tab.evaluate("""() => [...document.querySelectorAll("input, button")]
        .map(e => e.dataset.lmSuppressShortcuts === "true")""")
    )
    assert not tab.trouble


def test_paper_and_pages_without_scripts_show_no_field(page):
    tab = page("zz-4", "zz-5")
    tab.emulate_media(media="print")
    assert not any(part.is_visible() for part in tab.locator("input, button").all())
    assert not tab.get_by_text("answer here, or").first.is_visible()
    assert tab.get_by_text("b) downhill").is_visible(), "the options belong to the question"
    tab = page("zz-4", "zz-5", java_script_enabled=False)
    assert tab.locator("input, button").count() == 0
    assert "not attempted yet" in said(tab)
