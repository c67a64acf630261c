"""Derivatives checked against central differences, in first and second order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import backend
from .tensor import Tensor, grad


def _leaves(inputs: Sequence[Any]) -> list[Tensor]:
    leaves = []
    for i, x in enumerate(inputs):
        if backend.dtype_name(x.dtype) != "float64":
            raise TypeError(f"gradcheck needs float64, input {i} is {backend.dtype_name(x.dtype)}")
        leaves.append(Tensor.wrap(x, None) if x.__class__ is not Tensor else x.detach())
    return leaves


def _track(tensors: Sequence[Tensor]) -> list[Tensor]:
    from .tensor import Leaf

    return [Tensor.wrap(t.data, Leaf(t.data)) for t in tensors]


def central_difference(
    f: Callable[..., Any], inputs: Sequence[Any], cotangent: Any, i: int, step: float = 1e-6
) -> np.ndarray:
    """d Σ(cotangent·f)/d inputs[i] by (f(x+h) − f(x−h))/2h, one entry at a time."""
    weights = backend.to_numpy(cotangent)
    base = [backend.to_numpy(x).astype(float) for x in inputs]
    result = np.zeros_like(base[i])
    for at in np.ndindex(base[i].shape):
        values = []
        for sign in (1, -1):
            moved = [b.copy() for b in base]
            moved[i][at] += sign * step
            arrays = [backend.like(m, raw) for m, raw in zip(moved, inputs, strict=True)]
            values.append(float((backend.to_numpy(f(*arrays)) * weights).sum()))
        result[at] = (values[0] - values[1]) / (2 * step)
    return result


def gradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    rng: np.random.Generator | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-7,
) -> None:
    """Check backprop through `f` against central differences, with a random cotangent.

    Args:
        f: function of Tensors (or raw arrays) with one output of any shape.
        inputs: float64 arrays; every one is differentiated by.
        rng: for the cotangent; a fixed one if None.
        rtol, atol: |difference| ≤ atol + rtol · largest entry.

    Raises:
        AssertionError: the derivatives differ; says for which input and by how much.
        TypeError: an input is not float64.
    """
    rng = rng or np.random.default_rng(0)
    leaves = _track(_leaves(inputs))
    z = f(*leaves)
    cotangent = backend.like(rng.standard_normal(z.shape), z.data)
    found = grad(z, leaves, cotangent)
    for i, g in enumerate(found):
        expected = central_difference(f, [t.data for t in leaves], cotangent, i)
        got = backend.to_numpy(g.data)
        worst = np.abs(got - expected).max(initial=0.0)
        allowed = atol + rtol * np.abs(expected).max(initial=0.0)
        if got.shape != expected.shape or not worst <= allowed:
            raise AssertionError(
                f"derivative by input {i} (shape {expected.shape}) differs by {worst:.2e} "
                f"(allowed {allowed:.2e}):\nbackprop\n{got}\ndifferences\n{expected}"
            )


def gradgradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    rng: np.random.Generator | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """`gradcheck` of the backward pass itself: second derivatives in random directions."""
    rng = rng or np.random.default_rng(1)
    leaves = _leaves(inputs)
    output = f(*leaves)
    cotangent = backend.like(rng.standard_normal(output.shape), output.data)

    for which in range(len(leaves)):

        def backward_pass(*xs, which=which):
            # Called with raw arrays by the differences, with Tensors by gradcheck.
            tracked = [
                x if x.__class__ is Tensor and x.requires_grad
                else _track([Tensor.wrap(backend.to_numpy(x) if x.__class__ is Tensor else x, None)])[0]
                for x in xs[:-1]
            ]  # fmt: skip
            g = grad(f(*tracked), tracked, xs[-1], create_graph=True)[which]
            return g if any(x.__class__ is Tensor for x in xs) else g.data

        gradcheck(
            backward_pass,
            [*[t.data for t in leaves], cotangent],
            rng=rng,
            rtol=rtol,
            atol=atol,
        )
