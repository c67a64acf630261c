"""Gradient descent on a plain function, one run or many side by side: paths, thresholds, rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend, ops
from .backend import Array, positive, xp
from .tensor import ShapeError, Tensor, grad

TOO_LARGE = 1e12  # a loss this many times its start is called divergence


@dataclass
class Path:
    """What a descent went through.

    Attributes:
        points: (steps + 1, *shape of the start) as NumPy.
        losses: (steps + 1,) or (steps + 1, runs) as NumPy, the loss of each run at each point.
    """

    points: np.ndarray
    losses: np.ndarray

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run's loss was still growing over the second half of the descent."""
        half, last = self.losses[len(self.losses) // 2], self.losses[-1]
        return ~np.isfinite(last) | (last > half)


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Any,
    lr: Any,
    steps: int,
    momentum: float = 0.0,
    schedule: Callable[[int], float] | None = None,
) -> Path:
    """v ← μ v + ∇L(θ), θ ← θ − η v, from `start`.

    Args:
        loss: θ ↦ a scalar; or, for many runs side by side, θ (runs, d) ↦ losses (runs,), each
            of its own row alone.
        start: θ₀, (d,) or (runs, d).
        lr: learning rate η > 0; an array of one per run where there are several.
        steps: number of steps; a run whose loss has grown a trillionfold stands still.
        momentum: μ ≥ 0.
        schedule: factor on η at step t = 0, 1, …

    Raises:
        ValueError: η not positive, steps < 1.
        ShapeError: the loss is not one number per run.
    """
    rates = np.asarray(lr, dtype=float)
    if rates.size == 0 or not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"the learning rate lr must be finite and > 0, got {lr!r}")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps must be an integer >= 1, got {steps!r}")
    positive("momentum", momentum, allow_zero=True)
    theta = backend.asarray(np.array(backend.to_numpy(start), dtype=float))
    runs = theta.shape[:-1]
    if rates.shape not in ((), runs):
        raise ShapeError(f"{rates.shape} learning rates for starts of shape {tuple(theta.shape)}")
    eta = backend.like(np.broadcast_to(rates[..., None], theta.shape).copy(), theta)
    velocity = xp(theta).zeros_like(theta)
    points, losses = [], []
    for t in range(steps + 1):
        parameter = Tensor(theta, requires_grad=True)
        value = loss(parameter)
        if value.shape != runs:
            raise ShapeError(
                f"the loss of θ {tuple(theta.shape)} must have shape {runs}, it has {value.shape}"
            )
        points.append(backend.to_numpy(theta).copy())
        losses.append(backend.to_numpy(value.data).copy())
        if t == steps:
            break
        [g] = grad(ops.sum(value), [parameter])
        step = eta * (schedule(t) if schedule else 1.0)
        bound = TOO_LARGE * np.maximum(np.abs(losses[0]), 1e-300)
        alive = backend.like(np.asarray(np.abs(losses[-1]) < bound)[..., None], theta)
        velocity = (momentum * velocity + g.data) * alive
        theta = theta - step * velocity
    return Path(np.stack(points), np.stack(losses))


def quadratic(hessian: Any, minimum: Any = None) -> Callable[[Tensor], Tensor]:
    """L(θ) = ½ (θ − θ*)ᵀ H (θ − θ*) for θ (d,) or one loss per row of (runs, d).

    Args:
        hessian: H, symmetric (d, d).
        minimum: θ*, (d,); the origin if None.

    Raises:
        ShapeError: H is not square.
        ValueError: H is not symmetric.
    """
    h = backend.to_numpy(hessian)
    if h.ndim != 2 or h.shape[0] != h.shape[1]:
        raise ShapeError(f"a Hessian is a square matrix, got shape {h.shape}")
    if not np.allclose(h, h.T, rtol=1e-6, atol=1e-9 * np.abs(h).max()):
        raise ValueError("a Hessian is symmetric, this matrix is not: use (A + A.T)/2")
    matrix = backend.asarray(h)
    centre = backend.asarray(np.zeros(len(h)) if minimum is None else minimum)

    def loss(theta: Any) -> Any:
        error = theta - centre
        return 0.5 * ops.sum(ops.matmul(error, matrix) * error, axis=-1)

    return loss


def largest_stable_lr(
    loss: Callable[[Tensor], Tensor], start: Any, steps: int = 400, rtol: float = 1e-3
) -> float:
    """The learning rate beyond which descent from `start` diverges, found by trying.

    Doubles η until the loss grows over the second half of a run, then halves the bracket (on a
    log scale) until it is narrower than `rtol`. Near the threshold growth is slow: a run of T
    steps tells the threshold to about 1/T.

    Raises:
        ValueError: no learning rate up to 1e12 diverges.
    """
    stable, unstable = 1e-6, 1e-6
    while not descend(loss, start, unstable, steps).diverged:
        stable, unstable = unstable, unstable * 4
        if unstable > 1e12:
            raise ValueError("no learning rate up to 1e12 diverges: is the loss bounded?")
    while unstable / stable > 1 + rtol:
        middle = math.sqrt(stable * unstable)
        if descend(loss, start, middle, steps).diverged:
            unstable = middle
        else:
            stable = middle
    return math.sqrt(stable * unstable)


def asymptotic_rate(path: Path, minimum: Any = 0.0) -> np.ndarray:
    """Factor by which ‖θ − θ*‖ shrinks per step, measured over the second half of a path."""
    error = np.linalg.norm(path.points - backend.to_numpy(minimum), axis=-1)
    half = len(error) // 2
    return (error[-1] / error[half]) ** (1 / (len(error) - 1 - half))


def steps_to(path: Path, target: float) -> np.ndarray:
    """The first step at which each run's loss is at most `target`; NaN where it never is."""
    reached = path.losses <= target
    return np.where(reached.any(0), reached.argmax(0), np.nan)


def slopes_along(
    loss: Callable[[Array], float], theta: Array, directions: Array, h: float = 1e-4
) -> np.ndarray:
    """Directional derivatives (L(θ + h u) − L(θ − h u))/2h, one for each row u.

    Args:
        loss: θ (P,) ↦ a number; evaluated twice per direction, not differentiated.
        theta: (P,).
        directions: unit vectors, (n, P).
        h: half the distance between the two points.

    Returns:
        (n,) loss per unit length.
    """
    theta, directions = backend.to_numpy(theta), backend.to_numpy(directions)
    return np.array([(loss(theta + h * u) - loss(theta - h * u)) / (2 * h) for u in directions])
