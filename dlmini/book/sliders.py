"""Figures with sliders whose states are computed beforehand: `explore`."""

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

__all__ = ["Explore", "explore"]

LIMIT = 150_000  #: bytes of one interactive figure, gzipped


class Shown:
    """A figure as self-contained HTML, which a notebook shows beside its `repr`.

    Args:
        name: identifier on the page.
        html: the figure.
    """

    def __init__(self, name, html):
        self.name, self.html = name, html

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
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.name)}</title>\n{self.html}\n"
        )
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)


class Explore(Shown):
    """A figure with sliders, of which every state was computed beforehand.

    Args:
        name: identifier on the page.
        html: the figure.
        states: how many there are.
    """

    def __init__(self, name, html, states):
        super().__init__(name, html)
        self.states = states

    def __repr__(self):
        return f"figure with sliders {self.name!r}: {self.states} states"


def explore(
    figure_function: Callable,
    *,
    name: str,
    alt: str | Callable,
    says: str | Callable | None = None,
    start: dict | None = None,
    labels: dict | None = None,
    free_axes: bool = False,
    **values,
) -> Explore:
    """Precompute a figure for every combination of values and move between them with sliders.

    For what takes a network; a few lines of arithmetic run in the page itself with `play`. The call
    is the last line of a cell. The figure needs no kernel and no library: it works on the website,
    from a file, in JupyterLab and in Colab.

    Args:
        figure_function: called with one value for each slider; returns a figure (or draws on the
            current one). The axes keep the limits that they have in the first state.
        name: identifier on the page, such as "gd-valley".
        alt: what the picture shows, for those who do not see it: a text with {slider} fields, or a
            function of the values.
        says: words under the sliders, made as `alt` is; none by default, for the figure asks and
            does not answer.
        start: the slider positions to begin with; the default is the middle of each list.
        labels: what each slider is called, where its argument's name does not say it.
        free_axes: let limits differ from state to state.
        **values: one list of values for each slider.

    Returns:
        `Explore`, which a notebook shows.

    Raises:
        ValueError: among others when limits move, or the result is larger than 150 kB gzipped.
    """
    _check_explore(name, alt, values)
    labels = _keyed("labels", labels, values)
    start = _keyed("start", start, values)
    sizes = {k: len(v) for k, v in values.items()}
    first = {k: _position(k, values[k], start.get(k)) for k in values}
    pictures, alts, words = [], [], []
    frames: list[tuple] = []
    for state in itertools.product(*values.values()):
        chosen = dict(zip(values, state, strict=True))
        pictures.append(_svg(figure_function, chosen, frames))
        if not free_axes:
            _check_frame(name, chosen, frames[0], frames[-1])
        alts.append(_words("alt", alt, chosen))
        if says is not None:
            words.append(_words("says", says, chosen))
    at = int(np.ravel_multi_index(tuple(first.values()), tuple(sizes.values())))
    html = _explore_html(name, values, labels, first, pictures, alts, words, at)
    packed = len(gzip.compress(html.encode(), mtime=0))
    if packed > LIMIT:
        raise ValueError(
            f"explore {name!r}: {len(pictures)} states take {packed / 1000:.0f} kB gzipped, the "
            "limit is "
            f"{LIMIT / 1000:.0f}; use fewer values, fewer points in each line, or fewer contour "
            "levels"
        )
    return Explore(name, html, len(pictures))


def _check_name(what, name):
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(
            f"{what}: name is {name!r}; use lower-case letters, digits and hyphens, such as "
            "'gd-valley'"
        )


def _check_explore(name, alt, values):
    _check_name("explore", name)
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


def _words(what, given, chosen):
    if callable(given):
        text = given(**chosen)
    else:
        try:
            text = given.format(**{k: _label(v) for k, v in chosen.items()})
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{what} has a field {error} that is no slider; there are {', '.join(chosen)}"
            ) from None
    if not isinstance(text, str) or not text.strip():
        raise TypeError(
            f"{what} gave {brief(text)} for {chosen}; "
            "it must give a text that says what the picture shows"
        )
    return text


def _check_frame(name, chosen, first, frame):
    """Nothing jumps: a reader compares heights while the slider moves."""
    if len(frame) != len(first):
        raise ValueError(
            f"explore {name!r}: the figure has {len(first)} axes in its first state and "
            f"{len(frame)} for {chosen}; draw the same axes in every state, or pass free_axes=True"
        )
    for i, (before, now) in enumerate(zip(first, frame, strict=True)):
        for side in ("xlim", "ylim"):
            if not np.allclose(before[side], now[side], rtol=1e-6, atol=0):
                then, here = (f"({a:.4g}, {b:.4g})" for a, b in (before[side], now[side]))
                raise ValueError(
                    f"explore {name!r}: {side} of axes {i}{now['title']} is {then} in the first "
                    f"state and {here} for {chosen}; fix it with ax.set({side}=…), so that nothing "
                    "jumps while the slider moves, or pass free_axes=True"
                )


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


