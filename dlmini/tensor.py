"""Tensors, the tape that records what was done to them, and the walk back along it.

An `Op` is a function together with one derivative rule per argument. Called on raw arrays it
returns a raw array; called on a Tensor it also records a node. `backward` feeds the rules raw
arrays. With `create_graph=True` it feeds them Tensors, so the backward pass is recorded as well
and can be differentiated in turn: that is all there is to second derivatives.
"""

import contextlib
import dis
import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp


class GradientError(RuntimeError):
    """A derivative was asked for that cannot be had."""


class ShapeError(ValueError):
    """Arrays whose shapes do not go together."""


# NumPy's reductions and 0-d arithmetic return scalars instead of arrays.
_NUMPY_SCALARS = frozenset({np.float16, np.float32, np.float64, np.int64, np.bool_})

_tick = itertools.count(1).__next__  # orders nodes, and dates changes of parameters
_recording: Any = True  # or False, or FORWARD
FORWARD = "forward mode"  #: tangents go along, nothing is recorded


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within this block nothing is recorded, so activations are let go at once."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Node:
    """One recorded operation: what it read, what it made, and the nodes it came from.

    Nodes refer to arrays and to earlier nodes only, never to Tensors: no reference cycles.
    """

    __slots__ = ("args", "dtype", "op", "order", "params", "parents", "shape", "steps", "z")
    spare = None  # only leaves have memory that waits for a gradient


class Clock:
    """When parameters last changed; shared by all that are packed into one vector (`owner`)."""

    __slots__ = ("changed", "owner")

    def __init__(self, owner=None):
        self.owner = owner
        self.touch()

    def touch(self) -> None:
        """Say that a parameter has changed now."""
        self.changed = _tick()


class Leaf:
    """Where differentiation ends: the engine's side of a Tensor `data` that requires grad."""

    __slots__ = ("clock", "dtype", "grad", "order", "shape", "spare")
    op = None
    parents = ()

    def __init__(self, data):
        self.shape = data.shape
        self.dtype = data.dtype
        self.order = _tick()
        self.clock = Clock()
        self.grad = None
        self.spare = None  # the memory in `grad`, if it stands for zero and waits to be written

    def zero(self) -> None:
        """Let the next write overwrite what is there."""
        self.spare = self.grad

    def accumulate(self, g: Array) -> None:
        """Add `g` into memory that this leaf owns (a rule may hand one array to two parents)."""
        if self.spare is not None:
            self.spare[...] = g
            self.spare = None
        elif self.grad is None:
            self.grad = xp(g).asarray(g, copy=True)
        else:
            self.grad += g


