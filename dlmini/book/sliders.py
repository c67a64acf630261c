"""Figures with sliders: `explore` works on a static page, `live` where a kernel runs."""

import gzip
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from html import escape

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG

from .report import brief

__all__ = ["Explore", "explore", "live"]

# --- sliders without a kernel -----------------------------------------------------------------

LIMIT = 150_000  #: bytes of one interactive figure, gzipped


class Explore:
    """A figure with sliders as self-contained HTML; a notebook shows it.

    Args:
        name: identifier on the page.
        html: the figure.
        states: how many there are.
    """

    def __init__(self, name, html, states):
        self.name, self.html, self.states = name, html, states

    def __repr__(self):
        return f"figure with sliders {self.name!r}: {self.states} states"

    def _repr_mimebundle_(self, **kwargs):
        return {"text/plain": repr(self), "text/html": self.html}

    def save(self, path) -> None:
        """Write the figure as a page that opens in any browser.

        Args:
            path: of the page.
        """
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.name)}</title>\n{self.html}\n"
        )
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)


def explore(
    figure_function: Callable,
    *,
    name: str,
    alt: str | Callable,
    start: dict | None = None,
    labels: dict | None = None,
    **values,
) -> Explore:
    """Precompute a figure for every combination of values and move between them with sliders.

    The call is the last line of a cell. The figure needs no kernel and no library: it works on the
    website, from a file, in JupyterLab and in Colab.

    Args:
        figure_function: called with one value for each slider; returns a figure (or draws on the
            current one). Keep the figure's size and the axes' limits fixed, so that nothing jumps.
        name: identifier on the page, such as "gd-valley".
        alt: what the picture shows: a text with {slider} fields, or a function of the values. It is
            the caption under the sliders, too.
        start: the slider positions to begin with; the default is the middle of each list.
        labels: what each slider is called, where its argument's name does not say it.
        **values: one list of values for each slider.

    Returns:
        `Explore`, which a notebook shows.

    Raises:
        ValueError: among others when the result is larger than 150 kB gzipped.
    """
    _check_explore(name, alt, values)
    labels = _keyed("labels", labels, values)
    start = _keyed("start", start, values)
    sizes = {k: len(v) for k, v in values.items()}
    first = {k: _position(k, values[k], start.get(k)) for k in values}
    pictures, captions = [], []
    places: list = []
    for state in itertools.product(*values.values()):
        chosen = dict(zip(values, state, strict=True))
        pictures.append(_svg(figure_function, chosen, places))
        captions.append(_caption(alt, chosen))
    at = int(np.ravel_multi_index(tuple(first.values()), tuple(sizes.values())))
    html = _explore_html(name, values, labels, first, pictures, captions, at)
    packed = len(gzip.compress(html.encode(), mtime=0))
    if packed > LIMIT:
        raise ValueError(
            f"explore {name!r}: {len(pictures)} states take {packed / 1000:.0f} kB gzipped, the "
            "limit is "
            f"{LIMIT / 1000:.0f}; use fewer values, fewer points in each line, or fewer contour "
            "levels"
        )
    return Explore(name, html, len(pictures))


def _check_explore(name, alt, values):
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(
            f"explore: name is {name!r}; use lower-case letters, digits and hyphens, such as "
            "'gd-valley'"
        )
    if not callable(alt) and not (isinstance(alt, str) and alt.strip()):
        raise TypeError(
            f"explore {name!r}: alt must be a text or a function of the state, not {brief(alt)}"
        )
    if not values:
        raise TypeError(
            f"explore {name!r} has no slider; pass a list of values by name, such as lr=[0.1, 0.2]"
        )
    for key, choices in values.items():
        if isinstance(choices, str) or not hasattr(choices, "__len__") or len(choices) < 2:
            raise ValueError(
                f"explore {name!r}: {key} is {brief(choices)}; "
                "a slider needs a list of two or more values"
            )


def _keyed(what, given, values):
    given = given or {}
    for key in given:
        if key not in values:
            raise ValueError(
                f"{what} names {key!r}, which is no slider; there are {', '.join(values)}"
            )
    return given


def _position(key, choices, wanted):
    if wanted is None:
        return len(choices) // 2
    for i, value in enumerate(choices):
        if value == wanted:
            return i
    raise ValueError(f"start: {key}={wanted!r} is not among its values {brief(list(choices))}")


def _caption(alt, chosen):
    if callable(alt):
        text = alt(**chosen)
    else:
        try:
            text = alt.format(**{k: _label(v) for k, v in chosen.items()})
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"alt has a field {error} that is no slider; there are {', '.join(chosen)}"
            ) from None
    if not isinstance(text, str) or not text.strip():
        raise TypeError(
            f"alt gave {brief(text)} for {chosen}; "
            "it must give a text that says what the picture shows"
        )
    return text


def _label(value):
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}".replace("-", "−")
    return str(value).replace("-", "−") if isinstance(value, int) else str(value)