def _svg(figure_function, chosen, frames):
    """One state as compact SVG elements, one to a line, the same text for the same drawing.

    Axes stay where the first state has them (`frames`): nothing jumps, and layout is done once.
    """
    figure, opened = _draw(figure_function, chosen)
    if frames and len(frames[0]) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, frame in zip(figure.axes, frames[0], strict=True):
            ax.set_position(frame["place"])
    text = io.StringIO()
    metadata = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    with mpl.rc_context(
        {"svg.hashsalt": "dlmini", "svg.fonttype": "path", "path.simplify_threshold": 0.2}
    ):
        figure.set_facecolor("white")
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)  # savefig would draw twice
    frames.append(tuple(_frame(ax) for ax in figure.axes))
    for each in [figure, *opened]:
        plt.close(each)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"\s+(?=[^<]*>)", " ", svg)  # white space inside tags
    svg = re.sub(r' d="[^"]*"| (?:x|y)="[^"]*"', _shorten, svg)
    return [line.strip() for line in svg.split("\n") if line.strip()]


def _frame(ax):
    title = ax.get_title() or ax.get_title("left") or ax.get_ylabel()
    return {
        "place": ax.get_position(original=True).frozen(),
        "xlim": ax.get_xlim(),
        "ylim": ax.get_ylim(),
        "title": f" ({title})" if title else "",
    }


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


def data_uri(svg: str) -> str:
    """A drawing as the address of a picture, for an attribute in double quotes.

    Args:
        svg: the drawing.
    """
    text = svg.replace("%", "%25").replace('"', "'")
    for sign in "#<>\n":
        text = text.replace(sign, f"%{ord(sign):02X}")
    return f"data:image/svg+xml,{text}"


#: The look of sliders; what a notebook strips of it until it is trusted, the tags carry themselves.
CONTROLS_STYLE = """
#NAME{font-family:var(--sans,system-ui,-apple-system,"Segoe UI",sans-serif);font-size-adjust:none;
color:inherit;text-align:left}
#NAME .dl-controls{font-size:.94em}
#NAME .dl-slider{display:grid;grid-template:"l i o"/11.5em 1fr 4em;column-gap:.9em;
align-items:center}
#NAME label{grid-area:l}#NAME output{grid-area:o}#NAME input{grid-area:i}
#NAME .dl-slider sub{font-size:.75em;line-height:0}
#NAME input{accent-color:#2b8cc4;cursor:pointer;touch-action:pan-y}
#NAME :is(input,button):focus-visible{outline:2px solid #2b8cc4;outline-offset:-4px;
border-radius:8px}
#NAME output{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
@media (max-width:34rem){#NAME .dl-slider{grid-template:"l o" "i i"/1fr auto;padding-top:.4em}}
@media print{#NAME .dl-controls{display:none}}
"""


def slider_html(id, label, word, low, high, value, *, step, disabled=False) -> str:
    """A labelled slider that says its value.

    Args:
        id: on the page.
        label: HTML.
        word: what it says.
        low, high, value, step: of the input.
        disabled: until a script wakes it.
    """
    return (
        f'<div class="dl-slider"><label for="{id}" style="font-weight:600">{label}</label> '
        f'<output for="{id}">{escape(word)}</output> '
        f'<input type="range" id="{id}" min="{low}" max="{high}" step="{step}" value="{value}" '
        f'aria-valuetext="{escape(word)}" autocomplete="off" data-lm-suppress-shortcuts="true"'
        f'{" disabled" * disabled} style="width:100%;min-width:0;height:44px;margin:0"></div>'
    )


#: The look of the box around sliders.
CONTROLS = "margin-top:.5em;padding:.25em .9em;border-radius:8px;background:rgba(127,127,127,.1)"
_EXPLORE_STYLE = (
    CONTROLS_STYLE
    + """
#NAME img{display:block;border-radius:6px}
#NAME .dl-says{margin:.5em .2em 0;font-size:.95em;line-height:1.45;min-height:2.9em}
"""
)

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
img.alt=d.alts[at];
if(says)says.textContent=d.says[at];
}
sliders.forEach(function(s){s.disabled=false;s.oninput=show;});
})();
"""


def _explore_html(name, values, labels, first, pictures, alts, says, at):
    lines, runs = _pack([pictures[at], *pictures])
    texts = [[_label(v) for v in choices] for choices in values.values()]
    data = {"values": texts, "runs": runs[1:], "lines": lines, "says": says, "alts": alts}
    packed = (
        json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        .replace("</", "<\\/")
        .replace("<!", "<\\u0021")
    )
    picture = data_uri("\n".join(pictures[at]))
    controls = "".join(
        slider_html(
            f"{name}-{key}",
            escape(labels.get(key, key.replace("_", " "))),
            words[first[key]],
            *(0, len(words) - 1, first[key]),
            step=1,
        )
        for key, words in zip(values, texts, strict=True)
    )
    spoken = f'<p class="dl-says" aria-live="polite">{escape(says[at])}</p>' if says else ""
    return (
        f'<div class="dl-explore" id="{name}" role="group" aria-label="Interactive figure" '
        'style="max-width:46rem;margin:.5em 0 1em">'
        f"<style>{_EXPLORE_STYLE.replace('NAME', name)}</style>"
        f'<img class="dl-figure" alt="{escape(alts[at])}" src="{picture}" '
        'style="width:100%;height:auto;background:#fff">'
        f'<div class="dl-controls" style="{CONTROLS}">{controls}</div>{spoken}'
        f'<script type="application/json" class="dl-states">{packed}</script>'
        f"<script>{_EXPLORE_SCRIPT.replace('NAME', name)}</script></div>"
    )


# --- input ------------------------------------------------------------------------------------


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