class Tensor:
    """An array whose history can be differentiated.

    Args:
        data: number, list, NumPy array or torch tensor; floating numbers take the precision and
            device in use (`dl.use`).
        requires_grad: True for a parameter, so that `backward` fills its `.grad`.

    Raises:
        TypeError: `requires_grad` on integers, or data that are not numbers.
    """

    __slots__ = ("_data", "node")
    __array_ufunc__ = None  # so that ndarray + Tensor comes to Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False):
        if data.__class__ is Tensor:
            data = data.data
        elif isinstance(data, (list, tuple)) and any(d.__class__ is Tensor for d in data):
            raise TypeError("a Tensor made of Tensors would lose their history: use dl.stack")
        self._data = backend.asarray(data)
        self.node: Any = None  # Node, Leaf, Dual or None
        if requires_grad:
            if not backend.is_float(self._data):
                raise TypeError(
                    f"a parameter needs floating-point numbers to have a gradient, got "
                    f"{backend.dtype_name(self._data.dtype)} of shape {self.shape}: "
                    "write 1.0 instead of 1, or convert with .astype('float32')"
                )
            self._data = xp(self._data).asarray(self._data, copy=True)  # memory of its own
            self.node = Leaf(self._data)

    @classmethod
    def wrap(cls, data: Array, node: Any) -> "Tensor":
        """A Tensor around `data`, an array already as it should be, with `node` as its history."""
        self = cls.__new__(cls)
        self._data = np.asarray(data) if data.__class__ in _NUMPY_SCALARS else data
        self.node = node
        return self

    @property
    def data(self) -> Array:
        """The raw array.

        Writing `t.data = values` copies them in and dates the change.
        """
        return self._data

    @data.setter
    def data(self, values: Any) -> None:
        if not isinstance(self.node, Leaf):
            raise GradientError("only a parameter's data can be set; this Tensor was computed")
        values = backend.like(values, self._data)
        if tuple(values.shape) != tuple(self.shape):
            raise ShapeError(
                f"data of shape {tuple(values.shape)} for a parameter of shape {self.shape}"
            )
        self._data[...] = values
        self.node.clock.touch()

    @property
    def requires_grad(self) -> bool:
        """Whether derivatives reach this Tensor: a parameter, or computed from one."""
        return self.node is not None

    @property
    def grad(self) -> Array | None:
        """The gradient that `backward` has added up since `zero_grad`, a raw array."""
        leaf = self.node
        if not isinstance(leaf, Leaf):
            return None
        if leaf.spare is not None:
            leaf.spare[...] = 0
            leaf.spare = None
        return leaf.grad

    @grad.setter
    def grad(self, values: Any) -> None:
        if not isinstance(self.node, Leaf):
            raise GradientError("only a parameter has a gradient to set; this Tensor was computed")
        if values is None:
            self.zero_grad()
            return
        values = backend.like(values, self._data)
        if tuple(values.shape) != self.shape:
            raise ShapeError(
                f"a gradient of shape {tuple(values.shape)} for a parameter of shape {self.shape}"
            )
        if values is not self.node.grad:
            self.node.zero()
            self.node.accumulate(values)

    def zero_grad(self) -> None:
        """Let the next `backward` start from zero."""
        if isinstance(self.node, Leaf):
            self.node.zero()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of entries along each axis."""
        shape = self._data.shape
        return shape if shape.__class__ is tuple else tuple(shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def dtype(self) -> Any:
        """The precision, as the array library names it."""
        return self._data.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    def detach(self) -> "Tensor":
        """The same numbers without their history; of a parameter, as they are now."""
        if isinstance(self.node, Leaf):
            return Tensor.wrap(xp(self._data).asarray(self._data, copy=True), None)
        return Tensor.wrap(self._data, None)

    def item(self) -> float:
        """The value of a Tensor with one entry, as a Python number.

        Raises:
            ShapeError: more entries, or none.
        """
        if self.size != 1:
            raise ShapeError(f"item() needs one entry, this Tensor has shape {self.shape}")
        return self._data.item()

    def numpy(self) -> np.ndarray:
        """The numbers as a NumPy array on the CPU."""
        return backend.to_numpy(self._data)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add the derivative of this Tensor to the `.grad` of every parameter it came from.

        Args:
            grad: cotangent of this Tensor's shape; may be left out for a scalar.
            retain_graph: keep the activations, so that the graph can be walked again.

        Raises:
            GradientError: nothing to differentiate, not a scalar, graph already freed, or a
                parameter changed since the graph was recorded.
        """
        _walk(self, grad, targets=None, create_graph=False, retain_graph=retain_graph)

    def __array_function__(self, function, types, args, kwargs):
        name = function.__name__
        raise TypeError(
            f"np.{name} would drop the history of a Tensor: use dl.{name} if there is one, "
            "or np on t.numpy()"
        )

    def _no_assignment(self, other: Any) -> Any:
        if isinstance(self.node, Leaf):
            raise GradientError(
                "an assignment such as p -= … would only rebind the name p: "
                "to change a parameter write p.data -= …"
            )
        return NotImplemented  # t += … makes a new Tensor, as t = t + … does

    __iadd__ = __isub__ = __imul__ = __itruediv__ = _no_assignment

    # Comparisons look at the numbers, entry by entry, and give a raw boolean array.
    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> Any:
        return self._data == _raw(other)

    def __ne__(self, other: Any) -> Any:
        return self._data != _raw(other)

    def __lt__(self, other: Any) -> Any:
        return self._data < _raw(other)

    def __le__(self, other: Any) -> Any:
        return self._data <= _raw(other)

    def __gt__(self, other: Any) -> Any:
        return self._data > _raw(other)

    def __ge__(self, other: Any) -> Any:
        return self._data >= _raw(other)

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a 0-d Tensor has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __setitem__(self, key, value):
        raise GradientError(
            "a Tensor cannot be assigned to in place, the tape would not see it: build a new one "
            "with dl.where or dl.concatenate; for a parameter set p.data = values"
        )

    def __repr__(self) -> str:
        body = np.array2string(self.numpy(), precision=4, threshold=20, prefix="Tensor(")
        return f"Tensor({body}{', requires_grad=True' if self.requires_grad else ''})"

    # A copy is a new leaf with memory of its own; packed parameters are re-packed by flat.py.
    def __deepcopy__(self, memo: dict) -> "Tensor":
        self._refuse_computed("copied")
        copy = _leaf(xp(self._data).asarray(self._data, copy=True), self.requires_grad)
        memo[id(self)] = copy
        return copy

    def _refuse_computed(self, what: str) -> None:
        if isinstance(self.node, Node):
            raise GradientError(f"a computed Tensor cannot be {what} with its history: t.detach()")

    def __reduce__(self):
        self._refuse_computed("pickled")
        return _unpickle, (np.array(self.numpy()), self.requires_grad)


