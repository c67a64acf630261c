"""Figures that compute: `play` runs a few lines of arithmetic in the reader's browser."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np
from matplotlib.ticker import MaxNLocator

from .report import _SUPERSCRIPT, brief, num
from .sliders import (
    CONTROLS,
    CONTROLS_STYLE,
    Shown,
    _check_name,
    _limits,
    data_uri,
    slider_html,
)

__all__ = ["Play", "play"]

WIDTH = 480  #: of a picture; its letters are then as large as in the book's other figures
TOO_LARGE, TARGET = 1e12, 1e-6  #: a loss, in units of the first: diverged, and arrived


@dataclass(frozen=True)
class Slider:
    """One setting.

    Attributes:
        label: HTML.
        low, high: its range.
        log: whether it moves in powers of ten.
    """

    label: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes, and what is written at them.

    Attributes:
        box: (left, top, width, height) on the picture.
        x, y: limits in data units.
        log: whether y is in powers of ten.
        title: above.
        xlabel: before the last tick.
        inside: (left, top, anchor, text) of each remark.
        legend: (stroke, text) of each line.
    """

    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    title: str = ""
    xlabel: str = ""
    inside: tuple[tuple[float, float, str, str], ...] = ()
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Mark:
    """Something drawn from points.

    Attributes:
        panel: in which panel.
        kind: a line, a path, dots, rings or the handle of the start.
        look: a colour by name.
        run: whether it has the colour of the run instead.
    """

    panel: str
    kind: str
    look: str = ""
    run: bool = True


@dataclass(frozen=True)
class Scene:
    """A figure that computes; the function of its name in play.js is the twin of `compute`.

    Attributes:
        what: it shows, in a few words.
        defaults: of its settings; "steps" is the number of them, "start" a point that is dragged.
        unit: the setting that `lr` is multiplied by, so that a slider moves η·λmax; or "".
        sliders: by setting.
        compute: settings ↦ the role of the run, marks, numbers and what is said of them.
        labels: of what is said.
        panels: settings ↦ the axes.
        marks: what is drawn, lowest first.
        axes: the names of the start's coordinates; the mark "start" shows it, in its panel.
        step: how far an arrow key moves the start.
    """

    what: str
    defaults: dict
    unit: str
    sliders: dict[str, Slider]
    compute: Callable[..., dict]
    labels: dict[str, str]
    panels: Callable[..., dict[str, Panel]]
    marks: dict[str, Mark]
    axes: tuple[str, ...] = ()
    step: float = 0


# --- arithmetic, as in play.js ------------------------------------------------------------------


def _walk(h, start, lr, momentum, steps):
    """`descent.descend` on ½ Σ hᵢ θᵢ², in double precision whatever the backend."""
    theta, h, v = np.array(start, dtype=float), np.array(h, dtype=float), 0.0
    points, parts = [], []
    for _ in range(steps + 1):
        points.append(theta)
        parts.append(h * theta**2 / 2)
        if parts[-1].sum() >= TOO_LARGE * (parts[0].sum() or 1):
            break
        v = momentum * v + h * theta
        theta = theta - lr * v
    return np.array(points), np.array(parts)


def _rate(reach, momentum):
    """The factor by which a direction's error shrinks per step in the long run."""
    b = 1 + momentum - reach
    d = b * b - 4 * momentum
    return math.sqrt(momentum) if d < 0 else (abs(b) + math.sqrt(d)) / 2


def _outcome(loss, rates, steps):
    first, worst = loss[0] or 1, max([0.0, *rates])
    left = float(loss[-1] / first)
    reached = int(np.argmax(loss <= TARGET * first)) if min(loss) <= TARGET * first else None
    end = "diverges" if worst > 1 else "descends"
    return {
        "numbers": {"left": left, "reached": reached},
        "says": {
            "left": num(left, 3) if left < TOO_LARGE else f"over {num(TOO_LARGE, 3)}",
            "reached": f"not in {steps} steps" if reached is None else f"after {reached} steps",
            "end": end if abs(worst - 1) > 1e-9 else "neither falls nor grows",
        },
    }


def _curve(values, first):
    return [[t, float(y / (first or 1))] for t, y in enumerate(values)]


