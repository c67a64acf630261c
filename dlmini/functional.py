"""Layers and losses as functions, built from ops and fused where the field fuses them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp
from .meanfield import second_moment
from .ops import (
    _product,
    exp,
    matmul,
    mean,
    power,
    raw,
    relu,
    reshape,
    softplus,
    sum,
    tanh,
    transpose,
    var,
    where,
)
from .tensor import Op, ShapeError, Tensor, deliver, op, operand, write

# --- kernels that several layers share ------------------------------------------------------------


@functools.lru_cache(256)
def _ones(library: Any, n: int, dtype: Any, device: Any) -> Array:
    return library.ones(n, dtype=dtype, device=device)  # never changed


def _column_sums(g: Any, out: Any = None) -> Any:
    """Σ over rows of (N, C). A product with ones is faster than `sum(0)`."""
    if g.__class__ is Tensor:
        return sum(g, 0)
    pair = g.T, _ones(xp(g), g.shape[0], g.dtype, g.device)
    return _product(g)(*pair) if out is None else _product(g)(*pair, out=out)


def _gated(g: Any, z: Any) -> Any:
    """The cotangent behind a relu whose output was z."""
    if g.__class__ is Tensor or g.__class__ is np.ndarray or not hasattr(g, "clamp_"):
        return g * (raw(z) > 0)
    return xp(g).ops.aten.threshold_backward(g, z, 0.0)  # in torch a mask takes nine times as long


def _then_relu(layer: Op) -> Op:
    """`layer` and relu as one operation, which cuts the layer's output off in place."""

    @functools.wraps(layer.forward)
    def forward(*args, **params):
        z = layer.forward(*args, **params)
        if isinstance(z, np.ndarray):
            return np.maximum(z, 0.0, out=z)
        return z.clamp_(min=0.0) if hasattr(z, "clamp_") else xp(z).maximum(z, 0.0)

    def behind(rule):
        return lambda g, z, *args, **params: rule(_gated(g, z), None, *args, **params)

    def jvp(tangents, z, *args, **params):
        return _gated(layer.push(tangents, z, *args, **params), z)

    def fused(g, out, z, *args, **params):
        return layer.fused(_gated(g, z), out, None, *args, **params)  # type: ignore[misc]

    rules = [behind(rule) for rule in layer.rules]
    return op(forward, *rules, name=f"{layer.name}_relu", jvp=jvp, fused=fused)


# --- the dense layer ------------------------------------------------------------------------------


def _linear_forward(x, weight, bias=None):
    """x Wᵀ + b."""
    z = _product(x)(x, weight.T)
    if bias is not None:
        z += bias
    return z


def _linear_jvp(tangents, z, x, weight, bias=None):
    tx, tw, tb = (*tangents, None)[:3]
    total = 0.0 if tb is None else tb
    if tw is not None:
        total = total + x @ tw.T
    return total if tx is None else total + tx @ weight.T


def _linear_fused(g, out, z, x, weight, bias=None):
    product = _product(g)
    to_input = write(out[0], product, g, weight)
    to_weight = write(out[1], product, g.T, x)
    if len(out) == 2:
        return to_input, to_weight
    return to_input, to_weight, write(out[2], _column_sums, g)


_linear = op(
    _linear_forward,
    lambda g, z, x, weight, bias=None: matmul(g, weight),
    lambda g, z, x, weight, bias=None: matmul(transpose(g), x),
    lambda g, z, x, weight, bias=None: _column_sums(g),
    name="linear",
    jvp=_linear_jvp,
    fused=_linear_fused,
)
_linear_relu = _then_relu(_linear)


def linear(x: Any, weight: Any, bias: Any = None, relu: bool = False) -> Any:
    """x Wᵀ + b, or max(x Wᵀ + b, 0) as one operation.

    Args:
        x: (…, in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.
        relu: cut off at 0; keeps one array where a layer and a relu would make two.

    Returns:
        (…, out_features).

    Raises:
        ShapeError: the number of features does not match.
    """
    x = operand(x)
    shape, weights = x.shape, weight.shape
    if len(weights) != 2 or (bias is not None and bias.shape != weights[:1]):
        raise ShapeError(
            f"linear needs a weight (out, in) and a bias (out,), got {tuple(weight.shape)} and "
            f"{None if bias is None else tuple(bias.shape)}"
        )
    if not shape or shape[-1] != weights[1]:
        raise ShapeError(
            f"linear: the input has shape {tuple(shape)}, but the layer takes "
            f"{weight.shape[-1]} features on the last axis: reshape the input or change in_features"
        )
    rows = x if len(shape) == 2 else reshape(x, (-1, shape[-1]))
    layer = _linear_relu if relu else _linear
    z = layer(rows, weight) if bias is None else layer(rows, weight, bias)
    return z if len(shape) == 2 else reshape(z, (*shape[:-1], weight.shape[0]))


