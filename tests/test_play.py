"""Figures that compute: the page's arithmetic is the package's; hand, finger and keys reach it."""

import configparser
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dlmini import backend
from dlmini.book import play as module
from dlmini.book import plot
from dlmini.descent import descend, quadratic

ALT = (
    "A path from the left rim of a narrow valley to its lowest point; below it, the loss per step."
)
REACHES, MOMENTA, CONDITIONS = (0.05, 0.7, 1.5, 1.95, 2.3, 4.1), (0, 0.5, 0.9), (1, 12, 100)
STARTS = ((-9, 2), (3, -4), (-9, 0), (0, 0))


def valley(**changes):
    return plot.play("valley", **{"name": "gd-valley", "alt": ALT} | changes)


def parabola(**changes):
    return plot.play("parabola", **{"name": "gd-parabola", "alt": ALT} | changes)


@pytest.fixture
def double():
    before = backend._State.name, backend._State.dtype
    backend.use("numpy", dtype="float64")
    yield
    backend.use(*before)


def descent(state):
    """What `descent.descend` makes of a state of the page."""
    stiff = state.get("kappa", state.get("curvature"))
    h = [1, stiff] if "kappa" in state else [stiff]
    return descend(
        quadratic(np.diag(h)), state["start"], state["lr"] / stiff, state["steps"],
        state.get("momentum", 0.0),
    )  # fmt: skip


def same(page, python):
    """Marks, numbers and words, to 1e-6 of each."""
    if isinstance(python, dict):
        return page.keys() == python.keys() and all(same(page[k], python[k]) for k in python)
    if isinstance(python, list | tuple):
        return len(page) == len(python) and all(map(same, page, python))
    if isinstance(python, float | int):
        return page == pytest.approx(python, rel=1e-6, abs=1e-200)
    return page == python


# --- the arithmetic ------------------------------------------------------------------------------


def test_the_first_picture_is_drawn_from_what_descend_computes(double):
    for lr, momentum, kappa, start in itertools.product(REACHES, MOMENTA, CONDITIONS, STARTS):
        state = {"lr": lr, "momentum": momentum, "kappa": kappa, "start": start, "steps": 60}
        drawn, run = module._valley(**state), descent(state)
        assert drawn["marks"]["path"] == pytest.approx(run.points, rel=1e-9, abs=1e-200)
        if run.losses[0]:
            relative = run.losses / run.losses[0]
            assert [y for _, y in drawn["marks"]["loss"]] == pytest.approx(relative, rel=1e-9)
            assert drawn["numbers"]["left"] == pytest.approx(relative[-1], rel=1e-9)
            reached = np.flatnonzero(relative <= 1e-6)
            assert drawn["numbers"]["reached"] == (reached[0] if reached.size else None)


def test_the_verdict_is_that_of_a_long_run(double):
    for lr, momentum, kappa, start in itertools.product(REACHES, MOMENTA, CONDITIONS, STARTS):
        state = {"lr": lr, "momentum": momentum, "kappa": kappa, "start": start, "steps": 2000}
        run = descent(state)
        verdict = module._valley(**state | {"steps": 60})["says"]["end"]
        assert verdict == ("diverges" if run.losses[-1] > run.losses[0] else "descends"), state


def test_at_the_limit_the_loss_neither_falls_nor_grows():
    for momentum in (0, 0.5, 0.9):
        state = {"momentum": momentum, "kappa": 12, "start": (0, 2), "steps": 60}
        assert module._valley(lr=2 * (1 + momentum), **state)["says"]["end"] == (
            "neither falls nor grows"
        )
        assert module._valley(lr=2.01 * (1 + momentum), **state)["says"]["end"] == "diverges"


def test_a_diverging_path_leaves_the_picture_and_is_not_cut_to_a_plateau():
    html = valley(lr=0.25, momentum=0.0, kappa=12).html
    marks = dict(re.findall(r"data-mark='(path|loss)'[^>]*? d='([^']*)'", first_picture(html)))
    panel = module._valley_panels(60)["land"].box
    *_, last = re.findall(r"[ML]([-\d.]+),([-\d.]+)", marks["path"])
    assert not panel[1] <= float(last[1]) <= panel[1] + panel[3]
    heights = [float(y) for y in re.findall(r",([-\d.]+)", marks["loss"])]
    assert min(heights) < module._valley_panels(60)["loss"].box[1]
    steps = -np.diff(heights)[5:]
    assert steps == pytest.approx(steps.mean(), abs=0.11), "the law of its growth is a line"


