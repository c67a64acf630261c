"""Who takes part. Each file here builds one library's training step, as its friends would."""

import importlib
import importlib.util
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..workloads import WORKLOADS, Workload

# Adam's and gradient descent's step while timing: as much work as any other, but the network
# stays where it is, so that no gradient dies (then denormal numbers would be timed).
LR = 1e-7


class Step(NamedTuple):
    """What a contender builds.

    take: one step (forward, backward, update), finished when it returns; gives the loss before
        the update, as the library has it.
    parameters: the parameters as they are now, in the order and shapes of `workloads.initial`.
    """

    take: Callable[[], Any]
    parameters: Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """A library and how it is used: `build` makes its step, in its own process when timed."""

    label: str
    file: str  # in this folder; has build(workload, lr, **options) -> Step
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # modules
    compiler: tuple[str, ...] = ()  # one of these programs
    headers: bool = False  # Python's, to compile with
    workloads: str = "abcdefg"
    same_task: bool = True  # the losses and parameters are everybody's

    def missing(self) -> str | None:
        """Why this contender cannot take part here, or None."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        if self.compiler and not any(map(shutil.which, self.compiler)):
            return f"no {' or '.join(self.compiler)} to compile with"
        if self.headers and not Path(sysconfig.get_path("include"), "Python.h").exists():
            return "no Python.h to compile with"
        return None

    def build(self, workload: Workload, lr: float = LR) -> Step:
        return self.load().build(workload, lr, **self.options)

    def load(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.file}")


BASE = "torch"
CONTENDERS = {
    "torch": Contender("PyTorch eager", "with_torch", {}, ("torch",)),
    "torch-fused": Contender("PyTorch, fused Adam", "with_torch", {"fused": True}, ("torch",)),
    "torch-compile": Contender(
        "torch.compile, fused Adam", "with_torch", {"fused": True, "compiled": "inductor"},
        ("torch",), ("g++", "clang++"), headers=True,
    ),
    "jax": Contender("JAX jit", "with_jax", {}, ("jax",)),
    "autograd": Contender("HIPS autograd", "with_autograd", {}, ("autograd",)),
    "tinygrad": Contender("tinygrad", "with_tinygrad", {}, ("tinygrad",), ("clang",)),
    "micrograd": Contender("micrograd", "with_micrograd", {}, ("micrograd",), workloads="a"),
    "numpy": Contender("NumPy by hand", "with_numpy"),
    "dlmini-numpy": Contender("dlmini, NumPy", "with_dlmini", {"backend": "numpy"}),
    "dlmini-torch": Contender(
        "dlmini, torch arrays", "with_dlmini", {"backend": "torch"}, ("torch",)
    ),
    "products-numpy": Contender(
        "bare products, NumPy", "products", {"library": "numpy"}, workloads="abcdef",
        same_task=False,
    ),
    "products-torch": Contender(
        "bare products, torch", "products", {"library": "torch"}, ("torch",), workloads="abcdef",
        same_task=False,
    ),
}  # fmt: skip
CUDA = {
    "torch": replace(CONTENDERS["torch"], options={"device": "cuda"}),
    "torch-fused": replace(CONTENDERS["torch-fused"], options={"fused": True, "device": "cuda"}),
    "dlmini-torch": replace(CONTENDERS["dlmini-torch"], options={"backend": "torch:cuda"}),
}


def entrants(name: str, table: dict[str, Contender] = CONTENDERS) -> dict[str, Contender]:
    """Who takes part in workload `name`, whether it is installed here or not."""
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}: there are {' '.join(WORKLOADS)}")
    return {key: c for key, c in table.items() if name in c.workloads}
