"""Predictions: what is asked, how the measurement answers, what the page does with a choice."""

import math
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest

import dlmini as dl
from dlmini.book import predict as predictions
from dlmini.book.predict import breaches
from dlmini.book.report import inline_html, inline_text

STEEP = {"about 90 %": 0.9, "about 50 %": 0.5, "about 5 %": 0.05}
SURVIVE = {"none": (-0.5, 0.5), "one to three": (0.5, 3.5), "four to six": (3.5, 6.5)}
VALLEYS = ["the round one", "the long one", "both the same"]
LONGER = "Which valley tolerates the longer step?"
WHY = "Slopes are nearly normal with spread $\\|g\\|/\\sqrt{P}$, and $P$ is large."


@pytest.fixture
def shown(monkeypatch):
    """The outputs that a fresh notebook would get: a list of (text, html, what tests read)."""
    outputs = []

    def keep(text, html, metadata):
        outputs.append((text, html, metadata["dlmini"]))

    monkeypatch.setattr("dlmini.book.predict.show_line", keep)
    monkeypatch.setattr(predictions, "_questions", {})
    return outputs


def answer(choices, measured, id="gd-x"):
    """The choice that a measurement makes right."""
    predictions._questions.clear()
    dl.predict(id, "How many?", choices)
    dl.reveal(id, measured, "So it is.")
    return predictions._questions[id].answer["right"]


# --- formulas in sentences ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"2/λ_{\max}", "2/λmax"),
        (r"2(1+\mu)/\lambda_{\max}", "2(1+μ)/λmax"),
        (r"\|g\|/\sqrt{P}", "‖g‖/√P"),
        (r"\frac{1}{\sqrt{P+1}}", "1/(√(P+1))"),
        (r"\frac{\lambda_{\max}}{\lambda_{\min}}", "λmax/λmin"),
        (r"x_{t+1} = x_t - \eta \nabla f(x_t)", "x_(t+1) = xt − η ∇f(xt)"),
        (r"\hat{m}_t/(\sqrt{\hat v_t}+\epsilon)", "m̂t/(√v̂t+ε)"),
        (r"A^\top x_0 \le 10^{-3}", "Aᵀ x₀ ≤ 10⁻³"),
        (r"\left(1-\eta\lambda\right)^k", "(1−ηλ)^k"),
        (r"\mathbf{W}\,x^{n+1}", "W x^(n+1)"),
        (r"\unheard{of}", "unheardof"),
    ],
)
def test_formulas_are_readable_in_a_terminal(tex, text):
    assert inline_text(f"so ${tex}$ holds") == f"so {text} holds"


def test_formulas_are_typeset_on_a_page_and_words_are_escaped():
    assert inline_html(r"a <b> & $x<\eta$") == (
        'a &lt;b&gt; &amp; <span class="math notranslate nohighlight">\\(x&lt;\\eta\\)</span>'
    )
    assert inline_html("it costs $5") == inline_text("it costs $5") == "it costs $5"


# --- which choice is right ------------------------------------------------------------------------


def test_the_nearest_number_is_right_and_another_measurement_another_answer(shown):
    assert answer(STEEP, 0.049) == "about 5 %"
    assert answer(STEEP, np.float32(0.45)) == "about 50 %"
    assert answer(STEEP, np.array([0.99])) == "about 90 %"


def test_far_apart_numbers_are_compared_on_a_log_scale(shown):
    assert answer({"1": 1, "100": 100}, 11) == "100"  # linear: 1
    assert answer({"1": 1, "100": 100}, 9) == "1"
    assert answer({"1": 1, "100": 100}, -5) == "1"
    assert answer({"1": 1, "3": 3}, 1.9) == "1"  # a factor of 3: linear; logarithmic: 3
    assert answer({"0": 0, "100": 100}, 11) == "0"


def test_of_two_equally_near_numbers_the_smaller_is_right(shown):
    for last_digits in (0, 1e-12, -1e-12):
        assert answer({"0.2": 0.2, "0.1": 0.1}, 0.15 + last_digits) == "0.1"
        assert answer({"1": 1, "100": 100}, 10 + last_digits) == "1"