def _valley(lr, momentum, kappa, start, steps):
    """½(a² + κ b²), λmin = 1 and λmax = κ; the setting lr is η·λmax."""
    h, eta = [1, kappa], lr / kappa
    points, parts = _walk(h, start, eta, momentum, steps)
    loss = parts.sum(axis=1)
    rates = [_rate(eta * x, momentum) for x, s in zip(h, start, strict=True) if s]
    found, path = _outcome(loss, rates, steps), points.tolist()
    return {
        "role": "momentum" if momentum else "gd",
        "marks": {
            "land": [[0, 0, 1.5**k, 1.5**k / math.sqrt(kappa)] for k in range(10)],
            "minimum": [[-0.25, 0], [0.25, 0], None, [0, -0.25], [0, 0.25]],
            "shallow": _curve(parts[:, 0], loss[0]),
            "steep": _curve(parts[:, 1], loss[0]),
            "loss": _curve(loss, loss[0]),
            "path": path, "steps": path, "end": path[-1:], "start": path[0],
        },
        "numbers": {"lr": eta, **found["numbers"]},
        "says": {"lr": num(eta, 3), **found["says"]},
    }  # fmt: skip


def _parabola(lr, curvature, start, steps):
    """½ λ θ²; the setting lr is η·λ."""
    eta = lr / curvature
    points, parts = _walk([curvature], start, eta, 0.0, steps)
    found = _outcome(parts[:, 0], [_rate(lr, 0)] if start[0] else [], steps)
    hops = [[x, curvature * x * x / 2] for x in points[:, 0].tolist()]
    error = _curve(abs(points[:, 0]), abs(start[0]))
    ground = [(k - 34) / 10 for k in range(69)]
    return {
        "role": "gd",
        "marks": {
            "curve": [[x, curvature * x * x / 2] for x in ground],
            "error": error, "errors": error,
            "path": hops, "steps": hops, "end": hops[-1:], "start": hops[0],
        },
        "numbers": {"lr": eta, **found["numbers"]},
        "says": {"lr": num(eta, 3), **found["says"]},
    }  # fmt: skip


# --- scenes -------------------------------------------------------------------------------------

_LABELS = {
    "lr": "learning rate η",
    "left": "step {steps}: loss ÷ first loss",
    "reached": "below 10⁻⁶",
    "end": "the loss",
}
_THIN, _DASHED, _DOTTED = (
    'stroke="currentColor" stroke-opacity=".6" stroke-width="1.3"' + dash
    for dash in ("", ' stroke-dasharray="5 3"', ' stroke-dasharray="1.3 2.6"')
)
_LAND = (
    'fill="#7f95ab" fill-opacity=".05" fill-rule="evenodd" stroke="#7f95ab" stroke-opacity=".55" '
    'stroke-width=".8"'
)
_LINE, _DOTS, _END = (
    f'stroke="currentColor" stroke-width="{width}"' for width in ("1.8", "5.4", "11")
)


def _valley_panels(steps, **settings):
    return {
        "land": Panel(
            (46, 6, 426, 194), (-11, 11), (-5, 5),
            inside=((54, 24, "start", "↑ b, the steep direction"),
                    (464, 191, "end", "a, the shallow direction →")),
        ),
        "loss": Panel(
            (46, 258, 426, 130), (0, steps), (1e-8, 1e2), log=True,
            title="loss ÷ first loss", xlabel="step",
            legend=((_DASHED, "steep"), (_DOTTED, "shallow")),
        ),
    }  # fmt: skip


def _parabola_panels(steps, curvature, **settings):
    return {
        "land": Panel(
            (46, 6, 426, 194), (-3.4, 3.4), (-0.35 * curvature, 5.6 * curvature),
            inside=((54, 191, "start", "loss ½ λ θ²"), (464, 191, "end", "θ →")),
        ),
        "error": Panel(
            (46, 258, 426, 110), (0, steps), (1e-4, 1e2), log=True,
            title="error |θ| ÷ first error", xlabel="step",
        ),
    }  # fmt: skip


