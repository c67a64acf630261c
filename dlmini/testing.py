"""Derivatives checked against central differences, in first and second order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import backend
from .tensor import Leaf, Tensor, grad


def _track(inputs: Sequence[Any]) -> list[Tensor]:
    """The inputs as fresh leaves, in their own precision, which must be float64."""
    for i, x in enumerate(inputs):
        if backend.dtype_name(x.dtype) != "float64":
            raise TypeError(f"gradcheck needs float64, input {i} is {backend.dtype_name(x.dtype)}")
    arrays = [backend.asarray(x, dtype=x.dtype) for x in inputs]
    return [Tensor.wrap(x, Leaf(x)) for x in arrays]


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
    leaves = _track(inputs)
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
    output = f(*_track(inputs))
    cotangent = backend.like(rng.standard_normal(output.shape), output.data)

    for which in range(len(inputs)):

        def backward_pass(*xs, which=which):
            # gradcheck calls this with Tensors, its differences call it with raw arrays.
            tracked = [x if x.__class__ is Tensor else _track([x])[0] for x in xs[:-1]]
            g = grad(f(*tracked), tracked, xs[-1], create_graph=True)[which]
            return g if xs[-1].__class__ is Tensor else g.data

        gradcheck(backward_pass, [*inputs, cotangent], rng=rng, rtol=rtol, atol=atol)