def _raw(x: Any) -> Any:
    return x._data if x.__class__ is Tensor else x


def operand(x: Any) -> Any:
    """`x` itself if it is a Tensor or an array; a list or number as an array."""
    return x if hasattr(x, "ndim") else backend.asarray(x)


def _leaf(array: Array, requires_grad: bool) -> Tensor:
    return Tensor.wrap(array, Leaf(array) if requires_grad else None)


def _unpickle(data: np.ndarray, requires_grad: bool) -> Tensor:
    return _leaf(backend.asarray(data, dtype=data.dtype), requires_grad)


# --- operations -----------------------------------------------------------------------------------

Rule = Callable[..., Any]  #: (g, z, *args, **params) ↦ the cotangent of one argument


def _names_read(rule: Rule) -> set[str]:
    """The local names that a rule loads: what it does not read need not be kept."""
    names: set[str] = set()
    for instruction in dis.get_instructions(rule):
        value = instruction.argval
        names.update(value if isinstance(value, tuple) else (value,))
    return names


class Op:
    """A function with one derivative rule per array argument.

    A rule is called as `rule(g, z, *args, **params)`: `g` is the cotangent of the output `z`,
    `args` are the arguments, `params` the keyword arguments. It is written with operators and
    other ops, and returns the argument's cotangent in the output's broadcast shape: the engine
    sums over broadcast axes, casts and accumulates. A rule may be None: no derivative.

    Args:
        forward: the function on raw arrays.
        *rules: one rule per positional argument.
        name: as shown in errors and drawings of the graph.
        jvp: how tangents go forward. `"elementwise"`: each entry of z depends on the same entry
            of the arguments alone, so that the rules serve; `"linear"`: z is linear in each
            argument, so that the function itself serves; `"scalar"`: z is one number; or a
            function of (tangents, z, *args, **params), where a tangent is None for a constant.
        fused: `fused(g, out, z, *args, **params)`, a fast path for all rules at once on raw
            arrays, that returns one cotangent per argument. Where `out[i]` is None it returns
            None; where it is NEW, an array; else it writes into `out[i]`, the memory of a
            parameter's gradient, and returns None (see `write`, `deliver`). Tested equal to
            the rules.
    """

    __slots__ = ("_plans", "forward", "fused", "jvp", "name", "reads", "rules")

    def __init__(
        self,
        forward: Callable[..., Array],
        *rules: Rule | None,
        name: str,
        jvp: str | Callable[..., Array] | None = None,
        fused: Callable[..., Sequence[Any]] | None = None,
    ):
        self.forward = forward
        self.rules = rules
        self.name = name
        self.jvp = jvp
        self.fused = fused
        self.reads = [self._positions(rule) for rule in rules]
        self._plans: dict[int, tuple] = {}

    def _positions(self, rule: Rule | None) -> set[int]:
        """Which of (g, z, *args) `rule` reads, by position."""
        if rule is None:
            return set()
        code = getattr(rule, "__code__", None)
        if code is None or inspect.ismethod(rule):
            return set(range(99))  # cannot tell: keep all
        read, rest = _names_read(rule), code.co_argcount + code.co_kwonlyargcount
        positions = {
            i for i, name in enumerate(code.co_varnames[: code.co_argcount]) if name in read
        }
        if code.co_flags & inspect.CO_VARARGS and code.co_varnames[rest] in read:
            positions |= set(range(code.co_argcount, 99))  # reads *args: keep them all
        return positions

    def _plan(self, key: int) -> tuple[bool, list[int], list[tuple[int, Rule]]]:
        """(keep z?, arguments to drop, rules to apply) for a call in which some are tracked.

        `key` in binary is a leading 1 and then one digit per argument, 1 if it is tracked.
        """
        digits = bin(key)[3:]
        tracked = [i for i, digit in enumerate(digits) if digit == "1"]
        steps = [(i, rule) for i in tracked if (rule := self.rules[i]) is not None]
        reads = set().union(*(self.reads[i] for i, _ in steps))
        unread = [i for i in range(len(digits)) if i + 2 not in reads]
        self._plans[key] = (1 in reads, unread, steps)
        return self._plans[key]

    def __call__(self, *args: Any, **params: Any) -> Any:
        # The hottest lines of the package: one pass, no calls but the function itself.
        data, parents, key = [], [], 1
        has_tensor = has_constant = False
        for a in args:
            if a.__class__ is Tensor:
                has_tensor = True
                node = a.node
                key += key + (node is not None)
                parents.append(node)
                data.append(a._data)
            else:
                key += key
                parents.append(None)
                data.append(a)
                if a.__class__ not in _NUMBERS:
                    has_constant = True
        if has_constant and has_tensor:
            _align(data, parents, args)
        for name in params:
            if params[name].__class__ is Tensor:
                raise TypeError(f"{self.name}: pass the Tensor {name!r} by position, not by name")
        try:
            z = self.forward(*data, **params)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise _explain(self.name, data, params, error) from error
        if not has_tensor:
            return z
        result = _new(Tensor)
        result._data = np.asarray(z) if z.__class__ in _NUMPY_SCALARS else z
        if not (_recording and key & (key - 1)):  # is no argument tracked?
            result.node = None
            return result
        if _recording is not True:
            result.node = self._pushed(result._data, data, parents, params)
            return result
        plan = self._plans.get(key)
        keep_z, unread, steps = self._plan(key) if plan is None else plan
        for i in unread:
            data[i] = None
        result.node = node = _new(Node)
        node.op, node.parents, node.args, node.params = self, parents, data, params
        node.z = z if keep_z else None
        node.shape, node.dtype, node.steps = z.shape, z.dtype, steps
        node.order = _tick()
        return result

    def _pushed(self, z: Array, args: list, parents: list, params: dict) -> "Dual | None":
        """In forward mode: the output's tangent, from those of the arguments."""
        tangents = [p.tangent if p.__class__ is Dual else _moving.get(p) for p in parents]
        if all(t is None for t in tangents):
            return None
        total = self.push(tangents, z, *args, **params)
        if total is None:
            return None
        if total.__class__ in _NUMPY_SCALARS:
            total = np.asarray(total)
        return Dual(xp(z).broadcast_to(total, z.shape))

    def push(self, tangents: Sequence[Any], z: Array, *args: Any, **params: Any) -> Any:
        """J t for raw arrays: the tangents t of the arguments (None: constant) go forward.

        Args:
            tangents: one for each argument.
            z: the output.
            *args, **params: what the function was called with.

        Raises:
            GradientError: the operation has no rule for forward mode.
        """
        if callable(self.jvp):
            return self.jvp(tangents, z, *args, **params)
        terms: list[Any] = []
        for i, (t, rule) in enumerate(zip(tangents, self.rules, strict=False)):
            if t is None or rule is None:
                continue
            if self.jvp == "linear":
                terms.append(self.forward(*args[:i], t, *args[i + 1 :], **params))
            elif self.jvp == "elementwise":
                terms.append(rule(t, z, *args, **params))
            elif self.jvp == "scalar":
                terms.append(xp(t).sum(rule(_one(t), z, *args, **params) * t))
            else:
                raise GradientError(
                    f"{self.name} has no rule for forward mode: give its op(...) a `jvp`"
                )
        return functools.reduce(operator.add, terms) if terms else None

    def __repr__(self) -> str:
        return f"<op {self.name}>"