_SCENES = {
    "valley": Scene(
        what="gradient descent in a valley",
        defaults={"lr": 0.1, "momentum": 0.0, "kappa": 12.0, "start": (-9, 2), "steps": 60},
        unit="kappa",
        sliders={
            "lr": Slider("learning rate η·λ<sub>max</sub>", 0.05, 4.2),
            "momentum": Slider("momentum μ", 0, 0.98),
            "kappa": Slider("condition number κ", 1, 100, log=True),
        },
        compute=_valley,
        labels=_LABELS,
        panels=_valley_panels,
        marks={
            "land": Mark("land", "rings", _LAND, run=False),
            "minimum": Mark("land", "line", _THIN, run=False),
            "steep": Mark("loss", "line", _DASHED, run=False),
            "shallow": Mark("loss", "line", _DOTTED, run=False),
            "loss": Mark("loss", "line", _LINE),
            "path": Mark("land", "path", _LINE),
            "steps": Mark("land", "dots", _DOTS),
            "end": Mark("land", "dots", _END),
            "start": Mark("land", "handle"),
        },
        axes=("a", "b"),
        step=0.25,
    ),
    "parabola": Scene(
        what="gradient descent on a parabola",
        defaults={"lr": 0.5, "curvature": 1.0, "start": -2.0, "steps": 12},
        unit="curvature",
        sliders={"lr": Slider("learning rate η·λ", 0.02, 2.3)},
        compute=_parabola,
        labels=_LABELS,
        panels=_parabola_panels,
        marks={
            "curve": Mark("land", "line", _THIN, run=False),
            "error": Mark("error", "line", _LINE),
            "errors": Mark("error", "dots", _DOTS),
            "path": Mark("land", "path", _LINE),
            "steps": Mark("land", "dots", _DOTS),
            "end": Mark("land", "dots", _END),
            "start": Mark("land", "handle"),
        },
        axes=("θ",),
        step=0.1,
    ),
}


# --- the figure ---------------------------------------------------------------------------------


class Play(Shown):
    """A figure that computes, as self-contained HTML; a notebook shows it.

    Args:
        name: identifier on the page.
        html: the figure.
        says: its first state in words.
    """

    def __init__(self, name, html, says):
        super().__init__(name, html)
        self.says = says

    def __repr__(self):
        return f"figure that computes {self.name!r}: {self.says}"


def play(
    scene: str,
    *,
    name: str,
    alt: str,
    steps: int | None = None,
    ranges: dict | None = None,
    **settings,
) -> Play:
    """Show a figure whose arithmetic runs in the page: its sliders move, its start is dragged.

    "valley" is gradient descent, v ← μ v + ∇L, θ ← θ − η v, on L = ½(a² + κ b²); it takes `lr`,
    `momentum`, `kappa` and `start=(a, b)`. "parabola" is the same without momentum on L = ½ λ θ²;
    it takes `lr`, `curvature` and `start`. The call is the last line of a cell. The figure needs
    no kernel and no library, and shows its first state where no script runs.

    Args:
        scene: "valley" or "parabola".
        name: identifier on the page, such as "gd-valley".
        alt: what the picture shows.
        steps: of the descent; 60 in the valley, 12 on the parabola.
        ranges: (lowest, highest) of a slider, by setting. The slider of `lr` is in units of
            1/λmax: it moves η·λmax.
        **settings: those to begin with; `lr` is η itself.

    Returns:
        `Play`, which a notebook shows.

    Raises:
        ValueError: an unknown scene, a name that is none, a setting out of its range.
        TypeError: an unknown setting, or no text that says what is shown.
    """
    if scene not in _SCENES:
        raise ValueError(f"play: there is no scene {scene!r}; there are {', '.join(_SCENES)}")
    _check_name("play", name)
    if not (isinstance(alt, str) and alt.strip()):
        raise TypeError(
            f"play {name!r}: alt must be a text that says what is shown, not {brief(alt)}"
        )
    made = _SCENES[scene]
    state = _state(made, name, settings | ({} if steps is None else {"steps": steps}))
    sliders = _sliders(made, name, state, ranges or {})
    now = made.compute(**state)
    labels = {k: label.format(steps=state["steps"]) for k, label in made.labels.items()}
    says = "; ".join(f"{labels[k]} {text}" for k, text in now["says"].items())
    html = _play_html(scene, name, alt, state, sliders, now, labels)
    return Play(name, html, f"{made.what}; {says}")


def _state(scene, name, settings):
    """The settings as the scene takes them: numbers, the start a list, lr in its unit."""
    for key in settings:
        if key not in scene.defaults:
            raise TypeError(
                f"play {name!r}: there is no setting {key!r} in {scene.what}; "
                f"there are {', '.join(scene.defaults)}"
            )
    given = scene.defaults | settings
    steps = given["steps"]
    if type(steps) is not int or not 1 <= steps <= 500:
        raise ValueError(f"play {name!r}: steps is {brief(steps)}; give a number from 1 to 500")
    try:
        state: dict = {k: float(v) for k, v in given.items() if k not in ("start", "steps")}
        if scene.axes:
            state["start"] = np.array(given["start"], dtype=float).reshape(-1).tolist()
    except (TypeError, ValueError):
        raise TypeError(f"play {name!r}: settings must be numbers, not {brief(settings)}") from None
    state["steps"] = steps
    if scene.unit:
        for key in ("lr", scene.unit):
            if not 0 < state[key] < math.inf:
                raise ValueError(f"play {name!r}: {key} is {state[key]:g}; give a number > 0")
        state["lr"] = float(f"{state['lr'] * state[scene.unit]:.12g}")
    if scene.axes:
        _check_start(scene, name, state)
    return state


