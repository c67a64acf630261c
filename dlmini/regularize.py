"""What keeps a network from learning its examples by heart: penalties, noise, flatness, averages.

Decoupled weight decay is part of the optimizer: `optim.AdamW`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from . import functional, ops
from .backend import Array, count, like, number, positive, stream, to_numpy, xp
from .flat import Flat, pack
from .functional import probability
from .optim import Optimizer, grad_norm
from .tensor import GradientError, ShapeError, Tensor, repeated

# --- penalties: terms to add to the loss ----------------------------------------------------------


def _parameters(net_or_params: Any) -> list[Tensor]:
    """The parameters of a network, of a packed vector, or as given."""
    params = getattr(net_or_params, "parameters", net_or_params)
    params = params() if callable(params) else params
    params = [params] if params.__class__ is Tensor else list(params)
    strangers = sorted({type(p).__name__ for p in params if p.__class__ is not Tensor})
    if strangers or not params:
        raise GradientError(
            f"expected a network or its parameters, got {', '.join(strangers) or 'none'}: "
            "pass net, or a list of Tensors such as [layer.weight]"
        )
    return params


def _total(terms: Iterable[Any], scale: float) -> Tensor:
    first, *others = terms
    for term in others:
        first = first + term
    return first * scale


def l1_penalty(net_or_params: Any, strength: float) -> Tensor:
    """λ Σ|θᵢ|, which drives entries to exactly zero (its derivative at 0 is taken as 0).

    Args:
        net_or_params: a network, or the parameters that are to stay small.
        strength: λ ≥ 0.

    Returns:
        A scalar Tensor to add to the loss.

    Raises:
        ValueError: λ < 0.
        GradientError: there is nothing to penalise.

    Source: Tibshirani (1996).
    """
    strength = positive("strength", strength, allow_zero=True)
    return _total((ops.sum(ops.abs(p)) for p in _parameters(net_or_params)), strength)


def l2_penalty(net_or_params: Any, strength: float) -> Tensor:
    """½ λ Σθᵢ², whose gradient λθ is that of an optimizer's coupled `weight_decay=λ`.

    Args:
        net_or_params: a network, or the parameters that are to stay small.
        strength: λ ≥ 0.

    Returns:
        A scalar Tensor to add to the loss.

    Raises:
        ValueError: λ < 0.
        GradientError: there is nothing to penalise.

    Source: Hoerl & Kennard (1970); Krogh & Hertz (1991).
    """
    strength = positive("strength", strength, allow_zero=True)
    return _total((ops.sum(ops.mul(p, p)) for p in _parameters(net_or_params)), 0.5 * strength)


# --- noise ----------------------------------------------------------------------------------------


def dropout(x: Any, p: float, training: bool = True, rng: np.random.Generator | None = None) -> Any:
    """Each entry of x dropped with probability p, the others divided by 1 − p.

    The expectation is x, so that nothing has to change when training is over.

    Args:
        x: any shape.
        p: from 0 (x itself) to 1 (zeros).
        training: False gives x itself.
        rng: draws what is dropped; by default the stream that `dl.seed` started.

    Raises:
        ValueError: p outside [0, 1].

    Source: Srivastava et al. (2014), inverted.
    """
    return _drop(x, p, tuple(x.shape), training, rng)


def stochastic_depth(
    x: Any, p: float, training: bool = True, rng: np.random.Generator | None = None
) -> Any:
    """Each example's x dropped as a whole with probability p, the others' divided by 1 − p.

    For the branch of a residual block: `x + stochastic_depth(f(x), p)` skips f for some of the
    examples, so that the network is shorter in training than it is afterwards.

    Args:
        x: (N, …).
        p: from 0 (x itself) to 1 (zeros).
        training: False gives x itself.
        rng: draws what is dropped; by default the stream that `dl.seed` started.

    Raises:
        ValueError: p outside [0, 1].
        ShapeError: x is a number, so there are no examples.

    Source: Huang et al. (2016), per example.
    """
    if x.ndim == 0:
        raise ShapeError("stochastic_depth drops examples and needs x of shape (N, …), got ()")
    return _drop(x, p, (x.shape[0], *[1] * (x.ndim - 1)), training, rng)


def _drop(x, p, shape, training, rng):
    p = probability("p", p)
    if not training or p == 0:
        return x
    return functional.dropout(x, p, mask=(rng or stream()).random(shape) >= p)


def cross_entropy_smoothed(logits: Any, labels: Any, smoothing: float) -> Any:
    """Cross-entropy against targets that are not quite certain, in nats.

    The target is 1 − ε + ε/K for the label and ε/K for each of the other K − 1 classes, so that
    L = (1 − ε) · cross_entropy + ε · mean over rows of (logsumexp(z) − mean(z)).

    Args:
        logits: z, (N, K).
        labels: (N,) integers from 0 to K − 1.
        smoothing: ε from 0 (plain cross-entropy) to 1 (labels ignored).

    Raises:
        ValueError: ε outside [0, 1]; labels out of range.
        ShapeError: shapes do not fit, or the batch is empty.

    Source: Szegedy et al. (2016); torch's `label_smoothing`.
    """
    smoothing = probability("smoothing", smoothing)
    loss = functional.cross_entropy(logits, labels)
    if smoothing == 0:
        return loss
    uniform = ops.mean(ops.logsumexp(logits, -1)) - ops.mean(logits)
    return loss * (1.0 - smoothing) + uniform * smoothing


# --- stopping in time -----------------------------------------------------------------------------


def _flat(source: Any) -> Flat:
    """The packed parameters of a network, of a list, or as given."""
    return source if isinstance(source, Flat) else pack(_parameters(source))


class EarlyStopping:
    """Stop when the validation loss has not improved for a while, and go back to the best θ.

        if stop.update(validation_loss):
            break
        ...
        stop.restore()

    Args:
        net_or_params: the network, whose running statistics then go back as well; or
            `optimizer.flat`, or the parameters that the optimizer has.
        patience: so many updates without improvement are one too many, ≥ 1.
        min_delta: a loss counts as better if it is lower than the best by more than this, ≥ 0.

    Attributes:
        best: the lowest loss so far.
        best_at: which update, counted from 0, gave it; None before the first.

    Raises:
        ValueError: patience < 1 or min_delta < 0.

    Source: Prechelt (1998).
    """

    def __init__(self, net_or_params: Any, patience: int, min_delta: float = 0.0):
        self.patience = count("patience", patience)
        self.min_delta = positive("min_delta", min_delta, allow_zero=True)
        self.flat = _flat(net_or_params)
        self._net = net_or_params if hasattr(net_or_params, "load_state_dict") else None
        self._state: dict[str, np.ndarray] = {}
        self.best, self.best_at = math.inf, None  # type: float, int | None
        self._updates = 0
        self._theta: np.ndarray | None = None

    def update(self, loss: Any) -> bool:
        """Take note of a loss, and of θ if it is the best; True when it is time to stop.

        A loss that is NaN counts as no improvement.
        """
        loss = number(loss)
        if loss < self.best - self.min_delta:
            self.best, self.best_at, self._theta = loss, self._updates, self.flat.snapshot()
            if self._net is not None:
                state = self._net.state_dict()
                self._state = {name: np.array(to_numpy(v)) for name, v in state.items()}
        self._updates += 1
        since = self._updates - 1 - (-1 if self.best_at is None else self.best_at)
        return since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far: numbers, and the best θ and statistics as NumPy arrays."""
        state: dict[str, Any] = {"best": self.best, "best_at": self.best_at}
        state["updates"] = self._updates
        if self._theta is not None:
            state["theta"] = self._theta.copy()
        return state | {f"network/{name}": value.copy() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` that `state_dict` gave.

        Raises:
            ShapeError: it was saved for another number of parameters.
        """
        theta = state.get("theta")
        if theta is not None and np.shape(theta) != (self.flat.size,):
            raise ShapeError(
                f"the saved θ has shape {np.shape(theta)}, but there are {self.flat.size} "
                "parameters: it was saved for another network"
            )
        self.best, self.best_at, self._updates = state["best"], state["best_at"], state["updates"]
        self._theta = None if theta is None else np.array(theta)
        self._state = {
            name.removeprefix("network/"): np.array(value)
            for name, value in state.items()
            if name.startswith("network/")
        }

    def restore(self) -> None:
        """θ ← the θ of the lowest loss.

        Raises:
            GradientError: no finite loss has been seen.
        """
        if self._theta is None:
            raise GradientError("nothing to restore: update() has not seen a finite loss yet")
        if self._net is not None:
            self._net.load_state_dict(self._state)
        self.flat.assign(self._theta)


# --- flat minima ----------------------------------------------------------------------------------


class SAM:
    """Sharpness-aware minimisation: step by the gradient at the worst point nearby.

    θ⁺ = θ + ρ g(θ)/‖g(θ)‖,   then the optimizer's step from θ by g(θ⁺)

    Costs two gradients a step. In one call, `sam.step(lambda: loss(net(x), y))`; or in the words
    of a training loop:

        loss(net(x), y).backward(); sam.ascend()
        loss(net(x), y).backward(); sam.step()

    In `step(loss)` and in `train.fit` the second pass repeats the first: dropout and stochastic
    depth draw the same masks, so that both gradients are of one function, and running statistics
    count the batch once, at θ. In the words of a loop each pass draws masks of its own unless the
    second stands in `with dl.tensor.repeated(state)`.

    Args:
        optimizer: takes the step; its `lr`, `flat`, `zero_grad` and state are reached through.
        rho: ρ > 0, how far to look, in the length of θ.

    Raises:
        ValueError: ρ ≤ 0.

    Source: Foret, Kleiner, Mobahi & Neyshabur (2021).
    """

    def __init__(self, optimizer: Optimizer, rho: float = 0.05):
        self.optimizer = optimizer
        self.rho = positive("rho", rho)
        self._theta: Array = xp(self.flat.theta).empty_like(self.flat.theta)
        self._away = False

    @property
    def flat(self) -> Flat:
        """The optimizer's packed parameters."""
        return self.optimizer.flat

    @property
    def lr(self) -> float:
        """The optimizer's learning rate."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.lr = value

    def zero_grad(self) -> None:
        """Let the next backward pass start from zero."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's; SAM itself remembers nothing between steps."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` that `state_dict` gave."""
        self.optimizer.load_state_dict(state)

    def ascend(self) -> None:
        """θ ← θ + ρ g/‖g‖, and let the next backward pass start from zero.

        Raises:
            GradientError: called twice without a step between.
        """
        if self._away:
            raise GradientError("ascend() twice: call step() after the second backward pass")
        theta, g, norm = self.flat.theta, self.flat.g, grad_norm(self.flat)
        self._theta[...] = theta
        self._away = True
        if norm > 0:
            g *= self.rho / norm
            theta += g
        self.flat.touch()
        self.zero_grad()

    def step(self, loss: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Back to θ, and the optimizer's step by the gradient that was found at θ⁺.

        Args:
            loss: builds the loss from the parameters, to do the whole of a step.

        Returns:
            The loss at θ if `loss` was given.

        Raises:
            GradientError: there was no `ascend` before.
        """
        value = None
        if loss is not None:
            self.zero_grad()
            randomness = stream().bit_generator.state
            value = loss()
            value.backward()
            self.ascend()
            try:
                with repeated(randomness):
                    loss().backward()
            except BaseException:
                self._return()
                raise
        if not self._away:
            raise GradientError(
                "SAM's step() before ascend(): call ascend() after the first backward pass and "
                "step() after the second, or step(lambda: loss) for both"
            )
        self._return()
        self.optimizer.step()
        return value

    def _return(self) -> None:
        self.flat.theta[...] = self._theta
        self.flat.touch()
        self._away = False


# --- averages of θ --------------------------------------------------------------------------------


class WeightAverage:
    """The mean of θ along the way, often better than its last value.

    θ̄ ← θ̄ + (θ − θ̄)/n  after n updates (SWA)
    θ̄ ← β θ̄ + (1 − β) θ  from the first θ on (EMA)

        average.update()         # after each step, or each epoch
        with average.applied():  # evaluate with θ̄ and go on training with θ
            ...

    Batch norm's running statistics belong to θ: let it see the training data anew under θ̄.

    Args:
        flat_or_params: `optimizer.flat`, or the parameters that the optimizer has.
        decay: β in [0, 1) for the exponential mean; None for the plain mean.

    Attributes:
        mean: θ̄, (P,).
        n: number of updates.

    Raises:
        ValueError: β outside [0, 1).

    Source: Polyak & Juditsky (1992); Izmailov et al. (2018).
    """

    def __init__(self, flat_or_params: Any, decay: float | None = None):
        self.decay = None if decay is None else positive("decay", decay, allow_zero=True)
        if self.decay is not None and self.decay >= 1:
            raise ValueError(f"decay must be below 1, got {decay!r}: the mean would never move")
        self.flat = _flat(flat_or_params)
        self.n = 0
        self.mean: Array = xp(self.flat.theta).zeros_like(self.flat.theta)
        self._scratch: Array = xp(self.flat.theta).empty_like(self.flat.theta)

    def update(self) -> None:
        """Take the present θ into the mean."""
        self.n += 1
        weight = 1 / self.n if self.decay is None or self.n == 1 else 1 - self.decay
        xp(self.mean).subtract(self.flat.theta, self.mean, out=self._scratch)
        self._scratch *= weight
        self.mean += self._scratch

    def swap(self) -> None:
        """Exchange θ and θ̄; a second time puts both back.

        Raises:
            GradientError: nothing has been averaged yet.
        """
        if self.n == 0:
            raise GradientError("nothing is averaged yet: call update() after some steps first")
        self._scratch[...] = self.flat.theta
        self.flat.assign(self.mean)
        self.mean[...] = self._scratch

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this block the network has θ̄."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        """The mean, as a NumPy array, and the number of updates."""
        return {"n": self.n, "mean": np.array(to_numpy(self.mean))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` that `state_dict` gave.

        Raises:
            ShapeError: it was saved for another number of parameters.
        """
        shape = tuple(np.shape(state["mean"]))
        if shape != (self.flat.size,):
            raise ShapeError(
                f"the saved mean has shape {shape}, but there are {self.flat.size} parameters: "
                "it was saved for another network"
            )
        self.n = int(number(state["n"]))
        self.mean[...] = like(state["mean"], self.flat.theta)
