"""How cost grows: time against size, memory against depth, overhead, first gradient, dead Adam.

Each measurement runs in a process of its own; what is compared takes turns.
"""

import importlib.util
import json
import math
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from .contenders import CONTENDERS
from .turns import Process, environment
from .workloads import WORKLOADS, Workload, count, data

GROWN = ("dlmini-numpy", "dlmini-torch", "torch")
DEPTHS = (10, 20, 50, 100, 200)
WIDTH, BATCH = 64, 1024  # of the networks whose memory is measured: activations outweigh weights


def measure(quick: bool = False) -> dict[str, Any]:
    """All of it; `quick` is for trying the code out."""
    present = [key for key in GROWN if not CONTENDERS[key].missing()]
    found: dict[str, Any] = {
        "quick": quick,
        "growth": growth(present, turns=1 if quick else 3, quick=quick),
    }
    depths = DEPTHS[:3] if quick else DEPTHS
    found["memory"] = probe("memory", depths)
    show("memory, in activations", found["memory"])
    found["checkpoint_time"] = probe("checkpoint_time", depths[-1], 3 if quick else 15)
    show("time with checkpoints / without", found["checkpoint_time"])
    found["overhead"] = {key: probe("overhead", key, 3 if quick else 15) for key in present}
    show("µs an operation", found["overhead"])
    found["backward"] = {
        name: {key: probe("backward", name, key, 3 if quick else 15) for key in present}
        for name in (("a", "b") if quick else ("a", "b", "c", "f"))
    }
    show("backward / forward", found["backward"])
    found["first_gradient"] = first_gradient(2 if quick else 7)
    show("s from process start to first gradient", found["first_gradient"])
    dead = [key for key in (*present, "torch-fused") if not CONTENDERS[key].missing()]
    found["dead_adam"] = {key: probe("dead_adam", key) for key in dead}
    show("Adam with dead gradients / with live ones", found["dead_adam"])
    return found


def show(title: str, found: Any) -> None:
    print(f"{title}: {json.dumps(found)}", flush=True)


