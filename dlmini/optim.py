"""Optimizers: each acts on the flat vectors θ and g in place and reads as its formula."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .backend import Array, count, dtype_name, like, number, positive, to_numpy, xp
from .flat import Flat, Part, pack
from .tensor import ShapeError, Tensor

_BLOCK = 65_536  # entries updated at a time on the CPU, so that they stay in the cache
_FLUSH_EVERY = 64  # steps between two looks for denormals

Schedule = Callable[[int], float]  #: step t = 0, 1, … ↦ learning rate


class Optimizer:
    """Base: packs the parameters and walks over θ, g and the state vectors in blocks.

    Args:
        params: the parameters to adjust, such as `net.parameters()`.
        lr: learning rate η > 0.
        weight_decay: λ ≥ 0. Coupled, as in torch: g ← g + λθ, the gradient of ½λ‖θ‖².
        weight_decay_on: what decays; everything if None. A predicate such as
            `lambda p: p.ndim >= 2`, some of the parameters, or a mask (`decay_mask(net)`).

    A subclass names its state vectors in `state` and writes `update(theta, g, scratch, *state)`.
    """

    state: tuple[str, ...] = ()

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        weight_decay_on: Part | None = None,
    ):
        self.lr = lr
        self.weight_decay = positive("weight_decay", weight_decay, allow_zero=True)
        self.t = 0  # steps taken
        self.flat = pack(params)
        self.decays = None if weight_decay_on is None else self.flat.mask(weight_decay_on)
        self._frozen = np.zeros(self.flat.size, dtype=bool)
        for name in self.state:
            setattr(self, name, xp(self.flat.theta).zeros_like(self.flat.theta))
        self._cut()

    def _cut(self) -> None:
        """Views of the blocks that `step` walks over, with scratch memory that they share."""
        theta = self.flat.theta
        vectors = [theta, self.flat.g, *(getattr(self, name) for name in self.state)]
        spans = self._spans()
        scratch = xp(theta).empty_like(theta[: max((b - a for a, b in spans), default=0)])
        spare = xp(theta).empty_like(scratch) if self.weight_decay else scratch
        self._blocks = []
        for a, b in spans:
            block, g, *state = [v[a:b] for v in vectors]
            rest = (scratch[: b - a], *state)
            self._blocks.append((block, g, spare[: b - a], self._rate(a, b), rest))
        edges = np.flatnonzero(np.diff(self._frozen, prepend=False, append=False))
        still = [theta[a:b] for a, b in edges.reshape(-1, 2).tolist()]
        self._still = [(part, xp(theta).empty_like(part)) for part in still]

    def _rate(self, start: int, stop: int) -> Any:
        """λ of these entries: a number, one number per entry, or None where nothing decays."""
        if self.decays is None or not self.weight_decay:
            return self.weight_decay or None
        return like(self.decays[start:stop] * self.weight_decay, self.flat.theta)

    def _spans(self) -> list[tuple[int, int]]:
        """Where each block starts and ends."""
        size = self.flat.size
        block = _BLOCK if str(self.flat.theta.device) == "cpu" else size
        return [(a, min(a + block, size)) for a in range(0, size, block)]

    # A copy works on copies of the parameters, so its views have to be cut anew.
    def __getstate__(self) -> dict:
        views = ("_blocks", "_still", "_matrices")
        return {name: value for name, value in vars(self).items() if name not in views}

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
        self.t += 1
        for part, kept in self._still:
            kept[...] = part
        self._walk()
        for part, kept in self._still:
            part[...] = kept
        if self.t % _FLUSH_EVERY == 0:
            self._flush()
        self.flat.touch()

    def _walk(self) -> None:
        for theta, g, spare, rate, rest in self._blocks:
            if rate is not None:
                g = self.decay(theta, g, spare, rate)
            self.update(theta, g, *rest)

    def update(self, theta: Array, g: Array, scratch: Array, *state: Array) -> None:
        """The formula: change `theta` in place.

        Args:
            theta, g: a block of θ and of the gradient.
            scratch: memory of the same size.
            *state: the same block of each vector named in `state`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def effective_lr(self) -> np.ndarray:
        """What the last step multiplied each entry of the gradient by: η over its own divisor.

        SGD: η, of g or of the velocity. AdaGrad: η/(√v + ε), of g. RMSprop: the same, centred
        η/(√(v − ḡ²) + ε). Adam, AdamW: η/(√v̂ + ε), of the mean m̂. Muon: AdamW's, and NaN for its
        matrices, whose step is no multiple of a gradient entry by entry. Frozen entries: 0.

        Returns:
            (P,) NumPy, in the order of θ; `Flat.split` cuts it into the parameters' shapes.

        Raises:
            ValueError: no step yet.
        """
        if not self.t:
            raise ValueError(
                f"effective_lr() of {type(self).__name__} before the first step: it has seen no "
                "gradient to divide by"
            )
        rates = np.broadcast_to(self.lr / self.divisor(), (self.flat.size,))
        return np.where(self._frozen, 0.0, rates)

    def divisor(self) -> Any:
        """By what `update` divides the gradient: (P,) NumPy, or a number."""
        raise NotImplementedError(
            f"{type(self).__name__} has no divisor: write one that returns what its update "
            "divides the gradient by, 1.0 if nothing"
        )

    def decay(self, theta: Array, g: Array, spare: Array, rate: Any) -> Array:
        """g + λθ, written into `spare`; a decoupled decay changes θ instead.

        Args:
            theta, g, spare: a block of θ, of the gradient, and memory of the same size.
            rate: λ, a number or one number per entry.
        """
        xp(theta).multiply(theta, rate, out=spare)
        spare += g
        return spare

    def _flush(self) -> None:
        """Zero in place of denormals, which slow arithmetic down tenfold.

        A moment whose gradient has died fades by a factor a step and then sticks at the smallest
        number there is. Adding and taking away `c` rounds what is far below it to 0.
        """
        limits = np.finfo(dtype_name(self.flat.theta.dtype))
        c = 1e6 * float(limits.tiny) / float(limits.eps)
        for name in self.state:
            vector = getattr(self, name)
            vector += c
            vector -= c

    def zero_grad(self) -> None:
        """Let the next backward pass start from zero."""
        self.flat.zero_grad()

    def freeze(self, which: Part | None) -> None:
        """From now on let a part of θ stand still; None lets everything move again.

        Args:
            which: a layer, some of the parameters, a predicate or a mask (P,).
        """
        self._frozen = self.flat.mask([] if which is None else which)
        self._cut()

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides θ and g: numbers, and copies as NumPy arrays."""
        vectors = {name: np.array(to_numpy(getattr(self, name))) for name in self.state}
        return {"lr": self.lr, "t": self.t, **vectors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` that `state_dict` gave.

        Raises:
            ValueError: it was saved by another kind of optimizer.
            ShapeError: it was saved for another number of parameters.
        """
        expected = ["lr", "t", *self.state]
        if sorted(state) != sorted(expected):
            raise ValueError(
                f"{type(self).__name__} expects a state with {sorted(expected)}, got "
                f"{sorted(state)}: it was saved by another optimizer or with other options"
            )
        for name in self.state:  # all are looked at before anything changes
            shape = tuple(np.shape(state[name]))
            if shape != (self.flat.size,):
                raise ShapeError(
                    f"the state's {name} has shape {shape}, but there are {self.flat.size} "
                    "parameters: it was saved for another network"
                )
        self.lr, self.t = number(state["lr"]), int(number(state["t"]))
        for name in self.state:
            getattr(self, name)[...] = like(state[name], self.flat.theta)