_NUMBERS = frozenset({float, int, bool, type(None)})
_new = object.__new__
NEW: Any = ...  #: in a fused rule's `out`: no memory is waiting, make an array


_ones: dict[Any, Array] = {}


def _one(like: Array) -> Array:
    """The number 1 as an array, in the precision and on the device of `like`; never changed."""
    kind = like.dtype, like.device
    one = _ones.get(kind)
    if one is None:
        one = _ones[kind] = xp(like).ones((), dtype=like.dtype, device=like.device)
    return one


def _align(data: list, parents: list, args: Sequence[Any]) -> None:
    """Bring the constants among `data` to the Tensors' library and precision."""
    like = next(a._data for a in args if a.__class__ is Tensor)
    for i, a in enumerate(args):
        if parents[i] is None and a.__class__ is not Tensor:
            if a.__class__ is np.ndarray is like.__class__ and a.dtype is like.dtype and a.ndim:
                continue
            data[i] = _constant(a, like)


def _constant(a: Any, like: Array) -> Any:
    """A constant beside Tensors (`like` is one's data): in their library and precision.

    NumPy scalars and 0-d arrays become plain numbers, which promote nothing.
    """
    if a.__class__ in _NUMBERS:
        return a
    if isinstance(a, (np.generic, np.ndarray)) and a.ndim == 0:
        return a.item()
    backend.refuse_autograd(a)
    if isinstance(a, (list, tuple)):
        a = backend.asarray(a)
    if xp(a) is np and xp(like) is not np:
        a = xp(like).as_tensor(a, device=like.device)
    if a.dtype != like.dtype and "bool" not in str(a.dtype) and backend.is_float(like):
        a = xp(a).astype(a, like.dtype)
    return a


