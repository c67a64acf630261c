"""The figure style, the recurring pictures, and figures with sliders."""

import configparser
import gzip
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dlmini.book import plot, sliders


@pytest.fixture(autouse=True)
def styled():
    with mpl.rc_context():
        plot.style()
        yield
        plt.close("all")


# --- style ---------------------------------------------------------------------------------------

# Machado et al. 2009: how red-blind and green-blind readers see linear RGB.
SIGHT = {
    "all": np.eye(3),
    "red-blind": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "green-blind": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    """Björn Ottosson's perceptual colour space, where equal distances look equally different."""
    cone = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    opponent = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(opponent) @ np.cbrt(np.array(cone) @ np.clip(rgb, 0, 1))


def test_every_colour_has_a_contrast_of_three_on_white():
    for name, color in plot.COLORS.items():
        luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3, name


OPTIMIZERS = ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "muon"]


@pytest.mark.parametrize("sight", SIGHT)
def test_optimizers_differ_in_colour_for_colour_blind_readers_too(sight):
    seen = {n: oklab(np.array(SIGHT[sight]) @ linear(plot.COLORS[n])) for n in OPTIMIZERS}
    for a, b in itertools.combinations(OPTIMIZERS, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 0.08, (a, b)


def test_style_is_readable_on_a_phone():
    assert mpl.rcParams["font.size"] >= 10
    assert mpl.rcParams["figure.facecolor"] == "white"
    assert mpl.rcParams["axes.spines.top"] is False


# --- pictures ------------------------------------------------------------------------------------


def test_band_draws_median_and_range_and_states_n():
    _, ax = plt.subplots()
    line = plot.band(ax, [1, 2], [[1, 5], [2, 6], [9, 7]], label="sgd", color="sgd")
    np.testing.assert_array_equal(line.get_ydata(), [2, 6])
    assert line.get_color() == plot.COLORS["sgd"]
    (area,) = ax.collections
    assert area.get_paths()[0].vertices[:, 1].max() == 9
    plot.band(ax, [1, 2], np.ones((4, 2)), spread="quartiles")
    assert ax.get_title(loc="right") == "median and range or quartiles of n = 3–4"


def test_band_marks_where_runs_diverged():
    _, ax = plt.subplots()
    line = plot.band(ax, [1, 2, 3], [[1, 2, np.nan], [1, np.inf, np.nan], [1, 4, np.inf]])
    np.testing.assert_array_equal(line.get_ydata(), [1, 4, np.nan])
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [2, 3])
    assert "× diverged" in ax.get_title(loc="right")


def test_labels_of_lines_do_not_overlap():
    _, ax = plt.subplots()
    for k in range(6):
        ax.plot([0, 1], [0, k / 100], label=f"line {k}")
    plot.label_lines(ax)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == [f"line {k}" for k in range(6)]
    assert all(a.y1 <= b.y1 and b.y0 - a.y0 >= 0.9 * a.height for a, b in itertools.pairwise(boxes))


def test_contours_take_a_function_or_a_grid():
    _, (a, b) = plt.subplots(1, 2)
    x, y = np.meshgrid(np.linspace(-1, 1, 50), np.linspace(-2, 2, 50))
    one = plot.contours(a, lambda x, y: x**2 + y**2, (-1, 1), (-2, 2), n=50)
    two = plot.contours(b, x**2 + y**2, (-1, 1), (-2, 2))
    np.testing.assert_allclose(one.levels, two.levels)
    assert a.get_ylim() == (-2, 2)
    plot.contours(a, lambda x, y: x**2 + y**2, (-1, 1), (-2, 2), log=True)


def test_a_path_that_diverges_leaves_the_limits_and_the_numbers_sane():
    _, ax = plt.subplots()
    plot.contours(ax, lambda x, y: x**2 + y**2, (-1, 1), (-1, 1))
    with np.errstate(over="ignore"):
        xy = np.outer((-10.0) ** np.arange(400), [1e-3, 1e-3])
    line = plot.path(ax, xy, color="gd")
    assert ax.get_xlim() == (-1, 1)
    assert np.abs(line.get_xydata()).max() <= 1e3
    np.testing.assert_allclose(line.get_xydata()[:4], xy[:4])


