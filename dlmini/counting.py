"""What a computation costs: the operations really executed, what the tape keeps, memory in time.

Counted on the arrays as they run, so that fused rules and repeated passes are seen as they are:
NumPy arrays pass through the operations as a subclass that notes each ufunc, torch tensors under
a dispatch mode. While nobody counts, nothing of this is in the way.
"""

import contextlib
import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import tensor
from .backend import Array, xp
from .tensor import CHECKPOINT, Dual, Leaf, Node, Op, Tensor

# --- what is reported -----------------------------------------------------------------------------


class Operations(NamedTuple):
    """Floating-point operations: one for each entry that elementwise work makes.

    Attributes:
        products: in products of matrices, convolutions among them: 2mnk for (m, k) times (k, n),
            a multiplication and an addition each, as the field counts.
        others: everything else; n − 1 for a sum or a maximum of n numbers, 2mk for a matrix times
            a vector, one for an exponential as for an addition.
    """

    products: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """Both kinds."""
        return self.products + self.others


class Kept(NamedTuple):
    """An array that a recorded operation keeps because one of its rules reads it.

    Attributes:
        role: "output", or the name that the operation gives it ("x", "weight", "exp").
        shape: of the array.
        bytes: newly held because of it; 0 where it is held anyway.
        held: why it is held anyway: "parameter", "data" (there before and afterwards), "earlier"
            (an older operation keeps it too); "" where it is not.
    """

    role: str
    shape: tuple[int, ...]
    bytes: int
    held: str


class Record(NamedTuple):
    """One operation on the tape.

    Attributes:
        name: of the operation.
        shape: of its output.
        parents: where its arguments came from: places on the tape, or "parameter".
        kept: the arrays that it keeps for its rules.
    """

    name: str
    shape: tuple[int, ...]
    parents: tuple[int | str, ...]
    kept: tuple[Kept, ...]

    @property
    def bytes(self) -> int:
        """Newly held by this operation."""
        return sum(k.bytes for k in self.kept)


class Moment(NamedTuple):
    """The memory right after an operation on arrays.

    Attributes:
        phase: "forward", "backward" or "recomputed".
        name: of the operation of the network on the way there, of the array library on the way
            back.
        bytes: held in arrays made since the start.
    """

    phase: str
    name: str
    bytes: int


