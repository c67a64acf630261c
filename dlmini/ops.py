"""The derivative table: every primitive with one rule per argument.

A rule gets the output's cotangent `g`, the output `z` and the arguments, and returns the
argument's cotangent. Rules are written with operators and other ops, so that they serve first
and second order alike; the engine undoes broadcasting, casts and accumulates. At kinks the
derivative is torch's: 0 for relu and |x| at 0, shared equally between tied maxima.
"""

import builtins
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import xp
from .tensor import (
    ShapeError,
    Tensor,
    astype,
    broadcast_to,
    deliver,
    op,
    operand,
    unbroadcast,
    write,
)

__all__ = [
    "abs", "add", "astype", "broadcast_to", "clip", "concatenate", "cos", "div", "exp", "getitem",
    "log", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "mul", "neg", "pad",
    "power", "relu", "reshape", "sigmoid", "sin", "softplus", "sqrt", "stack", "sub", "sum",
    "tanh", "transpose", "unbroadcast", "var", "where",
]  # fmt: skip

# How tangents go forward: entry by entry by the same rules, or by the function itself.
_elementwise = functools.partial(op, jvp="elementwise")
_linear_map = functools.partial(op, jvp="linear")

# --- arithmetic, with broadcasting ----------------------------------------------------------------

add = _elementwise(lambda x, y: x + y, lambda g, z, x, y: g, lambda g, z, x, y: g, name="add")
sub = _elementwise(lambda x, y: x - y, lambda g, z, x, y: g, lambda g, z, x, y: -g, name="sub")
mul = _elementwise(
    lambda x, y: x * y,
    lambda g, z, x, y: g * y,
    lambda g, z, x, y: g * x,
    name="mul",
)
div = _elementwise(
    lambda x, y: x / y,
    lambda g, z, x, y: g / y,
    lambda g, z, x, y: -g * z / y,
    name="div",
)
neg = _elementwise(lambda x: -x, lambda g, z, x: -g, name="neg")


def _power_exponent_rule(g, z, x, p):
    """d xᵖ/dp = xᵖ log x, and 0 where x = 0 and p ≥ 0 (as torch)."""
    return g * z * log(where((raw(x) == 0) & (raw(p) >= 0), 1.0, x))


_power = _elementwise(
    lambda x, p: x**p,
    # p·x^(p-1), and 0 where p = 0 so that x = 0 gives 0 and not 0·∞
    lambda g, z, x, p: g * p * where((raw(x) == 0) & (raw(p) == 0), 1.0, x) ** (p - 1),
    _power_exponent_rule,
    name="power",
)
_power_constant = _elementwise(
    lambda x, p: x**p,
    lambda g, z, x, p: g * (p * _power_constant(x, p=p - 1)) if p != 0 else 0.0 * g,
    name="power",
)


def power(x: Any, p: Any) -> Any:
    """x**p for a number or an array `p`."""
    if isinstance(p, (int, float, np.generic)):
        return _power_constant(operand(x), p=float(p) if isinstance(p, np.generic) else p)
    return _power(x, p)


def raw(x: Any) -> Any:
    """The raw array of a Tensor x, for a mask that is not differentiated."""
    return x.data if x.__class__ is Tensor else x


# --- elementwise functions ------------------------------------------------------------------------

exp = _elementwise(lambda x: xp(x).exp(x), lambda g, z, x: g * z, name="exp")
log = _elementwise(lambda x: xp(x).log(x), lambda g, z, x: g / x, name="log")
sqrt = _elementwise(lambda x: xp(x).sqrt(x), lambda g, z, x: g / (2.0 * z), name="sqrt")
sin = _elementwise(lambda x: xp(x).sin(x), lambda g, z, x: g * cos(x), name="sin")
cos = _elementwise(lambda x: xp(x).cos(x), lambda g, z, x: -g * sin(x), name="cos")
tanh = _elementwise(lambda x: xp(x).tanh(x), lambda g, z, x: g * (1.0 - z * z), name="tanh")
abs = _elementwise(lambda x: xp(x).abs(x), lambda g, z, x: g * xp(raw(x)).sign(raw(x)), name="abs")
relu = _elementwise(lambda x: xp(x).maximum(x, 0.0), lambda g, z, x: g * (raw(z) > 0), name="relu")