def _explain(name: str, data: Sequence[Any], params: dict, error: Exception) -> Exception:
    """The library's error with the operation, the shapes and what to look at."""
    if isinstance(error, (GradientError, ShapeError, backend.BackendError)):
        return error
    kinds = ", ".join(
        f"{backend.dtype_name(a.dtype)}{tuple(a.shape)}" if hasattr(a, "shape") else repr(a)[:40]
        for a in data
    )
    kind: type[Exception] = TypeError if isinstance(error, TypeError) else ShapeError
    shown = {k: v for k, v in params.items() if isinstance(v, (int, float, str, tuple))}
    options = f" with {shown}" if shown else ""
    return kind(f"{name} cannot take {kinds}{options} ({str(error).splitlines()[0]})")


def op(forward: Callable[..., Array], *rules: Rule | None, name: str, **extra: Any) -> Op:
    """Make an `Op` from a function and its derivative rules.

    Args:
        forward, *rules, name, **extra: as `Op`.
    """
    return Op(forward, *rules, name=name, **extra)


# --- the walk back --------------------------------------------------------------------------------


def grad(
    output: Tensor,
    inputs: Sequence[Tensor],
    cotangent: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Any]:
    """The derivatives of `output` with respect to `inputs`, leaving every `.grad` alone.

    Args:
        output: a scalar, or any Tensor together with a `cotangent` of its shape.
        inputs: the Tensors to differentiate by (parameters or computed ones), or one of them.
        cotangent: weights of the output's entries; 1 for a scalar.
        create_graph: record the backward pass, so that the results can be differentiated.
        retain_graph: keep the activations; by default as `create_graph`.

    Returns:
        One Tensor per input; zeros where the output does not depend on it.

    Raises:
        GradientError: as `Tensor.backward`, or an input that does not require grad.
    """
    if output.__class__ is not Tensor:
        raise GradientError(
            f"the output is {type(output).__name__}, not a Tensor: nothing led here"
        )
    retain = create_graph if retain_graph is None else retain_graph
    inputs = [inputs] if inputs.__class__ is Tensor else list(inputs)
    nodes: list[Any] = []
    for i, t in enumerate(inputs):
        if t.__class__ is not Tensor or t.node is None:
            raise GradientError(f"input {i} does not require grad: make it with requires_grad=True")
        nodes.append(t.node)
    found = _walk(output, cotangent, set(nodes), create_graph, retain)
    results = []
    for t, node in zip(inputs, nodes, strict=True):
        g = found.get(node)
        if g is None:
            g = xp(t.data).zeros_like(t.data)
        results.append(g if g.__class__ is Tensor else Tensor.wrap(g, None))
    return results


