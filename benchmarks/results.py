"""What was measured, where and with which versions: one JSON file that the report is made from."""

import datetime
import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
LIBRARIES = ("numpy", "torch", "jax", "autograd", "tinygrad", "micrograd")


def cpu() -> str:
    """The processor's name, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def setting() -> dict[str, Any]:
    """The machine and the versions; no names of hosts, users or folders."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.system()}
    return {"machine": machine, "versions": versions}


def load(path: Path = RESULTS) -> dict[str, Any]:
    """What the file holds; nothing if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(part: dict[str, Any], path: Path = RESULTS) -> None:
    """Put `part` ({section: {name: what}}) in the place of what the file holds under these names.

    What was measured on another machine or with other versions is dropped: a table mixes nothing.
    Only the section "cuda" may come from another machine, the one with the GPU.
    """
    here = setting() | {"date": datetime.date.today().isoformat()}
    known = load(path)
    for section, content in part.items():
        if section == "cuda":
            before = known.get(section, {})
            same = all(before.get(key) == here[key] for key in ("machine", "versions"))
            known[section] = (before if same else {}) | here
            known[section].setdefault("steps", {}).update(content)
            continue
        if any(known.get(key) != here[key] for key in ("machine", "versions")):
            known = {"cuda": known["cuda"]} if "cuda" in known else {}
        known |= here
        known.setdefault(section, {}).update(content)
    text = json.dumps(rounded(known), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def rounded(x: Any) -> Any:
    """Four digits are more than a clock can tell."""
    if isinstance(x, float):
        return float(f"{x:.4g}")
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return [rounded(value) for value in x] if isinstance(x, (list, tuple)) else x


def summary(values: list[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
