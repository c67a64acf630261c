"""Fair timing: each contender in a process of its own, taking turns, ratios taken round by round.

A worker reads one JSON line for each thing to do and answers with one JSON line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .contenders import CONTENDERS, CUDA, Contender
from .workloads import Workload

SLICE = 0.15  # seconds of steps in one turn
KEEP = 5.0  # a process whose first step took longer (it compiles) is not started a second time
LONG = 1.0  # a contender whose step takes k times as long has a turn in every k-th round
TABLES = {"cpu": CONTENDERS, "cuda": CUDA}


def environment(threads: int) -> dict[str, str]:
    """The environment in which every library uses this many threads."""
    names = ["OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM"]
    chosen = {f"{name}_NUM_THREADS": str(threads) for name in names}
    chosen["NUM_CPU_THREADS"] = str(threads)  # tinygrad
    # Compilers start from nothing, so that the time of a first step does not depend on the past.
    chosen |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "CACHELEVEL": "0"}
    if threads == 1:
        chosen["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {**os.environ, **chosen}


# --- the worker's side ----------------------------------------------------------------------------


def work(device: str, key: str, threads: int) -> None:
    """Do what standard input says until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints does not go between the answers
    contender = TABLES[device][key]
    contender.load()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    turn = Turn(contender, device)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = turn.build(request["build"]) if "build" in request else turn.take()
        except Exception as error:  # whatever a library raises; its words go into the report
            said = [*str(error).strip().splitlines(), ""][0]
            answer = {"error": f"{type(error).__name__}: {said}"}
        print(json.dumps(answer), file=answers, flush=True)


class Turn:
    """One contender's step of one workload, and how many steps it takes in a turn."""

    def __init__(self, contender: Contender, device: str):
        self.contender, self.device = contender, device

    def build(self, workload: dict[str, Any]) -> dict[str, Any]:
        workload["widths"] = tuple(workload["widths"])
        begin = time.perf_counter()
        self.step = self.contender.build(Workload(**workload)).take
        self.steps(1)
        first = time.perf_counter() - begin
        once = self.steps(1)
        for _ in range(3 if once < LONG else 1):
            once = min(once, self.steps(1))
        self.count = max(1, int(SLICE / once))
        gpu = sys.modules["torch"].cuda.get_device_name() if self.device == "cuda" else None
        return {"first_s": first, "step_s": once, "gpu": gpu}

    def steps(self, count: int) -> float:
        self.wait()
        begin = time.perf_counter()
        for _ in range(count):
            self.step()
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        """On a GPU a step has only been asked for when `step` returns."""
        if self.device == "cuda":
            sys.modules["torch"].cuda.synchronize()

    def take(self) -> dict[str, float]:
        busy = time.process_time()
        seconds = self.steps(self.count)
        busy = time.process_time() - busy
        return {"us": seconds / self.count * 1e6, "threads": busy / seconds}


# --- the side that gives the turns ----------------------------------------------------------------


class Left(RuntimeError):
    """A contender that cannot go on; the text says why."""


class Process:
    """A worker of one contender."""

    def __init__(self, key: str, device: str = "cpu", threads: int = 1):
        command = [sys.executable, "-m", "benchmarks", "--worker", device, key, str(threads)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=environment(threads),
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()
            raise Left(said[-1] if said else f"its process ended ({self.process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise Left(answer["error"])
        return answer

    def build(self, workload: Workload) -> dict[str, Any]:
        return self.ask(build=asdict(workload))

    def take(self) -> dict[str, float]:
        return self.ask(take=True)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


class Record:
    """What was measured of one contender: microseconds by round, seconds of the first step."""

    def __init__(self) -> None:
        self.us: dict[int, float] = {}
        self.first_s: list[float] = []
        self.threads: list[float] = []
        self.gpu: str | None = None


def measure(
    workload: Workload,
    keys: Iterable[str],
    rounds: int,
    processes: int,
    device: str = "cpu",
    threads: int = 1,
) -> tuple[dict[str, Record], dict[str, str]]:
    """Time the contenders in turns: `rounds` in each of `processes` generations of processes.

    Several generations, because where a process happens to have its memory moves the time of a
    step by up to a fifth. A contender that compiles for longer than it is timed stays alive.

    Returns:
        The records by contender, and the reasons of those that had to be left out.
    """
    records = {key: Record() for key in keys}
    left: dict[str, str] = {}
    alive: dict[str, Process] = {}
    every: dict[str, int] = {}
    try:
        for generation in range(processes):
            fresh = [key for key in records if key not in alive and key not in left]
            alive |= {key: Process(key, device, threads) for key in fresh}  # they import together
            for key in fresh:
                try:
                    built = alive[key].build(workload)
                    records[key].first_s.append(built["first_s"])
                    records[key].gpu = built["gpu"]
                    every[key] = max(1, round(built["step_s"] / LONG))
                except Left as reason:
                    left[key] = str(reason)
                    alive.pop(key).close()
            for turn in range(generation * rounds, (generation + 1) * rounds):
                for key, process in list(alive.items()):
                    if turn % every[key]:
                        continue
                    if threads > 1:
                        time.sleep(0.3)  # until the threads of the one before stop spinning
                    try:
                        answer = process.take()
                    except Left as reason:
                        left[key] = str(reason)
                        alive.pop(key).close()
                        continue
                    records[key].us[turn] = answer["us"]
                    records[key].threads.append(answer["threads"])
            for key in list(alive):
                if records[key].first_s[-1] < KEEP:
                    alive.pop(key).close()
    finally:
        for process in alive.values():
            process.close()
    return {key: record for key, record in records.items() if key not in left}, left