def _sigmoid(x):
    """1/(1+e⁻ˣ) as (1+tanh(x/2))/2, which overflows nowhere."""
    return 0.5 * xp(x).tanh(0.5 * x) + 0.5


def _softplus(x):
    """log(1+eˣ) = max(x, 0) + log(1 + exp(−|x|)), which overflows nowhere."""
    return xp(x).maximum(x, 0.0) + xp(x).log1p(xp(x).exp(-xp(x).abs(x)))


sigmoid = _elementwise(_sigmoid, lambda g, z, x: g * z * (1.0 - z), name="sigmoid")
softplus = _elementwise(_softplus, lambda g, z, x: g * sigmoid(x), name="softplus")


# --- choice ---------------------------------------------------------------------------------------


def _share(x, y, greater):
    """Weight of the first of two arguments: 1 where it wins, 1/2 where they tie."""
    x, y = raw(x), raw(y)
    array = x if hasattr(x, "dtype") else y
    cast = xp(array).astype
    return cast(x > y if greater else x < y, array.dtype) + 0.5 * cast(x == y, array.dtype)


def _library(*arrays):
    """The namespace of the first argument that is an array."""
    return xp(next((a for a in arrays if hasattr(a, "dtype")), 0.0))


maximum = _elementwise(
    lambda x, y: _library(x, y).maximum(x, y),
    lambda g, z, x, y: g * _share(x, y, greater=True),
    lambda g, z, x, y: g * _share(y, x, greater=True),
    name="maximum",
)
minimum = _elementwise(
    lambda x, y: _library(x, y).minimum(x, y),
    lambda g, z, x, y: g * _share(x, y, greater=False),
    lambda g, z, x, y: g * _share(y, x, greater=False),
    name="minimum",
)


def _where_forward(mask, x, y):
    """x where the mask is true, y elsewhere."""
    library = _library(mask, x, y)
    return library.where(mask if hasattr(mask, "dtype") else library.asarray(mask), x, y)


where = _elementwise(
    _where_forward,
    None,
    # Not g·mask: an infinite cotangent in the untaken branch would give NaN.
    lambda g, z, mask, x, y: where(mask, g, 0.0),
    lambda g, z, mask, x, y: where(mask, 0.0, g),
    name="where",
)


# --- sums over axes -------------------------------------------------------------------------------


def _axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """`axis` as a tuple of non-negative axes."""
    listed: Any = [axis] if hasattr(axis, "__index__") else range(ndim) if axis is None else axis
    given = tuple(operator.index(a) for a in listed)
    for a in given:
        if not -ndim <= a < ndim:
            raise ShapeError(f"axis {a} of an array with {ndim} axes")
    return tuple(a % ndim for a in given)