@pytest.mark.parametrize("make", [valley, parabola])
def test_the_first_picture_is_well_formed(make):
    assert ElementTree.fromstring(first_picture(make().html)).tag.endswith("svg")


def first_picture(html):
    (source,) = re.findall(r'src="data:image/svg\+xml,([^"]*)"', html)
    return source.replace("%3C", "<").replace("%3E", ">").replace("%23", "#").replace("%25", "%")


def forgetting(keep, steps):
    """(1 − β) βᵗ, how much an exponential average remembers of what it saw t steps ago."""
    curve = [[t, (1 - keep) * keep**t] for t in range(steps + 1)]
    return {
        "role": "gd", "marks": {"memory": curve}, "numbers": {"sum": sum(y for _, y in curve)},
        "says": {"sum": module.num(1 - keep ** (steps + 1), 3)},
    }  # fmt: skip


FORGETTING = """
// scene: forgetting
function forgetting({keep, steps}) {
  const memory = [...Array(steps + 1).keys()].map(t => [t, (1 - keep) * keep ** t]);
  return {role: 'gd', marks: {memory}, numbers: {sum: memory.reduce((s, p) => s + p[1], 0)},
    says: {sum: num(1 - keep ** (steps + 1))}};
}
"""


def test_a_scene_is_a_function_in_two_languages_and_what_it_is_drawn_with(open_html, monkeypatch):
    scene = module.Scene(
        what="an average that forgets", defaults={"keep": 0.9, "steps": 30}, unit="",
        sliders={"keep": module.Slider("β", 0, 0.99)}, compute=forgetting,
        labels={"sum": "remembered of {steps} steps"},
        panels=lambda steps, keep: {
            "memory": module.Panel((46, 20, 426, 150), (0, steps), (0, 1), xlabel="step")
        },
        marks={"memory": module.Mark("memory", "line", module._LINE)},
    )  # fmt: skip
    source = module._source() + FORGETTING
    monkeypatch.setitem(module._SCENES, "forgetting", scene)
    monkeypatch.setattr(module, "_source", lambda: source)
    tab = open_html(plot.play("forgetting", name="forget", alt=ALT, keep=0.5).html)
    slide(tab, "forget-keep", 0.8)
    page = state(tab, "forget")
    assert page.pop("state") == {"keep": 0.8, "steps": 30}
    assert same(page, forgetting(0.8, 30))
    assert not tab.trouble


# --- the output ----------------------------------------------------------------------------------


def test_the_text_twin_says_the_first_state():
    assert repr(parabola(lr=0.5, start=-2.0)) == (
        "figure that computes 'gd-parabola': gradient descent on a parabola; learning rate η 0.5; "
        "step 12: loss ÷ first loss 5.96×10⁻⁸; below 10⁻⁶ after 10 steps; the loss descends"
    )
    assert valley()._repr_mimebundle_()["text/plain"] == repr(valley())


def test_the_output_is_small_fixed_and_loads_nothing():
    for made, again in ((valley(), valley()), (parabola(), parabola())):
        assert made.html == again.html
        assert len(made.html.encode()) < 30_000
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", made.html)
        ids = re.findall(r' id="([^"]*)"', made.html)
        assert len(set(ids)) == len(ids)
        assert all(id == made.name or id.startswith(made.name + "-") for id in ids)


def test_only_the_scene_that_is_shown_is_sent():
    assert "function valley" not in parabola().html
    assert "function parabola" not in valley().html


def test_nbval_compares_words_and_not_pictures():
    config = configparser.RawConfigParser()
    config.read(Path(__file__).parent / "nbval.cfg", encoding="utf-8")
    html = valley().html
    for section in config.values():
        if "regex" in section:
            html = re.sub(section["regex"], section["replace"], html)
    assert "svg+xml" not in html
    assert "2.03×10⁻⁶" in html


