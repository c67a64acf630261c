"""Networks as plain data: a module holds parameters and other modules, and maps x to y."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import backend, functional, ops
from .tensor import Leaf, ShapeError, Tensor, checkpoint, grad, no_grad, repeated, replaying

_watcher: Callable[["Module", Any, Any], None] | None = None  # told of each call, see `_watched`


class Module:
    """Base of all layers: write `forward`; parameters are found among the attributes.

    Attributes:
        training: whether layers that behave differently in training do so (`train`, `eval`).
        buffers: names of the arrays that belong to the state without being trained.
    """

    training = True
    buffers: tuple[str, ...] = ()

    def forward(self, x: Any) -> Any:
        """What the module computes from `x`; each kind of layer writes its own."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x)")

    def __call__(self, x: Any) -> Any:
        z = self.forward(x)
        if _watcher is not None:
            _watcher(self, x, z)
        return z

    def operations(self, x: Any, z: Any) -> int:
        """Floating-point operations of one call on `x` that gave `z`; one per output here."""
        return 0 if any(True for _ in self.children()) else math.prod(z.shape)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the modules held directly, in order of definition."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(dotted name, parameter), in order of definition; a name begins with `prefix`."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and isinstance(value.node, Leaf):
                yield prefix + name, value
        for name, module in self.children():
            yield from module.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Tensor]:
        """All parameters; shared ones are listed once."""
        return list({id(p): p for _, p in self.named_parameters()}.values())

    @property
    def num_parameters(self) -> int:
        """P, the number of adjustable numbers."""
        return sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        """Let the next backward pass start from zero."""
        for p in self.parameters():
            p.zero_grad()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module): this one, `prefix`, and all inside, outer ones first."""
        yield prefix, self
        for name, module in self.children():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def train(self, mode: bool = True) -> "Module":
        """Put this module and all inside into training mode (or, with False, out of it)."""
        for _, module in self.named_modules():
            module.training = bool(mode)
        return self

    def eval(self) -> "Module":
        """Out of training mode: no dropout, batch norm by its running statistics."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by dotted name, as NumPy arrays."""
        return {name: np.array(backend.to_numpy(value)) for name, value in self._state()}

    def _state(self) -> Iterator[tuple[str, Any]]:
        yield from self.named_parameters()
        for path, module in self.named_modules():
            for name in module.buffers:
                yield f"{path}.{name}" if path else name, getattr(module, name)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over parameters and buffers from `state`; nothing changes unless all of them fit.

        Raises:
            ShapeError: names are missing or unknown, or shapes differ.
        """
        mine = dict(self._state())
        problems = [f"{name} is missing" for name in mine.keys() - state.keys()]
        problems += [f"{name} is unknown" for name in state.keys() - mine.keys()]
        for name in mine.keys() & state.keys():
            given, own = tuple(np.shape(state[name])), tuple(mine[name].shape)
            if given != own:
                problems.append(f"{name} has shape {given} instead of {own}")
        if problems:
            raise ShapeError(f"this state is of another network: {'; '.join(sorted(problems))}")
        for name, own in mine.items():
            if own.__class__ is Tensor:
                own.data = state[name]
            else:
                own[...] = backend.like(state[name], own)

    def __repr__(self) -> str:
        inner = ", ".join(repr(m) for _, m in self.children())
        return f"{type(self).__name__}({inner})"


@contextlib.contextmanager
def evaluating(net: Module) -> Iterator[None]:
    """Evaluation mode of `net` for a while; each module then gets back the mode that it had."""
    before = [(module, module.training) for _, module in net.named_modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


class Linear(Module):
    """x Wᵀ + b with W (out_features, in_features) and b (out_features,).

    Weights start as independent normal numbers of standard deviation gain/√in_features, which
    keeps the size of activations from layer to layer (Glorot & Bengio 2010; He et al. 2015);
    biases start at 0.

    Args:
        in_features, out_features: entries on the last axis of the input and of the output.
        bias: False leaves b out.
        nonlinearity: the activation that follows, by name or itself, which sets the
            `functional.gain`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        nonlinearity: str | Callable[[Any], Any] = "relu",
    ):
        self.in_features = backend.count("in_features", in_features)
        self.out_features = backend.count("out_features", out_features)
        std = functional.gain(nonlinearity) / math.sqrt(self.in_features)
        weight = std * backend.stream().standard_normal((self.out_features, self.in_features))
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(self.out_features), requires_grad=True) if bias else None

    def forward(self, x: Any, relu: bool = False) -> Any:
        return functional.linear(x, self.weight, self.bias, relu)

    def operations(self, x: Any, z: Any) -> int:
        return math.prod(z.shape) * (2 * self.in_features + (self.bias is not None) - 1)

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features})"


