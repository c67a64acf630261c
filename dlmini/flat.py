"""All parameters as views of one vector θ, all gradients as views of one vector g.

An optimizer is then the formula in the book, and clipping, averaging, interpolation and
directions in parameter space are a line each.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .backend import Array, dtype_name, like, to_numpy, xp
from .tensor import Clock, GradientError, Leaf, ShapeError, Tensor

#: A part of θ: a layer, some of the parameters, a rule that picks them, or a mask (P,).
Part = Any


class Flat:
    """One vector θ (P entries) under a list of parameters, and one vector g under their gradients.

    Make it with `pack`, which hands out the existing vector where there is one.
    """

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        first = parameters[0].data
        sizes = [p.size for p in parameters]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.slices = [slice(e - n, e) for e, n in zip(ends, sizes, strict=True)]
        library = xp(first)
        self.theta: Array = library.empty(ends[-1], dtype=first.dtype, device=first.device)
        self._g: Array = library.zeros_like(self.theta)
        self.clock = Clock(owner=weakref.ref(self))
        # Packing moves numbers but changes none: graphs recorded before stay good.
        self.clock.changed = max(p.node.clock.changed for p in parameters)  # type: ignore[union-attr]
        self.retired = False  # have some of the parameters moved to another vector?
        for p, cut in zip(parameters, self.slices, strict=True):
            view = self.theta[cut].reshape(p.shape)
            view[...] = p.data
            grad = self._g[cut].reshape(p.shape)
            leaf = p.node
            assert isinstance(leaf, Leaf)
            if leaf.grad is not None and leaf.spare is None:
                grad[...] = leaf.grad
            leaf.spare = None  # what waited to be written is zero here
            former = leaf.clock.owner and leaf.clock.owner()
            if former is not None:
                former.retired = True
            p._data, leaf.grad, leaf.clock = view, grad, self.clock

    @property
    def g(self) -> Array:
        """The gradient vector; entries that no backward pass has written are zero."""
        self.fill()
        return self._g

    def check(self) -> None:
        """Raise GradientError if some parameters have since been packed into another vector."""
        if self.retired:
            raise GradientError(
                "these parameters were packed again, by a later optimizer or pack() over "
                "other parameters: make one optimizer over all of them, and make it last"
            )

    def fill(self) -> None:
        """Write the zeros of the gradients that no backward pass has written."""
        self.check()
        for p in self.parameters:
            if p.node.spare is not None:
                p.grad  # noqa: B018  reading it fills them in

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.theta.shape[0]

    def snapshot(self) -> np.ndarray:
        """A copy of θ on the CPU, (P,), to compare with or to go back to (`assign`)."""
        self.check()
        return np.array(to_numpy(self.theta))

    def zero_grad(self) -> None:
        """Let the next backward pass overwrite the gradients instead of adding to them."""
        for p in self.parameters:
            leaf = p.node
            leaf.spare = leaf.grad

    def touch(self) -> None:
        """Say that θ was changed in place, so that graphs recorded before are refused."""
        self.clock.touch()

    def assign(self, vector: Any) -> None:
        """θ ← vector (P entries), copied.

        Raises:
            ShapeError: another number of entries.
        """
        self.check()
        vector = like(vector, self.theta)
        if tuple(vector.shape) != tuple(self.theta.shape):
            raise ShapeError(f"expected {self.size} parameters, got shape {tuple(vector.shape)}")
        self.theta[...] = vector
        self.touch()

    def gradient(self, loss: Callable[[], Tensor]) -> Array:
        """∇L at the present parameters, (P,), a copy; `loss` builds the scalar loss from them."""
        self.zero_grad()
        loss().backward()
        return xp(self.theta).asarray(self.g, copy=True)

    def split(self, vector: Array) -> list[Array]:
        """`vector` (P entries) cut into arrays of the parameters' shapes; views, not copies."""
        return [
            vector[cut].reshape(p.shape)
            for p, cut in zip(self.parameters, self.slices, strict=True)
        ]

    def mask(self, which: Part) -> np.ndarray:
        """Which entries of θ belong to a part of it, booleans (P,).

        Args:
            which: a module, one or some of the packed parameters, a predicate parameter ↦ bool,
                or already a mask (P,).

        Raises:
            ShapeError: a mask of another length.
            TypeError: a mask that holds no booleans.
            GradientError: a parameter that is not packed here.
        """
        if which.__class__ is Tensor:
            which = [which]
        if hasattr(which, "shape"):
            which = to_numpy(which)
            if which.shape != (self.size,):
                raise ShapeError(f"expected a mask of shape ({self.size},), got {which.shape}")
            if which.dtype != bool:
                raise TypeError(f"a mask holds booleans, got {which.dtype}: compare with `!= 0`?")
            return which.copy()
        if hasattr(which, "parameters"):
            which = which.parameters()
        if callable(which):
            chosen = [bool(which(p)) for p in self.parameters]
        else:
            wanted = {id(p): p for p in which}
            strangers = wanted.keys() - {id(p) for p in self.parameters}
            if strangers:
                shapes = sorted(str(getattr(wanted[k], "shape", wanted[k])) for k in strangers)
                raise GradientError(
                    f"{len(strangers)} of {len(wanted)} parameters, of shape {', '.join(shapes)}, "
                    "are not among those packed here: were they given to this optimizer?"
                )
            chosen = [id(p) in wanted for p in self.parameters]
        return np.repeat(chosen, [p.size for p in self.parameters])

    def __copy__(self) -> "Flat":
        return self  # a second vector would take the parameters away from this one

    # A copy holds copies of the parameters, packed anew.
    def __reduce__(self):
        return Flat, (self.parameters,)


def pack(parameters: Iterable[Tensor]) -> Flat:
    """The parameters as one vector; a parameter given twice (shared weights) is packed once.

    Raises:
        GradientError: nothing to pack, or an entry that is no parameter.
        TypeError: parameters of different precision.
    """
    unique: dict[int, Tensor] = {}
    for i, p in enumerate(parameters):
        if p.__class__ is not Tensor or not isinstance(p.node, Leaf):
            raise GradientError(
                f"entry {i} is {type(p).__name__}, not a parameter: expected Tensors made with "
                "requires_grad=True, such as net.parameters() gives"
            )
        unique[id(p)] = p
    chosen = list(unique.values())
    if not chosen:
        raise GradientError("there are no parameters to pack: does the network have any?")
    kinds = {(xp(p.data).__class__, str(p.data.device), dtype_name(p.dtype)) for p in chosen}
    if len(kinds) > 1:
        names = sorted(f"{dtype} on {device}" for _, device, dtype in kinds)
        raise TypeError(f"parameters of different kinds cannot share one vector: {names}")
    owner = chosen[0].node.clock.owner  # type: ignore[union-attr]
    existing = owner() if owner else None
    if existing is None or existing.retired:
        return Flat(chosen)
    same = [id(p) for p in existing.parameters] == list(unique)
    return existing if same else Flat(chosen)
