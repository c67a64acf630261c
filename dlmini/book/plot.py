"""The figure style, and the pictures that recur in the book."""

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

from .play import Play, play
from .report import brief, plain
from .sliders import Explore, _limits, explore

__all__ = [
    "COLORS",
    "Explore",
    "Play",
    "band",
    "contours",
    "explore",
    "history",
    "label_lines",
    "path",
    "play",
    "reference_slope",
    "style",
]

_BLUE, _RED, _INK, _GREY = "#0072b2", "#d55e00", "#222222", "#767676"
#: One meaning, one colour, throughout the book. Blue and vermilion are Okabe and Ito's; the others
#: are placed so that red- and green-blind readers tell optimizers apart, at 3:1 on white or more.
COLORS = {
    "theory": _INK,
    "measurement": _BLUE,
    "reference": _GREY,
    "gd": _BLUE,
    "sgd": "#6f95ca",
    "momentum": _RED,
    "nesterov": "#914f00",
    "adagrad": "#523d00",
    "rmsprop": "#2ea872",
    "adam": "#6d0754",
    "adamw": "#7c4461",
    "muon": "#4b2bd9",
    "train": _BLUE,
    "test": _RED,
    "with": _BLUE,
    "without": _RED,
    "residual": _BLUE,
    "plain": _RED,
}
_LAND = LinearSegmentedColormap.from_list("dlmini.land", ["#fbfcfd", "#dde6ee", "#b3c3d3"])


