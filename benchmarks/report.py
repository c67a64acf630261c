"""The README, the book's page and its figures, written from results.json: no number is typed.

A contender is called faster than another only where the middle halves of their ratios to PyTorch
eager do not overlap; else the two are called level.
"""

import datetime
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .contenders import BASE, CONTENDERS, CUDA
from .scaling import BATCH, WIDTH
from .workloads import WORKLOADS, count

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "benchmarks" / "README.md"
PAGE = ROOT / "chapters" / "benchmarks.md"
STATIC = ROOT / "_static"
TEMPLATES = ROOT / "benchmarks" / "templates"
OURS = ("dlmini-numpy", "dlmini-torch")
FLOORS = ("products-numpy", "products-torch")
# What the better of dlmini's two backends is to reach, as a ratio to PyTorch eager.
TARGETS = {"a": 0.10, "b": 0.32, "c": 0.70, "d": 0.35, "e": 0.72, "f": 0.88, "g": 0.20}
NBSP = "\N{NO-BREAK SPACE}"
ENOUGH = 10  # turns
QUIET = 0.9  # seconds of processor time a second; a contender that got less had to wait


def write(results: dict[str, Any]) -> None:
    """Write all of it."""
    if "steps" not in results or "scaling" not in results:
        raise SystemExit("run `python -m benchmarks` and `python -m benchmarks scaling` first")
    from . import figures

    README.write_text(readme(results), encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    for path in figures.draw(results, STATIC):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    for path in (README, PAGE):
        print(path.relative_to(ROOT))


# --- words for numbers ----------------------------------------------------------------------------


def listing(items: Iterable[str], nothing: str = "none") -> str:
    """a, b and c."""
    items = list(items)
    if len(items) < 2:
        return items[0] if items else nothing
    return f"{', '.join(items[:-1])} and {items[-1]}"


def number(x: float) -> str:
    """Two or three digits."""
    if x >= 100:
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 0.095 else f"{x:.3f}"


def duration(us: float) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{number(us / size)}{NBSP}{unit}"
    return f"{number(us)}{NBSP}µs"


def spread(values: Iterable[float]) -> str:
    """0.31 to 0.87 (or one number, where they are the same in print)."""
    values = list(values)
    ends = [number(min(values)), number(max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def table(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


# --- who is faster --------------------------------------------------------------------------------


def best(line: dict[str, Any]) -> str | None:
    """The faster of dlmini's two backends in one workload."""
    here = [key for key in OURS if key in line]
    return min(here, key=lambda key: line[key]["ratio"]) if here else None


def verdict(line: dict[str, Any], one: str, other: str) -> str:
    """Whether `one` is "faster" than `other`, "slower", or "level" with it."""
    if line[one]["quartiles"][1] < line[other]["quartiles"][0]:
        return "faster"
    if line[one]["quartiles"][0] > line[other]["quartiles"][1]:
        return "slower"
    return "level"


def against(steps: dict[str, Any], other: str) -> dict[str, list[str]]:
    """The workloads by dlmini's verdict against `other`, with its better backend in each."""
    found: dict[str, list[str]] = {"faster": [], "level": [], "slower": []}
    for name, workload in steps.items():
        line = workload["contenders"]
        if other in line and (ours := best(line)):
            found[verdict(line, ours, other)].append(name)
    return found


def comparison(steps: dict[str, Any], other: str) -> str | None:
    """'faster on a and b (0.2 to 0.4 of its time); slower on d (…)'; None: it took no part."""
    found = against(steps, other)
    total = sum(map(len, found.values()))
    if not total:
        return None
    times = {
        name: line[best(line)]["ratio"] / line[other]["ratio"]
        for name, workload in steps.items()
        if other in (line := workload["contenders"]) and best(line)
    }
    parts = []
    for word, names in found.items():
        if names:
            where = "on all" if len(names) == total > 1 else f"on {listing(names)}"
            parts.append(f"{word} {where} ({spread(times[n] for n in names)} of its time)")
    return "; ".join(parts)


def conclusions(steps: dict[str, Any]) -> list[str]:
    """What the ratios say, in sentences."""
    ours = {
        name: workload["contenders"][key]
        for name, workload in steps.items()
        if (key := best(workload["contenders"]))
    }
    if not ours:
        return ["dlmini did not take part."]
    eager = against(steps, BASE)
    ratios = {name: line["ratio"] for name, line in ours.items()}
    if not eager["slower"] and not eager["level"]:
        first = (
            "A training step of dlmini, on the better of its two backends, is faster than on "
            f"PyTorch's eager CPU path in every workload here: it takes {spread(ratios.values())} "
            "of the time."
        )
    else:
        first = (
            "Beside PyTorch's eager CPU path, a training step of dlmini, on the better of its two "
            f"backends, is {comparison(steps, BASE)}."
        )
    small, large = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    found = [
        f"{first} The gain is largest on {small} and smallest on {large}: the more arithmetic "
        "there is in a step, the less there is to save around it."
        if large in "cf" and small in "ag"
        else first
    ]
    if said := comparison(steps, "torch-fused"):
        found.append(
            "PyTorch's default Adam goes through the parameters in a Python loop; its fused Adam "
            f"does not. Beside that one dlmini is {said}."
        )
    others = [k for k, c in CONTENDERS.items() if c.same_task]
    others = [k for k in others if k not in (*OURS, BASE, "torch-fused")]
    lost = {k: v for k in others if (v := against(steps, k)["slower"])}
    if lost:
        who = []
        for key, names in lost.items():
            times = spread(ours[n]["ratio"] / steps[n]["contenders"][key]["ratio"] for n in names)
            who.append(f"{CONTENDERS[key].label} on {listing(names)} ({times} times as long)")
        found.append(f"dlmini loses to {listing(who)}.")
    won = [
        k
        for k in others
        if (v := against(steps, k))["faster"] and not v["slower"] and not v["level"]
    ]
    if won:
        where = [CONTENDERS[k].label for k in won]
        found.append(f"It is faster than {listing(where)} wherever they took part.")
    shares = {}
    for name, line in ours.items():
        contenders = steps[name]["contenders"]
        floor = [
            contenders[k]["ratio"] for k in ("products-numpy", "products-torch") if k in contenders
        ]
        if floor:
            shares[name] = min(floor) / line["ratio"]
    if shares:
        most, least = max(shares, key=shares.get), min(shares, key=shares.get)
        found.append(
            f"The bare matrix products alone would take {100 * shares[most]:.0f} % of dlmini's "
            f"time on {most}, and {100 * shares[least]:.0f} % on {least}: that is the floor."
        )
    return found


# --- tables ---------------------------------------------------------------------------------------


def ratio_table(steps: dict[str, Any], labels: dict[str, Any] = CONTENDERS) -> str:
    """Ratios to PyTorch eager: a line for each contender, a column for each workload."""
    rows = []
    fastest = {}
    for name, workload in steps.items():
        line = workload["contenders"]
        fastest[name] = min(
            (k for k in line if labels[k].same_task), key=lambda k: line[k]["ratio"]
        )
    first = [key for key in (BASE, *OURS) if key in labels]
    for key in (*first, *(key for key in labels if key not in first)):
        cells = []
        for name, workload in steps.items():
            line = workload["contenders"].get(key)
            text = number(line["ratio"]) if line else "–"
            cells.append(f"**{text}**" if fastest[name] == key else text)
        if any(cell != "–" for cell in cells):
            rows.append([labels[key].label, *cells])
    base = [duration(w["contenders"][BASE]["us"]) for w in steps.values()]
    rows.insert(0, [f"{labels[BASE].label}, a step", *base])
    return table(["", *steps], rows)


def workload_table(steps: dict[str, Any]) -> str:
    rows = []
    for name in steps:
        size = count(WORKLOADS[name])
        rows.append([f"**{name}**", WORKLOADS[name].about, f"{size:,}"])
    return table(["", "workload", "parameters"], rows).replace("| ---: | ---: |", "| --- | ---: |")


def first_step_table(steps: dict[str, Any]) -> str:
    """Seconds that compilers take before the first step is done."""
    rows = []
    for key in ("torch-compile", "jax", "tinygrad", *OURS):
        cells = []
        for workload in steps.values():
            line = workload["contenders"].get(key)
            cells.append(number(line["first_s"]) if line else "–")
        if any(cell != "–" for cell in cells):
            rows.append([CONTENDERS[key].label, *cells])
    return table(["seconds", *steps], rows)


def target_table(steps: dict[str, Any]) -> str:
    rows = []
    for name, workload in steps.items():
        line = workload["contenders"]
        key = best(line)
        if key is None or name not in TARGETS:
            continue
        ratio = line[key]["ratio"]
        ends = " to ".join(number(q) for q in line[key]["quartiles"])
        fused = number(ratio / line["torch-fused"]["ratio"]) if "torch-fused" in line else "–"
        met = "met" if ratio <= TARGETS[name] else "missed"
        rows.append(
            [name, CONTENDERS[key].label, number(ratio), ends, fused, number(TARGETS[name]), met]
        )
    head = ["", "backend", "ratio", "middle half", "to fused Adam", "target", ""]
    return table(head, rows)


def other_target_table(scaling: dict[str, Any]) -> str:
    """What was asked of dlmini beyond the time of a step, by its worse backend."""
    ours = [key for key in OURS if key in scaling["dead_adam"]]
    depth = scaling["memory"]["depth"][-1]
    rows = [
        ("backward / forward, dense", max(
            line[key] for line in scaling["backward"].values() for key in ours
        ), 2.3),
        ("activations a layer in training", scaling["memory"]["per_layer"]["train"], 1.1),
        (f"time with checkpoints / without, depth {depth}", scaling["checkpoint_time"], 1.35),
        ("seconds to the first gradient, NumPy", scaling["first_gradient"]["dlmini, NumPy"], 0.2),
        ("Adam with dead gradients / live ones", max(
            scaling["dead_adam"][key]["ratio"] for key in ours
        ), 1.2),
    ]  # fmt: skip
    return table(
        ["", "measured", "target", ""],
        [[what, number(x), number(y), "met" if x <= y else "missed"] for what, x, y in rows],
    )


def labelled(found: dict[str, Any]) -> dict[str, Any]:
    return {CONTENDERS[key].label: value for key, value in found.items() if value is not None}


# --- sentences about cost -------------------------------------------------------------------------


def growth_words(growth: dict[str, Any]) -> str:
    """The exponents in the upper half of each range, with dlmini on NumPy."""
    slopes = {name: growth[name]["slope_upper"]["dlmini-numpy"] for name in growth}
    expected = {"depth": 1, "batch": 1, "parameters": 1, "width": 2}
    said = [f"{slopes[name]:.2f} with {name}" for name in slopes]
    near = [name for name in slopes if abs(slopes[name] - expected[name]) <= 0.15]
    off = [name for name in slopes if name not in near]
    text = (
        f"In the upper half of each range, time grows as a power of size with exponent "
        f"{listing(said)}. Arithmetic alone would give 1 with depth, batch and parameters, and 2 "
        f"with width. "
    )
    if near:
        text += f"The exponent is within 0.15 of that for {listing(near)}. "
    below = [name for name in off if slopes[name] < expected[name]]
    above = [name for name in off if slopes[name] > expected[name]]
    if below:
        text += (
            f"It is lower for {listing(below)}: part of what a step costs there does not grow "
            "along. "
        )
    if above:
        text += f"It is higher for {listing(above)}, more than arithmetic explains. "
    return text.strip()


def memory_words(scaling: dict[str, Any]) -> str:
    memory = scaling["memory"]
    layer, depth = memory["per_layer"], memory["depth"][-1]
    peak = {name: values[-1] for name, values in memory["peak"].items()}
    text = (
        f"A training step keeps {number(layer['train'])} activations for each layer "
        f"(one activation: {BATCH} examples × {WIDTH} units × 4 bytes); they are freed on the way "
        f"back. Inference keeps {number(peak['infer'])} at depth {depth}"
    )
    flat = abs(layer["infer"]) < 0.01
    text += ", whatever the depth. " if flat else f", and {number(layer['infer'])} more per layer. "
    least, most = number(peak["checkpoint"]), number(peak["train"])
    return (
        f"{text}With √depth checkpoints, {depth} layers take {least} activations, not {most}, "
        f"for {number(scaling['checkpoint_time'])} times the time."
    )


def overhead_words(scaling: dict[str, Any]) -> str:
    return "; ".join(
        f"{label} {number(cost['forward'])} µs forward and {number(cost['backward'])} µs backward"
        for label, cost in labelled(scaling["overhead"]).items()
    )


def backward_table(found: dict[str, Any]) -> str:
    keys = dict.fromkeys(key for line in found.values() for key in line)
    rows = [[CONTENDERS[k].label, *(number(found[n][k]) for n in found)] for k in keys]
    return table(["backward / forward", *found], rows)


def first_gradient_table(found: dict[str, Any]) -> str:
    rows = [[name, number(s)] for name, s in sorted(found.items(), key=lambda item: item[1])]
    return table(["from process start to the first gradient", "seconds"], rows)


def dead_table(found: dict[str, Any]) -> str:
    rows = [
        [label, duration(x["live_us"]), duration(x["dead_us"]), number(x["ratio"])]
        for label, x in labelled(found).items()
    ]
    return table(["Adam's step, 100,000 parameters", "live", "dead", "dead / live"], rows)


# --- the two texts --------------------------------------------------------------------------------


def readme(results: dict[str, Any]) -> str:
    """benchmarks/README.md."""
    return filled("readme.md", parts(results))


def page(results: dict[str, Any]) -> str:
    """chapters/benchmarks.md."""
    return filled("page.md", parts(results))


def filled(template: str, words: dict[str, str]) -> str:
    """The template with each {{name}} replaced."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +\n", "\n", text))


def parts(results: dict[str, Any]) -> dict[str, str]:
    """Everything measured that the texts show, by the name it has in the templates."""
    steps, scaling = results["steps"], results["scaling"]
    return {
        "trial": trial(results),
        "measured": measured(steps),
        "setting": setting(results),
        "workloads": workload_table(steps),
        "ratios": ratio_table(steps),
        "targets": target_table(steps),
        "conclusions": "\n".join(f"- {line}" for line in conclusions(steps)),
        "left_out": left_out(steps),
        "first_steps": first_step_table(steps),
        "threads": threads_words(results),
        "other_targets": other_target_table(scaling),
        "steps_figure": steps_figure(steps),
        "growth_figure": growth_figure(scaling["growth"]),
        "growth": growth_words(scaling["growth"]),
        "memory_figure": memory_figure(scaling["memory"]),
        "memory": memory_words(scaling),
        "overhead": overhead_words(scaling),
        "backward": backward_table(scaling["backward"]),
        "first_gradient": first_gradient_table(scaling["first_gradient"]),
        "dead_adam": dead_table(scaling["dead_adam"]),
        "cuda": cuda_words(results),
    }


def trial(results: dict[str, Any]) -> str:
    """A warning, where the numbers are not fit to be quoted."""
    steps, problems = results["steps"], []
    if (
        min(workload["rounds"] for workload in steps.values()) < ENOUGH
        or results["scaling"]["quick"]
    ):
        problems.append("too few turns")
    if set(steps) != set(WORKLOADS):
        problems.append("not all workloads")
    if min(x["threads"] for w in steps.values() for x in w["contenders"].values()) < QUIET:
        problems.append("a machine with other work to do")
    return f"**Not to be quoted: measured with {listing(problems)}.**" if problems else ""


def setting(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    date = datetime.date.fromisoformat(results["date"])
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured on {date.day} {date:%B %Y}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['system']}; {libraries}."
    )


def measured(steps: dict[str, Any]) -> str:
    some = next(iter(steps.values()))
    used: dict[str, float] = {}
    for w in steps.values():
        for key, line in w["contenders"].items():
            used[key] = max(used.get(key, 0.0), line["threads"])
    beyond = [f"{CONTENDERS[k].label}: {number(t)}" for k, t in used.items() if t > 1.1]
    threads = (
        "one thread was asked for, but some used more seconds of processor time a second ("
        + "; ".join(beyond) + ")" if beyond else "one thread"
    )  # fmt: skip
    each = some["rounds"] // some["processes"]
    return (
        f"Each contender has a process of its own, and they take turns: {each} in each of "
        f"{some['processes']} processes one after the other. Times are medians; ratios are taken "
        f"turn by turn, then their median. Float32; {threads}."
    )


def cuda_words(results: dict[str, Any]) -> str:
    if "cuda" not in results:
        return (
            "`python -m benchmarks --cuda c e f` compares dlmini on torch:cuda with PyTorch eager "
            "on the same card. It has not been measured yet."
        )
    cuda = results["cuda"]
    gpu = next(iter(cuda["steps"].values()))["gpu"]
    return (
        f"Ratios to PyTorch eager on the same card ({gpu}, torch {cuda['versions']['torch']}):\n\n"
        f"{ratio_table(cuda['steps'], CUDA)}"
    )


def threads_words(results: dict[str, Any]) -> str:
    """How the comparison looks with two threads, where that was measured."""
    steps = results.get("steps_2_threads")
    if not steps:
        return ""
    return (
        f"With two threads for everybody, on {listing(steps)}:\n\n{ratio_table(steps)}\n\n"
        f"Beside PyTorch eager dlmini is then {comparison(steps, BASE)}."
    )


def left_out(steps: dict[str, Any]) -> str:
    """Who was missing or failed, where, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, workload in steps.items():
        for key, why in workload["left_out"].items():
            reasons.setdefault((CONTENDERS[key].label, why), []).append(name)
    lines = [f"{who} on {listing(names)} ({why})" for (who, why), names in reasons.items()]
    return f"Left out: {listing(lines)}." if lines else ""


def figure(name: str, alt: str, caption: str) -> str:
    return (
        f"```{{figure}} ../_static/benchmark-{name}.svg\n:name: fig-benchmark-{name}\n"
        f":alt: {alt}\n:class: dl-figure\n:width: 100%\n\n{caption}\n```"
    )


def steps_figure(steps: dict[str, Any]) -> str:
    ours = [w["contenders"][k]["ratio"] for w in steps.values() if (k := best(w["contenders"]))]
    return figure(
        "steps",
        "Points on a logarithmic axis, one row for each workload: the time of a step of each "
        "library divided by that of PyTorch eager. The better of dlmini's two points lies between "
        f"{number(min(ours))} and {number(max(ours))}.",
        "Time of a training step divided by that of PyTorch eager (the line at 1). dlmini on its "
        f"better backend takes {spread(ours)} of it.",
    )


def growth_figure(growth: dict[str, Any]) -> str:
    sizes = [f"{name} ({g['x'][0]:,} to {g['x'][-1]:,})" for name, g in growth.items()]
    return figure(
        "growth",
        "Panels with logarithmic axes, microseconds of a step against "
        f"{listing(growth)}: curves that start flat and become straight lines.",
        f"Time of a step against {listing(sizes)}. Dashed: the slope that arithmetic alone has.",
    )


def memory_figure(memory: dict[str, Any]) -> str:
    last = {name: number(values[-1]) for name, values in memory["peak"].items()}
    said = (
        f"At depth {memory['depth'][-1]} training takes {last['train']}, with √depth checkpoints "
        f"{last['checkpoint']}, and inference {last['infer']}."
    )
    return figure(
        "memory",
        f"Peak memory against depth, in activations: three curves. {said}",
        f"Peak memory against depth, in units of one activation. {said}",
    )