def _check_start(scene, name, state):
    panel = scene.panels(**state)[scene.marks["start"].panel]
    room, start = dict(zip(scene.axes, (panel.x, panel.y), strict=False)), state["start"]
    if len(start) != len(room) or not all(
        low <= s <= high for s, (low, high) in zip(start, room.values(), strict=True)
    ):
        wanted = ", ".join(f"{axis} from {low:g} to {high:g}" for axis, (low, high) in room.items())
        raise ValueError(
            f"play {name!r}: start is {', '.join(f'{x:g}' for x in start)}; give {wanted}"
        )


def _sliders(scene, name, state, ranges):
    for key in ranges:
        if key not in scene.sliders:
            raise ValueError(
                f"play {name!r}: ranges names {key!r}, which is no slider; "
                f"there are {', '.join(scene.sliders)}"
            )
    made = {}
    for key, slider in scene.sliders.items():
        low, high = _limits(f"ranges[{key!r}]", ranges.get(key, (slider.low, slider.high)))
        if slider.log and low <= 0:
            raise ValueError(f"play {name!r}: {key} moves in powers of ten; its range must be > 0")
        if not low <= state[key] <= high:
            unit = " (η·λmax)" if key == "lr" else ""
            raise ValueError(
                f"play {name!r}: {key}{unit} is {state[key]:g}, outside its range {low:g} to "
                f"{high:g}; widen it with ranges={{{key!r}: (lowest, highest)}}"
            )
        made[key] = Slider(slider.label, low, high, slider.log)
    return made


# --- the first picture --------------------------------------------------------------------------


def _place(panel, point):
    (left, top, width, height), (x, y) = panel.box, point
    (x0, x1), (y0, y1) = panel.x, panel.y
    if panel.log:
        y0, y1, y = math.log10(y0), math.log10(y1), math.log10(y) if y > 0 else -math.inf
    return left + (x - x0) / (x1 - x0) * width, top + (y1 - y) / (y1 - y0) * height


def _tenths(*numbers):
    return ",".join(f"{round(x, 1) + 0.0:.1f}".removesuffix(".0") for x in numbers)


def _line(panel, points):
    text, pen = "", "M"
    for point in points:
        at = _place(panel, point) if point else (0, math.inf)
        text += pen + _tenths(*at) if math.isfinite(at[1]) else ""
        pen = "L" if math.isfinite(at[1]) else "M"
    return text


def _path(panel, points):
    """A path to the first point of those outside the picture from which none comes back."""
    (x0, x1), (y0, y1) = panel.x, panel.y
    inside = [t for t, (x, y) in enumerate(points) if x0 <= x <= x1 and y0 <= y <= y1]
    return _line(panel, points[: max(inside, default=-1) + 2])


def _dots(panel, points):
    places = [_place(panel, p) for p in points]
    return "".join(f"M{_tenths(*at)}h0" for at in places if math.isfinite(at[1]))


def _ring(panel, ring):
    """All that lies outside an ellipse (x, y, half-width, half-height)."""
    x, y, a, b = ring
    (cx, cy), (u, v) = _place(panel, (x, y)), _place(panel, (x + a, y + b))
    arc = f"A{_tenths(u - cx, cy - v)} 0 0 0 "
    ends = f"{arc}{_tenths(2 * cx - u, cy)}{arc}{_tenths(u, cy)}"
    return f"M-9-9H999V999H-9ZM{_tenths(u, cy)}{ends}Z"


def _mark(id, mark, panel, value):
    if mark.kind == "handle":
        at = _tenths(*_place(panel, value))
        return (
            f'<g data-mark="{id}" data-lm-suppress-shortcuts="true" transform="translate({at})" '
            'stroke="currentColor"><circle r="31" fill="transparent" stroke="none"/>'
            '<circle r="8" fill="#fff" stroke-width="3"/>'
            '<text class="dl-hint" y="-16" text-anchor="middle" stroke="none" '
            'fill="currentColor" display="none">drag me</text></g>'
        )
    if mark.kind == "rings":
        rings = "".join(f'<path d="{_ring(panel, ring)}"/>' for ring in value)
        return f'<g data-mark="{id}" {mark.look}>{rings}</g>'
    d = {"line": _line, "path": _path, "dots": _dots}[mark.kind](panel, value)
    return f'<path data-mark="{id}" fill="none" {mark.look} d="{d}"/>'