class Conv2d(Module):
    """Filters slid over images (N, C, H, W), and a bias for each.

    Starts like `Linear`, with in_channels·k² inputs to each unit.

    Args:
        in_channels: C.
        out_channels: number of filters, each (in_channels, k, k).
        kernel_size: k.
        stride, padding: as `functional.conv2d`.
        bias, nonlinearity: as `Linear`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        nonlinearity: str | Callable[[Any], Any] = "relu",
    ):
        self.in_channels = backend.count("in_channels", in_channels)
        self.out_channels = backend.count("out_channels", out_channels)
        self.kernel_size = backend.count("kernel_size", kernel_size)
        self.stride, self.padding = stride, padding
        shape = (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)
        std = functional.gain(nonlinearity) / math.sqrt(math.prod(shape[1:]))
        self.weight = Tensor(std * backend.stream().standard_normal(shape), requires_grad=True)
        self.bias = Tensor(np.zeros(self.out_channels), requires_grad=True) if bias else None

    def forward(self, x: Any, relu: bool = False) -> Any:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, relu)

    def operations(self, x: Any, z: Any) -> int:
        inputs = self.in_channels * self.kernel_size**2
        return math.prod(z.shape) * (2 * inputs + (self.bias is not None) - 1)

    def __repr__(self) -> str:
        return f"Conv2d({self.in_channels}, {self.out_channels}, {self.kernel_size})"


class BatchNorm(Module):
    """γ (x − mean)/√(var + ε) + β, by the batch's statistics in training.

    Keeps running averages of them, r ← (1 − m) r + m·new with momentum m, and uses these
    instead in evaluation mode. The running variance takes the unbiased estimate (as torch).

    Args:
        num_features: C, the number of channels.
        eps: ε > 0.
        momentum: m in [0, 1].

    Attributes:
        frozen: whether the running statistics are used in training as well, see `freeze`.

    Source: Ioffe & Szegedy (2015).
    """

    buffers = ("running_mean", "running_var")
    frozen = False

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        n = backend.count("num_features", num_features)
        self.eps = backend.positive("eps", eps)
        self.momentum = functional.probability("momentum", momentum)
        self.weight = Tensor(np.ones(n), requires_grad=True)
        self.bias = Tensor(np.zeros(n), requires_grad=True)
        self.running_mean = backend.asarray(np.zeros(n))
        self.running_var = backend.asarray(np.ones(n))

    def freeze(self, frozen: bool = True) -> "BatchNorm":
        """From now on use the running statistics in training too, and leave them as they are.

        What remains is a fixed scale and shift of each channel, with γ and β still trained. To
        freeze a whole network at the statistics of a batch, see `freeze_batch_norm`.

        Args:
            frozen: False takes it back.

        Returns:
            The layer itself.
        """
        self.frozen = bool(frozen)
        return self

    def forward(self, x: Any, relu: bool = False) -> Any:
        if self.training and not self.frozen:
            z, mean, var = functional.batch_norm(x, self.weight, self.bias, self.eps, relu)
            if not replaying():
                count, m = x.shape[0] * math.prod(x.shape[2:]), self.momentum
                self.running_mean *= 1 - m
                self.running_mean += mean * m
                self.running_var *= 1 - m
                self.running_var += var * (m * count / (count - 1))
            return z
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = (
            ops.reshape(self.weight, shape) * (self.running_var.reshape(shape) + self.eps) ** -0.5
        )
        z = (x - self.running_mean.reshape(shape)) * scale + ops.reshape(self.bias, shape)
        return ops.relu(z) if relu else z

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight.shape[0]})"


class BatchNorm1d(BatchNorm):
    """`BatchNorm` of (N, C).

    Args:
        num_features, eps, momentum: as `BatchNorm`.
    """


class BatchNorm2d(BatchNorm):
    """`BatchNorm` of (N, C, H, W), each channel over all pixels of all images.

    Args:
        num_features, eps, momentum: as `BatchNorm`.
    """


class LayerNorm(Module):
    """γ (x − mean)/√(var + ε) + β over the last axis, each example by itself (Ba et al. 2016).

    Args:
        num_features: entries on the last axis.
        eps: ε > 0.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        n = backend.count("num_features", num_features)
        self.eps = backend.positive("eps", eps)
        self.weight = Tensor(np.ones(n), requires_grad=True)
        self.bias = Tensor(np.zeros(n), requires_grad=True)

    def forward(self, x: Any) -> Any:
        return functional.layer_norm(x, self.weight, self.bias, self.eps)

    def __repr__(self) -> str:
        return f"LayerNorm({self.weight.shape[0]})"


