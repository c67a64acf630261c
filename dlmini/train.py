"""The training loop: batches in, steps out, everything worth seeing recorded."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp
from .nn import Module
from .optim import Optimizer
from .tensor import ShapeError, Tensor, no_grad

Loss = Callable[[Any, Any], Tensor]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; says at which step, and where it began."""


@dataclass
class History:
    """What a training run went through, one entry per step.

    Attributes:
        loss: the mini-batch loss before each step.
        lr: the learning rate of each step.
        diverged: the step at which the loss stopped being finite, or None.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    diverged: int | None = None


def fit(
    net: Module,
    loss: Loss,
    x: Any,
    y: Any,
    optimizer: Optimizer,
    steps: int,
    batch_size: int | None = None,
    schedule: Callable[[int], float] | None = None,
    rng: np.random.Generator | None = None,
    on_step: Callable[[int], None] | None = None,
    stop_at_divergence: bool = False,
    progress: bool = False,
) -> History:
    """Train `net` for a number of steps.

    The examples are shuffled anew in each epoch and dealt out in batches; a last, smaller
    batch of an epoch is used like the others.

    Args:
        net: what to train; called as net(batch of x).
        loss: (output, batch of y) ↦ scalar Tensor.
        x, y: training examples, the first axis counts them.
        optimizer: over the parameters of `net`.
        steps: number of optimizer steps.
        batch_size: examples per step; all of them if None.
        schedule: step t = 0, 1, … ↦ learning rate; the optimizer's own if None.
        rng: for the shuffling; default the stream that `dl.seed` started.
        on_step: called with t after each step, with 0-based t.
        stop_at_divergence: note a loss that is not finite in the history and stop, instead of
            raising.
        progress: show a bar (needs tqdm).

    Raises:
        NonFiniteLoss: with the step and the first layer whose output is not finite.
        ValueError: an empty data set, a batch size or a number of steps below 1.
        ShapeError: x and y differ in length.
    """
    for name, count in (
        ("steps", steps),
        ("batch_size", batch_size or 1 if batch_size != 0 else 0),
    ):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {count!r}")
    x, y = backend.asarray(x), backend.asarray(y)
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} inputs but {len(y)} targets")
    if len(x) == 0:
        raise ValueError("there are no training examples: x is empty")
    history = History()
    batches = _batches(len(x), batch_size or len(x), rng or backend.stream())
    for t in _bar(range(steps), progress):
        rows = next(batches)
        xb, yb = (x, y) if rows is None else (_take(x, rows), _take(y, rows))
        if schedule is not None:
            optimizer.lr = schedule(t)
        with np.errstate(over="ignore", invalid="ignore"):
            value = loss(net(xb), yb)
        history.loss.append(value.item())
        if not math.isfinite(history.loss[-1]):
            history.diverged = t
            if stop_at_divergence:
                break
            raise NonFiniteLoss(_blame(net, xb, t, optimizer.lr))
        optimizer.zero_grad()
        with np.errstate(over="ignore", invalid="ignore"):
            value.backward()
            optimizer.step()
        history.lr.append(optimizer.lr)
        if on_step is not None:
            on_step(t)
    return history


def _batches(n: int, size: int, rng: np.random.Generator):
    """Rows of each batch, endlessly; None for the whole set, whose order does not matter."""
    while True:
        if size >= n:
            yield None
            continue
        order = rng.permutation(n)
        for start in range(0, n, size):
            yield order[start : start + size]


def _take(x: Array, rows: np.ndarray) -> Array:
    return x[rows] if xp(x) is np else x[xp(x).as_tensor(rows, device=x.device)]


def _bar(steps: range, progress: bool) -> Any:
    if not progress:
        return steps
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or leave progress off"
        ) from error
    return tqdm(steps, unit="step")


def _blame(net: Module, x: Array, t: int, lr: float) -> str:
    """Run the batch through the network layer by layer, to the first output that overflows."""
    found = "the loss itself"
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        value = x
        for name, layer in net.children():
            if any(not np.isfinite(p.numpy()).all() for p in layer.parameters()):
                found = f"the parameters of layer {name} ({layer})"
                break
            value = layer(value)
            if not np.isfinite(backend.to_numpy(value)).all():
                found = f"the output of layer {name} ({layer})"
                break
    return (
        f"the loss is not finite at step {t}: {found} overflowed first; "
        f"the learning rate was {lr:g}, try a tenth of it"
    )


def evaluate(net: Module, loss: Loss, x: Any, y: Any) -> float:
    """The loss of `net` on all of (x, y), without recording anything."""
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        return loss(net(backend.asarray(x)), backend.asarray(y)).item()
