"""The figure style, the recurring pictures, and figures with sliders that work on a static page."""

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
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

from .claims import _brief, _plain

__all__ = [
    "COLORS",
    "Explore",
    "band",
    "contours",
    "explore",
    "label_lines",
    "live",
    "path",
    "reference_slope",
    "style",
]

# One meaning, one colour, throughout the book. Okabe and Ito's hues, the light ones darkened to a
# contrast of 3:1 on white (WCAG 1.4.11).
_BLUE, _SKY, _GREEN, _ORANGE, _RED = "#0072b2", "#3a93c8", "#00835f", "#bd7a00", "#d55e00"
_PINK, _WINE, _OLIVE, _INK, _GREY = "#c05a94", "#882255", "#7a7a00", "#222222", "#767676"
COLORS = {
    "theory": _INK,
    "measurement": _BLUE,
    "reference": _GREY,
    "gd": _BLUE,
    "sgd": _SKY,
    "momentum": _RED,
    "nesterov": _ORANGE,
    "adagrad": _OLIVE,
    "rmsprop": _GREEN,
    "adam": _PINK,
    "adamw": _WINE,
    "muon": _INK,
    "train": _BLUE,
    "test": _RED,
    "with": _BLUE,
    "without": _RED,
    "residual": _BLUE,
    "plain": _RED,
}
_LAND = LinearSegmentedColormap.from_list("dlmini.land", ["#fbfcfd", "#dde6ee", "#b3c3d3"])


def style() -> None:
    """Make every figure from here on look like the book's; in a notebook, crisp and reproducible."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.family": "DejaVu Sans",
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#555555",
            "axes.labelcolor": _INK,
            "text.color": _INK,
            "xtick.color": "#555555",
            "ytick.color": "#555555",
            "xtick.labelcolor": _INK,
            "ytick.labelcolor": _INK,
            "axes.axisbelow": True,
            "axes.prop_cycle": mpl.cycler(color=[_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY, _WINE, _INK]),
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "lines.solid_capstyle": "round",
            "mathtext.fontset": "dejavusans",
            "svg.hashsalt": "dlmini",
            "svg.fonttype": "path",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("retina", metadata={"Software": None}, facecolor="white")


# --- recurring pictures ----------------------------------------------------------------------------


def band(ax, x, runs, label: str | None = None, color: str | None = None, *, spread: str = "range"):
    """Draw several runs as their median and spread; a note in the corner says how many there are.

    Where a run diverged (NaN or infinity) a cross is drawn at the top, and the band covers the others.

    Args:
        ax: The axes.
        x: Shape (m,).
        runs: Shape (n, m), one row for each seed.
        label: The line's label, for `label_lines` or a legend.
        color: A role in `COLORS`, or a colour.
        spread: "range" (smallest to largest) or "quartiles".

    Returns:
        The median's line.
    """
    x, runs = _real("x", x), _real("runs", runs)
    if x.ndim != 1 or runs.ndim != 2 or runs.shape[1] != x.size or not runs.size:
        raise ValueError(
            f"band: x has shape {x.shape} and runs {runs.shape}; give x of shape (m,) and runs of shape (n, m), "
            "one row for each seed"
        )
    if spread not in ("range", "quartiles"):
        raise ValueError(f"band: spread is {spread!r}; choose 'range' or 'quartiles'")
    finite = np.isfinite(runs)
    ranked = np.where(finite, runs, np.inf)
    with np.errstate(invalid="ignore"):
        middle = np.median(ranked, axis=0)
    middle = np.where(np.isfinite(middle), middle, np.nan)
    some = finite.any(axis=0)
    ends = (0, 1) if spread == "range" else (0.25, 0.75)
    low, high = np.full(x.size, np.nan), np.full(x.size, np.nan)
    for j in np.flatnonzero(some):
        low[j], high[j] = np.quantile(runs[finite[:, j], j], ends)
    (line,) = ax.plot(x, middle, color=_color(color), label=label)
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    lost = ~finite.all(axis=0)
    if lost.any():
        ax.plot(
            x[lost], np.full(lost.sum(), 0.98), "x", transform=ax.get_xaxis_transform(),
            color=line.get_color(), clip_on=False, markeredgewidth=1.8,
        )
    _note(ax, len(runs), spread, lost.any())
    return line


def _note(ax, n, spread, lost):
    """Say in small print what line, band and crosses are, once for all bands of the axes."""
    seen = ax.__dict__.setdefault("_dlmini_bands", {"n": [], "spread": [], "lost": False})
    seen["n"].append(n)
    seen["spread"].append(spread)
    seen["lost"] |= bool(lost)
    low, high = min(seen["n"]), max(seen["n"])
    words = f"median and {' or '.join(dict.fromkeys(seen['spread']))} of n = {low if low == high else f'{low}–{high}'}"
    ax.set_title(words + (", × diverged" if seen["lost"] else ""), loc="right", fontsize=10, color=_GREY)


def label_lines(ax, *, pad: float = 6) -> None:
    """Write each labelled line's name at its right end, apart from its neighbours, instead of a legend."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    if not lines:
        raise ValueError("label_lines: no line on these axes has a label; pass label= when drawing")
    ax.figure.canvas.draw()
    height = mpl.rcParams["font.size"] * 1.25 * ax.figure.dpi / 72
    ends = []
    for line in lines:
        xy = np.column_stack([np.asarray(v, dtype=float) for v in line.get_data(orig=False)])
        pixels = line.get_transform().transform(xy)
        box = ax.bbox
        inside = np.isfinite(pixels).all(axis=1) & (pixels[:, 1] > box.y0 - 1) & (pixels[:, 1] < box.y1 + 1)
        inside &= (pixels[:, 0] > box.x0 - 1) & (pixels[:, 0] < box.x1 + 1)
        if inside.any():
            ends.append([*pixels[np.flatnonzero(inside)[-1]], line])
    ends.sort(key=lambda end: end[1])
    heights = _spread_out([end[1] for end in ends], height)
    for (x, y, line), target in zip(ends, heights):
        scale = 72 / ax.figure.dpi
        ax.annotate(
            line.get_label(), (x, y), xycoords="figure pixels", xytext=(pad, (target - y) * scale),
            textcoords="offset points", color=line.get_color(), va="center", annotation_clip=False,
        )