def _walk(
    root: Tensor,
    cotangent: Any,
    targets: set | None,
    create_graph: bool,
    retain_graph: bool,
) -> dict:
    """Walk the graph from `root` backwards, in reverse order of creation.

    With `targets` None, leaves accumulate into their own memory; else the cotangents of the
    target nodes are returned. Without `retain_graph` each node is freed once it is done with.
    """
    cotangent = _seed_cotangent(root, cotangent, create_graph, targets is not None)
    if root.node.op is None:
        if targets is None:
            root.node.accumulate(cotangent)
        return {root.node: cotangent}
    grads = {root.node: cotangent}
    nodes = _reachable(root.node)
    found: dict = {}
    while nodes:
        node = nodes.pop()
        g = grads.pop(node, None)
        if g is not None:  # else nothing that counts was made of it
            if targets is not None and node in targets:
                found[node] = g
            op = node.op
            parents, z, args, params, results = node.parents, node.z, node.args, node.params, None
            if op is CHECKPOINT:
                nodes += _spliced(node, g, grads)
            elif create_graph:
                z = None if z is None else Tensor.wrap(z, node)
                args = [
                    a if p is None or a is None else Tensor.wrap(a, p)
                    for a, p in zip(args, parents, strict=True)
                ]
            elif op.fused is not None:
                results = op.fused(g, _memory(parents, targets), z, *args, **params)
            for i, rule in node.steps:
                parent = parents[i]
                leaf = parent.op is None
                if leaf and targets is not None and parent not in targets:
                    continue
                d = rule(g, z, *args, **params) if results is None else results[i]
                if d is None:
                    continue  # a fused rule wrote it where it belongs
                if d.shape != parent.shape:
                    d = _fitted(d, parent.shape, op)
                if d.dtype is not parent.dtype and d.dtype != parent.dtype:
                    d = astype(d, parent.dtype)
                if leaf and targets is None:
                    parent.accumulate(d)
                else:
                    old = grads.get(parent)
                    grads[parent] = d if old is None else old + d
        if not retain_graph:
            node.args = node.z = node.params = None
            node.parents = ()
    if targets is not None:
        found.update((leaf, grads[leaf]) for leaf in targets if leaf in grads)
    return found


def _memory(parents: Sequence[Any], targets: set | None) -> list[Any]:
    """For a fused rule: what is wanted, and the gradients' memory that waits to be written.

    Memory is handed out once: a leaf that stands here twice gets its second part added.
    """
    out: list[Any] = []
    for p in parents:
        if p is None or (targets is not None and p.op is None and p not in targets):
            out.append(None)
        elif targets is not None or p.spare is None:
            out.append(NEW)
        else:
            out.append(p.spare)
            p.spare = None
    return out


def write(out: Any, function: Any, *args: Any) -> Any:
    """function(*args) as a fused rule owes it to `out`: not at all, as a new array, or into it."""
    if out is None:
        return None
    if out is NEW:
        return function(*args)
    if out.dtype != args[0].dtype:
        return deliver(out, function(*args))
    function(*args, out=out)
    return None


def deliver(out: Any, d: Any) -> Any:
    """The cotangent `d` as a fused rule owes it; into `out`, summed over what was broadcast."""
    if out is None or out is NEW:
        return None if out is None else d
    out[...] = d if d.shape == out.shape else unbroadcast(d, out.shape)
    return None


def _seed_cotangent(root: Tensor, cotangent: Any, create_graph: bool, handed_out: bool) -> Any:
    if _recording is FORWARD:
        raise GradientError("reverse mode inside jvp: differentiate by grad outside of it")
    if root.node is None:
        raise GradientError(
            "nothing to differentiate: no parameter (requires_grad=True) went into this Tensor, "
            "or it was computed inside no_grad()"
        )
    if cotangent is None:
        if root.shape != ():
            raise GradientError(
                f"backward needs a scalar, this Tensor has shape {root.shape}: take .sum() or "
                ".mean(), or pass a cotangent of that shape"
            )
        cotangent = _one(root.data)
    elif cotangent.__class__ is not Tensor:
        cotangent = backend.like(cotangent, root.data)
    if tuple(cotangent.shape) != root.shape:
        raise ShapeError(
            f"a cotangent of shape {tuple(cotangent.shape)} for a Tensor of shape {root.shape}"
        )
    if create_graph:  # rules see Tensors only
        if cotangent.__class__ is Tensor:
            return cotangent
        return Tensor.wrap(xp(cotangent).asarray(cotangent, copy=True), None)
    if cotangent.__class__ is Tensor:
        cotangent = cotangent.data
    return xp(cotangent).asarray(cotangent, copy=True) if handed_out else cotangent