def style() -> None:
    """Make every figure from here on look like the book's, crisp and reproducible in a notebook."""
    mpl.rcParams.update(
        {
            "figure.figsize": (5.6, 3.4),
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
            "axes.prop_cycle": cycler(color=list(dict.fromkeys(COLORS.values()))[1:]),
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


# --- recurring pictures -----------------------------------------------------------------------


def band(ax, x, runs, label: str | None = None, color: str | None = None, *, spread: str = "range"):
    """Draw several runs as their median and spread; a note in the corner says how many there are.

    Where a run diverged (NaN or infinity), a cross at the top says so; the band covers the others.

    Args:
        ax: the axes.
        x: (m,).
        runs: (n, m), one row for each seed.
        label: the line's label, for `label_lines` or a legend.
        color: a role in `COLORS`, or a colour.
        spread: "range" (smallest to largest) or "quartiles".

    Returns:
        The median's line.

    Raises:
        ValueError: shapes that do not fit, or another spread.
    """
    x, runs = _real("x", x), _real("runs", runs)
    if x.ndim != 1 or runs.ndim != 2 or runs.shape[1] != x.size or not runs.size:
        raise ValueError(
            f"band: x has shape {x.shape} and runs {runs.shape}; "
            "give x of shape (m,) and runs of shape (n, m), "
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
            x[lost],
            np.full(lost.sum(), 0.98),
            "x",
            transform=ax.get_xaxis_transform(),
            color=line.get_color(),
            clip_on=False,
            markeredgewidth=1.8,
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
    spreads, n = " or ".join(dict.fromkeys(seen["spread"])), f"{low}–{high}" if low < high else low
    words = f"median and {spreads} of n = {n}"
    ax.set_title(
        words + (", × diverged" if seen["lost"] else ""), loc="right", fontsize=10, color=_GREY
    )


def history(ax, record, name: str = "loss"):
    """Draw one curve of a training run against the number of steps done.

    Args:
        ax: the axes.
        record: what `train.fit` returned.
        name: "loss", "lr" or the name of a metric.

    Returns:
        The line.

    Raises:
        ValueError: the run has no values of that name.
    """
    curves = {"loss": record.loss, "lr": record.lr, **record.metrics}
    if not curves.get(name):
        there = ", ".join(repr(n) for n, values in curves.items() if values) or "nothing"
        raise ValueError(f"history: this run has no values of {name!r}; it has {there}")
    measured = name in record.metrics
    steps = record.metric_steps if measured else range(len(curves[name]))
    color, mark = (COLORS["test"], "o-") if measured else (COLORS["train"], "-")
    (line,) = ax.plot(steps, curves[name], mark, color=color, linewidth=1.2, label=name)
    words = {"loss": "mini-batch loss", "lr": "learning rate η"}
    ax.set(xlabel="steps done", ylabel=words.get(name, name))
    return line


def label_lines(ax, *, pad: float = 6) -> None:
    """Write each labelled line's name at its right end, clear of the others: no legend needed.

    Args:
        ax: the axes.
        pad: points between a line's end and its name.

    Raises:
        ValueError: no line has a label.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    if not lines:
        raise ValueError("label_lines: no line on these axes has a label; pass label= when drawing")
    ax.figure.draw_without_rendering()  # so that the layout is known
    points = 72 / ax.figure.dpi
    box, ends = ax.bbox, []
    for line in lines:
        xy = np.column_stack([np.asarray(v, dtype=float) for v in line.get_data(orig=False)])
        pixels = line.get_transform().transform(xy)
        inside = (np.abs(pixels - (box.p0 + box.p1) / 2) <= box.size / 2 + 1).all(axis=1)
        if inside.any():
            last = np.flatnonzero(inside)[-1]
            ends.append((pixels[last, 1] * points, xy[last], line))
    ends.sort(key=lambda end: end[0])
    heights = _spread_out([end[0] for end in ends], 1.25 * mpl.rcParams["font.size"])
    for (height, xy, line), target in zip(ends, heights, strict=True):
        ax.annotate(
            line.get_label(),
            xy,
            xycoords=line.get_transform(),
            xytext=(pad, target - height),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
        )


def _spread_out(heights, gap):
    """Move sorted heights `gap` apart, as little as possible (pool adjacent violators)."""
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
        ax: the axes.
        f: f(X, Y) on arrays of shape (n, n), or an array of losses, rows along y.
        xlim: (left, right).
        ylim: (bottom, top).
        levels: number of levels.
        log: space the levels evenly in the logarithm of the loss (which must be positive).
        n: grid points along each axis, where f is a function.

    Returns:
        The contour set (for a colour bar).

    Raises:
        ValueError: f is no grid, constant, nowhere finite, or negative where `log` is set.
    """
    (x0, x1), (y0, y1) = _limits("xlim", xlim), _limits("ylim", ylim)
    if callable(f):
        z = _real("f", f(*np.meshgrid(np.linspace(x0, x1, n), np.linspace(y0, y1, n))))
        if z.shape != (n, n):
            raise ValueError(
                f"contours: f returned shape {z.shape} for arrays of shape {(n, n)}; "
                "it must work elementwise"
            )
    else:
        z = _real("f", f)
        if z.ndim != 2 or min(z.shape) < 2:
            raise ValueError(
                f"contours: f has shape {z.shape}; give a function or a two-dimensional grid of "
                "losses"
            )
    z = np.where(np.isfinite(z), z, np.nan)
    if np.unique(z[np.isfinite(z)]).size < 2:
        raise ValueError("contours: f is constant or nowhere finite here; widen xlim and ylim")
    low, high = np.nanmin(z), np.nanmax(z)
    if log and low < 0:
        raise ValueError(
            f"contours: log=True needs a positive loss, but the smallest is {low:.3g}; "
            "use log=False"
        )
    if log:
        low = max(low, high * 1e-4)
    space, scale = (np.geomspace, LogNorm) if log else (np.linspace, Normalize)
    cuts, norm = space(low, high, levels + 1), scale(low, high)
    x, y = np.linspace(x0, x1, z.shape[1]), np.linspace(y0, y1, z.shape[0])
    shade = ax.contourf(
        x, y, z, levels=cuts, cmap=_LAND, norm=norm, extend="min" if log else "neither"
    )
    ax.contour(x, y, z, levels=cuts[1:-1], colors="white", linewidths=0.7, alpha=0.8)
    ax.set(xlim=(x0, x1), ylim=(y0, y1))
    return shade


def path(ax, xy, label: str | None = None, color: str | None = None, *, marker: str = "."):
    """Draw a descent path over a plane: a ring at the start, a disc at the end, a dot at each step.

    A path that leaves the picture is cut where it is far outside, so that limits stay.

    Args:
        ax: the axes, with limits set (call `contours` first).
        xy: (steps + 1, 2).
        label: the line's label.
        color: a role in `COLORS`, or a colour.
        marker: the mark of each step; "" for a path of many steps.

    Returns:
        The line.

    Raises:
        ValueError: xy has another shape.
    """
    xy = _real("xy", xy)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise ValueError(
            f"path: xy has shape {xy.shape}; give one row (x, y) for each step, shape (steps + 1, "
            "2)"
        )
    limits = np.array([ax.get_xlim(), ax.get_ylim()])
    center, half = limits.mean(axis=1), np.abs(np.diff(limits, axis=1)).ravel() / 2
    far = ~(np.abs(xy - center) <= 20 * half).all(axis=1)
    kept = xy[: np.argmax(far) + 1] if far.any() else xy
    kept = kept[np.isfinite(kept).all(axis=1)]
    kept = center + np.clip(kept - center, -1e3 * half, 1e3 * half)
    ax.plot(
        *kept.T, color="white", linewidth=4, alpha=0.7
    )  # a halo, so that it reads on dark ground
    (line,) = ax.plot(*kept.T, marker=marker, color=_color(color), label=label)
    ax.plot(
        *kept[:1].T,
        "o",
        markersize=9,
        markerfacecolor="white",
        markeredgecolor=line.get_color(),
        markeredgewidth=2,
    )
    if not far.any():
        ax.plot(*kept[-1:].T, "o", markersize=8, color=line.get_color(), markeredgecolor="white")
    ax.set(xlim=limits[0], ylim=limits[1])
    return line


def reference_slope(ax, slope: float, through, label: str | None = None):
    """Draw the power law y ∝ x^slope through a point, across log–log axes, dashed.

    Args:
        ax: axes with both scales logarithmic.
        slope: the exponent.
        through: the point (x, y).
        label: written beside the line; the default names the slope. "" for none.

    Returns:
        The line.

    Raises:
        ValueError: axes that are not logarithmic, or a point that is not positive.
    """
    if ax.get_xscale() != "log" or ax.get_yscale() != "log":
        raise ValueError(
            "reference_slope: a power law is straight on log–log axes; "
            "call ax.loglog or set both scales"
        )
    x, y = _real("through", through)
    if not (x > 0 and y > 0):
        raise ValueError(
            f"reference_slope: through is ({x:.4g}, {y:.4g}); both must be positive on log–log axes"
        )
    limits, heights = np.array(ax.get_xlim()), ax.get_ylim()
    (line,) = ax.plot(
        limits, y * (limits / x) ** slope, "--", color=COLORS["reference"], linewidth=1.3, zorder=1
    )
    ax.set(xlim=limits, ylim=heights)
    text = f"slope {slope:g}".replace("-", "−") if label is None else label
    if text:
        ax.annotate(
            text,
            (x, y),
            xytext=(6, 6),
            textcoords="offset points",
            color=COLORS["reference"],
            fontsize=11,
        )
    return line


# --- input ------------------------------------------------------------------------------------


def _color(color):
    return COLORS.get(color, color)


def _real(name, value):
    try:
        array = np.asarray(plain(value))
        if array.dtype.kind in "biuf":
            return array.astype(float)
    except ValueError:
        pass
    raise TypeError(f"{name} must be a regular array of real numbers, not {brief(value)}")