def _spread_out(heights, gap):
    """Move sorted heights apart to at least `gap`, as little as possible (pool adjacent violators)."""
    blocks = []
    for i, h in enumerate(heights):
        blocks.append([h - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2], blocks.pop()
            blocks[-1] = [(a * m + b * n) / (m + n), m + n]
    flat = [base for base, count in blocks for _ in range(count)]
    return [base + i * gap for i, base in enumerate(flat)]


def contours(ax, f, xlim, ylim, *, levels: int = 12, log: bool = False, n: int = 120):
    """Draw a loss over a plane as shaded contours, light in the valley.

    Args:
        ax: The axes.
        f: f(X, Y) on arrays of shape (n, n), or an array of losses, rows along y.
        xlim: (left, right).
        ylim: (bottom, top).
        levels: Number of levels.
        log: Space the levels evenly in the logarithm of the loss (which must be positive).
        n: Grid points along each axis, where f is a function.

    Returns:
        The contour set (for a colour bar).
    """
    (x0, x1), (y0, y1) = _limits("xlim", xlim), _limits("ylim", ylim)
    if callable(f):
        z = _real("f", f(*np.meshgrid(np.linspace(x0, x1, n), np.linspace(y0, y1, n))))
        if z.shape != (n, n):
            raise ValueError(f"contours: f returned shape {z.shape} for arrays of shape {(n, n)}; it must work elementwise")
    else:
        z = _real("f", f)
        if z.ndim != 2 or min(z.shape) < 2:
            raise ValueError(f"contours: f has shape {z.shape}; give a function or a two-dimensional grid of losses")
    z = np.where(np.isfinite(z), z, np.nan)
    low, high = np.nanmin(z), np.nanmax(z)
    if log and low < 0:
        raise ValueError(f"contours: log=True needs a positive loss, but the smallest is {low:.3g}; use log=False")
    if log:
        low = max(low, high * 1e-4)
        cuts, norm = np.geomspace(low, high, levels + 1), LogNorm(low, high)
    else:
        cuts, norm = np.linspace(low, high, levels + 1), Normalize(low, high)
    x, y = np.linspace(x0, x1, z.shape[1]), np.linspace(y0, y1, z.shape[0])
    shade = ax.contourf(x, y, z, levels=cuts, cmap=_LAND, norm=norm, extend="min" if log else "neither")
    ax.contour(x, y, z, levels=cuts[1:-1], colors="white", linewidths=0.7, alpha=0.8)
    ax.set(xlim=(x0, x1), ylim=(y0, y1))
    return shade


def path(ax, xy, label: str | None = None, color: str | None = None, *, marker: str = "."):
    """Draw a descent path over a plane: a ring where it starts, a disc where it ends, a dot at each step.

    A path that leaves the picture is cut where it is far outside, so that limits stay.

    Args:
        ax: The axes, with limits set (call `contours` first).
        xy: Shape (steps + 1, 2).
        label: The line's label.
        color: A role in `COLORS`, or a colour.
        marker: The mark of each step; "" for a path of many steps.

    Returns:
        The line.
    """
    xy = _real("xy", xy)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise ValueError(f"path: xy has shape {xy.shape}; give one row (x, y) for each step, shape (steps + 1, 2)")
    limits = np.array([ax.get_xlim(), ax.get_ylim()])
    center, half = limits.mean(axis=1), np.abs(np.diff(limits, axis=1)).ravel() / 2
    far = ~(np.abs(xy - center) <= 20 * half).all(axis=1)
    kept = xy[: np.argmax(far) + 1] if far.any() else xy
    kept = kept[np.isfinite(kept).all(axis=1)]
    kept = center + np.clip(kept - center, -1e3 * half, 1e3 * half)
    ax.plot(*kept.T, color="white", linewidth=4, alpha=0.7)  # a halo, so that it reads on dark ground
    (line,) = ax.plot(*kept.T, marker=marker, color=_color(color), label=label)
    ax.plot(*kept[:1].T, "o", markersize=9, markerfacecolor="white", markeredgecolor=line.get_color(), markeredgewidth=2)
    if not far.any():
        ax.plot(*kept[-1:].T, "o", markersize=8, color=line.get_color(), markeredgecolor="white")
    ax.set(xlim=limits[0], ylim=limits[1])
    return line


def reference_slope(ax, slope: float, through, label: str | None = None):
    """Draw the power law y ∝ x^slope through a point, across log–log axes, dashed.

    Args:
        ax: Axes with both scales logarithmic.
        slope: The exponent.
        through: The point (x, y).
        label: Written beside the line; the default names the slope. "" for none.

    Returns:
        The line.
    """
    if ax.get_xscale() != "log" or ax.get_yscale() != "log":
        raise ValueError("reference_slope: a power law is straight on log–log axes; call ax.loglog or set both scales")
    x, y = _real("through", through)
    if not (x > 0 and y > 0):
        raise ValueError(f"reference_slope: through is ({x:.4g}, {y:.4g}); both must be positive on log–log axes")
    limits, heights = np.array(ax.get_xlim()), ax.get_ylim()
    (line,) = ax.plot(limits, y * (limits / x) ** slope, "--", color=COLORS["reference"], linewidth=1.3, zorder=1)
    ax.set(xlim=limits, ylim=heights)
    text = f"slope {slope:g}".replace("-", "−") if label is None else label
    if text:
        ax.annotate(text, (x, y), xytext=(6, 6), textcoords="offset points", color=COLORS["reference"], fontsize=11)
    return line


# --- sliders without a kernel ----------------------------------------------------------------------

LIMIT = 150_000  # bytes of one interactive figure, gzipped


class Explore:
    """A figure with sliders as self-contained HTML: `html`, and `save(path)` as a page of its own."""

    def __init__(self, name, html, states):
        self.name, self.html, self.states = name, html, states

    def __repr__(self):
        return f"figure with sliders {self.name!r}: {self.states} states"

    def _repr_mimebundle_(self, **kwargs):
        return {"text/plain": repr(self), "text/html": self.html}

    def save(self, path) -> None:
        """Write the figure as a page that opens in any browser."""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{escape(self.name)}</title>\n{self.html}\n'
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

    The result is the last line of a cell. It needs no kernel and no library: it works on the website, from a
    file, in JupyterLab and in Colab.

    Args:
        figure_function: Called with one value for each slider; returns a figure (or draws on the current one).
            Keep figure size and axis limits fixed, so that pictures do not jump.
        name: Identifier on the page, such as "gd-valley".
        alt: What the picture shows, as text with {slider} fields or a function of the sliders' values.
        start: The slider positions to begin with; the default is the middle of each list.
        labels: What each slider is called, where its argument's name does not say it.
        **values: One list of values for each slider.

    Returns:
        Explore, which a notebook shows.

    Raises:
        ValueError: Among others when the result is larger than 150 kB gzipped.
    """
    _check_explore(name, alt, values)
    labels = _keyed("labels", labels, values)
    start = _keyed("start", start, values)
    sizes = {k: len(v) for k, v in values.items()}
    first = {k: _position(k, values[k], start.get(k)) for k in values}
    pictures, captions, places = [], [], []
    for state in itertools.product(*values.values()):
        chosen = dict(zip(values, state))
        pictures.append(_svg(figure_function, chosen, places))
        captions.append(_caption(alt, chosen))
    at = int(np.ravel_multi_index(tuple(first.values()), tuple(sizes.values())))
    html = _explore_html(name, values, labels, first, pictures, captions, at)
    packed = len(gzip.compress(html.encode(), mtime=0))
    if packed > LIMIT:
        raise ValueError(
            f"explore {name!r}: {len(pictures)} states take {packed / 1000:.0f} kB gzipped, the limit is "
            f"{LIMIT / 1000:.0f}; use fewer values, fewer points in each line, or fewer contour levels"
        )
    return Explore(name, html, len(pictures))


def _check_explore(name, alt, values):
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"explore: name is {name!r}; use lower-case letters, digits and hyphens, such as 'gd-valley'")
    if not callable(alt) and not (isinstance(alt, str) and alt.strip()):
        raise TypeError(f"explore {name!r}: alt must be a text or a function of the state, not {_brief(alt)}")
    if not values:
        raise TypeError(f"explore {name!r} has no slider; pass a list of values by name, such as lr=[0.1, 0.2]")
    for key, choices in values.items():
        if isinstance(choices, str) or not hasattr(choices, "__len__") or len(choices) < 2:
            raise ValueError(f"explore {name!r}: {key} is {_brief(choices)}; a slider needs a list of two or more values")


def _keyed(what, given, values):
    given = given or {}
    for key in given:
        if key not in values:
            raise ValueError(f"{what} names {key!r}, which is no slider; there are {', '.join(values)}")
    return given


def _position(key, choices, wanted):
    if wanted is None:
        return len(choices) // 2
    for i, value in enumerate(choices):
        if value == wanted:
            return i
    raise ValueError(f"start: {key}={wanted!r} is not among its values {_brief(list(choices))}")


def _caption(alt, chosen):
    if callable(alt):
        text = alt(**chosen)
    else:
        try:
            text = alt.format(**{k: _label(v) for k, v in chosen.items()})
        except (KeyError, IndexError) as error:
            raise ValueError(f"alt has a field {error} that is no slider; there are {', '.join(chosen)}") from None
    if not isinstance(text, str) or not text.strip():
        raise TypeError(f"alt gave {_brief(text)} for {chosen}; it must give a text that says what the picture shows")
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
        raise TypeError(f"figure_function returned {_brief(figure)} for {chosen}; it must return a matplotlib figure")
    return figure, opened


def _svg(figure_function, chosen, places):
    """One state as compact SVG elements, one to a line, the same text for the same drawing.

    Axes stay where the first state has them (`places`): pictures do not jump, and layout is done once.
    """
    figure, opened = _draw(figure_function, chosen)
    if len(places) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, place in zip(figure.axes, places):
            ax.set_position(place)
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "dlmini", "svg.fonttype": "path", "path.simplify_threshold": 0.2}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"]), facecolor="white")
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
    """Distinct lines of all pictures, and each picture as runs [first line, count, …] into them."""
    table, runs = {}, []
    for picture in pictures:
        run = []
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
#NAME .dl-controls{margin-top:.5em;padding:.25em .9em;border-radius:8px;background:rgba(127,127,127,.1)}
#NAME .dl-slider{display:grid;grid-template-columns:10em 1fr 4em;column-gap:.9em;align-items:center}
#NAME label{font-weight:600}
#NAME input{width:100%;min-width:0;height:44px;margin:0;accent-color:#2b8cc4;cursor:pointer;touch-action:pan-y}
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
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/").replace("<!", "<\\u0021")
    picture = "\n".join(pictures[at]).replace("%", "%25").replace('"', "'")
    for sign in "#<>\n":
        picture = picture.replace(sign, f"%{ord(sign):02X}")
    controls = "".join(
        f'<div class="dl-slider"><label for="{name}-{key}">{escape(labels.get(key, key.replace("_", " ")))}</label>'
        f'<input type="range" id="{name}-{key}" min="0" max="{len(choices) - 1}" step="1" value="{first[key]}" '
        f'aria-valuetext="{escape(texts[i][first[key]])}" autocomplete="off">'
        f'<output for="{name}-{key}">{escape(texts[i][first[key]])}</output></div>'
        for i, (key, choices) in enumerate(values.items())
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


# --- sliders with a kernel -------------------------------------------------------------------------


def live(figure_function: Callable, *, alt: str, start: dict | None = None, labels: dict | None = None, **ranges):
    """Redraw a figure for any value of its sliders, where a kernel runs.

    Args:
        figure_function: Called with one value for each slider; returns a figure (or draws on the current one).
        alt: What the picture shows.
        start: The slider positions to begin with; the default is the middle.
        labels: What each slider is called, where its argument's name does not say it.
        **ranges: (lowest, highest) for each slider. It is logarithmic where both are positive and more than a
            factor of ten apart.

    Returns:
        A widget, to be the last line of a cell.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise ImportError(
            "live sliders need ipywidgets: pip install ipywidgets, then restart the kernel; "
            "dl.plot.explore works without it"
        ) from error
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
    shown = ", ".join(f"{k} from {_label(low)} to {_label(high)}" for k, (low, high) in ranges.items())

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
    common = dict(
        value=value, description=label or key.replace("_", " "), readout_format=".3g",
        style={"description_width": "8em"}, layout=widgets.Layout(width="95%", max_width="640px", height="44px"),
    )
    if log:
        return widgets.FloatLogSlider(min=math.log10(low), max=math.log10(high), step=0.01, **common)
    return widgets.FloatSlider(min=low, max=high, step=(high - low) / 200, **common)


def _png(figure_function, chosen):
    figure, opened = _draw(figure_function, chosen)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=200, metadata={"Software": None}, facecolor="white")
    for each in [figure, *opened]:
        plt.close(each)
    return data.getvalue()


# --- input -----------------------------------------------------------------------------------------


def _color(color):
    return COLORS.get(color, color)


def _real(name, value):
    try:
        array = np.asarray(_plain(value))
        if array.dtype.kind in "biuf":
            return array.astype(float)
    except ValueError:
        pass
    raise TypeError(f"{name} must be a regular array of real numbers, not {_brief(value)}")


def _limits(name, limits):
    try:
        low, high = (float(v) for v in limits)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (lowest, highest), not {_brief(limits)}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} is ({low:g}, {high:g}); give two finite numbers, the smaller one first")
    return low, high
