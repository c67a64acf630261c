"""`python -m benchmarks [a b …] [--rounds N]`: each contender in a process of its own, in turns.

Prints the median time of one training step and the median of the ratios, round by round, to
PyTorch with its default optimizer. One thread, float32.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

from .workloads import CONTENDERS, WORKLOADS, build

SLICE = 0.2  # seconds of steps in one turn


def worker(name: str, contender: str) -> None:
    """Take turns: for each line on standard input print the microseconds of a step."""
    step = build(name, contender)
    for _ in range(5):
        step()
    start = time.perf_counter()
    step()
    count = max(3, int(SLICE / (time.perf_counter() - start)))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(count):
            step()
        print((time.perf_counter() - start) / count * 1e6, flush=True)


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step of each contender, one number per round."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = {
        c: subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--worker", name, c],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one},
        )
        for c in CONTENDERS
    }  # fmt: skip
    times: dict[str, list[float]] = {c: [] for c in CONTENDERS}
    try:
        for process in processes.values():
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a contender of workload {name} did not start; see above")
        for _ in range(rounds):
            for contender, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                times[contender].append(float(process.stdout.readline()))
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help=f"some of {' '.join(WORKLOADS)}; default all")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"unknown workloads {sorted(unknown)}; there are {' '.join(WORKLOADS)}")
    versions = " · ".join(f"{p} {version(p)}" for p in ("numpy", "torch"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}, one thread\n")
    print(f"| step of | {' | '.join(CONTENDERS)} |\n|---|{'---|' * len(CONTENDERS)}")
    for name in options.workloads or WORKLOADS:
        times = measure(name, options.rounds)
        base = times[CONTENDERS[0]]
        cells = []
        for contender in CONTENDERS:
            ratios = [t / b for t, b in zip(times[contender], base, strict=True)]
            middle = statistics.median(times[contender])
            cells.append(f"{middle:,.0f} µs ({statistics.median(ratios):.2f})")
        print(f"| {name}: {WORKLOADS[name][0]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
