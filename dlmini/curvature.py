"""The shape of the loss around a point: curvature, and slices through the landscape."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .backend import Array, like
from .flat import Flat
from .tensor import Tensor, grad, no_grad


def hvp(loss: Callable[[], Tensor], flat: Flat, vector: Any) -> Array:
    """Hessian-vector product H v = ∇(∇L · v), two backward passes (Pearlmutter 1994).

    Args:
        loss: builds the scalar loss anew from the packed parameters.
        flat: the packed parameters.
        vector: v, (P,).

    Returns:
        (P,).
    """
    parts = flat.split(like(vector, flat.theta))
    gradients = grad(loss(), flat.parameters, create_graph=True)
    dots = [(g * v).sum() for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
    total = dots[0]
    for dot in dots[1:]:
        total = total + dot
    result = flat.theta * 0.0
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
    """λmax of the Hessian of the loss, by `steps` steps of Lanczos."""
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
    origin = kept if centre is None else backend.to_numpy(centre)
    first, second = backend.to_numpy(first), backend.to_numpy(second)
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
    """The plane that holds most of a path, seen from its last point (Li et al. 2018).

    Args:
        path: (T, P), parameters along a training run.

    Returns:
        directions (2, P), orthonormal; coordinates (T, 2) of the path with its end at the
        origin; and the share of the path's variance that each direction holds, (2,).
    """
    moves = backend.to_numpy(path) - backend.to_numpy(path)[-1]
    _, singular, directions = np.linalg.svd(moves, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    return directions[:2], moves @ directions[:2].T, share[:2]
