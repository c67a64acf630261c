"""The pictures of the book's page on speed, in the book's style."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from dlmini.book.plot import COLORS, label_lines, style

from .contenders import CONTENDERS
from .report import FLOORS

BLUE, RED, INK, GREY = (COLORS[k] for k in ("measurement", "without", "theory", "reference"))
MARKS = {
    "dlmini-numpy": ("o", BLUE, BLUE, 8),
    "dlmini-torch": ("o", BLUE, "white", 8),
    "torch-fused": ("D", RED, RED, 6),
    "torch-compile": ("D", RED, "white", 6),
    "jax": ("s", COLORS["adam"], COLORS["adam"], 6),
    "numpy": ("x", INK, INK, 7),
    "floor": ("|", GREY, GREY, 14),
}
LINES = {"dlmini-numpy": BLUE, "dlmini-torch": COLORS["sgd"], "torch": RED}
EXPECTED = {"depth": 1, "width": 2, "batch": 1, "parameters": 1}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figures into `folder`; the same bytes for the same results."""
    style()
    drawn = []
    for name, make in (("steps", steps), ("growth", growth), ("memory", memory)):
        make(results["steps"] if name == "steps" else results["scaling"][name])
        path = folder / f"benchmark-{name}.svg"
        plt.gcf().savefig(path, metadata={"Date": None})
        plt.close("all")
        drawn.append(path)
    return drawn


def steps(found: dict[str, Any]) -> None:
    _, ax = plt.subplots(figsize=(5.6, 4.8))
    ax.axvline(1, color=RED, linewidth=1.2)
    ax.text(0.96, -0.55, "PyTorch eager", color=RED, ha="right", fontsize=11)
    for row, workload in enumerate(found.values()):
        line = {k: v["ratio"] for k, v in workload["contenders"].items()}
        floors = [line[k] for k in FLOORS if k in line]
        if floors:
            line["floor"] = min(floors)
        ax.plot([min(line.values()), 1], [row, row], color="#dddddd", linewidth=1, zorder=0)
        for key, (shape, edge, face, size) in MARKS.items():
            if key in line:
                ax.plot(
                    line[key], row, shape, color=edge, markerfacecolor=face, markersize=size,
                    markeredgewidth=1.6, label=_label(key) if row == 0 or key == "floor" else None,
                )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.4, -0.9)
    ax.set_xlabel("time of a step / that of PyTorch eager")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    handles = {h.get_label(): h for h in ax.get_lines() if not h.get_label().startswith("_")}
    ax.figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, columnspacing=1.2,
        handletextpad=0.4,
    )  # fmt: skip


def _label(key: str) -> str:
    return "bare products" if key == "floor" else CONTENDERS[key].label


def growth(found: dict[str, Any]) -> None:
    _, axes = plt.subplots(2, 2, figsize=(5.6, 5.4))
    for ax, (name, part) in zip(axes.flat, found.items(), strict=True):
        x = part["x"]
        for key, us in part["us"].items():
            ax.plot(x, us, "o-", color=LINES[key], markersize=4, label=CONTENDERS[key].label)
        # Through the last point of the first line, over the upper half.
        us = next(iter(part["us"].values()))
        upper = x[len(x) // 2 :]
        power = EXPECTED[name]
        ax.plot(
            upper, [0.6 * us[-1] * (v / x[-1]) ** power for v in upper], "--", color=GREY,
            linewidth=1.4,
        )  # fmt: skip
        ax.text(
            0.99, 0.03, f"slope {power}", transform=ax.transAxes, color=GREY, fontsize=10,
            ha="right",
        )  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(name)
        if name != "parameters":
            some = x if len(x) < 5 else x[::2]
            ax.set_xticks(some, [f"{v:g}" for v in some])
            ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
    for ax in axes[:, 0]:
        ax.set_ylabel("µs a step")
    handles = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].figure.legend(*handles, loc="outside lower center", ncols=1)


def memory(found: dict[str, Any]) -> None:
    _, ax = plt.subplots()
    names = {"train": "training", "checkpoint": "checkpoints", "infer": "inference"}
    colors = {"train": RED, "checkpoint": BLUE, "infer": GREY}
    for key, values in found["peak"].items():
        ax.plot(found["depth"], values, "o-", color=colors[key], label=names[key])
    ax.set_xlabel("depth (layers)")
    ax.set_ylabel("peak memory (activations)")
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, 1.35 * found["depth"][-1])
    ax.set_xticks([0, *found["depth"][2:]])
    label_lines(ax)
