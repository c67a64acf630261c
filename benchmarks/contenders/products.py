"""The floor: the matrix products of forward and backward, and nothing else."""

import numpy as np

from ..workloads import CHANNELS, FEATURES, Workload
from . import Step


def shapes(w: Workload) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) of the product that each layer makes in the forward pass."""
    if w.kind == "conv":  # a row for each pixel, 9 inputs for each channel
        first, second = w.batch * 8 * 8, w.batch * 4 * 4
        return [
            (first, 9 * CHANNELS[0], CHANNELS[1]),
            (second, 9 * CHANNELS[1], CHANNELS[2]),
            (w.batch, FEATURES, w.widths[-1]),
        ]
    return [(w.batch, n, m) for n, m in zip(w.widths, w.widths[1:], strict=False)]


def operations(w: Workload) -> int:
    """Multiplications and additions of one step."""
    each = [2 * r * n * m for r, n, m in shapes(w)]
    return 3 * sum(each) - each[0]


def build(w: Workload, lr: float, library: str = "numpy") -> Step:
    rng = np.random.default_rng(0)

    def array(*shape):
        a = rng.standard_normal(shape).astype(np.float32)
        return a if library == "numpy" else torch.as_tensor(a)

    if library == "torch":
        import torch

        matmul = torch.matmul
    else:
        matmul = np.matmul
    forward, backward = [], []
    for i, (r, n, m) in enumerate(shapes(w)):
        x, weight, g = array(r, n), array(m, n), array(r, m)
        forward.append((x, weight.T, array(r, m)))
        backward.append((g.T, x, array(m, n)))
        if i:  # nobody asks for the derivative by the data
            backward.append((g, weight, array(r, n)))
    products = forward + backward[::-1]

    def take():
        for a, b, out in products:
            matmul(a, b, out=out)
        return float("nan")

    return Step(take, list)