def decay_mask(net: Any) -> np.ndarray:
    """True for the entries of weight matrices and kernels, False for biases and norms; (P,).

    Weight decay shrinks the weights that multiply an input; pulling biases and the scales of
    norms to zero helps nothing. Those are the parameters of `net` with fewer than two axes.
    """
    return np.concatenate([np.full(p.size, p.ndim >= 2) for p in net.parameters()])


def _betas(betas: Any) -> tuple[float, float]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be a pair such as (0.9, 0.999), got {betas!r}")
    return _fraction("betas[0]", betas[0]), _fraction("betas[1]", betas[1])


def _fraction(name: str, value: Any) -> float:
    """A factor in [0, 1) by which an average fades."""
    result = positive(name, value, allow_zero=True)
    if result >= 1:
        raise ValueError(f"{name} must be below 1, got {value!r}: nothing would decay")
    return result


# torch has one pass over memory where NumPy needs three.


def _approach(average: Array, x: Array, share: float, scratch: Array) -> None:
    """average ← (1 − share)·average + share·x."""
    if hasattr(average, "lerp_"):
        average.lerp_(x, share)
        return
    average *= 1 - share
    xp(x).multiply(x, share, out=scratch)
    average += scratch


def _approach_square(average: Array, x: Array, share: float, scratch: Array) -> None:
    """average ← (1 − share)·average + share·x²."""
    average *= 1 - share
    if hasattr(average, "addcmul_"):
        average.addcmul_(x, x, value=share)
        return
    xp(x).square(x, out=scratch)
    scratch *= share
    average += scratch