def _draw(figure_function, chosen):
    """The figure for one state, whether it is returned or drawn on the current one."""
    before = set(plt.get_fignums())
    figure = figure_function(**chosen)
    opened = [plt.figure(k) for k in plt.get_fignums() if k not in before]
    if figure is None and opened:
        figure = opened[-1]
    if not isinstance(figure, mpl.figure.Figure):
        for extra in opened:
            plt.close(extra)
        raise TypeError(
            f"figure_function returned {brief(figure)} for {chosen}; "
            "it must return a matplotlib figure"
        )
    return figure, opened


def _svg(figure_function, chosen, places):
    """One state as compact SVG elements, one to a line, the same text for the same drawing.

    Axes stay where the first state has them (`places`): nothing jumps, and layout is done once.
    """
    figure, opened = _draw(figure_function, chosen)
    if len(places) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, place in zip(figure.axes, places, strict=True):
            ax.set_position(place)
    text = io.StringIO()
    metadata = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    with mpl.rc_context(
        {"svg.hashsalt": "dlmini", "svg.fonttype": "path", "path.simplify_threshold": 0.2}
    ):
        figure.set_facecolor("white")
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)  # savefig would draw twice
    places[:] = places or [ax.get_position(original=True).frozen() for ax in figure.axes]
    for each in [figure, *opened]:
        plt.close(each)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"\s+(?=[^<]*>)", " ", svg)  # white space inside tags
    svg = re.sub(r' d="[^"]*"| (?:x|y)="[^"]*"', _shorten, svg)
    return [line.strip() for line in svg.split("\n") if line.strip()]


def _shorten(match):
    """Coordinates to a tenth of a point; in polygons the L of each further point is implied."""
    text = re.sub(r"-?\d+\.\d+", _tenth, match[0])
    return text if "C" in text or "Q" in text else text.replace(" L ", " ")


def _tenth(match):
    text = f"{float(match[0]):.1f}"
    return "0" if text in ("0.0", "-0.0") else text.removesuffix(".0")


def _pack(pictures):
    """Distinct lines of all pictures, and each picture as runs [first, count, …] into them."""
    table: dict[str, int] = {}
    runs = []
    for picture in pictures:
        run: list[int] = []
        for line in picture:
            i = table.setdefault(line, len(table))
            if run and run[-2] + run[-1] == i:
                run[-1] += 1
            else:
                run += [i, 1]
        runs.append(run)
    return list(table), runs


_EXPLORE_STYLE = """
#NAME{max-width:46rem;margin:.5em 0 1em;font:inherit;color:inherit}
#NAME img{display:block;width:100%;height:auto;background:#fff;border-radius:6px}
#NAME .dl-controls{margin-top:.5em;padding:.25em .9em;border-radius:8px;
background:rgba(127,127,127,.1)}
#NAME .dl-slider{display:grid;grid-template-columns:10em 1fr 4em;column-gap:.9em;align-items:center}
#NAME label{font-weight:600}
#NAME input{width:100%;min-width:0;height:44px;margin:0;accent-color:#2b8cc4;cursor:pointer;
touch-action:pan-y}
#NAME input:focus-visible{outline:2px solid #2b8cc4;outline-offset:-4px;border-radius:8px}
#NAME output{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
#NAME .dl-says{margin:.5em .2em 0;font-size:.95em;line-height:1.45;min-height:2.9em}
@media (max-width:34rem){#NAME .dl-slider{grid-template:"l o" "i i"/1fr auto;padding-top:.4em}
#NAME label{grid-area:l}#NAME output{grid-area:o}#NAME input{grid-area:i}}
@media print{#NAME .dl-controls{display:none}}
"""

_EXPLORE_SCRIPT = """
(function(){
var me=document.currentScript,root=me&&me.closest('.dl-explore')||document.getElementById('NAME');
var d=JSON.parse(root.querySelector('.dl-states').textContent);
var img=root.querySelector('img'),says=root.querySelector('.dl-says');
var sliders=[].slice.call(root.querySelectorAll('input')),outs=root.querySelectorAll('output');
function show(){
var at=0,svg=[],k,runs;
sliders.forEach(function(s,i){var v=d.values[i][+s.value];at=at*d.values[i].length+ +s.value;
outs[i].textContent=v;s.setAttribute('aria-valuetext',v);});
runs=d.runs[at];
for(k=0;k<runs.length;k+=2)svg.push.apply(svg,d.lines.slice(runs[k],runs[k]+runs[k+1]));
img.src='data:image/svg+xml,'+encodeURIComponent(svg.join('\\n'));
img.alt=says.textContent=d.says[at];
}
sliders.forEach(function(s){s.disabled=false;s.addEventListener('input',show);});
})();
"""