# --- activations ----------------------------------------------------------------------------------

leaky_relu = op(
    lambda x, slope=0.01: xp(x).where(x > 0, x, slope * x),
    lambda g, z, x, slope=0.01: where(raw(x) > 0, g, slope * g),
    name="leaky_relu",
    jvp="elementwise",
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x for x > 0, else α(eˣ − 1), with α as `alpha` (Clevert et al. 2016)."""
    below = where(raw(x) > 0, 0.0, x)  # so that eˣ does not overflow in the branch not taken
    return where(raw(x) > 0, x, alpha * (exp(below) - 1.0))


def gelu(x: Any) -> Any:
    """½ x (1 + tanh(√(2/π)(x + 0.044715 x³))): torch's approximate="tanh".

    Source: Hendrycks & Gimpel (2016).
    """
    return 0.5 * x * (1.0 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# --- convolution ----------------------------------------------------------------------------------
#
# z = x ⋆ w is linear in x and in w, and so are its two adjoints: three operations that are each
# other's derivatives to any order. Images are (N, C, H, W) to the reader and lie channels last in
# memory, so that a patch is a few long runs and all work is products of matrices.


def _channels_last(x):
    """(N, C, H, W) as (N, H, W, C); a view."""
    return xp(x).permute_dims(x, (0, 2, 3, 1))


def _channels_first(x):
    return xp(x).permute_dims(x, (0, 3, 1, 2))


def _pixels(x):
    """(N, C, H, W) as one row of channels per pixel, (N·H·W, C)."""
    return xp(x).reshape(_channels_last(x), (-1, x.shape[1]))


def _compact(x):
    """The same numbers in order in memory."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x)
    return x.contiguous() if hasattr(x, "contiguous") else xp(x).asarray(x, copy=True)


def _padded(x, padding):
    """Channels last, with zeros around."""
    x, (ph, pw) = _channels_last(x), padding
    if not (ph or pw):
        return x
    n, h, w, c = x.shape
    out = xp(x).zeros((n, h + 2 * ph, w + 2 * pw, c), dtype=x.dtype, device=x.device)
    out[:, ph : ph + h, pw : pw + w] = x
    return out


def _windows(size, kernel, stride):
    """For each place in the kernel: its (row, column), and the slices of pixels it meets."""
    (h, w), (kh, kw), (sh, sw) = size, kernel, stride
    down, across = (h - kh) // sh * sh + 1, (w - kw) // sw * sw + 1
    return [
        (i, j, slice(i, i + down, sh), slice(j, j + across, sw))
        for i in range(kh)
        for j in range(kw)
    ]


def _output_size(size, kernel, stride):
    return tuple((n - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True))


def _columns(x, kernel, stride, padding):
    """Patches as rows, (N·H'·W', kh·kw·C)."""
    p, library = _compact(_padded(x, padding)), xp(x)
    (n, h, w, c), (kh, kw), (sh, sw) = p.shape, kernel, stride
    high, wide = _output_size((h, w), kernel, stride)
    if kw * c < 8:  # copy place by place of the kernel
        out = library.empty((n, high, wide, kh, kw, c), dtype=p.dtype, device=p.device)
        for i, j, down, across in _windows((h, w), kernel, stride):
            out[:, :, :, i, j, ...] = p[:, down, across, ...]
        return library.reshape(out, (n * high * wide, kh * kw * c))
    # Copy patch by patch, each row of a patch in one run.
    shape = (n, high, wide, kh, kw * c)
    # In steps of entries; an axis of size 1 may claim any step, so they are not asked for.
    steps = (h * w * c, sh * w * c, sw * c, w * c, 1)
    if library is np:
        steps = tuple(p.itemsize * step for step in steps)
        runs = np.lib.stride_tricks.as_strided(p, shape, steps)
    else:
        runs = p.as_strided(shape, steps)
    return runs.reshape(n * high * wide, kh * kw * c)


def _weight_rows(w):
    """(O, C, kh, kw) as (O, kh·kw·C)."""
    return xp(w).reshape(_channels_last(w), (w.shape[0], -1))


def _conv_forward(x, w, bias=None, *, stride, padding, shapes):
    """Each patch of x times each kernel, plus b."""
    columns = _columns(x, w.shape[2:], stride, padding)
    z = _product(columns)(columns, _weight_rows(w).T)
    if bias is not None:
        z += bias
    size = [n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True)]
    return _channels_first(
        z.reshape(x.shape[0], *_output_size(size, w.shape[2:], stride), w.shape[0])
    )