def test_reference_slope_is_the_power_law_through_the_point():
    _, ax = plt.subplots()
    ax.loglog([1, 100], [1, 1e-4])
    line = plot.reference_slope(ax, -2, (10, 1e-2))
    (x0, x1), (y0, y1) = line.get_data()
    assert np.log(y1 / y0) / np.log(x1 / x0) == pytest.approx(-2)
    assert ax.texts[0].get_text() == "slope −2"


def square(x, y):
    return x * x


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda ax: plot.band(ax, [1, 2], [1, 2]), ValueError, "one row for each seed"),
        (lambda ax: plot.band(ax, [1], [["a"]]), TypeError, "runs must be a regular array"),
        (lambda ax: plot.band(ax, [1], [[1]], spread="sd"), ValueError, "'range' or 'quartiles'"),
        (lambda ax: plot.label_lines(ax), ValueError, "pass label= when drawing"),
        (lambda ax: plot.contours(ax, square, (1, 0), (0, 1)), ValueError, "smaller one first"),
        (lambda ax: plot.contours(ax, square, 1, (0, 1)), TypeError, "must be a pair"),
        (lambda ax: plot.contours(ax, [1, 2], (0, 1), (0, 1)), ValueError, "two-dimensional grid"),
        (lambda ax: plot.contours(ax, lambda x, y: 1.0, (0, 1), (0, 1)), ValueError, "elementwise"),
        (lambda ax: plot.contours(ax, np.ones((3, 3)), (0, 1), (0, 1)), ValueError, "is constant"),
        (lambda ax: plot.contours(ax, lambda x, y: x, (-1, 1), (0, 1), log=True), ValueError,
         "needs a positive loss"),
        (lambda ax: plot.path(ax, [1, 2, 3]), ValueError, r"shape \(steps \+ 1, 2\)"),
        (lambda ax: plot.reference_slope(ax, 1, (1, 1)), ValueError, "call ax.loglog"),
        (lambda ax: (ax.loglog(), plot.reference_slope(ax, 1, (0, 1))), ValueError, "positive"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_that_names_the_fix(call, error, words):
    _, ax = plt.subplots()
    with pytest.raises(error, match=words):
        call(ax)


# --- sliders on a static page --------------------------------------------------------------------


def descent(lr, momentum):
    """The figure that chapters need: a path over contours beside the loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.2))
    xy, v, h = [np.array([-1.7, 0.9])], 0, np.array([1.0, 10.0])
    for _ in range(60):
        v = momentum * v + h * xy[-1]
        xy.append(xy[-1] - lr * v)
    xy = np.array(xy)
    plot.contours(left, lambda x, y: x**2 + 10 * y**2, (-2, 2), (-1.2, 1.2), log=True)
    plot.path(left, xy, color="gd")
    right.semilogy(np.clip(xy**2 @ h, 1e-8, 1e4), color=plot.COLORS["gd"])
    right.set(xlim=(0, 60), ylim=(1e-8, 1e4), xlabel="step", ylabel="loss")
    return figure


def line(a=1.0, b=2.0):
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1], [a, b])
    ax.set(ylim=(0, 10))
    return figure


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.tags[-1], data))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def explored(**changes):
    arguments = {"name": "gd-line", "alt": "A line from {a} to {b}", "a": [1, 2.5], "b": [3, 4, 5]}
    return plot.explore(line, **arguments | changes)


def test_sliders_are_labelled_and_say_their_value():
    page = Page(explored(labels={"a": "where it starts"}).html)
    inputs, labels, outputs = page.all("input"), page.all("label"), page.all("output")
    assert [i["type"] for i in inputs] == ["range", "range"]
    assert [i["id"] for i in inputs] == [la["for"] for la in labels] == [o["for"] for o in outputs]
    assert [i["aria-valuetext"] for i in inputs] == ["2.5", "4"]
    assert {i["data-lm-suppress-shortcuts"] for i in inputs} == {"true"}, "JupyterLab takes arrows"
    assert [(i["min"], i["max"], i["step"], i["value"]) for i in inputs] == [
        ("0", "1", "1", "1"), ("0", "2", "1", "1")]  # fmt: skip
    assert "where it starts" in [text for _, text in page.texts]
    assert page.all("div")[0]["id"] == "gd-line"


def test_the_first_picture_is_an_image_with_alternative_text():
    (img,) = Page(explored(start={"b": 3}).html).all("img")
    assert img["class"] == "dl-figure"
    assert img["alt"] == "A line from 2.5 to 3"
    assert img["src"].startswith("data:image/svg+xml,%3Csvg")


def test_every_state_is_rebuilt_from_shared_lines():
    page = Page(explored().html)
    (data,) = [json.loads(t) for (tag, at), t in page.texts if at.get("class") == "dl-states"]
    assert data["alts"][0] == "A line from 1 to 3"
    assert len(data["runs"]) == len(data["alts"]) == 6
    for state, runs in zip(itertools.product([1, 2.5], [3, 4, 5]), data["runs"], strict=True):
        starts, counts = runs[::2], runs[1::2]
        lines = [
            data["lines"][i + k] for i, n in zip(starts, counts, strict=True) for k in range(n)
        ]
        frames = []
        sliders._svg(line, {"a": 2.5, "b": 4}, frames)
        assert lines == sliders._svg(line, dict(zip("ab", state, strict=True)), frames)
    assert data["lines"][0].startswith("<svg")


def test_nothing_is_loaded_from_elsewhere_and_ids_are_the_authors():
    html = explored().html
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    ids = [attrs["id"] for _, attrs in Page(html).tags if "id" in attrs]
    assert ids == ["gd-line", "gd-line-a", "gd-line-b"]
    assert html == explored().html


def sanitised(html):
    """The HTML as nbval compares it."""
    config = configparser.RawConfigParser()
    config.read(Path(__file__).parent / "nbval.cfg", encoding="utf-8")
    for section in config.values():
        if "regex" in section:
            html = re.sub(section["regex"], section["replace"], html)
    return html


def test_nbval_ignores_pictures_and_compares_sliders_and_words():
    def thick(a, b):
        figure = line(a, b)
        figure.axes[0].lines[0].set_linewidth(7)
        return figure

    one, two = (
        explored().html,
        plot.explore(
            thick, name="gd-line", alt="A line from {a} to {b}", a=[1, 2.5], b=[3, 4, 5]
        ).html,
    )
    assert one != two
    assert sanitised(one) == sanitised(two)
    assert "A line from 1 to 3" in sanitised(one)
    assert sanitised(one) != sanitised(explored(alt="Another line, {a}, {b}").html)
    assert sanitised(one) != sanitised(explored(b=[3, 4, 6]).html)


def test_a_figure_drawn_but_not_returned_is_found_and_closed():
    def draws(a):
        line(a)

    plot.explore(draws, name="x", alt="a line", a=[1, 2])
    assert not plt.get_fignums()


def test_alternative_text_may_be_a_function():
    html = explored(alt=lambda a, b: f"it rises by {b - a:g}").html
    assert "it rises by 1.5" in html


def test_a_figure_says_nothing_unless_asked_to():
    """What it shows is for those who do not see it; a caption asks and does not answer."""
    assert 'dl-says"' not in explored().html
    assert '<p class="dl-says" aria-live="polite">It rises.</p>' in explored(says="It rises.").html


def test_axes_that_would_jump_from_state_to_state_are_an_error():
    def jumps(a):
        figure, (left, right) = plt.subplots(1, 2)
        left.set(xlim=(0, 1), ylim=(0, 1))
        right.plot([0, 1], [0, a])
        right.set(xlim=(0, 1), ylabel="loss")
        return figure

    with pytest.raises(
        ValueError,
        match=r"ylim of axes 1 \(loss\) is \(-0.05, 1.05\) in the first state and \(-0.1, 2.1\) "
        r"for {'a': 2}; fix it with ax.set\(ylim=…\)",
    ):
        plot.explore(jumps, name="x", alt="x", a=[1, 2])
    assert plot.explore(jumps, name="x", alt="x", a=[1, 2], free_axes=True).states == 2


def test_axes_that_come_and_go_are_an_error():
    def grows(a):
        return plt.subplots(1, a)[0]

    with pytest.raises(ValueError, match=r"1 axes in its first state and 2 for {'a': 2}; draw the"):
        plot.explore(grows, name="x", alt="x", a=[1, 2])


@pytest.mark.slow
def test_fifty_states_over_contours_fit_the_limit():
    shown = plot.explore(
        descent, name="gd-valley", alt="Descent at learning rate {lr}, momentum {momentum}",
        lr=[0.01, 0.02, 0.05, 0.1, 0.15, 0.18, 0.19, 0.21], momentum=[0, 0.3, 0.5, 0.8, 0.9, 0.95],
    )  # fmt: skip
    assert shown.states == 48
    assert len(gzip.compress(shown.html.encode())) < 100_000


def test_a_figure_over_the_limit_is_an_error_with_advice(monkeypatch):
    monkeypatch.setattr(sliders, "LIMIT", 2000)
    with pytest.raises(
        ValueError, match=r"6 states take \d+ kB gzipped, the limit is 2; use fewer"
    ):
        explored()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"name": "Big One"}, ValueError, "lower-case letters"),
        ({"alt": ""}, TypeError, "alt must be a text or a function"),
        ({"alt": "{c}"}, ValueError, "alt has a field 'c' that is no slider; there are a, b"),
        ({"says": "{c}"}, ValueError, "says has a field 'c' that is no slider; there are a, b"),
        ({"alt": lambda a, b: 3}, TypeError, "it must give a text"),
        ({"a": [1]}, ValueError, "a slider needs a list of two or more"),
        ({"a": 0.1}, ValueError, "a slider needs a list of two or more"),
        ({"start": {"a": 7}}, ValueError, "a=7 is not among its values"),
        ({"labels": {"c": "x"}}, ValueError, "names 'c', which is no slider"),
    ],
)
def test_explore_with_bad_input_is_an_error_that_names_the_fix(changes, error, words):
    with pytest.raises(error, match=words):
        explored(**changes)


def test_explore_needs_a_slider_and_a_figure():
    with pytest.raises(TypeError, match="pass a list of values by name"):
        plot.explore(line, name="x", alt="x")
    with pytest.raises(TypeError, match="must return a matplotlib figure"):
        plot.explore(lambda a: 3, name="x", alt="x", a=[1, 2])


def test_the_keyboard_moves_the_slider_and_changes_picture_and_words(open_html):
    tab = open_html(explored(says="It ends at {b}").html, viewport={"width": 390, "height": 800})
    picture, slider = tab.locator("img"), tab.locator("#gd-line-b")
    before = picture.get_attribute("src")
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") != before
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    assert slider.get_attribute("aria-valuetext") == "5"
    assert tab.locator("output").nth(1).inner_text() == "5"
    assert tab.locator(".dl-says").inner_text() == "It ends at 5"
    assert picture.get_attribute("alt") == "A line from 2.5 to 5"
    tab.keyboard.press("ArrowLeft")
    assert tab.locator(".dl-says").inner_text() == "It ends at 4"
    assert slider.bounding_box()["height"] >= 44
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not tab.trouble


def test_sliders_without_styles_and_scripts_are_in_shape(open_html):
    """A notebook that is not trusted strips both; style attributes stay."""
    html = re.sub(r"(?s)<(style|script).*?</\1>", "", explored().html)
    tab = open_html(html, viewport={"width": 360, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.locator("img").bounding_box()["width"] > 300
    for slider in tab.locator("input").all():
        assert slider.bounding_box()["height"] == 44
        assert slider.bounding_box()["width"] > 250