def _fitted(d: Any, shape: tuple[int, ...], op: Op) -> Any:
    """A rule's result, summed over broadcast axes; refused if that does not give the shape."""
    if len(d.shape) >= len(shape):
        d = unbroadcast(d, shape)
    if tuple(d.shape) != tuple(shape):
        raise GradientError(
            f"a rule of {op.name} returned shape {tuple(d.shape)} for an argument of shape "
            f"{tuple(shape)}: a rule's result has the shape of the output's cotangent"
        )
    return d


def _reachable(root: Any, since: int = 0) -> list[Node]:
    """The nodes under `root` made after `since`, oldest first; refuses what is spent."""
    if root.op is None or root.order <= since:
        return []
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node.args is None:
            raise GradientError(
                "this graph was already walked and its activations are freed: run the forward "
                "pass again, or call the first backward with retain_graph=True"
            )
        for parent in node.parents:
            if parent is None:
                continue
            if parent.op is None:
                if parent.clock.changed > node.order:
                    raise GradientError(
                        f"a parameter of shape {tuple(parent.shape)} changed after the forward "
                        f"pass ({node.op.name}) that used it: run the forward pass again after a "
                        "step"
                    )
            elif parent not in seen and parent.order > since:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=_age)


_age = operator.attrgetter("order")


# --- computing activations again instead of keeping them ------------------------------------------

CHECKPOINT = Op(lambda: None, name="checkpoint")  #: the walk knows it: no rule of its own
_replaying = False


def checkpoint(f: Callable[..., Tensor], *args: Any) -> Tensor:
    """f(*args), keeping nothing that it computes on the way: backward computes it once more.

    Cutting a chain of L layers into √L such pieces brings the activations that are kept at one
    time from L to 2√L, for one more forward pass (Chen et al. 2016). Random numbers are drawn
    again alike, and the gradients are equal to the last bit.

    Args:
        f: a function of Tensors, such as a module; it may use parameters besides its arguments.
        *args: its arguments.

    Returns:
        The Tensor that f returned.

    Raises:
        TypeError: f returned something else.
    """
    if _recording is not True:
        return f(*args)
    born = _tick()
    randomness = backend.stream().bit_generator.state
    z = f(*args)
    if z.__class__ is not Tensor:
        raise TypeError(f"checkpoint needs a function that returns one Tensor, got {type(z)}")
    if z.node is None or z.node.order < born:
        return z
    node = _new(Node)
    node.op, node.params, node.z, node.steps = CHECKPOINT, {}, None, ()
    inner = _reachable(z.node, since=born)
    outer = {p: None for n in inner for p in n.parents if p is not None and p.order < born}
    node.parents, node.args = list(outer), [f, args, randomness]
    node.shape, node.dtype, node.order = z.node.shape, z.node.dtype, _tick()
    return Tensor.wrap(z._data, node)


def _spliced(node: Node, g: Any, grads: dict) -> list[Node]:
    """Run a checkpointed function again, for its graph: the nodes that the walk goes on with."""
    global _recording
    f, args, randomness = node.args
    before, _recording = _recording, True
    try:
        with repeated(randomness):
            top = f(*args).node
    finally:
        _recording = before
    grads[top] = g
    return _reachable(top, since=node.order)


@contextlib.contextmanager
def repeated(randomness: Any = None) -> Iterator[None]:
    """Within this block a pass only repeats one: it counts for no running statistics.

    It draws the same random numbers (dropout's masks), and leaves their stream where it was.

    Args:
        randomness: `dl.backend.stream().bit_generator.state` before the pass that is repeated;
            None: as it is now.
    """
    global _replaying
    generator = backend.stream().bit_generator
    now, before = generator.state, _replaying
    if randomness is not None:
        generator.state = randomness
    _replaying = True
    try:
        yield
    finally:
        generator.state = now
        _replaying = before


def replaying() -> bool:
    """Whether this pass only repeats one: running statistics must not count it twice."""
    return _replaying


# --- forward mode ---------------------------------------------------------------------------------


class Dual:
    """In forward mode: the engine's side of a Tensor that moves by `tangent`."""

    __slots__ = ("tangent",)
    op = None

    def __init__(self, tangent: Array):
        self.tangent = tangent