def _explore_html(name, values, labels, first, pictures, captions, at):
    lines, runs = _pack([pictures[at], *pictures])
    texts = [[_label(v) for v in choices] for choices in values.values()]
    data = {"values": texts, "runs": runs[1:], "lines": lines, "says": captions}
    packed = (
        json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        .replace("</", "<\\/")
        .replace("<!", "<\\u0021")
    )
    picture = "\n".join(pictures[at]).replace("%", "%25").replace('"', "'")
    for sign in "#<>\n":
        picture = picture.replace(sign, f"%{ord(sign):02X}")
    controls = ""
    for (key, choices), words in zip(values.items(), texts, strict=True):
        id, label = f"{name}-{key}", labels.get(key, key.replace("_", " "))
        value, word = first[key], escape(words[first[key]])
        controls += (
            f'<div class="dl-slider"><label for="{id}">{escape(label)}</label>'
            f'<input type="range" id="{id}" min="0" max="{len(choices) - 1}" step="1" '
            f'value="{value}" aria-valuetext="{word}" autocomplete="off">'
            f'<output for="{id}">{word}</output></div>'
        )
    return (
        f'<div class="dl-explore" id="{name}" role="group" aria-label="Interactive figure">'
        f"<style>{_EXPLORE_STYLE.replace('NAME', name)}</style>"
        f'<img class="dl-figure" alt="{escape(captions[at])}" src="data:image/svg+xml,{picture}">'
        f'<div class="dl-controls">{controls}</div>'
        f'<p class="dl-says" aria-live="polite">{escape(captions[at])}</p>'
        f'<script type="application/json" class="dl-states">{packed}</script>'
        f"<script>{_EXPLORE_SCRIPT.replace('NAME', name)}</script></div>"
    )


# --- sliders with a kernel --------------------------------------------------------------------


def live(
    figure_function: Callable,
    *,
    alt: str,
    start: dict | None = None,
    labels: dict | None = None,
    **ranges,
):
    """Redraw a figure for any value of its sliders, where a kernel runs.

    Args:
        figure_function: called with one value for each slider; returns a figure (or draws on the
            current one).
        alt: what the picture shows.
        start: the slider positions to begin with; the default is the middle.
        labels: what each slider is called, where its argument's name does not say it.
        **ranges: (lowest, highest) for each slider. It is logarithmic where both are positive and
            more than a factor of ten apart.

    Returns:
        A widget, to be the last line of a cell.

    Raises:
        ImportError: ipywidgets is not installed.
        TypeError: no slider, or no text that says what is shown.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise ImportError(
            "live sliders need ipywidgets: pip install ipywidgets, then restart the kernel; "
            "dl.plot.explore works without it"
        ) from error
    if not isinstance(alt, str) or not alt.strip():
        raise TypeError(f"live: alt must be a text that says what is shown, not {brief(alt)}")
    if not ranges:
        raise TypeError("live has no slider; pass a range by name, such as lr=(0.01, 1)")
    labels, start = _keyed("labels", labels, ranges), _keyed("start", start, ranges)
    sliders = {k: _slider(widgets, k, r, start.get(k), labels.get(k)) for k, r in ranges.items()}
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", width="640px"))
    message = widgets.HTML()

    def redraw(change=None):
        chosen = {k: s.value for k, s in sliders.items()}
        try:
            picture.value = _png(figure_function, chosen)
        except Exception as error:
            if change is None:
                raise
            message.value = f"<b>{escape(type(error).__name__)}</b>: {escape(str(error))}"
        else:
            message.value = escape(alt)

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    shown = ", ".join(
        f"{k} from {_label(low)} to {_label(high)}" for k, (low, high) in ranges.items()
    )

    class Live(widgets.VBox):
        def __repr__(self):
            return f"live figure: {shown} (move the sliders in a running notebook)"

    return Live([picture, *sliders.values(), message])


def _slider(widgets, key, limits, value, label):
    low, high = _limits(key, limits)
    log = low > 0 and high / low > 10
    value = (math.sqrt(low * high) if log else (low + high) / 2) if value is None else float(value)
    if not low <= value <= high:
        raise ValueError(f"start: {key}={value:g} is outside its range {low:g} to {high:g}")
    common = {
        "value": value,
        "description": label or key.replace("_", " "),
        "readout_format": ".3g",
        "style": {"description_width": "8em"},
        "layout": widgets.Layout(width="95%", max_width="640px", height="44px"),
    }
    if log:
        return widgets.FloatLogSlider(
            min=math.log10(low), max=math.log10(high), step=0.01, **common
        )
    return widgets.FloatSlider(min=low, max=high, step=(high - low) / 200, **common)


def _png(figure_function, chosen):
    figure, opened = _draw(figure_function, chosen)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=200, metadata={"Software": None}, facecolor="white")
    for each in [figure, *opened]:
        plt.close(each)
    return data.getvalue()


def _limits(name, limits):
    try:
        low, high = (float(v) for v in limits)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (lowest, highest), not {brief(limits)}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"{name} is ({low:g}, {high:g}); give two finite numbers, the smaller one first"
        )
    return low, high