def _ones_at(shape, axes):
    """`shape` with 1 in the reduced axes."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


_sum = _linear_map(
    lambda x, axes, keepdims, shape: xp(x).sum(x, axis=axes, keepdims=keepdims),
    lambda g, z, x, axes, keepdims, shape: broadcast_to(reshape(g, _ones_at(shape, axes)), shape),
    name="sum",
)


_total = _linear_map(
    lambda x, shape: np.add.reduce(x, axis=None) if x.__class__ is np.ndarray else xp(x).sum(x),
    lambda g, z, x, shape: broadcast_to(g, shape),
    name="sum",
)


def sum(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
    """Σ x over `axis` (all axes if None), which stays with length 1 if `keepdims`."""
    x = operand(x)
    if axis is None and not keepdims:
        return _total(x, shape=x.shape)
    axes = _axes(axis, x.ndim)
    return _sum(x, axes=axes, keepdims=keepdims, shape=tuple(x.shape)) if axes else x


def mean(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
    """Mean of x over `axis` (all axes if None), which stays with length 1 if `keepdims`.

    Raises:
        ShapeError: there is nothing to average.
    """
    x = operand(x)
    count = math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    if count == 0:
        raise ShapeError(f"mean of an empty array of shape {tuple(x.shape)} over axis {axis}")
    return sum(x, axis, keepdims) * (1.0 / count)


def var(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
    """Mean squared distance of x from its mean over `axis`: divided by the count, not by count − 1.

    Args:
        x, axis, keepdims: as `mean`.
    """
    centred = x - mean(x, axis, keepdims=True)
    return mean(centred * centred, axis, keepdims)


def clip(x: Any, low: float, high: float) -> Any:
    """x kept between `low` and `high`; the gradient is 0 outside.

    Raises:
        ValueError: low > high.
    """
    if not low <= high:
        raise ValueError(f"clip needs low <= high, got low={low} and high={high}")
    inside = (raw(x) >= low) & (raw(x) <= high)
    return where(inside, x, xp(raw(x)).clip(raw(x), low, high))


def _extremum(name):
    def shares(x, z, axes):
        """1 where the extremum stands, divided among ties."""
        ties = xp(x).astype(x == xp(x).reshape(z, _ones_at(x.shape, axes)), x.dtype)
        return ties / xp(ties).sum(ties, axis=axes, keepdims=True)

    def jvp(tangents, z, x, axes, keepdims):
        return xp(x).sum(tangents[0] * shares(x, z, axes), axis=axes, keepdims=keepdims)

    return op(
        lambda x, axes, keepdims: getattr(xp(x), name)(x, axis=axes, keepdims=keepdims),
        lambda g, z, x, axes, keepdims: (
            reshape(g, _ones_at(x.shape, axes)) * shares(raw(x), raw(z), axes)
        ),
        name=name,
        jvp=jvp,
    )


_max, _min = _extremum("max"), _extremum("min")


def max(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
    """Largest entry of x over `axis`; tied entries share the gradient equally.

    Args:
        x, axis, keepdims: as `sum`.
    """
    x = operand(x)
    axes = _axes(axis, x.ndim)
    return _max(x, axes=axes, keepdims=keepdims) if axes else x


def min(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
    """Smallest entry of x over `axis`; tied entries share the gradient equally.

    Args:
        x, axis, keepdims: as `sum`.
    """
    x = operand(x)
    axes = _axes(axis, x.ndim)
    return _min(x, axes=axes, keepdims=keepdims) if axes else x


def _logsumexp_forward(x, axis, keepdims):
    """log Σ eˣ as max x + log Σ exp(x − max x), which overflows nowhere."""
    top = xp(x).max(x, axis=axis, keepdims=True)
    top = xp(x).where(xp(x).isfinite(top), top, xp(x).zeros_like(top))
    with np.errstate(divide="ignore"):  # log 0 = −∞ is right here
        total = xp(x).log(xp(x).sum(xp(x).exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else xp(x).reshape(total, _without(total.shape, axis))


def _without(shape, axis):
    return tuple(n for i, n in enumerate(shape) if i != axis % len(shape))


_logsumexp = op(
    _logsumexp_forward,
    lambda g, z, x, axis, keepdims: (
        reshape(g, _ones_at(x.shape, (axis,))) * exp(x - reshape(z, _ones_at(x.shape, (axis,))))
    ),
    name="logsumexp",
    jvp=lambda tangents, z, x, axis, keepdims: xp(x).sum(
        tangents[0] * xp(x).exp(x - z.reshape(_ones_at(x.shape, (axis,)))),
        axis=axis,
        keepdims=keepdims,
    ),
)


def logsumexp(x: Any, axis: int = -1, keepdims: bool = False) -> Any:
    """log Σ eˣ over one `axis`, which stays with length 1 if `keepdims`; without overflow.

    Args:
        x: any shape.

    Raises:
        ShapeError: several axes.
    """
    x = operand(x)
    if not hasattr(axis, "__index__"):
        raise ShapeError(f"logsumexp sums over one axis, got axis={axis!r}: reshape first")
    return _logsumexp(x, axis=_axes(axis, x.ndim)[0], keepdims=keepdims)


# --- shapes ---------------------------------------------------------------------------------------

_reshape = _linear_map(
    lambda x, shape, source: xp(x).reshape(x, shape),
    lambda g, z, x, shape, source: _reshape(g, shape=source, source=shape),
    name="reshape",
)
_transpose = _linear_map(
    lambda x, axes: xp(x).permute_dims(x, axes),
    lambda g, z, x, axes: _transpose(g, axes=tuple(int(i) for i in np.argsort(axes))),
    name="transpose",
)


def reshape(x: Any, shape: int | Sequence[int]) -> Any:
    """The entries of x in another shape; one entry of `shape` may be -1."""
    x = operand(x)
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    source = tuple(x.shape)
    if -1 in wanted:
        known = -math.prod(wanted)
        if known > 0 and math.prod(source) % known == 0:
            wanted = tuple(math.prod(source) // known if n == -1 else n for n in wanted)
    if wanted == source:
        return x
    return _reshape(x, shape=wanted, source=source)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes in another order, `axes` (reversed if None).

    Raises:
        ShapeError: an axis is missing or there twice.
    """
    x = operand(x)
    order = tuple(reversed(range(x.ndim))) if axes is None else _axes(axes, x.ndim)
    if len(order) != x.ndim or len(set(order)) != x.ndim:
        raise ShapeError(f"transpose of {x.ndim} axes needs each of them once, got {axes!r}")
    return _transpose(x, axes=order)