class Dropout(Module):
    """In training, entries dropped with probability p and the others scaled by 1/(1 − p)."""

    def __init__(self, p: float = 0.5):
        self.p = functional.probability("p", p)

    def forward(self, x: Any) -> Any:
        return functional.dropout(x, self.p) if self.training else x

    def __repr__(self) -> str:
        return f"Dropout({self.p:g})"


class StochasticDepth(Module):
    """In training, whole examples dropped with probability p and the others scaled by 1/(1 − p).

    At the end of a residual branch it makes the network shorter for some of the examples.

    Args:
        p: from 0 to 1.

    Raises:
        ValueError: p outside [0, 1].

    Source: Huang et al. (2016), per example.
    """

    def __init__(self, p: float = 0.1):
        self.p = functional.probability("p", p)

    def forward(self, x: Any) -> Any:
        if not self.training or not self.p:
            return x
        kept = backend.stream().random((x.shape[0],) + (1,) * (x.ndim - 1)) >= self.p
        return functional.dropout(x, self.p, mask=kept)

    def __repr__(self) -> str:
        return f"StochasticDepth({self.p:g})"


class Residual(Module):
    """x + scale · branch(x) (He et al. 2016).

    With `drop`, in training, the branch is computed only for the examples that do not skip it,
    and not at all if all of them do. Batch norm couples the examples: a branch that holds one
    is computed for the whole batch, so that its statistics are the batch's (of one or two kept
    examples they would be noise), unless all examples skip it.

    Args:
        branch: a module whose output has the shape of its input.
        scale: factor on the branch.
        drop: probability that, in training, an example skips the branch; for the others it is
            scaled by 1/(1 − drop) (`StochasticDepth`).
    """

    def __init__(self, branch: Module, scale: float = 1.0, drop: float = 0.0):
        self.branch = branch
        self.scale = float(scale)
        self.drop = StochasticDepth(functional.probability("drop", drop))

    def forward(self, x: Any) -> Any:
        if self.drop.p and self.drop.training:
            kept = backend.stream().random(x.shape[0]) >= self.drop.p
            if not kept.any():
                return x
            if not kept.all():
                return x + self._of_some(x, kept)
            return x + self._of(x) * (self.scale / (1.0 - self.drop.p))
        z = self._of(x)
        return x + (z if self.scale == 1.0 else z * self.scale)

    def _of(self, x: Any) -> Any:
        z = self.branch(x)
        if tuple(z.shape) != tuple(x.shape):
            raise ShapeError(
                f"a residual branch must keep the shape: it got {tuple(x.shape)} and gave "
                f"{tuple(z.shape)}"
            )
        return z

    def _of_some(self, x: Any, kept: np.ndarray) -> Any:
        """scale/(1 − p) · branch(x) for the examples that are kept, 0 for the others."""
        scale = self.scale / (1.0 - self.drop.p)
        if any(isinstance(module, BatchNorm) for _, module in self.branch.named_modules()):
            mask = kept.reshape(-1, *[1] * (x.ndim - 1))
            return self._of(x) * (backend.like(mask, ops.raw(x)) * scale)
        rows, n = backend.integers(np.flatnonzero(kept), ops.raw(x)), x.shape[0]
        some = self._of(functional._take_rows(x, rows=rows, n=n))
        return functional._place_rows(some * scale, rows=rows, n=n)

    def __repr__(self) -> str:
        return f"Residual({self.branch!r})"


class Identity(Module):
    """x itself: it takes the place of a layer that is left out."""

    def forward(self, x: Any) -> Any:
        return x

    def operations(self, x: Any, z: Any) -> int:
        return 0


class Flatten(Module):
    """(N, …) as (N, features)."""

    def forward(self, x: Any) -> Any:
        return ops.reshape(x, (x.shape[0], -1))


class MaxPool2d(Module):
    """Largest entry of each window.

    Args:
        kernel_size, stride: as `functional.max_pool2d`.
    """

    def __init__(self, kernel_size: int, stride: int | None = None):
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Any) -> Any:
        return functional.max_pool2d(x, self.kernel_size, self.stride)