def test_an_interval_holds_the_measurement(shown):
    assert [answer(SURVIVE, n) for n in (0, 3, 6)] == list(SURVIVE)
    assert answer(SURVIVE, 0.5) == "one to three", "where two meet, the upper"
    assert answer(SURVIVE, 6.5) == "four to six"
    assert answer({"loss falls": (-math.inf, 0), "loss rises": (0, math.inf)}, 3) == "loss rises"


def test_words_are_chosen_by_the_cell(shown):
    dl.predict("gd-longer", "Which valley?", VALLEYS)
    dl.reveal("gd-longer", choice=VALLEYS[2], why="So it is.", shown="2/λmax in both")
    assert shown[1][0] == "gd-longer · measured 2/λmax in both (both the same) · So it is."
    dl.reveal("gd-longer", choice=VALLEYS[0], why="So it is.")
    assert shown[2][0] == "gd-longer · measured the round one · So it is."


# --- what is stored -------------------------------------------------------------------------------


def test_outputs_have_text_twins_and_records(shown):
    dl.predict("gd-best", "How steep is the best, over $\\|g\\|$?", STEEP)
    dl.reveal("gd-best", 0.0489, WHY)
    dl.score()
    texts, pages, records = zip(*shown, strict=True)
    assert texts == (
        "? gd-best · How steep is the best, over ‖g‖?\n"
        "  ○ about 90 %\n  ○ about 50 %\n  ○ about 5 %",
        "gd-best · measured 0.0489 (about 5 %) · "
        "Slopes are nearly normal with spread ‖g‖/√P, and P is large.",
        "1 prediction, and what was measured\n"
        "  gd-best · How steep is the best, over ‖g‖? 0.0489 (about 5 %)",
    )
    assert records == (
        {"question": "gd-best"},
        {
            "prediction": "gd-best",
            "choices": list(STEEP),
            "right": "about 5 %",
            "shown": "0.0489",
        },
        {"score": ["gd-best"]},
    )
    assert 'id="predict-gd-best"' in pages[0]
    assert 'id="reveal-gd-best"' in pages[1]
    assert "\\(\\|g\\|\\)" in pages[0]


def test_the_question_does_not_hold_the_answer(shown):
    dl.predict("gd-best", "How steep?", STEEP)
    before = shown[0]
    dl.reveal("gd-best", 0.05, "So it is.")
    dl.predict("gd-best", "How steep?", STEEP)
    assert shown[2] == before


def test_outputs_are_small(shown):
    question = "With {}00 random directions, how steep is the best, compared with the steepest?"
    for k in range(8):
        dl.predict(f"gd-best-of-{k}00", question.format(k), {**STEEP, "exactly 1": 1})
        dl.reveal(f"gd-best-of-{k}00", 0.05, f"{WHY} {WHY}", shown="4.9 %")
    dl.score()
    assert max(len(html.encode()) for _, html, _ in shown) <= 4096


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("Best", "How?", VALLEYS), ValueError, "'Best' is not of the form 'chapter-name'"),
        (("gd-x\n", "How?", VALLEYS), ValueError, "is not of the form"),
        (("gd-x", "", VALLEYS), TypeError, "question must be one line of text, not ''"),
        (("gd-x", "How?\nSo?", VALLEYS), TypeError, "question must be one line of text"),
        (("gd-x", "How?", "yes"), TypeError, "choices must be labels with numbers .* not 'yes'"),
        (("gd-x", "How?", ["yes"]), ValueError, "has 1 choices; give two to four"),
        (("gd-x", "How?", list("abcde")), ValueError, "has 5 choices; give two to four"),
        (("gd-x", "How?", ["$a$", "a"]), ValueError, "same choice twice"),
        (("gd-x", "How?", [1, 2]), TypeError, "a choice must be one line of text, not 1"),
        (("gd-x", "How?", {"a": 1, "b": (2, 3)}), TypeError, "mixes numbers and intervals"),
        (("gd-x", "How?", {"a": 1, "b": 1.0}), ValueError, "two choices stand for the same"),
        (("gd-x", "How?", {"a": 1, "b": "2"}), TypeError, "choice 'b' must be one number, not '2'"),
        (("gd-x", "How?", {"a": 1, "b": math.inf}), ValueError, "choice 'b' is ∞; it must be fin"),
        (("gd-x", "How?", {"a": (0, 2), "b": (1, 3)}), ValueError, r"'a' \(0, 2\) and 'b'.*overl"),
        (("gd-x", "How?", {"a": (0, 2), "b": (3, 2)}), ValueError, r"'b' is \(3, 2\); give \(low"),
        (("gd-x", "How?", {"a": (0, 2), "b": (3,)}), ValueError, r"'b' is \(3,\); give \(low"),
    ],
)
def test_a_badly_stated_question_is_refused(shown, arguments, error, words):
    with pytest.raises(error, match=words):
        dl.predict(*arguments)
    assert not shown
    assert not predictions._questions