def _conv_to_input(g, w, *, stride, padding, shapes):
    """The adjoint in x: each output's cotangent, spread over the patch that it saw."""
    (n, c, h, k), (ph, pw), kernel = shapes[0], padding, w.shape[2:]
    pixels, size = _pixels(g), (h + 2 * ph, k + 2 * pw)
    by_place = _compact(xp(w).permute_dims(w, (2, 3, 0, 1)))
    out = xp(g).zeros((n, *size, c), dtype=g.dtype, device=g.device)
    for i, j, down, across in _windows(size, kernel, stride):
        part = _product(pixels)(pixels, by_place[i, j])
        out[:, down, across] += part.reshape(n, *g.shape[2:], c)
    return _channels_first(out[:, ph : ph + h, pw : pw + k])


def _conv_to_weight(g, x, *, stride, padding, shapes):
    """The adjoint in w: cotangents times the patches that they saw."""
    o, c, *kernel = shapes[1]
    pixels = _pixels(g)
    rows = _product(pixels)(pixels.T, _columns(x, kernel, stride, padding))
    return _channels_first(rows.reshape(o, *kernel, c))


def _conv_jvp(tangents, z, x, w, bias=None, **options):
    tx, tw, tb = (*tangents, None)[:3]
    total = 0.0 if tb is None else tb.reshape(-1, 1, 1)
    if tw is not None:
        total = total + _conv_forward(x, tw, **options)
    return total if tx is None else total + _conv_forward(tx, w, **options)


def _conv_fused(g, out, z, x, w, bias=None, **options):
    return (
        None if out[0] is None else deliver(out[0], _conv_to_input(g, w, **options)),
        None if out[1] is None else deliver(out[1], _conv_to_weight(g, x, **options)),
        *(write(memory, _column_sums, _pixels(g)) for memory in out[2:]),
    )


_conv_input: Op
_conv_weight: Op
_conv = op(
    _conv_forward,
    lambda g, z, x, w, bias=None, **k: _conv_input(g, w, **k),
    lambda g, z, x, w, bias=None, **k: _conv_weight(g, x, **k),
    lambda g, z, x, w, bias=None, **k: sum(g, (0, 2, 3)),
    name="conv2d",
    jvp=_conv_jvp,
    fused=_conv_fused,
)
_conv_relu = _then_relu(_conv)
_conv_input = op(
    _conv_to_input,
    lambda g, z, h, w, **k: _conv(g, w, **k),
    lambda g, z, h, w, **k: _conv_weight(h, g, **k),
    name="conv2d_input",
    jvp="linear",
)
_conv_weight = op(
    _conv_to_weight,
    lambda g, z, h, x, **k: _conv(x, g, **k),
    lambda g, z, h, x, **k: _conv_input(h, g, **k),
    name="conv2d_weight",
    jvp="linear",
)


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"{name} must be an integer >= {least} or a pair of them, got {value!r}")
    return pair


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    relu: bool = False,
) -> Any:
    """Cross-correlation of images with filters, which deep learning calls convolution.

    zₙₒᵢⱼ = bₒ + Σ_{c,u,v} wₒ꜀ᵤᵥ xₙ,꜀,ᵢₛ₊ᵤ₋ₚ,ⱼₛ₊ᵥ₋ₚ

    Args:
        x: images (N, C, H, W).
        weight: filters (O, C, kh, kw).
        bias: (O,) or None.
        stride: s, pixels between neighbouring outputs; a pair for (down, across).
        padding: p, rows and columns of zeros added on each side.
        relu: cut the result off at 0, as one operation.

    Returns:
        (N, O, H', W') with H' = ⌊(H + 2p − kh)/s⌋ + 1.

    Raises:
        ShapeError: channels do not match, or the filter is larger than the padded image.
    """
    stride, padding = _pair("stride", stride, 1), _pair("padding", padding, 0)
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ShapeError(
            f"conv2d needs images (N, C, H, W) and filters (O, C, kh, kw) with one C, got "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    for size, kernel, pad in zip(x.shape[2:], weight.shape[2:], padding, strict=True):
        if kernel > size + 2 * pad:
            raise ShapeError(
                f"conv2d: a filter of {tuple(weight.shape[2:])} does not fit into images of "
                f"{tuple(x.shape[2:])} padded by {padding}: pad more or use a smaller filter"
            )
    shapes = (tuple(x.shape), tuple(weight.shape))
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return (_conv_relu if relu else _conv)(*inputs, stride=stride, padding=padding, shapes=shapes)


# --- pooling --------------------------------------------------------------------------------------
#
# A window's place (i, j) meets the pixels of a strided slice: pooling is a sum or a maximum over
# a few such slices. `hits` says, for each place, which windows count it; None: all of them.

_spread: Op


def _gather_forward(x, hits, kernel, stride, shape):
    """The sum over each window, or over its pixels in `hits`."""
    total = None
    for n, (_, _, down, across) in enumerate(_windows(shape[2:], kernel, stride)):
        part = x[:, :, down, across]
        if hits is not None:
            part = part * hits[n]
        total = part + 0.0 if total is None else total + part
    return total


def _spread_forward(g, hits, kernel, stride, shape):
    """Each window's number, added to all its pixels or to those in `hits`."""
    n, c, h, w = shape
    library = xp(g)
    g = _channels_first(_compact(_channels_last(g)))
    out = _channels_first(library.zeros((n, h, w, c), dtype=g.dtype, device=g.device))
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1]  # no pixel lies in two windows
    for k, (_, _, down, across) in enumerate(_windows((h, w), kernel, stride)):
        if hits is None:
            out[:, :, down, across] += g
        elif apart:
            library.multiply(g, hits[k], out=out[:, :, down, across])
        else:
            out[:, :, down, across] += g * hits[k]
    return out