class AvgPool2d(Module):
    """Mean of each window.

    Args:
        kernel_size, stride: as `functional.avg_pool2d`.
    """

    def __init__(self, kernel_size: int, stride: int | None = None):
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Any) -> Any:
        return functional.avg_pool2d(x, self.kernel_size, self.stride)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class Sigmoid(Module):
    """1/(1+e⁻ˣ)."""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class Softplus(Module):
    """log(1+eˣ)."""

    def forward(self, x: Any) -> Any:
        return ops.softplus(x)


class LeakyReLU(Module):
    """x above 0, 0.01 x below."""

    def forward(self, x: Any) -> Any:
        return functional.leaky_relu(x)


class ELU(Module):
    """x above 0, eˣ − 1 below."""

    def forward(self, x: Any) -> Any:
        return functional.elu(x)


class GELU(Module):
    """x Φ(x), by the tanh formula."""

    def forward(self, x: Any) -> Any:
        return functional.gelu(x)


_TAKE_RELU = frozenset({Linear, Conv2d, BatchNorm1d, BatchNorm2d})


def _takes_relu(layer: Module) -> bool:
    """Whether `layer` and a ReLU behind it can run as one operation, unseen by anyone."""
    return layer.__class__ in _TAKE_RELU and _watcher is None and "forward" not in layer.__dict__