def _descend(theta: Array, lr: float, above: Array, below: Array) -> None:
    """θ ← θ − η above/below; `below` is overwritten."""
    if hasattr(theta, "addcdiv_"):
        theta.addcdiv_(above, below, value=-lr)
        return
    xp(theta).divide(above, below, out=below)
    below *= lr
    theta -= below


class SGD(Optimizer):
    """(Stochastic) gradient descent, with momentum as torch has it.

    v ← μ v + g,   θ ← θ − η v        (Nesterov: θ ← θ − η (g + μ v))

    Args:
        params: parameters.
        lr: η > 0.
        momentum: μ in [0, 1).
        nesterov: look ahead along the velocity; needs μ > 0.
        weight_decay: λ ≥ 0, coupled: g ← g + λθ.
        **groups: `weight_decay_on`, see `Optimizer`.

    Raises:
        ValueError: an argument outside its range.

    Source: Robbins & Monro (1951); Polyak (1964); Nesterov (1983).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **groups: Any,
    ):
        self.momentum = _fraction("momentum", momentum)
        if nesterov and not self.momentum:
            raise ValueError("nesterov=True needs momentum > 0")
        self.nesterov = nesterov
        self.state = ("velocity",) if self.momentum else ()
        super().__init__(params, lr, weight_decay, **groups)

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

    def divisor(self):
        """1: every entry moves at the same rate."""
        return 1.0


class AdaGrad(Optimizer):
    """Every parameter's own learning rate, smaller the more gradient it has seen.

    v ← v + g²,   θ ← θ − η g/(√v + ε)        (v starts at 0)

    Args:
        params: parameters.
        lr: η > 0.
        eps: ε > 0, outside the root.
        weight_decay: λ ≥ 0, coupled: g ← g + λθ.
        **groups: `weight_decay_on`, see `Optimizer`.

    Raises:
        ValueError: an argument outside its range.

    Source: Duchi, Hazan & Singer (2011).
    """

    state = ("v",)
    v: Array

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        **groups: Any,
    ):
        self.eps = positive("eps", eps)
        super().__init__(params, lr, weight_decay, **groups)

    def update(self, theta, g, scratch, v):
        xp(g).multiply(g, g, out=scratch)
        v += scratch
        xp(g).sqrt(v, out=scratch)
        scratch += self.eps
        _descend(theta, self.lr, g, scratch)

    def divisor(self):
        """√v + ε."""
        return np.sqrt(to_numpy(self.v)) + self.eps


class RMSprop(Optimizer):
    """AdaGrad that forgets: the gradient over its root mean square of late.

    v ← α v + (1 − α) g²,   θ ← θ − η g/(√v + ε)

    Centred, √(v − ḡ²) stands for √v, with the mean ḡ ← α ḡ + (1 − α) g. With momentum μ the
    quotient goes through a velocity: u ← μ u + g/(√v + ε), θ ← θ − η u.

    Args:
        params: parameters.
        lr: η > 0.
        alpha: α in [0, 1).
        eps: ε > 0, outside the root.
        weight_decay: λ ≥ 0, coupled: g ← g + λθ.
        momentum: μ in [0, 1).
        centered: divide by the standard deviation instead.
        **groups: `weight_decay_on`, see `Optimizer`.

    Raises:
        ValueError: an argument outside its range.

    Source: Tieleman & Hinton (2012); centred: Graves (2013).
    """

    v: Array
    mean: Array

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **groups: Any,
    ):
        self.alpha = _fraction("alpha", alpha)
        self.eps = positive("eps", eps)
        self.momentum = _fraction("momentum", momentum)
        self.centered = centered
        self.state = ("v", *["mean"] * bool(centered), *["velocity"] * bool(momentum))
        super().__init__(params, lr, weight_decay, **groups)

    def update(self, theta, g, scratch, v, *rest):
        _approach_square(v, g, 1 - self.alpha, scratch)
        if self.centered:
            mean = rest[0]
            _approach(mean, g, 1 - self.alpha, scratch)
            xp(g).multiply(mean, mean, out=scratch)
            xp(g).subtract(v, scratch, out=scratch)
            xp(g).clip(scratch, 0.0, None, out=scratch)  # rounding can go below 0
            xp(g).sqrt(scratch, out=scratch)
        else:
            xp(g).sqrt(v, out=scratch)
        scratch += self.eps
        if not self.momentum:
            _descend(theta, self.lr, g, scratch)
            return
        xp(g).divide(g, scratch, out=scratch)
        u = rest[-1]
        u *= self.momentum
        u += scratch
        xp(g).multiply(u, self.lr, out=scratch)
        theta -= scratch

    def divisor(self):
        """√v + ε; centred, √(v − ḡ²) + ε."""
        v = to_numpy(self.v)
        if self.centered:
            v = np.maximum(v - to_numpy(self.mean) ** 2, 0.0)
        return np.sqrt(v) + self.eps


class Adam(Optimizer):
    """The mean gradient of late over its root mean square, both corrected for starting at 0.

    m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
    θ ← θ − η m̂/(√v̂ + ε),   m̂ = m/(1 − β₁ᵗ),   v̂ = v/(1 − β₂ᵗ)

    AMSGrad puts the largest v so far in place of v, so that steps never grow again.

    Args:
        params: parameters.
        lr: η > 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε > 0, outside the root.
        weight_decay: λ ≥ 0, coupled: g ← g + λθ; `AdamW` has it decoupled.
        amsgrad: divide by the largest v so far.
        **groups: `weight_decay_on`, see `Optimizer`.

    Raises:
        ValueError: an argument outside its range.

    Source: Kingma & Ba (2015); AMSGrad: Reddi, Kale & Kumar (2018).
    """

    m: Array
    v: Array
    v_max: Array

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **groups: Any,
    ):
        self.betas = _betas(betas)
        self.eps = positive("eps", eps)
        self.state = ("m", "v", "v_max") if amsgrad else ("m", "v")
        super().__init__(params, lr, weight_decay, **groups)

    def update(self, theta, g, scratch, m, v, v_max=None):
        library, (beta1, beta2) = xp(g), self.betas
        _approach(m, g, 1 - beta1, scratch)
        _approach_square(v, g, 1 - beta2, scratch)
        if v_max is not None:
            v = library.fmax(v_max, v, out=v_max)
        # m̂/(√v̂ + ε) with the corrections taken out of the vectors: √v̂ = √v/root
        root = math.sqrt(1 - beta2**self.t)
        library.sqrt(v, out=scratch)
        scratch += self.eps * root
        _descend(theta, self.lr * root / (1 - beta1**self.t), m, scratch)

    def divisor(self):
        """√v̂ + ε; the largest v so far with AMSGrad."""
        v = to_numpy(self.v_max if "v_max" in self.state else self.v)
        return np.sqrt(v / (1 - self.betas[1] ** self.t)) + self.eps


class AdamW(Adam):
    """Adam with decoupled weight decay: θ ← θ − η λ θ, then Adam's step by the bare gradient.

    In Adam a term λθ in g is divided by √v̂, so that the weights with the largest gradients decay
    least; here all decay alike.

    Args:
        params, lr, betas, eps, amsgrad: as `Adam`.
        weight_decay: λ ≥ 0.
        **groups: `weight_decay_on`, see `Optimizer`.

    Source: Loshchilov & Hutter (2019).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **groups: Any,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **groups)

    def decay(self, theta, g, spare, rate):
        """θ ← θ − η λ θ; the gradient stays as it is."""
        xp(theta).multiply(theta, rate, out=spare)
        spare *= self.lr
        theta -= spare
        return g