_gather = op(
    _gather_forward, lambda g, z, x, **k: _spread(g, **k), name="pool_gather", jvp="linear"
)
_spread = op(
    _spread_forward, lambda g, z, h, **k: _gather(g, **k), name="pool_spread", jvp="linear"
)


def _max_pool_forward(x, kernel, stride):
    """The largest pixel of each window."""
    places = _windows(x.shape[2:], kernel, stride)
    return functools.reduce(xp(x).maximum, [x[:, :, down, across] for _, _, down, across in places])


def _first_hits(x, z, kernel, stride):
    """For each place of the kernel: the windows whose maximum stands there first."""
    *places, _last = _windows(x.shape[2:], kernel, stride)
    free, hits = None, []
    for _, _, down, across in places:
        hit = x[:, :, down, across] == z
        if free is None:
            free = ~hit
        else:
            hit &= free
            free ^= hit
        hits.append(hit)
    return [*hits, z == z if free is None else free]  # what stood nowhere else stands there


def _max_pool_rule(g, z, x, kernel, stride):
    """g to the pixel that was the largest, the first of those that tie."""
    hits = _first_hits(raw(x), raw(z), kernel, stride)
    return _spread(g, hits=hits, kernel=kernel, stride=stride, shape=tuple(x.shape))


def _max_pool_jvp(tangents, z, x, kernel, stride):
    hits = _first_hits(x, z, kernel, stride)
    return _gather_forward(tangents[0], hits, kernel, stride, tuple(x.shape))


_max_pool = op(_max_pool_forward, _max_pool_rule, name="max_pool2d", jvp=_max_pool_jvp)


def _pooling(x: Any, kernel_size: Any, stride: Any, name: str) -> dict[str, tuple[int, int]]:
    """The checked options of a pooling."""
    kernel = _pair("kernel_size", kernel_size, 1)
    stride = kernel if stride is None else _pair("stride", stride, 1)
    if x.ndim != 4:
        raise ShapeError(f"{name} needs images (N, C, H, W), got shape {tuple(x.shape)}")
    if kernel[0] > x.shape[2] or kernel[1] > x.shape[3]:
        raise ShapeError(
            f"{name}: a window of {kernel} does not fit into {tuple(x.shape[2:])} pixels"
        )
    return {"kernel": kernel, "stride": stride}