class Sequential(Module):
    """The layers one after the other; a ReLU runs as one operation with the layer before it.

    Raises:
        TypeError: one of the layers is no Module.
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(
                    f"layer {i} is {layer!r}: expected a Module"
                    + (", write ReLU() instead of ReLU" if isinstance(layer, type) else "")
                )
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        done = False
        for layer, after in itertools.zip_longest(self.layers, self.layers[1:]):
            if done:  # this ReLU came with the layer before
                done = False
            elif after.__class__ is ReLU and _takes_relu(layer):
                x, done = layer.forward(x, True), True  # type: ignore[call-arg]
            else:
                x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]


def mlp(
    *widths: int, activation: type[Module] = ReLU, norm: type[Module] | None = None
) -> Sequential:
    """A dense network: mlp(64, 32, 10) is Linear(64, 32), ReLU, Linear(32, 10).

    Args:
        *widths: of the input, of each hidden layer, and of the output.
        activation: the class of layer after each hidden one; weights start with its
            `functional.gain`.
        norm: the class of a normalisation before each activation, such as BatchNorm1d or
            LayerNorm. Before batch norm the dense layers have no bias: its β takes that place.

    Raises:
        ValueError: fewer than two widths.
        TypeError: an activation or a norm that is no class of layers.
    """
    for role, kind in {"activation": activation, "norm": norm}.items():
        if not (isinstance(kind, type) and issubclass(kind, Module)) and kind is not None:
            example = "nn.ReLU" if role == "activation" else "nn.BatchNorm1d"
            raise TypeError(f"{role} must be a Module class such as {example}, got {kind!r}")
    if activation is None:
        raise TypeError("activation must be a Module class, got None: write nn.Identity")
    if len(widths) < 2:
        raise ValueError(f"mlp needs at least an input and an output width, got {widths}")
    layers: list[Module] = []
    centred = norm is not None and issubclass(norm, BatchNorm)
    *hidden, (inputs, outputs) = zip(widths, widths[1:], strict=False)
    for n, m in hidden:
        follows = activation()
        layers.append(Linear(n, m, bias=not centred, nonlinearity=_known(follows)))
        if norm is not None:
            layers.append(norm(m))  # type: ignore[call-arg]
        layers.append(follows)
    return Sequential(*layers, Linear(inputs, outputs, nonlinearity="linear"))


def _known(activation: Module) -> str | Module:
    """What `functional.gain` takes for it: a name for our own, else the layer, to be measured."""
    kind = type(activation)
    return kind.__name__.lower() if kind.__module__ == __name__ else activation


def checkpoint_sequential(layers: Sequential | list[Module], segments: int, x: Any) -> Any:
    """The layers one after the other in `segments` checkpointed pieces (see `dl.checkpoint`).

    Args:
        layers: a Sequential or a list of modules.
        segments: number of pieces; about √layers keeps the fewest activations.
        x: the first layer's input.
    """
    chain = layers.layers if isinstance(layers, Sequential) else list(layers)
    segments = min(backend.count("segments", segments), len(chain))
    ends = [len(chain) * (i + 1) // segments for i in range(segments)]
    # A ReLU stays with the layer that it runs with as one operation.
    ends = [end + (end < len(chain) and chain[end].__class__ is ReLU) for end in ends]
    for start, end in zip([0, *ends], ends, strict=False):
        x = checkpoint(Sequential(*chain[start:end]), x)
    return x


# --- initialisation: fill a parameter in place ----------------------------------------------------


def _fans(parameter: Tensor) -> tuple[int, int]:
    """(inputs, outputs) of one unit of a weight (out, in, …)."""
    if parameter.ndim < 2:
        raise ShapeError(
            f"initialisation needs a weight (out, in, …), got shape {parameter.shape}: "
            "biases start at zero (zeros_)"
        )
    receptive = math.prod(parameter.shape[2:])
    return parameter.shape[1] * receptive, parameter.shape[0] * receptive


def xavier_normal_(parameter: Tensor, gain: float = 1.0) -> None:
    """Normal with variance gain² · 2/(fan_in + fan_out) (Glorot & Bengio 2010).

    Args:
        parameter: a weight (out, in, …), overwritten.
        gain: see `functional.gain`.
    """
    fan_in, fan_out = _fans(parameter)
    std = gain * math.sqrt(2.0 / (fan_in + fan_out))
    parameter.data = std * backend.stream().standard_normal(parameter.shape)


def kaiming_normal_(parameter: Tensor, nonlinearity: str = "relu") -> None:
    """Normal with variance gain²/fan_in (He et al. 2015).

    Args:
        parameter: a weight (out, in, …), overwritten.
        nonlinearity: the activation that follows, see `functional.gain`.
    """
    std = functional.gain(nonlinearity) / math.sqrt(_fans(parameter)[0])
    parameter.data = std * backend.stream().standard_normal(parameter.shape)


def orthogonal_(parameter: Tensor, gain: float = 1.0) -> None:
    """`gain` times a random matrix with orthonormal rows or columns (Saxe et al. 2014).

    Args:
        parameter: a weight (out, in, …), overwritten.
        gain: see `functional.gain`.
    """
    _fans(parameter)
    rows = parameter.shape[0]
    flat = backend.stream().standard_normal((rows, parameter.size // rows))
    q, r = np.linalg.qr(flat if flat.shape[0] >= flat.shape[1] else flat.T)
    q = q * np.sign(np.diag(r))
    parameter.data = gain * (q if q.shape == flat.shape else q.T).reshape(parameter.shape)


def normal_(net: Module, weight: float = 1.0, bias: float = 0.0) -> Module:
    """Every dense and convolutional layer anew: W ~ N(0, σw²/fan_in), b ~ N(0, σb²).

    The start that the theory of wide networks speaks of (`dl.meanfield`).

    Args:
        net: a network, or one such layer.
        weight: σw ≥ 0.
        bias: σb ≥ 0.

    Returns:
        The network itself.

    Raises:
        ValueError: σw < 0, σb < 0, or a network without such layers.

    Source: Poole et al. (2016).
    """
    weight = backend.positive("weight", weight, allow_zero=True)
    bias = backend.positive("bias", bias, allow_zero=True)
    layers = [m for _, m in net.named_modules() if isinstance(m, (Linear, Conv2d))]
    if not layers:
        raise ValueError(f"normal_ fills Linear and Conv2d layers, {net!r} has none")
    for layer in layers:
        w = layer.weight
        w.data = weight / math.sqrt(_fans(w)[0]) * backend.stream().standard_normal(w.shape)
        if layer.bias is not None:
            layer.bias.data = bias * backend.stream().standard_normal(layer.bias.shape)
    return net


def zeros_(parameter: Tensor) -> None:
    """All entries of `parameter` 0."""
    parameter.data = np.zeros(parameter.shape)


# --- looking into a network -----------------------------------------------------------------------


@contextlib.contextmanager
def _watched(watch: Callable[[Module, Any, Any], None]) -> Iterator[None]:
    """Within this block `watch` is told of each call: the module, its input, its output."""
    global _watcher
    before, _watcher = _watcher, watch
    try:
        yield
    finally:
        _watcher = before


class Activation(NamedTuple):
    """What one call of a layer gave.

    Attributes:
        layer: the module.
        value: its output, a raw array.
        grad: ∂L/∂value, a raw array; None if no loss was given, or if no parameter came before.
    """

    layer: Module
    value: Any
    grad: Any


def trace(
    net: Module, x: Any, loss: Callable[[Any], Tensor] | None = None
) -> dict[str, Activation]:
    """The outputs of all layers on their way from x, in the order in which they were made.

        trace = nn.trace(net, x, lambda z: dl.cross_entropy(z, y))
        trace["layers.2"].value, trace["layers.2"].grad

    The network computes what its next call would, in the mode that it is in (in training: batch
    norm by the batch's statistics, dropout with the masks that come next), but nothing is left
    behind: running statistics, random streams and every `.grad` stay as they are.

    Args:
        net: a network.
        x: one batch of its input.
        loss: output ↦ scalar Tensor, for the gradients.

    Returns:
        dotted name ↦ `Activation`, residual blocks and other modules of modules after what they
        hold; Sequentials are left out. The second call of a layer is "name:2". Within a branch
        that some examples skip (`Residual`), the rows are those of the others.
    """
    names = {id(module): name for name, module in reversed(list(net.named_modules()))}
    calls: dict[str, tuple[Module, Any]] = {}

    def watch(module: Module, _: Any, z: Any) -> None:
        if isinstance(module, Sequential):
            return
        name, count = names.get(id(module), "") or type(module).__name__, 1
        while (key := name if count == 1 else f"{name}:{count}") in calls:
            count += 1
        calls[key] = module, z

    with repeated():
        with _watched(watch):
            output = net(backend.asarray(x) if x.__class__ is not Tensor else x)
        reached = {
            key: z
            for key, (_, z) in calls.items()
            if loss is not None and z.__class__ is Tensor and z.requires_grad
        }
        found: list[Any] = []
        if loss is not None and reached:
            found = grad(loss(output), list(reached.values()))
    grads = dict(zip(reached, found, strict=True))
    return {
        key: Activation(module, ops.raw(z), ops.raw(grads.get(key)))
        for key, (module, z) in calls.items()
    }


def freeze_batch_norm(net: Module, x: Any) -> Module:
    """Freeze each batch norm of `net` at the statistics that it meets on the batch x.

    The network then computes the same function of x as it does in training, but its statistics
    no longer follow the weights. (`BatchNorm.freeze` freezes at the running statistics.) A layer
    that is called more than once is frozen at what its last call met.

    Args:
        net: a network.
        x: one batch of its input.

    Returns:
        The network itself.

    Raises:
        ValueError: there is no batch norm.
    """
    layers = [m for _, m in net.named_modules() if isinstance(m, BatchNorm)]
    if not layers:
        raise ValueError(f"freeze_batch_norm: there is no batch norm in {net!r}")
    met: dict[int, tuple[Any, Any]] = {}

    def watch(module: Module, given: Any, _: Any) -> None:
        if isinstance(module, BatchNorm):
            given = ops.raw(given)
            axes = (0, *range(2, given.ndim))
            met[id(module)] = ops.mean(given, axes), ops.var(given, axes)

    modes = [(layer, layer.training, layer.frozen) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.frozen = True, False
        with repeated(), no_grad(), _watched(watch):
            net(backend.asarray(ops.raw(x)))
    finally:
        for layer, training, frozen in modes:
            layer.training, layer.frozen = training, frozen
    for layer in layers:
        if id(layer) in met:
            mean, var = met[id(layer)]
            layer.running_mean[...] = mean
            layer.running_var[...] = var
            layer.freeze()
    return net


# --- what a network costs, by formula (measured: `dl.cost`) --------------------------------------


def summary(net: Module, x: Any) -> str:
    """A table of all layers in the order of their calls: shapes, parameters, memory, operations.

    Args:
        net: a network.
        x: one batch of its input.

    Returns:
        One line per layer: output shape, parameters, bytes of its output, floating-point
        operations of its forward pass (a multiplication and an addition count as two).
    """
    names = {id(module): name for name, module in net.named_modules()}
    rows: list[tuple[str, ...]] = []
    totals = [0, 0, 0]

    def watch(module: Module, x: Any, z: Any) -> None:
        if any(True for _ in module.children()):
            return
        parameters = sum(p.size for p in module.parameters())
        size = math.prod(z.shape) * z.dtype.itemsize
        counts = (parameters, size, module.operations(x, z))
        for i, count in enumerate(counts):
            totals[i] += count
        name = f"{names.get(id(module), '')} {module!r}".strip()
        rows.append((name, str(tuple(z.shape)), *(f"{count:,}" for count in counts)))

    with evaluating(net), no_grad(), _watched(watch):
        net(backend.asarray(ops.raw(x)))
    head = ("layer", "output", "parameters", "bytes", "operations")
    table = [head, *rows, ("total", "", *(f"{t:,}" for t in totals))]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in
                       enumerate(zip(row, widths, strict=True))) for row in table]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)
