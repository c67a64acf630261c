"""Networks as plain data: a module holds parameters and other modules, and maps x to y."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import backend, functional, ops
from .tensor import Leaf, Tensor


class Module:
    """Base of all layers: write `forward`; parameters are found among the attributes."""

    def forward(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(x)")

    def __call__(self, x: Any) -> Any:
        return self.forward(x)

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
        """(dotted name, parameter), in order of definition."""
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

    def __repr__(self) -> str:
        inner = ", ".join(repr(m) for _, m in self.children())
        return f"{type(self).__name__}({inner})"


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


class Linear(Module):
    """x Wᵀ + b with W (out_features, in_features) and b (out_features,).

    Weights start as independent normal numbers of standard deviation gain/√in_features, which
    keeps the size of activations from layer to layer (Glorot & Bengio 2010; He et al. 2015);
    biases start at 0. `nonlinearity` is the activation that follows, and sets the gain.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        nonlinearity: str = "relu",
    ):
        self.in_features = _count("in_features", in_features)
        self.out_features = _count("out_features", out_features)
        std = functional.gain(nonlinearity) / math.sqrt(self.in_features)
        weight = std * backend.stream().standard_normal((self.out_features, self.in_features))
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(self.out_features), requires_grad=True) if bias else None

    def forward(self, x: Any) -> Any:
        return functional.linear(x, self.weight, self.bias)

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features})"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class Sigmoid(Module):
    """1/(1+e^-x)."""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class Sequential(Module):
    """The layers one after the other."""

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(
                    f"layer {i} is {layer!r}: expected a Module"
                    + (", write ReLU() instead of ReLU" if isinstance(layer, type) else "")
                )
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]


def mlp(*widths: int, activation: type[Module] = ReLU) -> Sequential:
    """A dense network: mlp(64, 32, 10) is Linear(64, 32), ReLU, Linear(32, 10)."""
    if not (isinstance(activation, type) and issubclass(activation, Module)):
        raise TypeError(f"activation must be a Module class such as nn.ReLU, got {activation!r}")
    if len(widths) < 2:
        raise ValueError(f"mlp needs at least an input and an output width, got {widths}")
    layers: list[Module] = []
    follows = activation.__name__.lower()
    for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
        last = i == len(widths) - 2
        layers.append(Linear(n, m, nonlinearity="linear" if last else follows))
        if not last:
            layers.append(activation())
    return Sequential(*layers)