@dataclass(frozen=True, eq=False, repr=False)
class Cost:
    """What `cost` found.

    Attributes:
        forward, backward: `Operations` of the two passes.
        recomputed: `Operations` of forward passes repeated for checkpoints, on the way back.
        tape: a `Record` for each recorded operation, oldest first.
        timeline: a `Moment` after each operation on arrays.
    """

    forward: Operations
    backward: Operations
    recomputed: Operations
    tape: list[Record]
    timeline: list[Moment]

    @property
    def bytes(self) -> int:
        """Kept on the tape between the two passes; parameters and data are not counted."""
        return sum(r.bytes for r in self.tape)

    @property
    def peak(self) -> int:
        """The most bytes held at once; parameters, their gradients and data are not counted."""
        return max((m.bytes for m in self.timeline), default=0)

    def table(self) -> str:
        """The tape as text: one line for each operation, with what it keeps and why."""
        rows: list[tuple[str, ...]] = [("", "operation", "output", "from", "bytes", "keeps")]
        for i, r in enumerate(self.tape):
            kept = ", ".join(f"{k.role}{f' ({k.held})' if k.held else ''}" for k in r.kept)
            parents = ", ".join(map(str, r.parents))
            rows.append((str(i), r.name, _shape(r.shape), parents, f"{r.bytes:,}", kept or "–"))
        return _columns(rows, right={0, 4})

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [("operations", "matrix products", "others", "total")]
        for phase in ("forward", "backward", "recomputed"):
            found = getattr(self, phase)
            if found.total or phase != "recomputed":
                numbers = (found.products, found.others, found.total)
                rows.append((phase, *(f"{n:,}" for n in numbers)))
        return (
            f"{_columns(rows, right={1, 2, 3})}\n"
            f"tape: {len(self.tape)} operations keep {self.bytes:,} bytes; "
            f"at most {self.peak:,} bytes at once"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"


def _columns(rows: list[tuple[str, ...]], right: set[int]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


# --- the ledger that operations write into --------------------------------------------------------


class _Buffer:
    """Memory that some arrays are views of."""

    __slots__ = ("bytes", "made", "parameter", "ref")

    def __init__(self, size: int, made: bool):
        self.bytes = size
        self.made = made  # by an operation seen here, or was it met as an argument?
        self.parameter = False
        self.ref: Any = None


class _Entry(NamedTuple):
    """A node of the tape: what can be told of it before the run is over."""

    name: str
    shape: tuple[int, ...]
    parents: tuple[int | str, ...]
    kept: list[tuple[str, tuple[int, ...], _Buffer]]


class _Meter:
    """Counts of one run, and when memory came and went."""

    def __init__(self) -> None:
        self.counts = {phase: [0, 0] for phase in ("forward", "backward", "recomputed")}
        self.names: list[str] = []  # of the operations that are running
        self.walks = 0  # how deep in walks back
        self.tape: list[_Entry] | None = None  # as it was before the first walk
        self.buffers: dict[int, _Buffer] = {}  # those that live
        self.log: list[tuple[Any, Any]] = []  # (buffer, did it come?) or (phase, name)

    def ran(self, name: str, products: int, others: int) -> None:
        """Note an operation on arrays."""
        phase = "forward"
        if self.walks:
            phase = "recomputed" if tensor.replaying() else "backward"
        self.counts[phase][0] += products
        self.counts[phase][1] += others
        if self.names and phase != "backward":
            name = self.names[-1]
        self.log.append((phase, name))

    def buffer(self, array: Array, made: bool = False) -> _Buffer:
        """The memory under an array; noted if it is new."""
        owner, key, size = _owner(array)
        known = self.buffers.get(key)
        if known is None:
            known = self.buffers[key] = _Buffer(size, made)
            log, buffers, gone = self.log, self.buffers, (known, False)

            def forget(_: Any) -> None:
                log.append(gone)
                buffers.pop(key, None)

            known.ref = weakref.ref(owner, forget)
            log.append((known, True))
        return known

    def read_tape(self, root: Any) -> None:
        """Note the nodes under `root` and the memory that they keep; once."""
        if self.tape is not None or not _is_open(root):
            return
        nodes: list[Any] = tensor._reachable(root)
        places = {node: i for i, node in enumerate(nodes)}
        self.tape = [
            _Entry(
                node.op.name,
                tuple(node.shape),
                tuple("parameter" if p.op is None else places[p] for p in node.parents if p),
                [(role, tuple(a.shape), self.buffer(a)) for role, a in _kept(node)],
            )
            for node in nodes
        ]

    def cost(self) -> Cost:
        """The report. What was there before the run and still is does not count as held."""
        lasting = {id(b) for b in self.buffers.values() if not b.made}
        held, timeline = 0, []
        for what, detail in self.log:
            if what.__class__ is str:
                timeline.append(Moment(what, detail, held))
            elif id(what) not in lasting:
                held += what.bytes if detail else -what.bytes
        seen: set[int] = set()
        tape = []
        for name, shape, parents, arrays in self.tape or []:
            kept = []
            for role, size, buffer in arrays:
                why = "earlier" if id(buffer) in seen else ""
                if id(buffer) in lasting:
                    why = "parameter" if buffer.parameter else "data"
                seen.add(id(buffer))
                kept.append(Kept(role, size, 0 if why else buffer.bytes, why))
            tape.append(Record(name, shape, parents, tuple(kept)))
        found = {phase: Operations(*counts) for phase, counts in self.counts.items()}
        return Cost(**found, tape=tape, timeline=timeline)


def _is_open(node: Any) -> bool:
    """Whether it is a node that can still be walked back from."""
    return isinstance(node, Node) and node.args is not None  # type: ignore[attr-defined]


def _owner(array: Array) -> tuple[Any, int, int]:
    """The object that owns an array's memory, a key for it, and its bytes."""
    if isinstance(array, np.ndarray):
        while isinstance(array.base, np.ndarray):
            array = array.base
        return array, id(array), array.nbytes
    storage = array.untyped_storage()
    return storage, storage._cdata, storage.nbytes()


def _kept(node: Any) -> Iterator[tuple[str, Array]]:
    """(role, array) of all arrays that a node of the tape keeps."""
    if node.z is not None:
        yield "output", node.z
    if node.op is CHECKPOINT:
        yield from _arrays("input", node.args[1])
        return
    names = _argument_names(node.op)
    for i, value in enumerate(node.args):
        yield from _arrays(names[i] if i < len(names) else str(i), value)
    for name, value in node.params.items():
        yield from _arrays(name, value)


def _arrays(role: str, value: Any) -> Iterator[tuple[str, Array]]:
    if value.__class__ is Tensor:
        value = value._data
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _arrays(name, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(role, item)
    elif isinstance(value, np.ndarray) or hasattr(value, "untyped_storage"):
        yield role, value


def _argument_names(op: Op) -> list[str]:
    """What the operation calls its arguments."""
    code: Any = getattr(inspect.unwrap(op.forward), "__code__", None)
    return [] if code is None else list(code.co_varnames[: code.co_argcount])


# --- NumPy arrays that count ----------------------------------------------------------------------

_meter: _Meter | None = None  # of the run that is counted


class _Counted(np.ndarray):
    """An array whose operations are noted; whatever is computed from it is one, too."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        options = {name: _plain(value) for name, value in options.items()}
        if out is not None:
            options["out"] = tuple(_plain(o) for o in out)
        z = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if _meter is not None:
            for a in (*inputs, *(out or ())):
                if isinstance(a, np.ndarray):
                    _meter.buffer(a)
            if isinstance(z, np.ndarray):
                _meter.buffer(z, made=True)
            if any(map(_floating, inputs)):
                _meter.ran(ufunc.__name__, *_ufunc_operations(ufunc, method, inputs, z))
        if out is not None:
            return out[0] if len(out) == 1 else out
        return _counted(z)

    def __array_function__(self, function, types, args, kwargs):
        if _meter is not None:
            for _, a in _arrays("", (args, kwargs)):
                _meter.buffer(a)
        z = super().__array_function__(function, types, args, kwargs)
        if _meter is not None and isinstance(z, np.ndarray):
            _meter.buffer(z, made=True)
            if function is np.dot:
                _meter.ran("dot", *_product_operations(args[0], args[1], z))
        return _counted(z)


def _counted(x: Any) -> Any:
    return x.view(_Counted) if x.__class__ is np.ndarray else x


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if x.__class__ is _Counted else x


def _floating(x: Any) -> bool:
    return x.__class__ is float or getattr(getattr(x, "dtype", None), "kind", "") in ("f", "c")


def _ufunc_operations(ufunc: Any, method: str, inputs: Sequence[Any], z: Any) -> tuple[int, int]:
    if ufunc is np.matmul:
        return _product_operations(inputs[0], inputs[1], z)
    if method == "at":
        return 0, np.size(inputs[-1])
    if method == "reduce":
        return 0, np.size(inputs[0]) - np.size(z)
    return 0, np.size(z[0] if isinstance(z, tuple) else z)


def _product_operations(x: Any, y: Any, z: Any) -> tuple[int, int]:
    """2mnk, as (product of matrices, product with a vector)."""
    count = 2 * x.shape[-1] * math.prod(np.shape(z))
    return (count, 0) if x.ndim > 1 and y.ndim > 1 else (0, count)


# --- torch tensors, under a dispatch mode ---------------------------------------------------------

_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "addmm": 1, "baddbmm": 1}  # place of the first factor
_VECTOR_PRODUCTS = {"mv": 0, "dot": 0, "vdot": 0, "addmv": 1}
_SUMS = {"sum", "mean", "amax", "amin", "max", "min", "prod", "cumsum", "logsumexp"}
_MOVES = {"clone", "where", "masked_fill"}  # pointwise for torch, but nothing is worked out


@contextlib.contextmanager
def _torch_mode(meter: _Meter) -> Iterator[None]:
    """Within this block all operations of torch are noted."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    matmuls = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}
    of_vector = False  # torch makes a matrix of a vector before we see it

    class Calls(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal of_vector
            of_vector = function in matmuls and 1 in (args[0].ndim, args[1].ndim)
            try:
                return function(*args, **(kwargs or {}))
            finally:
                of_vector = False

    def tensors(values: Any) -> list[Any]:
        return [a for _, a in _arrays("", values)]

    class Work(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            given = tensors((args, kwargs or {}))
            for t in given:
                meter.buffer(t)
            z = function(*args, **(kwargs or {}))
            results = tensors((z,))
            for t in results:
                meter.buffer(t, made=True)
            name = function.overloadpacket.__name__
            products = others = 0
            if not (results and any(t.is_floating_point() or t.is_complex() for t in given)):
                return z
            size = results[0].numel()
            if name in _PRODUCTS and of_vector:
                others = 2 * args[_PRODUCTS[name]].shape[-1] * size
            elif name in _PRODUCTS:
                products = 2 * args[_PRODUCTS[name]].shape[-1] * size
                others = size if name in ("addmm", "baddbmm") else 0
            elif name in _VECTOR_PRODUCTS:
                others = 2 * args[_VECTOR_PRODUCTS[name]].shape[-1] * size
            elif name in _SUMS:
                others = given[0].numel() - size
            elif name not in _MOVES and (
                torch.Tag.pointwise in function.tags or name == "threshold_backward"
            ):
                others = size
            if products or others:
                meter.ran(name, products, others)
            return z

    with Calls(), Work():
        yield


# --- the run --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _metered(meter: _Meter) -> Iterator[None]:
    """Within this block operations hand their arrays over as counted ones, and walks are seen.

    The methods themselves are exchanged, so that nothing asks for a meter at other times.
    """
    global _meter
    if _meter is not None:
        raise RuntimeError("dl.cost inside dl.cost: count one thing at a time")
    call, walk, seed = Op.__call__, tensor._walk, tensor._seed_cotangent

    def counting_call(self: Op, *args: Any, **params: Any) -> Any:
        if tensor._recording is tensor.FORWARD:
            for leaf, tangent in tensor._moving.items():
                tensor._moving[leaf] = _counted(tangent)
        meter.names.append(self.name)
        try:
            z = call(self, *[_handed(meter, a) for a in args], **params)
        finally:
            meter.names.pop()
        if z.__class__ is not Tensor:
            return _counted(z)
        z._data = _plain(z._data)
        return z

    def counting_walk(root: Tensor, *args: Any, **options: Any) -> dict:
        meter.read_tape(root.node)
        meter.walks += 1
        try:
            found = walk(root, *args, **options)
        finally:
            meter.walks -= 1
        return {node: _plain(g) for node, g in found.items()}

    def counted_seed(*args: Any) -> Any:
        return _counted(seed(*args))

    _meter = meter
    Op.__call__ = counting_call  # type: ignore[method-assign]
    tensor._walk, tensor._seed_cotangent = counting_walk, counted_seed  # type: ignore[assignment]
    try:
        with contextlib.ExitStack() as stack:
            if tensor.backend._State.name == "torch":
                stack.enter_context(_torch_mode(meter))
            yield
    finally:
        _meter = None
        Op.__call__ = call  # type: ignore[method-assign]
        tensor._walk, tensor._seed_cotangent = walk, seed


def _handed(meter: _Meter, a: Any) -> Any:
    """An argument as an operation gets it while it is counted."""
    if a.__class__ is not Tensor:
        return _counted(a)
    node = a.node
    if isinstance(node, Leaf):
        meter.buffer(a._data).parameter = True
    elif node.__class__ is Dual:
        node = Dual(_counted(node.tangent))
    return Tensor.wrap(_counted(a._data), node)


@contextlib.contextmanager
def _spare_gradients(root: Tensor) -> Iterator[list[Array]]:
    """Memory for gradients waits to be written, and each `.grad` is back afterwards."""
    nodes: list[Any] = tensor._reachable(root.node)
    leaves = list({p: None for n in nodes for p in n.parents if isinstance(p, Leaf)})
    before = [(leaf, leaf.grad, leaf.spare) for leaf in leaves]
    library, device = xp(root._data), root._data.device
    for leaf in leaves:
        leaf.grad = leaf.spare = library.zeros(tuple(leaf.shape), dtype=leaf.dtype, device=device)
    waiting: list[Any] = [leaf.grad for leaf in leaves]
    try:
        yield waiting
    finally:
        for leaf, grad, spare in before:
            leaf.grad, leaf.spare = grad, spare


def cost(f: Callable[[], Any]) -> Cost:
    """What f() costs: operations, forward and backward apart; the tape; memory in time.

        cost = dl.cost(lambda: dl.cross_entropy(net(x), y))
        cost.backward.products / cost.forward.products  # 2 − W₁/W in a dense net
        print(cost.table())                             # which rule keeps what

    Runs f once. If f returns a scalar Tensor and has not walked back itself, its backward pass
    is run as well, and every `.grad` is left as it was. What f does besides (running statistics,
    random draws) it does as always. Only work on Tensors is counted (with torch arrays, all of
    torch's), and only on floating-point numbers. Each buffer counts once, from the operation that
    made it, or first read it, to the last array that needs it; what was there before and still is
    afterwards (parameters, data) does not count.

    Args:
        f: a function without arguments, such as one that builds a loss.

    Returns:
        A `Cost`; print it for the totals.

    Raises:
        TypeError: f is no function.
        RuntimeError: called within itself.

    Source: the cost of the backward pass, Baur & Strassen (1983).
    """
    if not callable(f):
        raise TypeError(
            f"dl.cost takes a function that computes, got {type(f).__name__}: "
            "write dl.cost(lambda: loss(net(x), y))"
        )
    meter, lasting = _Meter(), []
    with _metered(meter):
        value = f()
        if value.__class__ is Tensor:
            meter.read_tape(value.node)
            if _is_open(value.node) and value.shape == ():
                with _spare_gradients(value) as gradients:
                    lasting += gradients  # alive to the end: they do not count
                    for g in gradients:
                        meter.buffer(g).made = False
                    value.backward()
        del value
        return meter.cost()