def _scatter(g, index, shape):
    """Zeros of `shape` with `g` added at `index`; entries indexed twice add up."""
    library = xp(g)
    out = library.zeros(shape, dtype=g.dtype, device=g.device)
    parts = index if isinstance(index, tuple) else (index,)
    if builtins.all(isinstance(p, (int, slice, type(None), type(...))) for p in parts):
        out[index] = g
    elif library is np:
        np.add.at(out, index, g)
    else:
        out.index_put_(tuple(library.as_tensor(p, device=g.device) for p in parts), g, True)
    return out


_getitem = _linear_map(
    lambda x, index, shape: x[index],
    lambda g, z, x, index, shape: _put(g, index=index, shape=shape),
    name="getitem",
)
_put = _linear_map(
    _scatter,
    lambda g, z, x, index, shape: _getitem(g, index=index, shape=shape),
    name="scatter",
)


def _index(part):
    """One part of an index: lists and Tensors as arrays, NumPy integers as numbers."""
    if isinstance(part, np.integer):
        return int(part)
    if isinstance(part, (list, Tensor)):
        part = (
            raw(part) if part.__class__ is Tensor else np.asarray(part, dtype=None if part else int)
        )
    return part


def getitem(x: Any, index: Any) -> Any:
    """x[index] for integers, slices, and integer or boolean arrays.

    Raises:
        ShapeError: slices and integer arrays at once.
    """
    parts = tuple(_index(p) for p in (index if isinstance(index, tuple) else (index,)))
    index = parts if isinstance(index, tuple) else parts[0]
    mixed = {isinstance(p, (slice, type(None), type(...))) for p in parts} == {True, False}
    if mixed and not builtins.all(
        isinstance(p, (int, slice, type(None), type(...))) for p in parts
    ):
        raise ShapeError("index with slices or with integer arrays, not with both at once")
    return _getitem(x, index=index, shape=tuple(x.shape))


def pad(x: Any, widths: Sequence[Sequence[int]]) -> Any:
    """x with zeros around it.

    Args:
        x: any shape.
        widths: (before, after) for each axis, such as ((0, 0), (1, 2)).

    Raises:
        ShapeError: not one pair of numbers >= 0 for each axis.
    """
    x = operand(x)
    pairs = [tuple(pair) for pair in widths]
    if [len(p) for p in pairs] != [2] * x.ndim or builtins.any(n < 0 for p in pairs for n in p):
        raise ShapeError(
            f"pad of {x.ndim} axes takes (before, after), both >= 0, for each, got {widths!r}"
        )
    index = tuple(slice(a, a + n) for (a, _), n in zip(pairs, x.shape, strict=True))
    shape = tuple(a + n + b for (a, b), n in zip(pairs, x.shape, strict=True))
    return _put(x, index=index, shape=shape)


@functools.lru_cache(256)
def _join(axis, sizes):
    """Concatenation of arrays of these sizes: each rule cuts its argument's part out of g."""

    def part(i):
        start = builtins.sum(sizes[:i])
        cut = (slice(None),) * axis + (slice(start, start + sizes[i]),)
        return lambda g, z, *parts: getitem(g, cut)

    return op(
        lambda *parts: xp(parts[0]).concat(parts, axis=axis),
        *(part(i) for i in range(len(sizes))),
        name="concatenate",
        jvp=lambda tangents, z, *parts: xp(z).concat(
            [xp(p).zeros_like(p) if t is None else t for t, p in zip(tangents, parts, strict=True)],
            axis=axis,
        ),
    )


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Join `tensors` along an existing `axis`.

    Raises:
        ShapeError: there are none.
    """
    tensors = [operand(t) for t in tensors]
    if not tensors:
        raise ShapeError("concatenate needs at least one array")
    axis = _axes(axis, tensors[0].ndim)[0]
    return _join(axis, tuple(t.shape[axis] for t in tensors))(*tensors)


def stack(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Join `tensors` along a new `axis`.

    Raises:
        ShapeError: there are none.
    """
    tensors = [operand(t) for t in tensors]
    if not tensors:
        raise ShapeError("stack needs at least one array")
    axis = _axes(axis, tensors[0].ndim + 1)[0]
    grown = [reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in tensors]
    return concatenate(grown, axis)