def newton_schulz(x: Array, steps: int = 5, eps: float = 1e-7, work: Any = None) -> Array:
    """Push the singular values of X towards 1, in place, by matrix products alone.

    X ← X/‖X‖, then `steps` times X ← aX + (bA + cA²)X with A = XXᵀ: each singular value s goes
    to as + bs³ + cs⁵. The coefficients make small values grow fastest; after five steps those
    that were above 0.003 ‖X‖ lie between 0.68 and 1.21.

    Args:
        x: (n, m) with n ≤ m, overwritten.
        steps: number of iterations.
        eps: ε > 0; a matrix with ‖X‖ < ε is divided by ε.
        work: memory to work in: two arrays (n, n) and one (n, m).

    Returns:
        `x`.

    Raises:
        ShapeError: no matrix, or one with n > m.

    Source: Jordan et al. (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    matmul, n = xp(x).matmul, x.shape[0]
    if x.ndim != 2 or n > x.shape[1]:
        raise ShapeError(f"newton_schulz needs (n, m) with n <= m, got {tuple(x.shape)}: use x.T")
    if work is None:
        work = [xp(x).empty(s, dtype=x.dtype, device=x.device) for s in ((n, n), (n, n), x.shape)]
    gram, square, change = work
    flat = x.reshape(-1)
    x /= xp(x).clip(xp(x).sqrt(flat @ flat), eps, None)
    for _ in range(steps):
        matmul(x, x.T, out=gram)
        matmul(gram, gram, out=square)
        gram *= b
        square *= c
        gram += square
        matmul(gram, x, out=change)
        x *= a
        x += change
    return x


class Muon(AdamW):
    """Orthogonalised momentum for matrices, AdamW for all other parameters.

    M ← μ M + (1 − μ) G,   N = (1 − μ) G + μ M  (Nesterov; else N = M)
    W ← W − η λ W − η √max(1, rows/columns) · orth(N)

    orth(UΣVᵀ) ≈ UVᵀ by `newton_schulz`: all directions of the step are equally long. A
    convolution kernel counts as a matrix with one row per output channel.

    Args:
        params: parameters.
        lr: η > 0, of the matrices.
        weight_decay: λ ≥ 0, decoupled, of all parameters.
        momentum: μ in [0, 1).
        nesterov: look ahead along the momentum.
        matrices: which parameters to orthogonalise; by default those with two axes or more.
            The last layer is often left to AdamW.
        rest_lr: learning rate of the other parameters; it follows a schedule in proportion.
            By default `lr`.
        betas, eps: AdamW's.
        **groups: `weight_decay_on`, see `Optimizer`.

    Raises:
        ValueError: an argument outside its range.

    Source: Jordan et al. (2024); torch.optim.Muon computes orth in bfloat16.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        matrices: Callable[[Tensor], bool] | None = None,
        rest_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **groups: Any,
    ):
        self.momentum = _fraction("momentum", momentum)
        self.nesterov = nesterov
        lr = positive("the learning rate lr", lr)
        self.rest_scale = 1.0 if rest_lr is None else positive("rest_lr", rest_lr) / lr
        params = list(params)
        chosen = matrices or (lambda p: p.ndim >= 2)
        self._orthogonal = [p.ndim >= 2 and bool(chosen(p)) for p in pack(params).parameters]
        super().__init__(params, lr, betas, eps, weight_decay, **groups)

    def _spans(self):
        """AdamW's blocks: all that is not orthogonalised."""
        pairs = zip(self.flat.slices, self._orthogonal, strict=True)
        return [(cut.start, cut.stop) for cut, orthogonal in pairs if not orthogonal]

    def _cut(self):
        super()._cut()
        theta, g = self.flat.theta, self.flat.g
        empty = partial(xp(theta).empty, dtype=theta.dtype, device=theta.device)
        memory: dict[tuple, tuple] = {}  # shared by matrices of one shape
        self._matrices = []
        for i, (p, cut) in enumerate(zip(self.flat.parameters, self.flat.slices, strict=True)):
            if not self._orthogonal[i] or not p.size:
                continue
            rows, factor = p.shape[0], math.sqrt(max(1.0, p.shape[0] ** 2 / p.size))
            shape = tuple(sorted((rows, p.size // rows)))
            if shape not in memory:
                square = (shape[0], shape[0])
                memory[shape] = empty(shape), [empty(square), empty(square), empty(shape)]
            x, work = memory[shape]
            n = work[-1].reshape(-1)
            wide = n.reshape(rows, -1) if rows == shape[0] else n.reshape(rows, -1).T
            vectors = theta[cut], g[cut], self.m[cut]
            self._matrices.append(
                (*vectors, self._rate(cut.start, cut.stop), factor, n, wide, x, work)
            )

    def _walk(self):
        for matrix in self._matrices:
            self._orthogonal_step(*matrix)
        lr, self._lr = self._lr, self._lr * self.rest_scale
        try:
            super()._walk()
        finally:
            self._lr = lr

    def divisor(self):
        """AdamW's; NaN for the matrices."""
        matrix = np.repeat(self._orthogonal, [p.size for p in self.flat.parameters])
        return np.where(matrix, np.nan, super().divisor() / self.rest_scale)

    def _orthogonal_step(self, w, g, m, rate, factor, n, wide, x, work):
        """One step of a matrix; `wide` is the memory of `n` as a matrix of x's shape."""
        mu, spare = self.momentum, x.reshape(-1)
        xp(g).subtract(g, m, out=spare)
        spare *= 1 - mu
        m += spare
        n[...] = m
        if self.nesterov:
            n *= mu
            xp(g).multiply(g, 1 - mu, out=spare)
            n += spare
        x[...] = wide
        newton_schulz(x, work=work)
        if rate is not None:
            self.decay(w, g, n, rate)
        wide[...] = x
        n *= self.lr * factor
        w -= n


# --- clipping -------------------------------------------------------------------------------------


def _gradients(flat_or_params: Any) -> list[Array]:
    """The gradients that are there, as arrays to change in place."""
    if isinstance(flat_or_params, Flat):
        return [flat_or_params.g]
    return [p.grad for p in flat_or_params if p.grad is not None]


def grad_norm(flat_or_params: Flat | Iterable[Tensor]) -> float:
    """‖g‖₂ over all gradients together.

    Args:
        flat_or_params: what `pack` gave (`optimizer.flat`), or parameters.
    """
    vectors = [g.reshape(-1) for g in _gradients(flat_or_params)]
    with np.errstate(over="ignore"):
        total = math.sqrt(sum(float(g @ g) for g in vectors))
    if math.isinf(total):  # the squares overflowed: take the largest entry out first
        top = max(float(abs(g).max()) for g in vectors)
        if math.isfinite(top):
            scaled = [g / top for g in vectors]
            total = top * math.sqrt(sum(float(g @ g) for g in scaled))
    return total


def clip_grad_norm(flat_or_params: Flat | Iterable[Tensor], max_norm: float) -> float:
    """g ← g · min(1, max_norm/‖g‖), between `backward` and `step`.

    Args:
        flat_or_params: what `pack` gave (`optimizer.flat`), or parameters.
        max_norm: the longest gradient to let pass, > 0.

    Returns:
        ‖g‖ before. If it is NaN or infinite the gradients stay as they are.

    Source: Pascanu, Mikolov & Bengio (2013). torch divides by ‖g‖ + 1e-6 instead.
    """
    max_norm = positive("max_norm", max_norm)
    if not isinstance(flat_or_params, Flat):
        flat_or_params = list(flat_or_params)
    norm = grad_norm(flat_or_params)
    if math.isfinite(norm) and norm > max_norm:
        for g in _gradients(flat_or_params):
            g *= max_norm / norm
    return norm


def clip_grad_value(flat_or_params: Flat | Iterable[Tensor], max_value: float) -> None:
    """Every entry of g into [−max_value, max_value], between `backward` and `step`.

    Args:
        flat_or_params: what `pack` gave (`optimizer.flat`), or parameters.
        max_value: the largest entry to let pass, > 0.
    """
    max_value = positive("max_value", max_value)
    for g in _gradients(flat_or_params):
        xp(g).clip(g, -max_value, max_value, out=g)


# --- schedules: functions from the step t = 0, 1, … to a learning rate ----------------------------


def constant(lr: float) -> Schedule:
    """η(t) = `lr`, a constant η."""
    lr = positive("lr", lr)
    return lambda t: lr


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """η(t) = η · factor^⌊t/every⌋, from η = `lr`."""
    lr, every, factor = positive("lr", lr), count("every", every), positive("factor", factor)
    return lambda t: lr * factor ** (t // every)


def inverse_decay(lr: float, half_after: float) -> Schedule:
    """η(t) = η/(1 + t/half_after), from η = `lr`: the 1/t decay of Robbins & Monro (1951)."""
    lr, half_after = positive("lr", lr), positive("half_after", half_after)
    return lambda t: lr / (1 + t / half_after)


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """η(t) = final + (η − final)(1 + cos(π t/steps))/2 from η = `lr` (Loshchilov & Hutter 2017).

    With `final` 0 the learning rate of the last step, t = steps − 1, is still positive.
    """
    lr, steps = positive("lr", lr), count("steps", steps)
    final = positive("final", final, allow_zero=True)
    return lambda t: final + (lr - final) * 0.5 * (1 + math.cos(math.pi * min(t / steps, 1)))


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, scaled up linearly over the first `steps` steps (Goyal et al. 2017)."""
    steps = count("steps", steps)
    return lambda t: schedule(t) * min(1.0, (t + 1) / steps)


def one_cycle(
    max_lr: float, steps: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4
) -> Schedule:
    """Up and down once, along half cosines (Smith & Topin 2019; torch's OneCycleLR).

    From max_lr/start up to max_lr over the first `rise` of the steps, then down to
    max_lr/(start·end) at the last, t = steps − 1.

    Args:
        max_lr: the highest learning rate, > 0.
        steps: length of the whole run, ≥ 2.
        rise: share of the steps that go up, in (0, 1).
        start, end: factors ≥ 1 by which the first rate is below the highest, and the last below
            the first.

    Raises:
        ValueError: an argument outside its range.
    """
    max_lr, steps, rise = positive("max_lr", max_lr), count("steps", steps), positive("rise", rise)
    start, end = positive("start", start), positive("end", end)
    if steps < 2 or rise >= 1:
        raise ValueError(f"one_cycle needs steps >= 2 and rise < 1, got {steps} and {rise}")
    top, last = rise * steps - 1, steps - 1
    first, final = max_lr / start, max_lr / (start * end)

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))

    return lambda t: (
        between(first, max_lr, t / top if top > 0 else 1.0)
        if t <= top
        else between(max_lr, final, (t - top) / (last - top))
    )