@pytest.mark.parametrize(
    ("choices", "given", "error", "words"),
    [
        (STEEP, {"measured": math.nan}, ValueError, "'gd-x': measured is NaN; it must be finite"),
        (STEEP, {"measured": [1, 2]}, TypeError, r"measured must be one number, not \[1, 2\]"),
        (STEEP, {"measured": True}, TypeError, "measured must be one number, not True"),
        (STEEP, {"choice": "about 5 %"}, TypeError, "give measured and not choice="),
        (STEEP, {}, TypeError, "give measured and not choice="),
        (SURVIVE, {"measured": 7}, ValueError, "7 lies in no interval of 'none' "),
        (SURVIVE, {"measured": -math.inf}, ValueError, "measured is −∞"),
        (VALLEYS, {"measured": 1}, TypeError, "give choice= and not measured"),
        (VALLEYS, {}, TypeError, "give choice= and not measured"),
        (VALLEYS, {"choice": "none"}, ValueError, "'none' is no choice; there are 'the round one'"),
        (VALLEYS, {"choice": None, "why": None}, TypeError, "why must be one line of text, not No"),
    ],
)
def test_a_bad_answer_is_refused(shown, choices, given, error, words):
    dl.predict("gd-x", "How?", choices)
    with pytest.raises(error, match=words):
        dl.reveal("gd-x", **{"why": "So it is.", **given})
    assert len(shown) == 1


def test_an_unknown_question_cannot_be_revealed(shown):
    with pytest.raises(ValueError, match=r"'gd-x' was never asked; call dl\.predict\('gd-x', …\)"):
        dl.reveal("gd-x", 1, "So it is.")


def test_cells_run_again_but_a_second_question_or_answer_is_refused(shown):
    for measured in (0.05, 0.06):  # the reader changes the seed
        dl.predict("gd-x", "How?", STEEP)
        dl.reveal("gd-x", measured, "So it is.")
    with pytest.raises(ValueError, match=r"'gd-x' already asks 'How\?' of 'about 90 %', "):
        dl.predict("gd-x", "How many?", STEEP)
    with pytest.raises(ValueError, match="choose another id, or restart the kernel"):
        dl.predict("gd-x", "How?", {**STEEP, "about 5 %": 0.06})
    with pytest.raises(ValueError, match=r"'gd-x' is revealed already \('So it is.'\)"):
        dl.reveal("gd-x", 0.05, "For another reason.")


def test_the_score_waits_for_every_answer(shown):
    with pytest.raises(ValueError, match=r"nothing to score; ask with dl\.predict first"):
        dl.score()
    for id in ("gd-x", "gd-y", "gd-z"):
        dl.predict(id, "How?", STEEP)
    dl.reveal("gd-y", 0.5, "So it is.")
    with pytest.raises(ValueError, match="score: gd-x, gd-z not revealed yet"):
        dl.score()


