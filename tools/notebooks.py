"""Run the chapters again, in place, each in a clean process, and keep their stored form stable.

    python tools/notebooks.py                          all notebooks in chapters/
    python tools/notebooks.py chapters/conditioning.ipynb
    python tools/notebooks.py --check                  say what would change, write nothing
    python tools/notebooks.py --seed 1 2 3 --backend torch
        (do the claims hold there? writes nothing)

What is stored depends on the code alone: no times, no machine paths, no versions, no widgets.
Running twice changes no byte. The line of facts at the head of each chapter (run time, memory) is
measured here, in coarse steps that change only when the measurement leaves them clearly.
"""

import argparse
import base64
import os
import re
import struct
import sys
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from dlmini.book import ledger

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"

SECONDS = (10, 20, 30, 45, 60, 90, 120)
MEGABYTES = (200, 300, 400, 600, 800, 1200, 1600, 2400)
FACTS = re.compile(r"^(\*?)Runs in under \d+ s on two CPU cores · .*?(\*?)$", re.M)
# Processor time, which a busy machine changes little, of the kernel and the processes it started.
SPENT = """
try:
    import resource, sys
    own, others = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(r.ru_utime + r.ru_stime for r in (own, others))
    print(seconds, own.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
except ImportError:
    pass
"""


# --- run -----------------------------------------------------------------------------------------


def run(notebook, environment: dict, allow_errors: bool = False):
    """Execute all cells in a new kernel; returns processor seconds and peak MB (where unknown,
    seconds of the clock and None)."""
    probe = nbformat.v4.new_code_cell(SPENT)
    notebook.cells.append(probe)
    before = os.environ.copy()
    path = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
    one = {name: before.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update({"TQDM_DISABLE": "1", "PYTHONPATH": path} | one | environment)
    start = time.perf_counter()
    try:
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", allow_errors=allow_errors,
            resources={"metadata": {"path": str(CHAPTERS)}},
        )  # fmt: skip
        client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
        notebook.cells.remove(probe)
    clock = time.perf_counter() - start
    spent = "".join(output.get("text", "") for output in probe.outputs).split()
    return (float(spent[0]), int(spent[1]) / 1e6) if spent else (clock, None)


# --- normalise -----------------------------------------------------------------------------------


def normalise(notebook) -> None:
    """Keep what the code determines, and drop what the machine, the clock or a version adds."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        | {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        | {key: value for key, value in notebook.metadata.items() if key == "dlmini"}
    )
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
            for output in cell.outputs:
                clean(output)
            fold(cell)


def fold(cell) -> None:
    """What the site folds or leaves out, JupyterLab folds."""
    hidden = {"hide-input", "hide-cell", "remove-input"} & set(cell.metadata.get("tags", []))
    state = cell.metadata.pop("jupyter", {}) | {"source_hidden": bool(hidden)}
    kept = {key: value for key, value in state.items() if value}
    if kept:
        cell.metadata["jupyter"] = kept


def join_streams(outputs):
    """One output for all that was printed in a row; how it was cut depends on timing."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" == last.get("output_type") and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def clean(output) -> None:
    """Drop widget states, picture metadata and machine paths from one output."""
    data = output.get("data", {})
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if "image/png" in data:
        data["image/png"] = strip_png(data["image/png"])
    texts = [(data, key) for key in data if key.startswith("text/")] + [(output, "text")]
    for holder, key in texts:
        if isinstance(holder.get(key), str):
            holder[key] = holder[key].replace(f"{ROOT}{os.sep}", "")


def strip_png(text: str) -> str:
    """The picture without comments, times and versions."""
    png = base64.b64decode(text)
    kept, at = [png[:8]], 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            kept.append(png[at : at + length + 12])
        at += length + 12
    return base64.b64encode(b"".join(kept)).decode()


# --- facts ---------------------------------------------------------------------------------------