def _frame(panel):
    """Ticks, grid and words of a panel."""
    (left, top, width, height), ink = panel.box, 'fill="currentColor" fill-opacity=".75"'
    rows = []
    xs = MaxNLocator(5 if panel.log else 7, steps=[1, 2, 3, 5, 10]).tick_values(*panel.x)
    xs = [x for x in xs if panel.x[0] <= x <= panel.x[1]]
    for x in xs:
        at, words = _place(panel, (x, panel.y[1]))[0], num(x)
        if x == xs[-1] and panel.xlabel:
            words = f"{panel.xlabel} {words}"
        end = at + 4 * len(words) > left + width + 6
        rows.append(
            f'<text x="{_tenths(left + width + 4 if end else at)}" '
            f'y="{_tenths(top + height + 18)}" text-anchor="{"end" if end else "middle"}" {ink}>'
            f"{words}</text>"
        )
    if panel.log:
        low, high = (round(math.log10(y)) for y in panel.y)
        ys = {
            10.0**k: f"10{str(k).translate(_SUPERSCRIPT)}" if k else "1"
            for k in range(low, high + 1, 2)
        }
    else:
        ys = {y: num(y) for y in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*panel.y)}
    for y, words in ys.items():
        if not panel.y[0] <= y <= panel.y[1] * (1 + 1e-9):
            continue
        at = _place(panel, (panel.x[0], y))[1]
        rows.append(
            f'<path d="M{_tenths(left, at)}h{_tenths(width if panel.log else -4)}" '
            'stroke="currentColor" stroke-opacity=".3" stroke-width=".7"/>'
            f'<text x="{_tenths(left - 7)}" y="{_tenths(at + 4.5)}" text-anchor="end" {ink}>'
            f"{words}</text>"
        )
    for x, y, anchor, words in panel.inside:
        rows.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" {ink}>{words}</text>')
    if panel.title:
        rows.append(f'<text x="{left}" y="{top - 10}" fill="currentColor">{panel.title}</text>')
    x = left + width
    for stroke, words in reversed(panel.legend):
        wide = 8.8 * len(words) + 9
        rows.append(
            f'<text x="{_tenths(x)}" y="{top - 10}" text-anchor="end" {ink}>{words}</text>'
            f'<path d="M{_tenths(x - wide - 20, top - 14.5)}h20" {stroke}/>'
        )
        x -= wide + 34
    return "".join(rows)


def _picture(scene, name, state, now):
    what, panels = _SCENES[scene], _SCENES[scene].panels(**state)
    drawn = {key: ["", ""] for key in panels}  # of each panel: in ink, in the run's colour
    for id, mark in what.marks.items():
        drawn[mark.panel][mark.run] += _mark(id, mark, panels[mark.panel], now["marks"][id])
    height = max(p.box[1] + p.box[3] for p in panels.values()) + 24
    clips = "".join(
        '<clipPath id="{}-{}"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>'.format(
            name, key, *panel.box
        )
        for key, panel in panels.items()
    )
    clipped = [
        "".join(f'<g clip-path="url(#{name}-{key})">{both[run]}</g>' for key, both in drawn.items())
        for run in (False, True)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" color="#222" font-family="system-ui,-apple-system,Segoe UI,'
        f'sans-serif" font-size="13.5" stroke-linecap="round" stroke-linejoin="round">'
        f"<defs>{clips}</defs>{clipped[0]}{''.join(_frame(p) for p in panels.values())}"
        f'<g data-run="" class="dl-{now["role"]}" color="{_ROLES[now["role"]][0]}">{clipped[1]}</g>'
        "</svg>"
    )


# The colours of `plot.COLORS`, and what the site makes of them on its dark pages.
_ROLES = {"gd": ("#0072b2", "#4dabdf"), "momentum": ("#d55e00", "#de7d2f")}

