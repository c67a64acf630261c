"""The shape of the loss around a point: curvature, and slices through the landscape."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .backend import Array, like
from .flat import Flat
from .tensor import ShapeError, Tensor, grad, no_grad


def _direction(name: str, vector: Any, flat: Flat) -> np.ndarray:
    """`vector` as NumPy, or a ShapeError if it has not one entry per parameter."""
    v = backend.to_numpy(vector)
    if v.shape != (flat.size,):
        raise ShapeError(f"{name} must have shape ({flat.size},), got {v.shape}")
    return v


def hvp(loss: Callable[[], Tensor], flat: Flat, vector: Any) -> Array:
    """Hessian-vector product H v = ∇(∇L · v), two backward passes (Pearlmutter 1994).

    Args:
        loss: builds the scalar loss anew from the packed parameters.
        flat: the packed parameters.
        vector: v, (P,).

    Returns:
        (P,).
    """
    parts = flat.split(like(_direction("vector", vector, flat), flat.theta))
    gradients = grad(loss(), flat.parameters, create_graph=True)
    total = gradients[0].detach().sum() * 0.0
    for g, v in zip(gradients, parts, strict=True):
        total = total + (g * v).sum()
    result = flat.theta * 0.0
    if not total.requires_grad:
        return result  # the loss is linear in θ
    for out, h in zip(flat.split(result), grad(total, flat.parameters), strict=True):
        out[...] = h.data
    return result


def lanczos(
    matvec: Callable[[np.ndarray], Any], size: int, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric tridiagonal matrix that a symmetric operator is to `steps` random probes.

    Its extreme eigenvalues approach the operator's (Lanczos 1950); every new vector is made
    orthogonal to all before, so that no eigenvalue appears twice.

    Returns:
        diagonal (k,) and off-diagonal (k − 1,), with k ≤ min(steps, size).
    """
    v = rng.standard_normal(size)
    basis = [v / np.linalg.norm(v)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, size)):
        w = np.array(backend.to_numpy(matvec(basis[-1])), dtype=float)
        diagonal.append(float(basis[-1] @ w))
        q = np.array(basis)
        for _ in range(2):  # twice is enough (Kahan; Parlett 1998)
            w -= q.T @ (q @ w)
        norm = float(np.linalg.norm(w))
        if norm <= 1e-10 * max(map(abs, diagonal)):
            break
        beside.append(norm)
        basis.append(w / norm)
    return np.array(diagonal), np.array(beside[: len(diagonal) - 1])


def top_eigenvalue(
    loss: Callable[[], Tensor],
    flat: Flat,
    steps: int = 40,
    rng: np.random.Generator | None = None,
) -> float:
    """λmax of the Hessian of the loss, by `steps` ≥ 1 steps of Lanczos."""
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps!r}")
    diagonal, beside = lanczos(
        lambda v: hvp(loss, flat, v), flat.size, steps, rng or backend.stream()
    )
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return float(np.linalg.eigvalsh(matrix)[-1])


def filter_direction(flat: Flat, rng: np.random.Generator | None = None) -> Array:
    """A random direction whose every filter is as long as the network's own.

    A filter is what feeds one unit: a row of a weight matrix. Vectors (biases) stay put. Without
    this a network whose layers are rescaled, which computes the same function, would seem to
    have another landscape (Li et al. 2018).

    Returns:
        (P,).
    """
    rng = rng or backend.stream()
    result = np.zeros(flat.size)
    parts = zip(flat.split(result), flat.split(backend.to_numpy(flat.theta)), strict=True)
    for out, weights in parts:
        d = rng.standard_normal(weights.shape)
        if weights.ndim >= 2:
            axes = tuple(range(1, weights.ndim))
            size = np.sqrt((d**2).sum(axes, keepdims=True))
            out[...] = d * np.sqrt((weights**2).sum(axes, keepdims=True)) / size
    return like(result, flat.theta)


def loss_slice(
    loss: Callable[[], Tensor],
    flat: Flat,
    first: Any,
    second: Any,
    a: Any,
    b: Any,
    centre: Any = None,
) -> np.ndarray:
    """L(θ + aᵢ·first + bⱼ·second) on a grid; the parameters are left as they were.

    Args:
        loss: builds the loss from the packed parameters.
        first, second: directions, (P,).
        a, b: coordinates along them, (n,) and (m,).
        centre: θ, (P,); the present parameters if None.

    Returns:
        (m, n): one row per b, as contour plots want it.
    """
    kept = flat.snapshot()
    origin = kept if centre is None else _direction("centre", centre, flat)
    first, second = _direction("first", first, flat), _direction("second", second, flat)
    values = np.empty((len(b), len(a)))
    try:
        with no_grad():
            for j, bj in enumerate(b):
                for i, ai in enumerate(a):
                    flat.assign(origin + ai * first + bj * second)
                    values[j, i] = loss().item()
    finally:
        flat.assign(kept)
    return values


def principal_plane(path: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane in which a path spreads most: its first two principal directions (Lorch 2016).

    Args:
        path: (T, P), parameters along a training run.

    Returns:
        directions (2, P), orthonormal; coordinates (T, 2) of the path, with its end at the
        origin; and the share of the path's variance that each direction holds, (2,). For a
        random walk in many dimensions the two shares come to 0.76 (Antognini & Sohl-Dickstein
        2018).
    """
    points = backend.to_numpy(path)
    if points.ndim != 2 or len(points) < 3 or not np.ptp(points, axis=0).any():
        raise ShapeError(f"a path is (T, P) with T >= 3 points that differ, got {points.shape}")
    _, singular, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    share = singular**2 / (singular**2).sum()
    return directions[:2], (points - points[-1]) @ directions[:2].T, share[:2]