def bucket(measured: float, steps: tuple, stored: int | None) -> int:
    """The step that the measurement stays well under; the stored one while it is still fair.

    An idle machine is several times faster than a busy one; both keep what either has stored.
    """
    if stored in steps and 0.25 * stored <= measured <= 0.95 * stored:
        return stored
    return next((step for step in steps if measured <= 0.8 * step), steps[-1])


def state_facts(notebook, seconds: float, megabytes: float | None) -> None:
    """Write run time and memory into the metadata and into the line at the head of the chapter."""
    facts = {"gpu": "does not help", "before": "nothing"} | notebook.metadata.get("dlmini", {})
    facts["runtime_s"] = bucket(seconds, SECONDS, facts.get("runtime_s"))
    if megabytes is not None:
        facts["memory_mb"] = bucket(megabytes, MEGABYTES, facts.get("memory_mb"))
    notebook.metadata["dlmini"] = facts
    first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    line = facts_line(facts)
    if FACTS.search(first.source):
        first.source = FACTS.sub(lambda match: match[1] + line + match[2], first.source, count=1)
    else:
        first.source = f"{first.source.rstrip()}\n\n*{line}*"


def facts_line(facts: dict) -> str:
    memory = f"under {facts['memory_mb']} MB · " if "memory_mb" in facts else ""
    return (
        f"Runs in under {facts['runtime_s']} s on two CPU cores · {memory}"
        f"a GPU {facts['gpu']} · read before: {facts['before']}"
    )


# --- commands ------------------------------------------------------------------------------------


def refresh(paths: list[Path], check: bool) -> int:
    """Run and store; with `check` only say what would be stored differently."""
    chapters = set(tomllib.loads((CHAPTERS / "claims.toml").read_text(encoding="utf-8")))
    worst = 0
    for path in paths:
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        try:
            seconds, megabytes = run(notebook, {})
        except CellExecutionError as error:
            print(f"{path.name}: a cell failed; nothing was written\n{error}", file=sys.stderr)
            worst = 1
            continue
        normalise(notebook)
        if path.stem in chapters:
            state_facts(notebook, seconds, megabytes)
        after = nbformat.writes(notebook).rstrip("\n") + "\n"
        memory = f", {megabytes:.0f} MB" if megabytes else ""
        verdict = "unchanged" if after == before else "would change" if check else "changed"
        print(f"{path.name}: {seconds:.1f} s{memory}; {verdict}", flush=True)
        if after != before and check:
            worst = 1
        elif after != before and path.read_text(encoding="utf-8") != before:
            print(f"{path.name}: edited while it ran; nothing was written", file=sys.stderr)
            worst = 1
        elif after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
    return worst


def verify(paths: list[Path], seeds: list[int], backend: str | None) -> int:
    """Run on other seeds or another backend without writing, and list the claims that fail."""
    worst = 0
    for seed in seeds:
        environment = {"DLMINI_SEED": str(seed)} | ({"DLMINI_BACKEND": backend} if backend else {})
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            seconds, _ = run(notebook, environment, allow_errors=True)
            outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
            holds = [record["holds"] for _, record in ledger.stored(notebook.cells)]
            errors = [o for o in outputs if o.output_type == "error"]
            where = f"seed {seed}" + (f", {backend}" if backend else "")
            count = f"{sum(holds)} of {len(holds)} claims hold"
            print(f"{path.name}, {where}: {count} ({seconds:.0f} s)")
            for error in errors:
                worst = 1
                print(f"  {error.ename}: {error.evalue}")
            sys.stdout.flush()
    return worst


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in chapters/")
    parser.add_argument("--check", action="store_true", help="say what would change, write nothing")
    parser.add_argument("--seed", nargs="+", type=int, help="verify claims with these DLMINI_SEED")
    parser.add_argument("--backend", help="verify claims with this DLMINI_BACKEND, such as torch")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(CHAPTERS.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")
    paths = sorted(paths, key=lambda path: (path.stem == "ledger", path.name))
    if options.seed is not None or options.backend:
        chapters = [path for path in paths if path.stem != "ledger"]
        return verify(chapters, options.seed or [0], options.backend)
    return refresh(paths, options.check)


if __name__ == "__main__":
    sys.exit(main())