def avg_pool2d(x: Any, kernel_size: Any, stride: Any = None) -> Any:
    """Mean over windows of x (N, C, H, W).

    Args:
        x: images.
        kernel_size: height and width of a window, a number or a pair.
        stride: pixels between windows; the window's size if None.

    Returns:
        (N, C, H', W').

    Raises:
        ShapeError: x has other axes, or is smaller than a window.
    """
    options = _pooling(x, kernel_size, stride, "avg_pool2d")
    total = _gather(x, hits=None, shape=tuple(x.shape), **options)
    return total * (1.0 / math.prod(options["kernel"]))


def max_pool2d(x: Any, kernel_size: Any, stride: Any = None) -> Any:
    """Largest entry of windows of x (N, C, H, W); of tied ones the first takes the gradient.

    Args:
        x, kernel_size, stride: as `avg_pool2d`.

    Returns:
        (N, C, H', W').

    Raises:
        ShapeError: x has other axes, or is smaller than a window.
    """
    return _max_pool(x, **_pooling(x, kernel_size, stride, "max_pool2d"))


# --- normalisation --------------------------------------------------------------------------------
#
# Of (N, F): over the examples (axis 0, batch norm) or over the features (axis 1, layer norm).


def _average(x, axis):
    """Mean over one axis of (N, F), as a product with ones; to be broadcast against x."""
    if x.__class__ is Tensor:
        return mean(x, axis, keepdims=True)
    n = x.shape[axis]
    ones = _ones(xp(x), n, x.dtype, x.device)
    total = _product(x)(ones, x) if axis == 0 else xp(x).reshape(_product(x)(x, ones), (-1, 1))
    total *= 1.0 / n
    return total


def _normalise_forward(x, weight, bias, axis, eps, memo):
    """γ x̂ + β with x̂ = (x − mean)/σ over `axis`."""
    memo["mean"] = centre = _average(x, axis)
    memo["centred"] = centred = x - centre
    memo["var"] = variance = _average(centred * centred, axis)
    memo["scale"] = scale = 1.0 / xp(x).sqrt(variance + eps)
    if axis == 0:  # γ/σ is one number a column
        z = centred * (scale * weight)
    else:
        z = centred * scale
        z *= weight
    z += bias
    return z


def _standardised(g, x, axis, eps, memo):
    """x̂ = (x − mean)/σ and 1/σ: remembered for the gradient, functions of x for its gradient."""
    if g.__class__ is not Tensor:
        return memo["centred"] * memo["scale"], memo["scale"]
    scale = power(var(x, axis, keepdims=True) + eps, -0.5)
    return (x - mean(x, axis, keepdims=True)) * scale, scale


def _normalise_input_rule(g, z, x, weight, bias, axis, eps, memo):
    """(h − mean h − x̂ mean(h x̂))/σ with h = γ g: the mean and σ move with x."""
    hat, scale = _standardised(g, x, axis, eps, memo)
    h = g * weight
    return (h - _average(h, axis) - hat * _average(h * hat, axis)) * scale


def _normalise_jvp(tangents, z, x, weight, bias, axis, eps, memo):
    """The Jacobian of x̂ is symmetric: the same formula serves forwards."""
    tx, tw, tb = tangents
    total = 0.0 if tb is None else tb
    if tw is not None:
        total = total + memo["centred"] * memo["scale"] * tw
    if tx is not None:
        one = xp(x).ones_like(weight)
        total = total + weight * _normalise_input_rule(tx, z, x, one, bias, axis, eps, memo)
    return total


def _normalise_fused(g, out, z, x, weight, bias, axis, eps, memo):
    n, centred, scale = g.shape[0], memo["centred"], memo["scale"]
    product, ones = _product(g), _ones(xp(g), n, g.dtype, g.device)
    to_bias = product(ones, g)
    weighted = g * centred
    if axis == 0:  # σ is one number a column
        inner = product(ones, weighted)
        to_weight = inner * scale
    else:
        to_weight = product(ones, weighted * scale)
    if out[0] is None:  # of data, say: then `weight` was not kept either
        d = None
    elif axis == 1:
        d = _normalise_input_rule(g, z, x, weight, bias, axis, eps, memo)
    else:  # so is γ: neither h = γ g nor x̂ need be made
        d = xp(g).multiply(centred, inner * (scale * scale * (-1.0 / n)), out=weighted)
        d += g
        d -= to_bias * (1.0 / n)
        d *= weight * scale
    return deliver(out[0], d), deliver(out[1], to_weight), deliver(out[2], to_bias)