_moving: dict[Leaf, Array] = {}  # tangents of parameters that a function uses on the side


def jvp(
    f: Callable[..., Tensor], primals: Sequence[Any], tangents: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """Value and directional derivative J v in one pass, without a graph: forward mode.

    Every operation maps the tangents of its arguments to that of its output, so that nothing is
    kept; one pass gives one column's worth of J, where reverse mode gives one row's.

    Args:
        f: function of the primals, with one Tensor as its result. Parameters among the primals
            move wherever f uses them, so that `jvp(lambda *_: net(x), net.parameters(), v)`
            differentiates by the weights.
        primals: where to differentiate, Tensors or arrays.
        tangents: the direction v, one array of the same shape for each primal.

    Returns:
        f's value and J v, of the same shape.

    Raises:
        ShapeError: tangents that do not fit the primals.
        GradientError: an operation without a forward rule, or reverse mode inside f.
        TypeError: f returned something other than one Tensor.

    Source: Wengert (1964); Baydin et al. (2018).
    """
    global _recording, _moving
    primals, tangents = list(primals), list(tangents)
    if len(primals) != len(tangents):
        raise ShapeError(f"{len(primals)} primals but {len(tangents)} tangents: one for each")
    inputs, moving = [], {}
    for i, (p, v) in enumerate(zip(primals, tangents, strict=True)):
        data = p._data if p.__class__ is Tensor else backend.asarray(p)
        v = backend.like(v, data)
        if tuple(v.shape) != tuple(data.shape):
            raise ShapeError(
                f"tangent {i} has shape {tuple(v.shape)}, its primal {tuple(data.shape)}"
            )
        if p.__class__ is Tensor and isinstance(p.node, Leaf):
            moving[p.node] = v
        inputs.append(Tensor.wrap(data, Dual(v)))
    before = _recording, _moving
    _recording, _moving = FORWARD, moving
    try:
        z = f(*inputs)
    finally:
        _recording, _moving = before
    if z.__class__ is not Tensor:
        raise TypeError(f"jvp needs a function that returns one Tensor, got {type(z).__name__}")
    tangent = z.node.tangent if z.node.__class__ is Dual else moving.get(z.node)
    if tangent is None:
        tangent = xp(z._data).zeros_like(z._data)
    return Tensor.wrap(z._data, None), Tensor.wrap(tangent, None)


# --- broadcasting ---------------------------------------------------------------------------------

# Broadcasting and its undoing are each other's derivative.


def _sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    extra = g.ndim - len(shape)
    axes = [i for i in range(g.ndim) if i < extra or (shape[i - extra] == 1 != g.shape[i])]
    return xp(g).reshape(xp(g).sum(g, axis=tuple(axes)), shape) if axes else g


_unbroadcast = op(
    lambda x, shape, source: _sum_to(x, shape),
    lambda g, z, x, shape, source: _broadcast(g, shape=source, source=shape),
    name="unbroadcast",
    jvp="linear",
)


def _repeated(x, shape, source):
    if x.__class__ is np.ndarray and math.prod(shape) < 10_000:  # a copy is made sooner than a view
        out = np.empty(shape, x.dtype)
        out[...] = x
        return out
    return xp(x).broadcast_to(x, shape)


_broadcast = op(
    _repeated,
    lambda g, z, x, shape, source: _unbroadcast(g, shape=source, source=shape),
    name="broadcast_to",
    jvp="linear",
)
_cast = op(
    lambda x, dtype, source: xp(x).astype(x, dtype),
    lambda g, z, x, dtype, source: _cast(g, dtype=source, source=dtype),
    name="astype",
    jvp="linear",
)


def unbroadcast(x: Any, shape: Sequence[int]) -> Any:
    """Sum `x` over the axes along which an array of `shape` was repeated."""
    return _unbroadcast(x, shape=tuple(shape), source=tuple(x.shape))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """Repeat `x` along new and size-1 axes until it has `shape`."""
    return _broadcast(x, shape=tuple(shape), source=tuple(x.shape))


def astype(x: Any, dtype: Any) -> Any:
    """`x` in another floating precision, `dtype`; its gradient comes back in its own."""
    return _cast(x, dtype=dtype, source=x.dtype)