def probe(name: str, *arguments: Any) -> Any:
    """The result of a function of this file in a fresh process with one thread."""
    code = (
        "import json, sys; from benchmarks import scaling; "
        f"print(json.dumps(scaling.{name}(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=environment(1), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


# --- time against size ----------------------------------------------------------------------------


def series(quick: bool = False) -> dict[str, list[tuple[int, Workload]]]:
    """What grows: [(size, network)] by the name of the size."""

    def net(width, layers, batch):
        return Workload("dense", (width,) * layers + (10,), batch)

    found = {
        "depth": [(n, net(64, n, 64)) for n in (5, 10, 20, 50, 100, 200)],
        "width": [(n, net(n, 4, 64)) for n in (16, 32, 64, 128, 256, 512, 1024)],
        "batch": [(n, net(256, 4, n)) for n in (8, 32, 128, 512, 2048)],
        "parameters": [(0, net(n, 3, 16)) for n in (32, 64, 128, 256, 512, 1024, 2048)],
    }
    found["parameters"] = [(count(w), w) for _, w in found["parameters"]]
    return {name: sizes[:4] if quick else sizes for name, sizes in found.items()}


def growth(keys: list[str], turns: int, quick: bool = False) -> dict[str, Any]:
    """Microseconds of a training step by size, and the slopes of their logarithms."""
    processes = {key: Process(key) for key in keys}
    found: dict[str, Any] = {}
    try:
        for name, sizes in series(quick).items():
            us: dict[str, list[float]] = {key: [] for key in keys}
            for _, workload in sizes:
                for process in processes.values():
                    process.build(workload)
                times: dict[str, list[float]] = {key: [] for key in keys}
                for _ in range(turns):
                    for key, process in processes.items():
                        times[key].append(process.take()["us"])
                for key in keys:
                    us[key].append(median(times[key]))
            x = [size for size, _ in sizes]
            half = len(x) // 2
            found[name] = {
                "x": x, "us": us,
                "slope": {key: slope(x, us[key]) for key in keys},
                "slope_upper": {key: slope(x[half:], us[key][half:]) for key in keys},
            }  # fmt: skip
            show(f"µs a step against {name}", found[name])
    finally:
        for process in processes.values():
            process.close()
    return found


def slope(x: list[float], y: list[float]) -> float:
    """The exponent p of the power law y ∝ xᵖ closest in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# --- memory ---------------------------------------------------------------------------------------


def deep_step(depth: int) -> tuple[Callable, Callable, Callable]:
    """Training step, inference, and training step with √depth checkpoints, of a dense relu net."""
    import dlmini as dl
    from dlmini import nn

    dl.use("numpy")
    dl.seed(0)
    net = nn.mlp(*(WIDTH,) * depth, 10)
    rng = np.random.default_rng(0)
    x = dl.asarray(rng.standard_normal((BATCH, WIDTH)))
    y = dl.asarray(rng.integers(0, 10, BATCH))
    optimizer = dl.optim.Adam(net.parameters(), 1e-7)

    def train(forward):
        optimizer.zero_grad()
        dl.cross_entropy(forward(x), y).backward()
        optimizer.step()

    def infer():
        with dl.no_grad():
            net(x)

    def saving(x):
        return nn.checkpoint_sequential(net, round(math.sqrt(depth)), x)

    return lambda: train(net), infer, lambda: train(saving)


def peak(f: Callable[[], None]) -> float:
    """The most memory in use while `f` runs beyond that in use before, in activations."""
    f()  # what stays (moments, buffers) is there from now on
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    f()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (most - before) / (BATCH * WIDTH * 4)


def memory(depths: list[int]) -> dict[str, Any]:
    """Peaks by depth in units of one activation (batch × width × 4 bytes), and their growth."""
    peaks: dict[str, list[float]] = {"train": [], "infer": [], "checkpoint": []}
    for depth in depths:
        for name, step in zip(peaks, deep_step(depth), strict=True):
            peaks[name].append(peak(step))
    per_layer = {name: float(np.polyfit(depths, p, 1)[0]) for name, p in peaks.items()}
    return {"depth": depths, "peak": peaks, "per_layer": per_layer}


def checkpoint_time(depth: int, rounds: int) -> float:
    """Time of a step with √depth checkpoints over that without, median of paired ratios."""
    plain, _, saving = deep_step(depth)
    plain()
    saving()
    return median(seconds(saving) / seconds(plain) for _ in range(rounds))


def seconds(f: Callable[[], Any], times: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        f()
    return (time.perf_counter() - begin) / times


# --- overhead -------------------------------------------------------------------------------------


def overhead(key: str, rounds: int, length: int = 1000) -> dict[str, float]:
    """µs that an operation costs beyond its arithmetic, forward and backward.

    A chain x ← x · w on arrays with one entry, less the same products without a graph.
    """
    if key == "torch":
        import torch

        torch.set_num_threads(1)
        parameter, w = torch.ones(1, requires_grad=True), torch.ones(1)
        bare = w
    else:
        import dlmini as dl

        dl.use(CONTENDERS[key].options["backend"])
        parameter, w = dl.Tensor([1.0], requires_grad=True), dl.Tensor([1.0])
        bare = w.data

    def chain(x, w):
        for _ in range(length):
            x = x * w
        return x

    forward, backward = [], []
    for _ in range(rounds + 1):
        parameter.grad = None
        arithmetic = seconds(lambda: chain(bare, bare))
        begin = time.perf_counter()
        x = chain(parameter, w)
        middle = time.perf_counter()
        x.sum().backward()
        end = time.perf_counter()
        forward.append((middle - begin - arithmetic) / length * 1e6)
        backward.append((end - middle - arithmetic) / length * 1e6)
    return {"forward": median(forward[1:]), "backward": median(backward[1:])}


def backward(name: str, key: str, rounds: int) -> float:
    """Time of the backward pass over time of the forward pass of a workload."""
    contender, workload = CONTENDERS[key], WORKLOADS[name]
    net = contender.load().network
    if key == "torch":
        import torch
        from torch.nn import functional as losses

        torch.set_num_threads(1)
        adam, to = torch.optim.Adam, torch.as_tensor
    else:
        import dlmini as dl
        from dlmini import functional as losses

        dl.use(contender.options["backend"])
        adam, to = dl.optim.Adam, dl.asarray
    net = net(workload)
    optimizer = adam(net.parameters(), 1e-7)  # dlmini: it owns the memory of the gradients
    x, y = map(to, data(workload))
    criterion = losses.mse_loss if workload.regression else losses.cross_entropy
    ratios = []
    for _ in range(rounds):
        there = back = 0.0
        for _ in range(1 if name == "f" else 20):
            optimizer.zero_grad()
            begin = time.perf_counter()
            loss = criterion(net(x), y)
            middle = time.perf_counter()
            loss.backward()
            back += time.perf_counter() - middle
            there += middle - begin
        ratios.append(back / there)
    return median(ratios)


# --- the first gradient ---------------------------------------------------------------------------

_DATA = "x = np.ones((32, 8), np.float32); w = np.ones((8, 4), np.float32)"
FIRST = {
    "python": ((), "pass"),
    "import numpy": ((), "import numpy"),
    "dlmini, NumPy": (
        (),
        "import numpy as np, dlmini as dl; "
        f"{_DATA}; w = dl.Tensor(w, requires_grad=True); "
        "dl.tanh(dl.matmul(x, w)).sum().backward(); w.grad.sum()",
    ),
    "JAX": (
        ("jax",),
        "import numpy as np, jax, jax.numpy as jnp; "
        f"{_DATA}; jax.jit(jax.grad(lambda w: jnp.tanh(x @ w).sum()))(w).block_until_ready()",
    ),
    "PyTorch": (
        ("torch",),
        "import numpy as np, torch; "
        f"{_DATA}; x, w = torch.as_tensor(x), torch.as_tensor(w).requires_grad_(); "
        "torch.tanh(x @ w).sum().backward(); w.grad.sum()",
    ),
    "HIPS autograd": (
        ("autograd",),
        "import numpy as np, autograd.numpy as anp; from autograd import grad; "
        f"{_DATA}; grad(lambda w: anp.sum(anp.tanh(anp.dot(x, w))))(w).sum()",
    ),
}


def first_gradient(rounds: int) -> dict[str, float]:
    """Seconds from the start of a Python process to its first gradient, in turns, medians."""
    here = {
        k: code for k, (needs, code) in FIRST.items() if all(map(importlib.util.find_spec, needs))
    }
    times: dict[str, list[float]] = {name: [] for name in here}
    for _ in range(rounds + 1):  # the first fills the caches of the file system
        for name, code in here.items():
            begin = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, "-c", f"{code}; print('there', flush=True)"],
                env=environment(1), stdout=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                if process.stdout.readline().strip() != "there":
                    raise RuntimeError(f"{name} came to no gradient")
                times[name].append(time.perf_counter() - begin)
    return {name: median(values[1:]) for name, values in times.items()}


# --- Adam when gradients die ----------------------------------------------------------------------


def dead_adam(key: str, size: int = 100_000, silent: int = 1500) -> dict[str, float]:
    """µs of Adam's step while gradients live, and after `silent` steps without any.

    The mean gradient m then decays by a factor of 0.9 a step into denormal numbers, with which
    processors are slow, and sticks there.
    """
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal(size), rng.standard_normal(size)
    if key.startswith("torch"):
        import torch

        torch.set_num_threads(1)
        parameter = torch.as_tensor(start, dtype=torch.float32).requires_grad_()
        optimizer = torch.optim.Adam([parameter], 1e-3, fused=key == "torch-fused")
        live, none = torch.as_tensor(g, dtype=torch.float32), torch.zeros(size)
    else:
        import dlmini as dl

        dl.use(CONTENDERS[key].options["backend"])
        parameter = dl.Tensor(start, requires_grad=True)
        optimizer = dl.optim.Adam([parameter], 1e-3)
        live, none = dl.asarray(g), dl.asarray(np.zeros(size))

    def run(gradient, steps):
        """µs a step, median of ten parts."""
        parts = []
        for _ in range(10):
            begin = time.perf_counter()
            for _ in range(steps // 10):
                parameter.grad = gradient
                optimizer.step()
            parts.append((time.perf_counter() - begin) / (steps // 10) * 1e6)
        return median(parts)

    run(live, 100)
    normal = run(live, 300)
    run(none, silent)
    dead = run(none, 300)
    return {"live_us": normal, "dead_us": dead, "ratio": dead / normal}