_normalise = op(
    _normalise_forward,
    _normalise_input_rule,
    lambda g, z, x, weight, bias, axis, eps, memo: g * _standardised(g, x, axis, eps, memo)[0],
    lambda g, z, x, weight, bias, axis, eps, memo: g,
    name="normalise",
    jvp=_normalise_jvp,
    fused=_normalise_fused,
)
_normalise_relu = _then_relu(_normalise)


def batch_norm(
    x: Any, weight: Any, bias: Any, eps: float = 1e-5, relu: bool = False
) -> tuple[Any, Array, Array]:
    """γ (x − mean)/√(var + ε) + β, with the statistics of the batch (Ioffe & Szegedy 2015).

    Args:
        x: (N, C) or (N, C, H, W); mean and variance are taken over all axes but C.
        weight, bias: γ and β, (C,).
        eps: ε > 0.
        relu: cut the result off at 0, as one operation.

    Returns:
        the result, and the batch's mean and variance (C,) as raw arrays.

    Raises:
        ShapeError: another number of axes or channels, or one value per channel (variance 0).
    """
    shape = x.shape
    if len(shape) not in (2, 4) or shape[1] != weight.shape[0]:
        raise ShapeError(
            f"batch_norm of {weight.shape[0]} channels takes (N, C) or (N, C, H, W), "
            f"got {tuple(shape)}"
        )
    if shape[0] * math.prod(shape[2:]) < 2:
        raise ShapeError(
            f"batch_norm of {tuple(shape)}: one value per channel has no variance; use a larger "
            "batch, or the running statistics with net.eval()"
        )
    memo: dict[str, Any] = {}
    eps = backend.positive("eps", eps)
    layer = _normalise_relu if relu else _normalise
    if len(shape) == 2:
        z = layer(x, weight, bias, axis=0, eps=eps, memo=memo)
        return z, memo["mean"], memo["var"]
    pixels = transpose(x, (0, 2, 3, 1))
    z = layer(reshape(pixels, (-1, shape[1])), weight, bias, axis=0, eps=eps, memo=memo)
    return transpose(reshape(z, pixels.shape), (0, 3, 1, 2)), memo["mean"], memo["var"]


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    """γ (x − mean)/√(var + ε) + β with the statistics of each example (Ba et al. 2016).

    Args:
        x: (…, F); mean and variance are taken over the last axis.
        weight, bias: γ and β, (F,).
        eps: ε > 0.

    Raises:
        ShapeError: the last axis is not F.
    """
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ShapeError(f"layer_norm of {weight.shape[0]} features got shape {tuple(x.shape)}")
    rows, eps = reshape(x, (-1, x.shape[-1])), backend.positive("eps", eps)
    return reshape(_normalise(rows, weight, bias, axis=1, eps=eps, memo={}), x.shape)


# --- dropout --------------------------------------------------------------------------------------


def dropout(x: Any, p: float, mask: Any = None) -> Any:
    """x with each entry dropped with probability p and the others divided by 1 − p.

    The expectation over masks is x (inverted dropout: Srivastava et al. 2014).

    Args:
        x: any shape.
        p: from 0 (x itself) to 1 (zeros).
        mask: True where an entry stays; drawn from the stream that `dl.seed` started if None.

    Raises:
        ValueError: p outside [0, 1].
    """
    p = probability("p", p)
    if p == 0 and mask is None:
        return x
    if mask is None:
        mask = backend.stream().random(tuple(x.shape)) >= p
    keep = backend.like(mask, raw(x))
    return x * (keep * (0.0 if p == 1 else 1.0 / (1.0 - p)))


def probability(name: str, value: Any) -> float:
    """`value` as a float in [0, 1].

    Raises:
        ValueError: it is none; the message begins with `name`.
    """
    p = backend.positive(name, value, allow_zero=True)
    if p > 1:
        raise ValueError(f"{name} is a probability, from 0 to 1, got {value!r}")
    return p


# Some of the examples, and their results put back among zeros: each other's derivative.
_place_rows: Op
_take_rows = op(
    lambda x, rows, n: x[rows],
    lambda g, z, x, rows, n: _place_rows(g, rows=rows, n=n),
    name="take_rows",
    jvp="linear",
)


def _place_forward(x, rows, n):
    out = xp(x).zeros((n, *x.shape[1:]), dtype=x.dtype, device=x.device)
    out[rows] = x
    return out


_place_rows = op(
    _place_forward,
    lambda g, z, x, rows, n: _take_rows(g, rows=rows, n=n),
    name="place_rows",
    jvp="linear",
)


