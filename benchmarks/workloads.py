"""What is timed: a training step on fixed data, from the same numbers for every contender."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A network, its loss and its batch.

    kind: "dense" (linear layers, relu between), "residual" (dense blocks with batch norm),
    "conv" (two convolutions on 8×8 images) or "quadratic". Optimized by Adam; the quadratic by
    gradient descent. The loss is the mean squared error for one output, else cross-entropy.
    """

    kind: str
    widths: tuple[int, ...] = ()
    batch: int = 1
    about: str = ""

    @property
    def regression(self) -> bool:
        return self.widths[-1:] == (1,)


WORKLOADS = {
    "a": Workload("dense", (2, 16, 16, 1), 32, "dense 2-16-16-1, batch 32"),
    "b": Workload("dense", (64, 128, 128, 10), 64, "dense 64-128-128-10, batch 64"),
    "c": Workload("dense", (784, 512, 512, 10), 128, "dense 784-512-512-10, batch 128"),
    "d": Workload("residual", (64,) * 51 + (10,), 64,
                  "50 residual blocks of width 64 with batch norm, batch 64"),
    "e": Workload("conv", (10,), 64, "two convolutions on 8×8 images, batch 64"),
    "f": Workload("dense", (2048,) * 4, 512, "dense 2048-2048-2048-2048, batch 512"),
    "g": Workload("quadratic", about="gradient descent on a quadratic in two dimensions"),
}  # fmt: skip
CHANNELS = (1, 16, 32)  # of the convolutional network: 3×3 filters, each followed by 2×2 pooling
FEATURES = CHANNELS[-1] * 2 * 2  # that are left for its linear layer
HESSIAN = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)


def data(w: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, float32, and targets: numbers (batch, 1), or class numbers (batch,), int64."""
    rng = np.random.default_rng(0)
    shape = (w.batch, 1, 8, 8) if w.kind == "conv" else (w.batch, *w.widths[:1])
    x = rng.standard_normal(shape).astype(np.float32)
    if w.regression:
        return x, rng.standard_normal((w.batch, 1)).astype(np.float32)
    return x, rng.integers(0, w.widths[-1] if w.widths else 2, w.batch)


def shapes(w: Workload) -> list[tuple[int, ...]]:
    """Of the parameters, in the order of PyTorch's layers.

    Weights (out, in) or filters (out, in, 3, 3), then biases (out,); after them, in a residual
    block, γ and β of the batch norm.
    """
    if w.kind == "quadratic":
        return [(1, 2)]
    if w.kind == "conv":
        pairs = zip(CHANNELS, CHANNELS[1:], strict=False)
        filters = [shape for n, m in pairs for shape in ((m, n, 3, 3), (m,))]
        return [*filters, (w.widths[-1], FEATURES), w.widths[-1:]]
    hidden = [
        shape
        for n, m in zip(w.widths[:-2], w.widths[1:-1], strict=True)
        for shape in ((m, n), *[(m,)] * (3 if w.kind == "residual" else 1))
    ]
    return [*hidden, w.widths[:-3:-1], w.widths[-1:]]


def initial(w: Workload) -> list[np.ndarray]:
    """The parameters at the start (see `shapes`), float32: He's weights, and small biases."""
    if w.kind == "quadratic":
        return [np.ones((1, 2), np.float32)]
    rng = np.random.default_rng(1)
    arrays = []
    for i, shape in enumerate(shapes(w)):
        spread = 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
        gamma = w.kind == "residual" and len(shape) == 1 and i % 4 == 2
        arrays.append((gamma + spread * rng.standard_normal(shape)).astype(np.float32))
    return arrays


def count(w: Workload) -> int:
    """P, the number of parameters."""
    return sum(map(math.prod, shapes(w)))
