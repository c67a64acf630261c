"""Optimizers: each acts on the flat vectors θ and g in place and reads as its formula."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .backend import Array, positive, xp
from .flat import pack
from .tensor import Tensor

BLOCK = 65_536  # entries updated at a time on the CPU, so that they stay in the cache

Schedule = Callable[[int], float]


class Optimizer:
    """Base: packs the parameters and walks over θ, g and the state vectors in blocks.

    Args:
        params: the parameters to adjust, such as `net.parameters()`.
        lr: learning rate η > 0.

    A subclass names its state vectors in `state` and writes `update(theta, g, scratch, *state)`.
    """

    state: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float):
        self.lr = lr
        self.flat = pack(params)
        for name in self.state:
            setattr(self, name, xp(self.flat.theta).zeros_like(self.flat.theta))
        self._cut()

    def _cut(self) -> None:
        """Views of the blocks that `step` walks over, with scratch memory that they share."""
        theta, g = self.flat.theta, self.flat.g
        vectors = [theta, g, *(getattr(self, name) for name in self.state)]
        block = BLOCK if str(theta.device) == "cpu" else self.flat.size
        scratch = xp(theta).empty_like(theta[:block])
        self._blocks = []
        for start in range(0, self.flat.size, block):
            parts = [v[start : start + block] for v in vectors]
            self._blocks.append((parts[0], parts[1], scratch[: len(parts[0])], *parts[2:]))

    # A copy works on copies of the parameters, so its views have to be cut anew.
    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_blocks"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._cut()

    @property
    def lr(self) -> float:
        """Learning rate η; a schedule sets it anew before each step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = positive("the learning rate lr", value)

    def step(self) -> None:
        """Change the parameters once, by the gradients that backward has left."""
        self.flat.fill()
        for block in self._blocks:
            self.update(*block)
        self.flat.touch()

    def update(self, theta: Array, g: Array, scratch: Array, *state: Array) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def zero_grad(self) -> None:
        """Let the next backward pass start from zero."""
        self.flat.zero_grad()


class SGD(Optimizer):
    """(Stochastic) gradient descent, with momentum as torch has it.

    v ← μ v + g,   θ ← θ − η v        (Nesterov: θ ← θ − η (g + μ v))

    Args:
        params: parameters.
        lr: η > 0.
        momentum: μ in [0, 1).
        nesterov: look ahead along the velocity; needs μ > 0.

    Source: Robbins & Monro (1951); Polyak (1964); Nesterov (1983).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
    ):
        self.momentum = positive("momentum", momentum, allow_zero=True)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {momentum!r}: nothing would decay")
        if nesterov and not self.momentum:
            raise ValueError("nesterov=True needs momentum > 0")
        self.nesterov = nesterov
        self.state = ("velocity",) if self.momentum else ()
        super().__init__(params, lr)

    def update(self, theta, g, scratch, v=None):
        if v is not None:
            v *= self.momentum
            v += g
            if self.nesterov:
                xp(g).multiply(v, self.momentum, out=scratch)
                scratch += g
                g = scratch
            else:
                g = v
        xp(g).multiply(g, self.lr, out=scratch)
        theta -= scratch


# --- schedules: functions from the step t = 0, 1, … to a learning rate ----------------------------


def _steps(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


def constant(lr: float) -> Schedule:
    """η(t) = η."""
    lr = positive("lr", lr)
    return lambda t: lr


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """η(t) = η · factor^⌊t/every⌋."""
    lr, every, factor = positive("lr", lr), _steps("every", every), positive("factor", factor)
    return lambda t: lr * factor ** (t // every)


def inverse_decay(lr: float, half_after: float) -> Schedule:
    """η(t) = η / (1 + t/half_after): the 1/t decay of Robbins & Monro (1951)."""
    lr, half_after = positive("lr", lr), positive("half_after", half_after)
    return lambda t: lr / (1 + t / half_after)


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """η(t) = final + (η − final)(1 + cos(π t/steps))/2 (Loshchilov & Hutter 2017).

    With `final` 0 the learning rate of the last step, t = steps − 1, is still positive.
    """
    lr, steps = positive("lr", lr), _steps("steps", steps)
    final = positive("final", final, allow_zero=True)
    return lambda t: final + (lr - final) * 0.5 * (1 + math.cos(math.pi * min(t / steps, 1)))


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, scaled up linearly over the first `steps` steps (Goyal et al. 2017)."""
    steps = _steps("steps", steps)
    return lambda t: schedule(t) * min(1.0, (t + 1) / steps)