# --- losses ---------------------------------------------------------------------------------------


def _softmax_forward(x):
    """eˣ/Σ eˣ over the last axis, its maximum taken away first."""
    e = xp(x).exp(x - xp(x).max(x, axis=-1, keepdims=True))
    e /= xp(x).sum(e, axis=-1, keepdims=True)
    return e


softmax = op(
    _softmax_forward,
    lambda g, z, x: z * (g - sum(g * z, -1, keepdims=True)),
    name="softmax",
    jvp=lambda tangents, z, x: (
        z * (tangents[0] - xp(z).sum(tangents[0] * z, axis=-1, keepdims=True))
    ),
)


def _row_maxima(x):
    """(N, 1). NumPy goes over long columns faster than over short rows."""
    if x.__class__ is np.ndarray and x.shape[1] <= 32:
        return np.maximum.reduce(np.ascontiguousarray(x.T), axis=0).reshape(-1, 1)
    return xp(x).max(x, axis=1, keepdims=True)


def _cross_entropy_forward(logits, labels, memo):
    """Mean over the rows of log Σ exp(logits) − the label's logit."""
    n, classes = logits.shape
    shifted = logits - _row_maxima(logits)
    rows = xp(logits).arange(n, device=logits.device)
    picked = shifted[rows, labels]
    memo["exp"] = e = xp(logits).exp(shifted)
    memo["total"] = total = _product(e)(e, _ones(xp(e), classes, e.dtype, e.device))
    memo["rows"] = rows
    losses = xp(logits).log(total) - picked
    return _product(e)(losses, _ones(xp(e), n, e.dtype, e.device)) / n


def _cross_entropy_rule(g, z, logits, labels, memo):
    """(softmax − one-hot)/N, the shortest derivative in deep learning."""
    scale = g * (1.0 / logits.shape[0])
    if g.__class__ is not Tensor:
        p = memo["exp"] * xp(g).reshape(scale / memo["total"], (-1, 1))
        p[memo["rows"], labels] -= scale
        return p
    one_hot = xp(raw(logits)).zeros_like(raw(logits))
    one_hot[memo["rows"], labels] = 1.0
    return (softmax(logits) - one_hot) * scale


_cross_entropy = op(_cross_entropy_forward, _cross_entropy_rule, name="cross_entropy", jvp="scalar")


@functools.cache
def _counts(dtype: Any) -> bool:
    """Whether entries of this kind can be class numbers."""
    return backend.dtype_name(dtype).startswith(("int", "uint"))


