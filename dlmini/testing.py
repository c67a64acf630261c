"""Derivatives checked against central differences, in first and second order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import backend
from .tensor import Leaf, Tensor, grad, jvp


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
    """d Σ(cotangent·f)/d inputs[i] by (f(x+h) − f(x−h))/2h, one entry at a time.

    Args:
        f, inputs: as `gradcheck`.
        cotangent: weights of the entries of f.
        i: which of the inputs to move.
        step: h.
    """
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
    forward: bool = True,
) -> None:
    """Check backprop through `f` against central differences, with a random cotangent.

    Args:
        f: function of Tensors (or raw arrays) with one output of any shape.
        inputs: float64 arrays; every one is differentiated by.
        rng: for the cotangent; a fixed one if None.
        rtol, atol: |difference| ≤ atol + rtol · largest entry.
        forward: check forward mode against backprop as well (not where `f` itself calls grad).

    Raises:
        AssertionError: the derivatives differ; says for which input and by how much.
        TypeError: an input is not float64.
    """
    rng = rng or np.random.default_rng(0)
    leaves = _track(inputs)
    z = f(*leaves)
    cotangent = backend.like(rng.standard_normal(z.shape), z.data)
    found = grad(z, leaves, cotangent)
    if forward:
        _compare_modes(f, leaves, found, cotangent, rng)
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


def _compare_modes(f, leaves, gradients, cotangent, rng) -> None:
    """Both modes see one Jacobian J: cotangent · (J v) = (Jᵀ cotangent) · v for a random v."""
    v = [rng.standard_normal(t.shape) for t in leaves]
    _, tangent = jvp(lambda *_: f(*leaves), leaves, v)
    one_way = (tangent.numpy() * backend.to_numpy(cotangent)).sum()
    terms = [g.numpy() * d for g, d in zip(gradients, v, strict=True)]
    other_way = sum(float(t.sum()) for t in terms)
    if not abs(one_way - other_way) <= 1e-9 * sum(float(np.abs(t).sum()) for t in terms) + 1e-12:
        raise AssertionError(f"forward mode gives {one_way}, backprop {other_way}")


def gradgradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    rng: np.random.Generator | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """`gradcheck` of the backward pass itself: second derivatives in random directions.

    Args:
        f, inputs, rng, rtol, atol: as `gradcheck`.
    """
    rng = rng or np.random.default_rng(1)
    output = f(*_track(inputs))
    cotangent = backend.like(rng.standard_normal(output.shape), output.data)

    for which in range(len(inputs)):

        def backward_pass(*xs, which=which):
            # gradcheck calls this with Tensors, its differences call it with raw arrays.
            tracked = [x if x.__class__ is Tensor else _track([x])[0] for x in xs[:-1]]
            g = grad(f(*tracked), tracked, xs[-1], create_graph=True)[which]
            return g if xs[-1].__class__ is Tensor else g.data

        inputs_and_cotangent = [*inputs, cotangent]
        gradcheck(backward_pass, inputs_and_cotangent, rng, rtol, atol, forward=False)