def test_without_a_notebook_the_text_is_printed():
    code = """
import dlmini as dl
dl.predict("gd-x", "How?", ["yes", "no"])
dl.reveal("gd-x", choice="no", why="So it is.")
dl.score()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("? gd-x · How?\n  ○ yes\n  ○ no\ngd-x · measured no · So it is.")


# --- what a notebook must keep to -----------------------------------------------------------------

ASK = 'dl.predict("gd-x", "How?", {"a": 1, "b": 2})'
TELL = 'dl.reveal("gd-x", slope.max() / steepest, "So it is.")'
SCORE = "dl.score()"


def cells(*sources):
    """Code cells with the ids c0, c1, …, below a markdown cell that is no code."""
    made = [nbformat.v4.new_markdown_cell('dl.predict("gd-not-a-cell")', id="text")]
    return made + [nbformat.v4.new_code_cell(s, id=f"c{i}") for i, s in enumerate(sources)]


def test_a_good_notebook_has_no_breaches():
    assert breaches(cells("%matplotlib inline\nx = 1", ASK, TELL, SCORE)) == []
    assert breaches(cells(f"{ASK}\n{TELL}\n{SCORE}")) == []
    assert breaches(cells("model.predict(x)\nmodel.score(x, y)")) == []
    assert breaches([{"cell_type": "code", "source": [f"{s}\n" for s in (ASK, TELL, SCORE)]}]) == []
    words = 'dl.predict("gd-x", "How?", ["a", "b"])'
    computed = 'dl.reveal("gd-x", choice="a" if both > 1 else "b", why="So it is.")'
    assert breaches(cells(words, computed, SCORE)) == []


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([ASK, SCORE], "c0: gd-x is never revealed"),
        ([TELL, SCORE], "c0: gd-x has no question"),
        ([TELL, ASK, SCORE], "c0: gd-x is revealed above its question in c1"),
        ([f"{TELL}\n{ASK}", SCORE], "c0: gd-x is revealed above its question in c0"),
        ([ASK, ASK, TELL, SCORE], "c1: gd-x is asked twice"),
        ([ASK, TELL, TELL, SCORE], "c2: gd-x is revealed twice"),
        ([ASK, TELL], "no dl.score() below the last dl.reveal"),
        ([ASK, SCORE, TELL], "no dl.score() below the last dl.reveal"),
        (["dl.predict(name, 'How?', {})"], "c0: dl.predict needs its id as a literal text"),
    ],
)
def test_a_notebook_is_told_what_is_wrong(sources, says):
    assert breaches(cells(*sources)) == [says]


@pytest.mark.parametrize(
    "typed",
    [
        "0.05",
        "-0.05",
        "measured=5 / 100",
        "float('0.05')",
        "found",
        "measured=100 * found",
        "choice='a'",
        "choice='a' if True else 'b'",
    ],
)
def test_an_answer_must_be_computed(typed):
    tell = f'dl.reveal("gd-x", {typed}, why="So it is.")'
    (said,) = breaches(cells("found = 0.05", ASK, tell, SCORE))
    assert re.match(r"c2: the answer to gd-x is typed \(.+\); work it out from the meas", said)
    assert breaches(cells("found = 0.05\nfound = descend()", ASK, tell, SCORE)) == (
        [] if "found" in typed else [said]
    )


# --- what the reader does -------------------------------------------------------------------------


@pytest.fixture
def page(shown, open_html):
    """A chapter of three questions, their answers and a score, as a page in the browser."""

    def start(theme="", **options):
        dl.predict("gd-best", "With 100 directions, how steep is the best?", STEEP)
        dl.predict("gd-survive", "How many of the six survive?", SURVIVE)
        dl.predict("gd-longer", LONGER, VALLEYS)
        dl.reveal("gd-best", 0.0489, WHY, shown="4.9 %")
        dl.reveal("gd-survive", 2, "The others lie beyond $2/\\lambda_{\\max}$.")
        dl.reveal("gd-longer", choice=VALLEYS[2], why="Only the curvature counts.")
        dl.score()
        return open_html(
            f"<style>{theme}</style>" + "".join(html for _, html, _ in shown), **options
        )

    return start


def served(tab):
    """The same page from a server: Chromium now and then forgets what a file has stored."""
    file = tab.url.removeprefix("file://")
    address = "http://127.0.0.1/chapter"
    tab.route(address, lambda r: r.fulfill(path=file, content_type="text/html; charset=utf-8"))
    tab.goto(address)
    return tab


def words(locator):
    """What is seen of an element, white space of all kinds as one blank."""
    return " ".join(locator.inner_text().split())


def text(tab, id):
    return words(tab.locator(f"#{id}"))


def radio(tab, id, label):
    return tab.locator(f"#predict-{id}").get_by_label(label)


def test_a_right_a_wrong_and_a_missing_choice_are_answered_at_once(page):
    tab = page()
    because = "Slopes are nearly normal"
    assert text(tab, "reveal-gd-best").startswith(f"Measured 4.9 % (about 5 %). {because}")
    assert text(tab, "reveal-gd-best").endswith("You made no choice here.")
    tab.get_by_text("about 50 %", exact=True).first.click()
    assert text(tab, "reveal-gd-best").startswith(
        f"✗ You said about 50 %; measured 4.9 % (about 5 %). {because}"
    )
    assert "No choice" not in text(tab, "reveal-gd-best")
    assert tab.locator("#reveal-gd-best").get_by_role("img", name="not foreseen").is_visible()
    tab.get_by_text("about 5 %", exact=True).first.click()
    assert text(tab, "reveal-gd-best").startswith(
        f"✓ You said about 5 %; measured 4.9 %. {because}"
    )
    assert tab.locator("#reveal-gd-best").get_by_role("img", name="foreseen").is_visible()
    assert text(tab, "reveal-gd-survive").startswith("Measured 2 (one to three).")
    tab.get_by_text("both the same", exact=True).first.click()
    assert text(tab, "reveal-gd-longer") == (
        "✓ You said both the same; measured both the same. Only the curvature counts."
    )
    assert tab.trouble == []


def test_a_choice_can_be_made_with_the_keyboard(page):
    tab = page()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert radio(tab, "gd-best", "about 90 %").is_checked()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    assert radio(tab, "gd-best", "about 5 %").is_checked()
    assert text(tab, "reveal-gd-best").startswith("✓ You said about 5 %;")
    tab.keyboard.press("Enter")
    assert "?" not in tab.url
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert radio(tab, "gd-survive", "none").is_checked()
    assert radio(tab, "gd-best", "about 5 %").is_checked()
    focus = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert tab.evaluate(focus) == "solid"
    assert tab.trouble == []


def test_a_question_is_a_named_group_of_large_targets(page):
    tab = page(has_touch=True)
    group = tab.get_by_role("group", name="How many of the six survive?")
    assert group.get_by_role("radio").count() == 3
    for label in tab.locator(".dl-predict label").all():
        assert label.bounding_box()["height"] >= 44
    assert "Choose before you read on" in text(tab, "predict-gd-survive")
    radio(tab, "gd-survive", "one to three").tap()
    assert "Kept in this browser. Read on" in text(tab, "predict-gd-survive")
    assert text(tab, "reveal-gd-survive").startswith("✓ You said one to three; measured 2.")
    assert tab.locator("input:not([data-lm-suppress-shortcuts=true])").count() == 0


def test_a_choice_is_kept_when_the_page_is_opened_again(page):
    tab = served(page())
    radio(tab, "gd-best", "about 90 %").check()
    tab.reload()
    assert radio(tab, "gd-best", "about 90 %").is_checked()
    assert text(tab, "reveal-gd-best").startswith("✗ You said about 90 %;")
    assert tab.evaluate("localStorage.getItem('dlmini:gd-best')") == "about 90 %"


def test_a_choice_that_the_question_no_longer_offers_is_no_choice(page):
    tab = served(page())
    tab.evaluate("localStorage.setItem('dlmini:gd-best', 'about 7 %')")
    tab.reload()
    assert tab.locator("#predict-gd-best :checked").count() == 0
    assert text(tab, "reveal-gd-best").startswith("Measured 4.9 %")
    assert text(tab, "dl-score").startswith("You have chosen in none of the 3 questions above.")


def test_the_score_counts_and_forgets(page):
    tab = served(page())
    says = tab.locator("#dl-score p")
    forget = tab.get_by_role("button", name="Forget my choices")
    assert says.inner_text() == "You have chosen in none of the 3 questions above."
    assert says.get_attribute("aria-live") == "polite"
    assert forget.is_hidden()
    radio(tab, "gd-best", "about 5 %").check()
    assert says.inner_text() == "You foresaw 1 of 3; 2 without a choice."
    radio(tab, "gd-survive", "none").check()
    radio(tab, "gd-longer", "both the same").check()
    assert says.inner_text() == "You foresaw 2 of 3."
    tab.get_by_text("The answers").click()
    assert [words(item) for item in tab.locator("#dl-score li").all()] == [
        "✓ With 100 directions, how steep is the best? 4.9 % (about 5 %)",
        "✗ How many of the six survive? 2 (one to three)",
        "✓ Which valley tolerates the longer step? both the same",
    ]
    forget.click()
    assert says.inner_text() == "You have chosen in none of the 3 questions above."
    assert tab.locator(":checked").count() == 0
    assert text(tab, "reveal-gd-best").startswith("Measured 4.9 %")
    tab.reload()
    assert tab.locator(":checked").count() == 0
    assert tab.trouble == []


NO_STORAGE = (
    """Object.defineProperty(window, 'localStorage', {get() {throw new Error('denied')}})"""
)


def test_where_the_browser_refuses_storage_the_page_remembers(page):
    tab = page()
    tab.context.add_init_script(NO_STORAGE)
    tab.reload()
    radio(tab, "gd-best", "about 50 %").check()
    assert text(tab, "reveal-gd-best").startswith("✗ You said about 50 %;")
    assert text(tab, "dl-score").startswith("You foresaw 0 of 3; 2 without a choice.")
    tab.get_by_role("button", name="Forget my choices").click()
    assert tab.locator(":checked").count() == 0
    assert tab.trouble == []


def test_an_answer_alone_in_a_sandbox_falls_back(shown, page):
    """Colab shows each output in a frame of its own, where storage may be refused."""
    tab = page()
    for (_, html, _), says in zip(
        [shown[0], shown[3], shown[6]],
        ["With 100 directions", "Measured 4.9 % (about 5 %).", "You have chosen in none of the 3"],
        strict=True,
    ):
        inside = html.replace("&", "&amp;").replace('"', "&quot;")
        tab.set_content(f'<iframe sandbox="allow-scripts" srcdoc="{inside}"></iframe>')
        assert words(tab.frame_locator("iframe").locator("body")).startswith(says)
    assert tab.trouble == []


def test_an_output_shown_twice_or_again_stays_in_step(shown, page):
    """JupyterLab renders an output anew, and shows it in a second view."""
    tab = page()
    again = """html => {const host = document.createElement('section'); host.innerHTML = html;
    for (const old of host.querySelectorAll('script')) {const script =
    document.createElement('script'); script.textContent = old.textContent; old.replaceWith(script)}
    document.body.append(host)}"""
    radio(tab, "gd-best", "about 50 %").check()
    for _, html, _ in shown:
        tab.evaluate(again, html)
    first, second = tab.locator("input[value='about 50 %']").all()
    assert first.is_checked()
    assert second.is_checked()
    second.locator("xpath=../..").get_by_label("about 5 %").check()
    assert not first.is_checked()
    assert tab.locator(".dl-predict :checked").count() == 2
    for said in tab.locator(".dl-reveal[data-id=gd-best]").all():
        assert words(said).startswith("✓ You said about 5 %;")
    assert tab.trouble == []


def test_without_scripts_the_questions_are_lists_and_the_answers_stand(page):
    tab = page(java_script_enabled=False)
    labels = tab.locator("#predict-gd-best label").all()
    assert [words(label) for label in labels] == list(STEEP)
    assert len({label.bounding_box()["x"] for label in labels}) == 1
    assert tab.get_by_text("kept in this browser").first.is_hidden()
    assert text(tab, "reveal-gd-best") == (
        "Measured 4.9 % (about 5 %). Slopes are nearly normal with spread \\(\\|g\\|/\\sqrt{P}\\), "
        "and \\(P\\) is large."
    )
    assert text(tab, "reveal-gd-longer") == "Measured both the same. Only the curvature counts."
    assert text(tab, "dl-score") == "3 predictions in this chapter The answers"
    assert tab.get_by_role("button").count() == 0


BORDER = "element => getComputedStyle(element).borderTopWidth"


def test_before_it_is_run_jupyterlab_shows_the_same(shown, page, open_html):
    """Its sanitizer takes scripts, styles, handlers and `hidden`; inline styles stay."""
    page()
    html = "".join(html for _, html, _ in shown)
    html = re.sub(r"(?s)<(style|script)>.*?</\1>", "", html).replace(" hidden", "")
    tab = open_html(html, java_script_enabled=False)
    assert words(tab.locator("fieldset").last).startswith(f"{LONGER} the round one")
    assert text(tab, "reveal-gd-longer") == "Measured both the same. Only the curvature counts."
    assert text(tab, "dl-score") == "3 predictions in this chapter The answers"
    assert words(tab.locator("body")).count("choice") == 0
    for box, border in {"fieldset": "0px", ".dl-predict": "1px", ".dl-score": "1px"}.items():
        assert tab.locator(box).first.evaluate(BORDER) == border


def test_a_printed_page_has_the_question_and_then_the_answer(page):
    tab = page()
    tab.emulate_media(media="print")
    assert text(tab, "predict-gd-best") == (
        "With 100 directions, how steep is the best? about 90 % about 50 % about 5 %"
    )
    for gone in ("input", ".dl-predict small", ".dl-reveal small", "button"):
        assert all(each.is_hidden() for each in tab.locator(gone).all())
    assert tab.locator("#predict-gd-best label").first.bounding_box()["height"] < 30
    for plain in (".dl-predict", ".dl-predict label"):
        assert tab.locator(plain).first.evaluate(BORDER) == "0px"


# The contrast of every text with what is painted below it, opacity included.
CONTRAST = """() => {
const parse = c => {const v = c.match(/[\\d.]+/g).map(Number);
  return [...v.slice(0, 3), v[3] ?? 1]};
const over = (top, a, base) => base.map((b, i) => a * top[i] + (1 - a) * b);
const light = c => {const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 :
  ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b};
const worst = [];
for (const e of document.querySelectorAll('.dl-predict *, .dl-reveal *, .dl-score *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || /STYLE|SCRIPT/.test(e.tagName)) continue;
  let base = [255, 255, 255], seen = 1, path = [];
  for (let p = e; p; p = p.parentElement) path.unshift(p);
  for (const p of path) {const s = getComputedStyle(p), c = parse(s.backgroundColor);
    base = over(c.slice(0, 3), c[3], base); seen *= +s.opacity}
  const ink = over(parse(getComputedStyle(e).color).slice(0, 3), seen, base);
  const [a, b] = [light(ink), light(base)].sort();
  worst.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.slice(0, 40)]);
}
return worst}"""


@pytest.mark.parametrize("theme", ["", "html{background:#171717;color:#dcdfe2}a{color:#70c4d6}"])
def test_everything_is_legible_in_light_and_dark(page, theme):
    tab = page(theme)
    radio(tab, "gd-best", "about 50 %").check()
    tab.get_by_text("The answers").click()
    found = tab.evaluate(CONTRAST)
    assert len(found) > 20
    assert min(found)[0] >= 4.5, min(found)


@pytest.mark.parametrize("width", [360, 320])
def test_a_phone_shows_it_without_sideways_scroll(page, width):
    tab = page(viewport={"width": width, "height": 700})
    radio(tab, "gd-best", "about 50 %").check()
    tab.get_by_text("The answers").click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