def _class_numbers(labels: Any, logits: Array) -> Array:
    """Labels as integers where the logits are; a uint8 array would be a mask to torch."""
    labels = raw(labels)
    if not _counts(labels.dtype):
        raise ValueError(
            f"labels are class numbers, got {backend.dtype_name(labels.dtype)}: "
            "convert them with .astype(int)"
        )
    if xp(logits) is np:
        return backend.to_numpy(labels).astype(np.int64, copy=False)
    return xp(logits).asarray(labels, dtype=xp(logits).int64, device=logits.device)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over the batch of −log softmax(logits)[label], in nats.

    Args:
        logits: (N, classes).
        labels: (N,) integers from 0 to classes − 1.

    Raises:
        ShapeError: shapes do not fit, or the batch is empty.
        ValueError: labels are not integers or out of range.
    """
    logits, labels = operand(logits), operand(labels)
    shape = logits.shape
    if len(shape) != 2:
        raise ShapeError(f"cross_entropy needs logits (N, classes), got {tuple(shape)}")
    n, classes = shape
    if labels.shape != shape[:1]:
        raise ShapeError(
            f"cross_entropy: {n} rows of logits but labels of shape {tuple(labels.shape)}: "
            "labels are class numbers, one per row, not one-hot"
        )
    if n == 0:
        raise ShapeError("cross_entropy of an empty batch")
    given, z = raw(labels), raw(logits)
    numbers = _class_numbers(given, z)
    try:
        # A negative index would count from the end. Asked where the labels were given: those on
        # the host need not wait for a GPU.
        readable = backend.has_numbers(given)
        fits = not readable or int(xp(given).min(given)) >= 0
        if fits and readable and not backend.on_host(z):  # a GPU does not raise beyond the end
            fits = int(given.max()) < classes
        if fits:
            return _cross_entropy(logits, labels=numbers, memo={})
    except ShapeError:  # is it an index beyond the last class?
        if int(given.max()) < classes:
            raise
    raise ValueError(
        f"labels run from {int(given.min())} to {int(given.max())}, but there are {classes} "
        f"classes (0 to {classes - 1}): check the last layer's width or shift the labels"
    )


def _mse_forward(prediction, target):
    """Mean of (prediction − target)²."""
    error = xp(prediction).reshape(prediction - target, (-1,))
    return _product(error)(error, error) / error.shape[0]


def _mse_rule(g, z, prediction, target):
    return (prediction - target) * (g * (2.0 / math.prod(prediction.shape)))


_mse = op(
    _mse_forward,
    _mse_rule,
    lambda g, z, prediction, target: -_mse_rule(g, z, prediction, target),
    name="mse_loss",
    jvp="scalar",
)


def mse_loss(prediction: Any, target: Any) -> Any:
    """Mean of (prediction − target)² over all entries.

    Raises:
        ShapeError: the shapes differ ((N, 1) against (N,) would broadcast to N × N), or the batch
            is empty.
    """
    prediction, target = operand(prediction), operand(target)
    if prediction.shape != target.shape:
        raise ShapeError(
            f"mse_loss of shapes {tuple(prediction.shape)} and {tuple(target.shape)}: they must "
            "be equal; reshape one of them"
        )
    if 0 in prediction.shape:
        raise ShapeError(f"mse_loss of an empty batch of shape {tuple(prediction.shape)}")
    return _mse(prediction, target)


def accuracy(logits: Any, labels: Any) -> float:
    """Share of rows whose largest logit is the label's, from 0 to 1.

    Args:
        logits: (N, classes).
        labels: (N,) integers.

    Raises:
        ShapeError: shapes do not fit, or there are no rows.
    """
    z, y = backend.to_numpy(logits), backend.to_numpy(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or len(y) == 0:
        raise ShapeError(
            f"accuracy needs logits (N, classes) and N >= 1 class numbers (N,), "
            f"got {z.shape} and {y.shape}"
        )
    return float(np.mean(z.argmax(-1) == y))


# Torch's values: they do not quite keep the second moment, but everybody starts from them.
_CUSTOMARY = {"linear": 1.0, "identity": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0}
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": relu,
    "leakyrelu": leaky_relu,
    "elu": elu,
    "gelu": gelu,
    "softplus": softplus,
}


_measured_moment = functools.cache(second_moment)


def gain(nonlinearity: str | Callable[[Any], Any]) -> float:
    """The factor by which weights are scaled up to make good for a nonlinearity φ.

    gain = 1/√E[φ(z)²] with z ~ N(0, 1), so that a layer hands on pre-activations of the variance
    that it got: √2 for relu, √(2/(1 + a²)) for a leaky relu of slope a. For sigmoid (1) and tanh
    (5/3) it is torch's customary value; by the formula they would be 1.85 and 1.59.

    Args:
        nonlinearity: "linear", "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu",
            "gelu", "softplus"; or φ itself, a function or a layer that works entry by entry,
            which is measured by the formula.

    Raises:
        ValueError: another name, or a φ that is 0 nearly everywhere or not finite.
        TypeError: neither a name nor a function; a class of layers, not a layer.

    Source: He et al. (2015) for relu; the customary values are torch's `calculate_gain`.
    """
    if isinstance(nonlinearity, str):
        name = nonlinearity.replace("_", "")
        if name in _CUSTOMARY:
            return _CUSTOMARY[name]
        if name not in _ACTIVATIONS:
            known = sorted({*_CUSTOMARY, *_ACTIVATIONS, "leaky_relu"} - {"leakyrelu"})
            raise ValueError(
                f"unknown nonlinearity {nonlinearity!r}: use one of {known}, or pass the function"
            )
        moment = _measured_moment(_ACTIVATIONS[name])
    elif callable(nonlinearity) and not isinstance(nonlinearity, type):
        moment = second_moment(nonlinearity)
    else:
        raise TypeError(
            f"a nonlinearity is a name, a function or a layer, got {nonlinearity!r}"
            + (": write nn.GELU() instead of nn.GELU" if isinstance(nonlinearity, type) else "")
        )
    if not (math.isfinite(moment) and moment > 0):
        raise ValueError(f"E[φ(z)²] of {nonlinearity!r} is {moment}: no gain can make good for it")
    return 1.0 / math.sqrt(moment)