class Page(HTMLParser):
    """The attributes of the tags, by name."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_sliders_are_labelled_asleep_and_keep_their_keys_from_the_notebook():
    page = Page(valley().html)
    assert [i["id"] for i in page.all("input")] == [la["for"] for la in page.all("label")]
    for slider in page.all("input"):
        assert slider["data-lm-suppress-shortcuts"] == "true"
        assert slider["step"] == "any"
        assert "disabled" in slider
    assert [i["aria-valuetext"] for i in page.all("input")] == ["1.2", "0", "12"]
    assert page.all("img")[0]["alt"] == ALT


def test_ranges_can_be_set():
    page = Page(valley(lr=0.02, ranges={"lr": (0.005, 2.5), "kappa": (1, 1000)}).html)
    lr, _, kappa = page.all("input")
    assert (lr["min"], lr["max"], lr["value"]) == ("0.005", "2.5", "0.24")
    assert (kappa["min"], kappa["max"]) == ("0", "3")


def test_colours_are_the_books_and_in_the_dark_what_the_site_makes_of_pictures():
    """filter: invert(0.91) hue-rotate(180deg), as _static/book.css has it."""
    turn = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
    for role, (light, dark) in module._ROLES.items():
        assert light == plot.COLORS[role]
        rgb = np.array([int(light[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        turned = np.clip(turn @ (0.91 - 0.82 * rgb), 0, 1) * 255
        assert [int(dark[i : i + 2], 16) for i in (1, 3, 5)] == pytest.approx(turned, abs=1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"scene": "hill"}, ValueError, "no scene 'hill'; there are valley, parabola"),
        ({"name": "Big One"}, ValueError, "play: name is 'Big One'; use lower-case letters"),
        ({"alt": " "}, TypeError, "alt must be a text that says what is shown"),
        ({"curvature": 1}, TypeError, "no setting 'curvature' in gradient descent in a valley"),
        ({"lr": "big"}, TypeError, "settings must be numbers, not {'lr': 'big'}"),
        ({"lr": 0}, ValueError, "lr is 0; give a number > 0"),
        ({"lr": math.nan}, ValueError, "lr is nan; give a number > 0"),
        ({"lr": 1.0}, ValueError, r"lr \(η·λmax\) is 12, outside its range 0.05 to 4.2; widen it"),
        ({"momentum": 1}, ValueError, "momentum is 1, outside its range 0 to 0.98; widen it with"),
        ({"start": (-30, 2)}, ValueError, "give a from -11 to 11, b from -5 to 5"),
        ({"start": 2}, ValueError, "start is 2; give a from"),
        ({"steps": 0}, ValueError, "steps is 0; give a number from 1 to 500"),
        ({"steps": True}, ValueError, "steps is True"),
        ({"ranges": {"mu": (0, 1)}}, ValueError, "ranges names 'mu', which is no slider; there"),
        ({"ranges": {"lr": (1, 0)}}, ValueError, "smaller one first"),
        ({"ranges": {"kappa": (0, 20)}}, ValueError, "kappa moves in powers of ten"),
    ],
)
def test_bad_input_is_an_error_that_names_the_fix(changes, error, words):
    with pytest.raises(error, match=words):
        plot.play(**{"scene": "valley", "name": "gd-valley", "alt": ALT} | changes)


# --- in the page ---------------------------------------------------------------------------------


def state(tab, name="gd-valley"):
    return tab.evaluate("name => document.getElementById(name).dlState()", name)


def slide(tab, slider, value):
    tab.locator(f"#{slider}").evaluate(
        "(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", value
    )


def computed(state):
    return {"valley": module._valley, "parabola": module._parabola}[
        "valley" if "kappa" in state else "parabola"
    ](**state)


def assert_page_follows_python(tab, name="gd-valley"):
    page = state(tab, name)
    settings = page.pop("state")
    python = computed(settings)
    assert same(page, python), settings
    run = descent(settings)
    assert same(page["marks"]["steps"], [list(p) for p in run.points.tolist()]) or "kappa" not in (
        settings
    )
    if run.losses[0]:
        left = run.losses[-1] / run.losses[0]
        assert page["numbers"]["left"] == pytest.approx(left, rel=1e-6)
    shown = tab.locator(f"#{name} [data-number]").all_inner_texts()
    assert shown == list(python["says"].values())
    return settings


def test_the_page_computes_what_descend_computes(open_html, double):
    tab = open_html(valley().html)
    assert_page_follows_python(tab)
    for lr, momentum, kappa in itertools.product(REACHES, MOMENTA, CONDITIONS):
        slide(tab, "gd-valley-lr", lr)
        slide(tab, "gd-valley-momentum", momentum)
        slide(tab, "gd-valley-kappa", math.log10(kappa))
        settings = assert_page_follows_python(tab)
        assert (settings["lr"], settings["momentum"], settings["kappa"]) == (lr, momentum, kappa)
    assert not tab.trouble


def test_the_parabola_computes_what_descend_computes(open_html, double):
    tab = open_html(parabola(curvature=3.0, lr=0.2).html)
    for lr in (0.02, 0.6, 1, 1.9, 2, 2.1, 2.3):
        slide(tab, "gd-parabola-lr", lr)
        assert assert_page_follows_python(tab, "gd-parabola")["lr"] == lr
    assert not tab.trouble


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.mark.parametrize("make", [valley, parabola])
def test_page_and_python_draw_alike(open_html, make):
    made = make()
    tab = open_html(made.html)
    first = dict(re.findall(r"data-mark='(\w+)'[^>]*? (?:d|transform)='([^']*)'",
                            first_picture(made.html)))  # fmt: skip
    first |= {
        f"ring{i}": d
        for i, d in enumerate(re.findall(r"<path d='(M-9[^']*)'", first_picture(made.html)))
    }
    now = tab.evaluate("""() => Object.fromEntries([
        ...[...document.querySelectorAll('svg [data-mark]')].map(
            m => [m.dataset.mark, m.getAttribute('d') || m.getAttribute('transform')]),
        ...[...document.querySelectorAll('[data-mark=land] path')].map(
            (m, i) => ['ring' + i, m.getAttribute('d')])])""")
    assert {"path", "steps", "end", "start"} <= first.keys()
    for id, drawn in first.items():
        a, b = (list(map(float, NUMBER.findall(text))) for text in (drawn, now[id]))
        assert a == pytest.approx(b, abs=0.21), id
        drawn, again = (re.sub(r"[-\d., ]", "", text) for text in (drawn, now[id]))
        assert drawn == again, id


def middle(tab):
    box = tab.locator("[data-mark=start] circle").nth(1).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_start_is_dragged_by_mouse_and_stays_in_the_picture(open_html, double):
    tab = open_html(valley().html)
    x, y = middle(tab)
    tab.mouse.move(x + 5, y)
    tab.mouse.down()
    tab.mouse.move(x + 105, y + 50, steps=4)
    tab.mouse.up()
    tab.mouse.move(x, y)
    settings = assert_page_follows_python(tab)
    scale = 426 / 22 * tab.locator("svg").bounding_box()["width"] / 480
    assert settings["start"] == pytest.approx([-9 + 100 / scale, 2 - 50 / scale], abs=0.02)
    assert middle(tab) == pytest.approx((x + 100, y + 50), abs=1)
    x, y = middle(tab)
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 2000, y - 2000)
    tab.mouse.up()
    assert assert_page_follows_python(tab)["start"] == [11, 5]
    assert not tab.trouble


def test_the_start_is_dragged_by_finger_and_the_page_stays(open_html, double):
    tab = open_html(
        parabola().html + "<p style='height:2000px'>", viewport={"width": 360, "height": 700},
        has_touch=True, is_mobile=True,
    )  # fmt: skip
    x, y = middle(tab)
    finger = tab.context.new_cdp_session(tab)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (x, y))
    for k in range(1, 9):
        touch("touchMove", (x + 10 * k, y - 10 * k))
    touch("touchEnd")
    tab.wait_for_timeout(100)
    assert tab.evaluate("scrollY") == 0
    scale = 426 / 6.8 * tab.locator("svg").bounding_box()["width"] / 480
    settings = assert_page_follows_python(tab, "gd-parabola")
    assert settings["start"] == pytest.approx([-2 + 80 / scale], abs=0.05)
    touch("touchStart", (x + 150, y))
    for k in range(1, 9):
        touch("touchMove", (x + 150, y - 10 * k))
    touch("touchEnd")
    tab.wait_for_timeout(300)
    assert tab.evaluate("scrollY") > 0, "beside the handle a finger scrolls the page"
    assert not tab.trouble


def test_keys_move_the_start_and_the_sliders(open_html, double):
    tab = open_html(valley().html)
    handle = tab.locator("[data-mark=start]")
    handle.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "Shift+ArrowLeft"):
        tab.keyboard.press(key)
    assert assert_page_follows_python(tab)["start"] == [-9.75, 2.5]
    assert handle.get_attribute("role") == "slider"
    assert handle.get_attribute("aria-valuetext") == "a = −9.75, b = 2.5"
    assert handle.get_attribute("data-lm-suppress-shortcuts") == "true"
    tab.locator("#gd-valley-lr").focus()
    tab.keyboard.press("ArrowRight")
    moved = assert_page_follows_python(tab)["lr"]
    assert 1.2 < moved < 1.3
    assert tab.locator("#gd-valley-lr").get_attribute("aria-valuetext") == f"{moved:.3g}"
    tab.wait_for_function("document.querySelector('.dl-heard').textContent.includes('descends')")
    tab.get_by_role("button", name="Start over").click()
    assert assert_page_follows_python(tab) == module._state(
        module._SCENES["valley"], "gd-valley", {}
    )
    assert tab.locator("#gd-valley-lr").input_value() == "1.2"
    assert not tab.trouble


def test_the_parabolas_start_moves_by_all_arrows(open_html, double):
    tab = open_html(parabola().html)
    tab.locator("[data-mark=start]").focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        tab.keyboard.press(key)
    assert assert_page_follows_python(tab, "gd-parabola")["start"] == [-2]


def test_the_colour_of_the_run_says_whether_it_has_momentum(open_html):
    for scheme, which in (("light", 0), ("dark", 1)):
        tab = open_html(f'<meta name="color-scheme" content="{scheme}">' + valley().html)
        seen = []
        for momentum in (0, 0.5):
            slide(tab, "gd-valley-momentum", momentum)
            seen.append(tab.locator("[data-mark=path]").evaluate("p => getComputedStyle(p).stroke"))
        rgb = [module._ROLES[role][which] for role in ("gd", "momentum")]
        assert seen == [
            "rgb({}, {}, {})".format(*(int(c[i : i + 2], 16) for i in (1, 3, 5))) for c in rgb
        ]


@pytest.mark.parametrize(
    "dark",
    [
        "document.documentElement.dataset.theme = 'dark'",
        "document.body.dataset.jpThemeLight = false",
    ],
)
def test_a_dark_site_and_a_dark_notebook_are_noticed(open_html, dark):
    tab = open_html(valley().html)
    tab.evaluate(dark)
    stroke = tab.locator("[data-mark=path]").evaluate("p => getComputedStyle(p).stroke")
    assert stroke == "rgb(77, 171, 223)"


def test_a_phone_shows_all_of_it_with_room_for_fingers(open_html):
    tab = open_html(
        valley().html + parabola().html, viewport={"width": 360, "height": 740}, is_mobile=True,
        has_touch=True,
    )  # fmt: skip
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for control in tab.locator("input, button").all():
        assert control.bounding_box()["height"] >= 44
    for grip in tab.locator("[data-mark=start] circle:first-child").all():
        assert grip.bounding_box()["width"] >= 43
    letters = tab.locator("svg text").first.evaluate("t => t.getBoundingClientRect().height")
    assert letters >= 11
    assert tab.locator("#gd-valley").bounding_box()["height"] <= 740, "a screen holds it"


def test_without_script_the_first_picture_is_there(open_html):
    tab = open_html(valley().html, java_script_enabled=False)
    picture = tab.get_by_role("img", name=ALT)
    assert picture.is_visible()
    assert picture.bounding_box()["height"] > 300
    for slider in tab.locator("input").all():
        assert slider.is_disabled()


def test_a_notebook_that_is_not_trusted_shows_picture_and_sliders_in_shape(open_html):
    """JupyterLab then strips styles, scripts and what it does not know; style attributes stay."""
    html = re.sub(r"(?s)<(style|script).*?</\1>", "", valley().html)
    tab = open_html(html, viewport={"width": 360, "height": 900})
    assert tab.locator("img").evaluate("i => i.naturalWidth") > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for slider in tab.locator("input").all():
        assert slider.bounding_box()["height"] == 44
        assert slider.bounding_box()["width"] > 250
    assert not tab.trouble


def test_print_has_the_picture_and_no_controls(open_html):
    tab = open_html(valley().html)
    slide(tab, "gd-valley-lr", 2.1)
    tab.emulate_media(media="print")
    assert tab.locator("svg").is_visible()
    assert not tab.locator("input, button").or_(tab.locator(".dl-controls")).first.is_visible()
    assert tab.get_by_text("diverges", exact=True).first.is_visible()


def test_two_on_a_page_and_a_second_run_of_the_script_do_no_harm(open_html, double):
    tab = open_html(valley().html + parabola().html + valley(name="other", kappa=3).html)
    assert tab.locator("svg").count() == 3
    assert state(tab, "other")["state"]["kappa"] == 3
    tab.evaluate("""() => { for (const old of document.querySelectorAll('script:not([type])')) {
        const again = document.createElement('script');
        again.textContent = old.textContent;
        old.replaceWith(again); } }""")
    assert tab.locator("svg").count() == 3
    slide(tab, "other-lr", 1.5)
    assert state(tab)["state"]["lr"] == 1.2
    assert assert_page_follows_python(tab, "other")["lr"] == 1.5
    assert not tab.trouble


def test_nothing_moves_by_itself(open_html):
    """No animation: nothing to reduce for those who asked for less motion."""
    assert not re.search(r"animat|transition|requestAnimationFrame", valley().html)