# --- matrix products ------------------------------------------------------------------------------


def _exchange(x, i, j):
    """Axes i and j exchanged."""
    order = list(range(x.ndim))
    i, j = _axes((i, j), x.ndim)
    order[i], order[j] = order[j], order[i]
    return transpose(x, order)


def _swap(x):
    """The last two axes exchanged."""
    return _exchange(x, -1, -2)


def _product(x: Any) -> Any:
    """The product of matrices like x. np.dot starts a microsecond sooner than np.matmul."""
    return np.dot if x.__class__ is np.ndarray and x.ndim == 2 else xp(x).matmul


def _matmul_fused(g, out, z, x, y):
    # An argument that no rule reads was not kept.
    if g.ndim == 2:
        product = _product(g)
        return (
            out[0] if y is None else write(out[0], product, g, y.T),
            out[1] if x is None else write(out[1], product, x.T, g),
        )
    return (
        out[0] if y is None else deliver(out[0], g @ y.mT),
        out[1] if x is None else deliver(out[1], x.mT @ g),
    )


_matmul = _linear_map(
    lambda x, y: np.dot(x, y) if x.__class__ is np.ndarray and x.ndim == 2 == y.ndim else x @ y,
    lambda g, z, x, y: _matmul(g, _swap(y)),
    lambda g, z, x, y: _matmul(_swap(x), g),
    name="matmul",
    fused=_matmul_fused,
)


def matmul(x: Any, y: Any) -> Any:
    """Matrix product x y over the last two axes; leading axes broadcast; vectors as NumPy has it.

    Raises:
        ShapeError: a number, or inner sizes that differ.
    """
    x, y = operand(x), operand(y)
    if x.ndim == 2 == y.ndim and x.shape[1] == y.shape[0]:
        return _matmul(x, y)
    for a in (x, y):
        if a.ndim == 0:
            raise ShapeError("matmul of a number: use * to scale")
    x2 = reshape(x, (1, *x.shape)) if x.ndim == 1 else x
    y2 = reshape(y, (*y.shape, 1)) if y.ndim == 1 else y
    if x2.shape[-1] != y2.shape[-2]:
        raise ShapeError(
            f"matmul of {tuple(x.shape)} and {tuple(y.shape)}: the inner sizes "
            f"{x2.shape[-1]} and {y2.shape[-2]} differ; transpose one of them?"
        )
    z = _matmul(x2, y2)
    if x.ndim == 1:
        z = reshape(z, (*z.shape[:-2], z.shape[-1]))
    return reshape(z, z.shape[:-1]) if y.ndim == 1 else z


# --- the operators of a Tensor --------------------------------------------------------------------


def _reflected(function):
    return lambda self, other: function(other, self)


for _name, _function in {
    "add": add,
    "sub": sub,
    "mul": mul,
    "truediv": div,
    "matmul": matmul,
}.items():
    setattr(Tensor, f"__{_name}__", lambda self, other, f=_function: f(self, other))
    setattr(Tensor, f"__r{_name}__", _reflected(_function))
Tensor.__neg__ = lambda self: neg(self)
Tensor.__pow__ = power
Tensor.__rpow__ = lambda self, base: _power(xp(raw(self)).full_like(raw(self), 1.0) * base, self)
Tensor.__abs__ = lambda self: abs(self)
Tensor.__pos__ = lambda self: self
Tensor.__getitem__ = getitem
Tensor.sum = sum
Tensor.mean = mean
Tensor.max = max
Tensor.min = min
Tensor.reshape = lambda self, *shape: reshape(self, shape[0] if len(shape) == 1 else shape)
Tensor.permute = lambda self, *axes: transpose(self, axes)
Tensor.transpose = lambda self, i, j: _exchange(self, i, j)
Tensor.T = property(lambda self: transpose(self))
for _function in (exp, log, sqrt, abs, tanh, sin, cos):
    setattr(Tensor, _function.name, lambda self, f=_function: f(self))
