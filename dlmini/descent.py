"""Descent on a plain function, one run or many side by side: paths, thresholds, rates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend, ops
from .backend import Array, positive, xp
from .flat import Flat
from .tensor import ShapeError, Tensor, grad, no_grad

TOO_LARGE = 1e12  #: a loss this many times its start is called divergence


@dataclass
class Path:
    """What a descent went through.

    Attributes:
        points: (T + 1, *shape of the start) as NumPy, after T steps.
        losses: (T + 1,) or (T + 1, runs) as NumPy, the loss of each run at each point.
    """

    points: np.ndarray
    losses: np.ndarray

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run's loss grew over the second half of the descent, or out of bounds."""
        half, last = self.losses[[len(self.losses) // 2, -1]]
        return ~np.isfinite(last) | (last > half) | (last > _bound(self.losses))


def _bound(losses: Any) -> np.ndarray:
    """The loss beyond which a run counts as diverged."""
    first = np.abs(losses[0])
    return TOO_LARGE * np.where(first == 0, 1.0, first)


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Any,
    lr: Any = None,
    steps: int = 100,
    momentum: float = 0.0,
    schedule: Callable[[int], float] | None = None,
    optimizer: Callable[[list[Tensor]], Any] | None = None,
) -> Path:
    """v ← μ v + ∇L(θ), θ ← θ − η v, from `start`; or the steps of any optimizer.

        descend(loss, [3.0, 1.0], optimizer=lambda params: dl.optim.Adam(params, 0.1))

    Args:
        loss: θ ↦ a scalar; or, for many runs side by side, θ (runs, d) ↦ losses (runs,), each
            of its own row alone.
        start: θ₀, (d,) or (runs, d).
        lr: learning rate η > 0; an array of one per run where there are several. Beside an
            optimizer it is a factor on its steps, 1 by default: with `dl.optim.Adam(params, 1.0)`
            it is Adam's learning rate, and many can be tried side by side.
        steps: number of steps; a run whose loss has grown a trillionfold stands still, and the
            path ends early when all do.
        momentum: μ ≥ 0.
        schedule: factor on η at step t = 0, 1, …
        optimizer: params ↦ the optimizer that takes the steps. It sees all runs as one parameter:
            side by side they stay apart if it treats every entry alone, as SGD, AdaGrad, RMSprop,
            Adam and AdamW do.

    Returns:
        A `Path`.

    Raises:
        ValueError: η not positive, steps < 1, momentum beside an optimizer.
        ShapeError: the loss is not one number per run.
        TypeError: the loss is no Tensor, or `optimizer` is no function of the parameters.
    """
    if optimizer is not None and momentum:
        raise ValueError(
            f"momentum={momentum!r} beside an optimizer: give it to the optimizer, "
            "lambda params: dl.optim.SGD(params, lr, momentum)"
        )
    rates = np.asarray(1.0 if lr is None and optimizer is not None else lr)
    if (
        rates.size == 0
        or rates.dtype.kind not in "fiu"
        or not (np.isfinite(rates).all() and (rates > 0).all())
    ):
        raise ValueError(f"the learning rate lr must be finite and > 0, got {lr!r}")
    backend.count("steps", steps)
    positive("momentum", momentum, allow_zero=True)
    theta = backend.asarray(np.array(backend.to_numpy(start), dtype=float))
    if theta.ndim == 0:
        raise ShapeError("start must be (d,) or (runs, d), got a single number: write [number]")
    runs = tuple(theta.shape[:-1])
    if rates.shape not in ((), runs):
        raise ShapeError(f"{rates.shape} learning rates for starts of shape {tuple(theta.shape)}")
    eta = backend.like(np.broadcast_to(rates[..., None], theta.shape).copy(), theta)
    velocity = xp(theta).zeros_like(theta)
    step = None if optimizer is None else _steps_of(optimizer, loss, theta)
    ones = np.ones(runs)
    points, losses = [], []
    for t in range(steps + 1):
        parameter = Tensor(theta, requires_grad=True)
        value = loss(parameter)
        if value.__class__ is not Tensor:
            raise TypeError(
                f"the loss must return a Tensor made from θ, got {type(value).__name__}"
            )
        if value.shape != runs:
            raise ShapeError(
                f"the loss of θ {tuple(theta.shape)} must have shape {runs}, it has {value.shape}"
            )
        points.append(backend.to_numpy(theta).copy())
        losses.append(backend.to_numpy(value.data).copy())
        if t == steps:
            break
        alive = np.abs(losses[-1]) < _bound(losses)
        if not alive.any():
            break
        [g] = grad(value, [parameter], cotangent=ones)
        if step is not None:
            velocity = step(theta, g.data)
        else:
            velocity = momentum * velocity + g.data if momentum else g.data
        if not alive.all():
            velocity = velocity * backend.like(alive[..., None], theta)
        theta = theta - eta * (velocity * schedule(t) if schedule else velocity)
    return Path(np.stack(points), np.stack(losses))


def _steps_of(
    optimizer: Callable[[list[Tensor]], Any], loss: Callable[[Tensor], Tensor], theta: Array
) -> Callable[[Array, Array], Array]:
    """(θ, g) ↦ what a step of the optimizer takes away from θ."""
    parameter = Tensor(theta, requires_grad=True)
    if not callable(optimizer) or not hasattr(made := optimizer([parameter]), "flat"):
        raise TypeError(
            "optimizer is a function of the parameters that makes one, such as "
            f"lambda params: dl.optim.Adam(params, 0.1), got {optimizer!r}"
        )

    def step(theta: Array, g: Array) -> Array:
        made.flat.assign(theta.reshape(-1))
        made.flat.g[...] = g.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if hasattr(made, "ascend"):  # SAM: a second gradient, somewhere else
                made.ascend()
                ops.sum(loss(parameter)).backward()
            made.step()
        return theta - parameter.data

    return step


def quadratic(hessian: Any, minimum: Any = 0.0) -> Callable[[Tensor], Tensor]:
    """L(θ) = ½ (θ − θ*)ᵀ H (θ − θ*) for θ (d,), or one loss per row of θ (runs, d).

    Args:
        hessian: H, symmetric (d, d); or one for each run, (runs, d, d).
        minimum: θ*, (d,); the origin by default.

    Returns:
        The function θ ↦ L(θ).

    Raises:
        ShapeError: H is not square.
        ValueError: H is not symmetric.
    """
    h = backend.to_numpy(hessian).astype(float)
    if not np.isfinite(h).all():
        raise ValueError("the Hessian has entries that are not finite")
    if h.ndim < 2 or h.shape[-2] != h.shape[-1]:
        raise ShapeError(f"a Hessian is a square matrix, got shape {h.shape}")
    transposed = np.swapaxes(h, -1, -2)
    if not np.allclose(h, transposed, rtol=1e-6, atol=1e-9 * np.abs(h).max(initial=0.0)):
        raise ValueError("a Hessian is symmetric, this matrix is not: use (A + A.T)/2")
    matrix = backend.asarray(h)
    centre = backend.asarray(np.broadcast_to(backend.to_numpy(minimum), h.shape[-1:]).astype(float))

    def loss(theta: Any) -> Any:
        error = theta - centre
        if matrix.ndim == 2:
            pulled = ops.matmul(error, matrix)
        else:
            n, d = error.shape
            pulled = ops.reshape(ops.matmul(ops.reshape(error, (n, 1, d)), matrix), (n, d))
        return 0.5 * ops.sum(pulled * error, axis=-1)

    return loss


def largest_stable_lr(
    loss: Callable[[Tensor], Tensor],
    start: Any,
    steps: int = 400,
    rtol: float = 1e-3,
    momentum: float = 0.0,
) -> np.ndarray:
    """The learning rate beyond which descent from `start` diverges, found by trying.

    Raises η from 1e-12 in large steps until a run grows over its second half, then halves the
    bracket (on a log scale) until it is narrower than `rtol`; many runs side by side, each with
    its own bracket. Near the threshold growth is slow: T steps tell the threshold to about 1/T.

    Args:
        loss, start, steps: as in `descend`.
        rtol: relative width of the final bracket.
        momentum: as in `descend`.

    Returns:
        One η for each run; a 0-d array for a single one.

    Raises:
        ValueError: a run diverges at no learning rate up to 1e12, or at all down to 1e-12.
    """

    def diverges(lr):
        return descend(loss, start, lr, steps, momentum).diverged

    runs = backend.to_numpy(start).shape[:-1]
    stable, unstable = np.full(runs, 1e-12), np.full(runs, 1e-12)
    if diverges(stable).any():
        raise ValueError("a run diverges even at a learning rate of 1e-12: scale its loss down")
    while not (grows := diverges(unstable)).all():
        stable = np.where(grows, stable, unstable)
        unstable = np.where(grows, unstable, unstable * 64)
        if unstable.max() > 1e12:
            raise ValueError("a run diverges at no learning rate up to 1e12: is its loss bounded?")
    while (unstable / stable).max() > 1 + rtol:
        middle = np.sqrt(stable * unstable)
        grows = diverges(middle)
        unstable = np.where(grows, middle, unstable)
        stable = np.where(grows, stable, middle)
    return np.sqrt(stable * unstable)


def asymptotic_rate(path: Path, minimum: Any = 0.0) -> np.ndarray:
    """Factor by which ‖θ − θ*‖ shrinks per step, measured over the second half of a path.

    Args:
        path: a descent of two steps or more.
        minimum: θ*, (d,); the origin by default.

    Returns:
        One factor for each run.

    Raises:
        ValueError: fewer than two steps, or an error that has reached 0.
    """
    error = np.linalg.norm(path.points - backend.to_numpy(minimum), axis=-1)
    half = len(error) // 2
    if len(error) < 3 or not error[half].all():
        raise ValueError("a rate needs at least two steps and an error that has not reached zero")
    return (error[-1] / error[half]) ** (1 / (len(error) - 1 - half))


def steps_to(path: Path, target: float) -> np.ndarray:
    """The first step at which each run's loss is at most `target`; NaN where it never is.

    Args:
        path: a descent of one run or many.
        target: a loss.

    Returns:
        One number for each run.
    """
    reached = path.losses <= target
    return np.where(reached.any(0), reached.argmax(0), np.nan)


def slopes_along(
    loss: Callable[[], Tensor], flat: Flat, directions: Any, h: float = 1e-4
) -> np.ndarray:
    """Directional derivatives measured by walking: (L(θ + h u) − L(θ − h u))/2h for each row u.

    Args:
        loss: builds the loss from the packed parameters; it is not differentiated.
        flat: the packed parameters, left as they were.
        directions: unit vectors u, (n, P).
        h: half the distance walked. Use float64: in float32 the difference drowns in rounding.

    Returns:
        (n,), loss per unit length.

    Raises:
        ShapeError: the directions are not (n, P).
    """
    directions = np.asarray(directions)
    if directions.ndim != 2 or directions.shape[1] != flat.size:
        raise ShapeError(f"directions must be (n, {flat.size}), got {directions.shape}")
    backend.positive("h", h)
    here = flat.snapshot()
    slopes = []
    try:
        with no_grad():
            for u in directions:
                ends = []
                for sign in (1, -1):
                    flat.assign(here + sign * h * u)
                    ends.append(loss().item())
                slopes.append((ends[0] - ends[1]) / (2 * h))
    finally:
        flat.assign(here)
    return np.array(slopes)