_PLAY_STYLE = """
#NAME svg{display:block;width:100%;height:auto;color:inherit;overflow:hidden;
-webkit-user-select:none;user-select:none}
#NAME .dl-hint{display:block}
#NAME [data-mark=start],#NAME [data-mark=start] *{touch-action:none;cursor:grab;outline:none}
#NAME [data-mark=start]:active *{cursor:grabbing}
#NAME [data-mark=start]:focus-visible circle:first-child{stroke:currentColor;stroke-width:2;
stroke-dasharray:4 4;r:17px}
#NAME .dl-numbers{display:grid;grid-template-columns:repeat(5,auto);gap:.3em 1.2em;
margin:.5em .2em .2em;font-size:.95em;line-height:1.3}
#NAME .dl-numbers span{display:block}
#NAME small{display:block;font-size:.8em;opacity:.75}
#NAME b{font-variant-numeric:tabular-nums;font-weight:600}
#NAME .dl-heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
#NAME button{grid-area:1/5;justify-self:end;width:44px;height:44px;padding:0;font-size:1.3em;
line-height:1;color:inherit;background:none;border:1px solid rgba(127,127,127,.5);
border-radius:22px;cursor:pointer}
html[data-theme=dark] #NAME,html[theme=dark] #NAME,body[data-jp-theme-light=false] #NAME,
.vscode-dark #NAME{color-scheme:dark}
ROLES@media print{#NAME button,#NAME .dl-hint{display:none}}
@media (max-width:34rem){#NAME .dl-numbers{grid-template-columns:repeat(3,auto)}
#NAME button{grid-area:1/3/3;align-self:center}#NAME svg text{font-size:16.5px}
#NAME .dl-numbers{font-size:.88em}}
"""


def _play_html(scene, name, alt, state, sliders, now, labels):
    what = _SCENES[scene]
    panels = what.panels(**state)
    digits = {k: max(2, math.ceil(1.5 - math.log10(s.high - s.low))) for k, s in sliders.items()}
    config = {
        "state": state,
        "panels": {
            k: {"box": p.box, "x": p.x, "y": p.y, "log": int(p.log)} for k, p in panels.items()
        },
        "marks": {id: [mark.panel, mark.kind] for id, mark in what.marks.items()},
        "sliders": [{"key": k, "log": int(s.log), "digits": digits[k]} for k, s in sliders.items()],
        "drag": {"names": what.axes, "step": what.step},
    }
    controls = "".join(
        slider_html(
            f"{name}-{key}", slider.label, num(state[key], 3),
            *(f"{math.log10(v) if slider.log else v:.12g}"
              for v in (slider.low, slider.high, state[key])),
            step="any", disabled=True,
        )
        for key, slider in sliders.items()
    )  # fmt: skip
    numbers = " ".join(
        f'<span style="display:inline-block"><small>{labels[key]}</small> '
        f'<b data-number="{key}">{escape(text)}</b></span>'
        for key, text in now["says"].items()
    )
    roles = "".join(
        f"#NAME .dl-{role}{{color:{light};color:light-dark({light},{dark})}}\n"
        for role, (light, dark) in _ROLES.items()
    )
    style = (CONTROLS_STYLE + _PLAY_STYLE.replace("ROLES", roles)).replace("NAME", name)
    picture = data_uri(_picture(scene, name, state, now))
    data = json.dumps(config, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="dl-play" id="{name}" role="group" aria-label="Figure that computes" '
        'style="max-width:40rem;margin:.5em 0 1em">'
        f"<style>{style}</style>"
        f'<img class="dl-figure" alt="{escape(alt)}" src="{picture}" '
        'style="width:100%;height:auto;background:#fff"><div class="dl-stage"></div>'
        f'<div class="dl-numbers">{numbers} <button type="button" disabled title="Start over" '
        'aria-label="Start over">↺</button></div><p class="dl-heard" aria-live="polite"></p>'
        f'<div class="dl-controls" style="{CONTROLS}">{controls}</div>'
        f'<script type="application/json" class="dl-config">{data}</script>'
        f"<script>{_script(scene, name)}</script></div>"
    )


def _source():
    return (files(__package__) / "play.js").read_text(encoding="utf-8")


def _script(scene, name):
    """The runtime and one scene, without indentation and remarks."""
    text = re.sub(r"(?m)^\s+|\s*(?:^|\s)// (?!scene|runtime).*$", "", _source())
    shared, *parts = re.split(r"(?m)^// (?:scene: )?(\w+)\n", text)
    chosen = dict(zip(parts[::2], parts[1::2], strict=True))
    return (
        f"(function(){{\n{shared}{chosen[scene]}{chosen['runtime']}"
        f"const me=document.currentScript;run(me&&me.closest('.dl-play')||"
        f"document.getElementById('{name}'),{scene});\n}})();"
    )
