"""Layers and losses as functions, built from ops and fused where the field fuses them."""

import math
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp
from .ops import (
    exp,
    getitem,
    matmul,
    mean,
    minimum,
    power,
    raw,
    reshape,
    sum,
    tanh,
    transpose,
    var,
    where,
)
from .tensor import Op, ShapeError, Tensor, op, operand

# --- the dense layer ------------------------------------------------------------------------------


def _linear_forward(x, weight, bias=None):
    z = xp(x).matmul(x, weight.T)
    if bias is not None:
        z += bias
    return z


def _column_sums(g):
    """Σ over rows. A product with ones is faster than `sum(0)` in NumPy and torch."""
    if g.__class__ is Tensor:
        return sum(g, 0)
    return xp(g).ones(len(g), dtype=g.dtype, device=g.device) @ g


_linear = op(
    _linear_forward,
    lambda g, z, x, weight, bias=None: matmul(g, weight),
    lambda g, z, x, weight, bias=None: matmul(transpose(g), x),
    lambda g, z, x, weight, bias=None: _column_sums(g),
    name="linear",
    into={1: lambda out, g, z, x, weight, bias=None: xp(g).matmul(g.T, x, out=out)},
)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x Wᵀ + b.

    Args:
        x: (…, in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (…, out_features).

    Raises:
        ShapeError: the number of features does not match.
    """
    x = operand(x)
    if weight.ndim != 2 or (bias is not None and tuple(bias.shape) != tuple(weight.shape[:1])):
        raise ShapeError(
            f"linear needs a weight (out, in) and a bias (out,), got {tuple(weight.shape)} and "
            f"{None if bias is None else tuple(bias.shape)}"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"linear: the input has shape {tuple(x.shape)}, but the layer takes "
            f"{weight.shape[-1]} features on the last axis: reshape the input or change in_features"
        )
    rows = x if x.ndim == 2 else reshape(x, (-1, x.shape[-1]))
    z = _linear(rows, weight) if bias is None else _linear(rows, weight, bias)
    return z if x.ndim == 2 else reshape(z, (*x.shape[:-1], weight.shape[0]))


# --- activations ----------------------------------------------------------------------------------

leaky_relu = op(
    lambda x, slope=0.01: xp(x).where(x > 0, x, slope * x),
    lambda g, z, x, slope=0.01: where(raw(x) > 0, g, slope * g),
    name="leaky_relu",
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x for x > 0, else α(eˣ − 1) (Clevert et al. 2016)."""
    below = minimum(x, 0.0)  # so that eˣ does not overflow in the branch not taken
    return where(raw(x) > 0, x, alpha * (exp(below) - 1.0))


def gelu(x: Any) -> Any:
    """½ x (1 + tanh(√(2/π)(x + 0.044715 x³))): torch's approximate="tanh".

    Source: Hendrycks & Gimpel (2016).
    """
    return 0.5 * x * (1.0 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# --- convolution ----------------------------------------------------------------------------------
#
# z = x ⋆ w is linear in x and in w, and so are its two adjoints: three operations that are each
# other's derivatives to any order.


def _patches(x, kernel, stride):
    """Views of all patches of x (N, C, H, W): (N, H', W', C, kh, kw), no copy."""
    (n, c, h, w), (kh, kw), (sh, sw) = x.shape, kernel, stride
    shape = (n, (h - kh) // sh + 1, (w - kw) // sw + 1, c, kh, kw)
    if xp(x) is np:
        a, b, d, e = x.strides
        strides = (a, sh * d, sw * e, b, d, e)
        return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
    a, b, d, e = x.stride()
    return x.as_strided(shape, (a, sh * d, sw * e, b, d, e))


def _padded(x, padding):
    ph, pw = padding
    if not (ph or pw):
        return x
    n, c, h, w = x.shape
    out = xp(x).zeros((n, c, h + 2 * ph, w + 2 * pw), dtype=x.dtype, device=x.device)
    out[:, :, ph : ph + h, pw : pw + w] = x
    return out


def _columns(x, kernel, stride, padding):
    """Patches as rows: (N·H'·W', C·kh·kw)."""
    p = _patches(_padded(x, padding), kernel, stride)
    return p.reshape(math.prod(p.shape[:3]), math.prod(p.shape[3:])), p.shape[:3]


def _conv_forward(x, w, stride, padding, shapes):
    rows, (n, h, k) = _columns(x, w.shape[2:], stride, padding)
    z = rows @ w.reshape(w.shape[0], -1).T
    return xp(x).permute_dims(z.reshape(n, h, k, w.shape[0]), (0, 3, 1, 2))


def _conv_to_input(g, w, stride, padding, shapes):
    """The adjoint in x: each output's cotangent, spread over the patch that it saw."""
    (n, c, h, k), (ph, pw), (sh, sw) = shapes[0], padding, stride
    o, _, kh, kw = w.shape
    rows = xp(g).permute_dims(g, (0, 2, 3, 1)).reshape(-1, o) @ w.reshape(o, -1)
    hh, ww = g.shape[2:]
    spread = xp(g).permute_dims(rows.reshape(n, hh, ww, c, kh, kw), (0, 3, 4, 5, 1, 2))
    out = xp(g).zeros((n, c, h + 2 * ph, k + 2 * pw), dtype=g.dtype, device=g.device)
    for i in range(kh):
        for j in range(kw):
            out[:, :, i : i + sh * hh : sh, j : j + sw * ww : sw] += spread[:, :, i, j]
    return out[:, :, ph : ph + h, pw : pw + k]


def _conv_to_weight(g, x, stride, padding, shapes):
    """The adjoint in w: cotangents times the patches that they saw."""
    rows, _ = _columns(x, shapes[1][2:], stride, padding)
    flat = xp(g).permute_dims(g, (1, 0, 2, 3)).reshape(g.shape[1], -1)
    return (flat @ rows).reshape(shapes[1])


_conv_input: Op
_conv_weight: Op
_conv = op(
    _conv_forward,
    lambda g, z, x, w, **k: _conv_input(g, w, **k),
    lambda g, z, x, w, **k: _conv_weight(g, x, **k),
    name="conv2d",
)
_conv_input = op(
    _conv_to_input,
    lambda g, z, h, w, **k: _conv(g, w, **k),
    lambda g, z, h, w, **k: _conv_weight(h, g, **k),
    name="conv2d_input",
)
_conv_weight = op(
    _conv_to_weight,
    lambda g, z, h, x, **k: _conv(x, g, **k),
    lambda g, z, h, x, **k: _conv_input(h, g, **k),
    name="conv2d_weight",
)


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"{name} must be an integer >= {least} or a pair of them, got {value!r}")
    return pair


def conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0) -> Any:
    """Cross-correlation of images with filters, which deep learning calls convolution.

    zₙₒᵢⱼ = bₒ + Σ_{c,u,v} wₒ꜀ᵤᵥ xₙ,꜀,ᵢₛ₊ᵤ₋ₚ,ⱼₛ₊ᵥ₋ₚ

    Args:
        x: images (N, C, H, W).
        weight: filters (O, C, kh, kw).
        bias: (O,) or None.
        stride: s, pixels between neighbouring outputs; a pair for (down, across).
        padding: p, rows and columns of zeros added on each side.

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
    z = _conv(x, weight, stride=stride, padding=padding, shapes=shapes)
    return z if bias is None else z + reshape(bias, (1, -1, 1, 1))


# --- pooling --------------------------------------------------------------------------------------

_fold: Op
_unfold = op(
    lambda x, kernel, stride, shape: _patches(x, kernel, stride).reshape(
        *_pooled_shape(shape, kernel, stride), shape[1], -1
    ),
    lambda g, z, x, **k: _fold(g, **k),
    name="unfold",
)


def _pooled_shape(shape, kernel, stride):
    return (
        shape[0],
        *((n - k) // s + 1 for n, k, s in zip(shape[2:], kernel, stride, strict=True)),
    )


def _fold_forward(p, kernel, stride, shape):
    out = xp(p).zeros(shape, dtype=p.dtype, device=p.device)
    (kh, kw), (sh, sw) = kernel, stride
    n, hh, ww, c, _ = p.shape
    spread = xp(p).permute_dims(p.reshape(n, hh, ww, c, kh, kw), (0, 3, 4, 5, 1, 2))
    for i in range(kh):
        for j in range(kw):
            out[:, :, i : i + sh * hh : sh, j : j + sw * ww : sw] += spread[:, :, i, j]
    return out


_fold = op(_fold_forward, lambda g, z, p, **k: _unfold(g, **k), name="fold")


def _windows(x: Any, kernel_size: Any, stride: Any, name: str) -> Any:
    """Patches of each channel: (N, H', W', C, kh·kw)."""
    kernel = _pair("kernel_size", kernel_size, 1)
    stride = kernel if stride is None else _pair("stride", stride, 1)
    if x.ndim != 4:
        raise ShapeError(f"{name} needs images (N, C, H, W), got shape {tuple(x.shape)}")
    if kernel[0] > x.shape[2] or kernel[1] > x.shape[3]:
        raise ShapeError(
            f"{name}: a window of {kernel} does not fit into {tuple(x.shape[2:])} pixels"
        )
    return _unfold(x, kernel=kernel, stride=stride, shape=tuple(x.shape))


def avg_pool2d(x: Any, kernel_size: Any, stride: Any = None) -> Any:
    """Mean over windows of (N, C, H, W); the stride is the window's size if None."""
    return transpose(mean(_windows(x, kernel_size, stride, "avg_pool2d"), -1), (0, 3, 1, 2))


def max_pool2d(x: Any, kernel_size: Any, stride: Any = None) -> Any:
    """Largest entry of windows of (N, C, H, W); of tied ones the first takes the gradient."""
    windows = _windows(x, kernel_size, stride, "max_pool2d")
    best = raw(windows).argmax(-1)
    flat = reshape(windows, (-1, windows.shape[-1]))
    rows = xp(raw(windows)).arange(flat.shape[0])
    largest = getitem(flat, (rows, best.reshape(-1)))
    return transpose(reshape(largest, windows.shape[:-1]), (0, 3, 1, 2))


# --- normalisation --------------------------------------------------------------------------------


def _normalise_forward(x, weight, bias, axes, eps, memo):
    mean_, memo["mean"] = (xp(x).mean(x, axis=axes, keepdims=True),) * 2
    hat = x - mean_
    memo["var"] = xp(x).mean(hat * hat, axis=axes, keepdims=True)
    memo["scale"] = 1.0 / xp(x).sqrt(memo["var"] + eps)
    hat *= memo["scale"]
    memo["hat"] = hat
    z = hat * weight
    z += bias
    return z


def _standardised(g, x, axes, eps, memo):
    """x̂ = (x − mean)/σ and 1/σ: remembered for the gradient, functions of x for its gradient."""
    if g.__class__ is not Tensor:
        return memo["hat"], memo["scale"]
    scale = power(var(x, axes, keepdims=True) + eps, -0.5)
    return (x - mean(x, axes, keepdims=True)) * scale, scale


def _normalise_input_rule(g, z, x, weight, bias, axes, eps, memo):
    """(h − mean h − x̂ mean(h x̂))/σ with h = γ g: the mean and σ move with x."""
    hat, scale = _standardised(g, x, axes, eps, memo)
    h = g * weight
    return (h - mean(h, axes, keepdims=True) - hat * mean(h * hat, axes, keepdims=True)) * scale


_normalise = op(
    _normalise_forward,
    _normalise_input_rule,
    lambda g, z, x, weight, bias, axes, eps, memo: g * _standardised(g, x, axes, eps, memo)[0],
    lambda g, z, x, weight, bias, axes, eps, memo: g,
    name="normalise",
)


def _normalised(x, weight, bias, axes, shape, eps):
    memo: dict[str, Any] = {}
    eps = backend.positive("eps", eps)
    z = _normalise(x, reshape(weight, shape), reshape(bias, shape), axes=axes, eps=eps, memo=memo)
    return z, memo["mean"].reshape(-1), memo["var"].reshape(-1)


def batch_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> tuple[Any, Array, Array]:
    """γ (x − mean)/√(var + ε) + β, with the statistics of the batch (Ioffe & Szegedy 2015).

    Args:
        x: (N, C) or (N, C, H, W); mean and variance are taken over all axes but C.
        weight, bias: γ and β, (C,).
        eps: ε > 0.

    Returns:
        the result, and the batch's mean and variance (C,) as raw arrays.

    Raises:
        ShapeError: another number of axes or channels, or one value per channel (variance 0).
    """
    if x.ndim not in (2, 4) or x.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"batch_norm of {weight.shape[0]} channels takes (N, C) or (N, C, H, W), "
            f"got {tuple(x.shape)}"
        )
    if x.shape[0] * math.prod(x.shape[2:]) < 2:
        raise ShapeError(
            f"batch_norm of {tuple(x.shape)}: one value per channel has no variance; use a larger "
            "batch, or the running statistics with net.eval()"
        )
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    return _normalised(x, weight, bias, axes, (1, -1) + (1,) * (x.ndim - 2), eps)


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
    return _normalised(x, weight, bias, (x.ndim - 1,), weight.shape, eps)[0]


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
    """`value` as a float in [0, 1], or a ValueError that names it."""
    p = backend.positive(name, value, allow_zero=True)
    if p > 1:
        raise ValueError(f"{name} is a probability, from 0 to 1, got {value!r}")
    return p


# --- losses ---------------------------------------------------------------------------------------


def _softmax_forward(x):
    e = xp(x).exp(x - xp(x).max(x, axis=-1, keepdims=True))
    e /= xp(x).sum(e, axis=-1, keepdims=True)
    return e


softmax = op(
    _softmax_forward,
    lambda g, z, x: z * (g - sum(g * z, -1, keepdims=True)),
    name="softmax",
)


def _cross_entropy_forward(logits, labels):
    shifted = logits - xp(logits).max(logits, axis=-1, keepdims=True)
    rows = xp(logits).arange(len(labels))
    picked = shifted[rows, labels]
    return (xp(logits).log(xp(logits).sum(xp(logits).exp(shifted), axis=-1)) - picked).mean()


def _cross_entropy_rule(g, z, logits, labels):
    """(softmax − one-hot)/N, the shortest derivative in deep learning."""
    p = softmax(logits)
    one_hot = xp(raw(logits)).zeros_like(raw(logits))
    one_hot[xp(one_hot).arange(len(labels)), labels] = 1.0
    return (p - one_hot) * (g * (1.0 / len(labels)))


_cross_entropy = op(_cross_entropy_forward, _cross_entropy_rule, name="cross_entropy")


def _class_numbers(labels: Any, logits: Array) -> Array:
    """Labels as integers where the logits are; a uint8 array would be a mask to torch."""
    labels = raw(labels)
    if backend.is_float(labels) or "bool" in str(labels.dtype):
        raise ValueError(
            f"labels are class numbers, got {backend.dtype_name(labels.dtype)}: "
            "convert them with .astype(int)"
        )
    if xp(logits) is np:
        return backend.to_numpy(labels).astype(np.int64, copy=False)
    return xp(logits).as_tensor(labels, dtype=xp(logits).int64, device=logits.device)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over the batch of −log softmax(logits)[label], in nats.

    Args:
        logits: (N, classes).
        labels: (N,) integers from 0 to classes − 1.

    Raises:
        ShapeError: shapes do not fit, or the batch is empty.
        ValueError: labels are not integers or out of range.
    """
    logits = operand(logits)
    if logits.ndim != 2:
        raise ShapeError(f"cross_entropy needs logits (N, classes), got {tuple(logits.shape)}")
    labels = operand(labels)
    n, classes = logits.shape
    if tuple(labels.shape) != (n,):
        raise ShapeError(
            f"cross_entropy: {n} rows of logits but labels of shape {tuple(labels.shape)}: "
            "labels are class numbers, one per row, not one-hot"
        )
    if n == 0:
        raise ShapeError("cross_entropy of an empty batch")
    labels = _class_numbers(labels, raw(logits))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}, but there are {classes} classes "
            f"(0 to {classes - 1}): check the last layer's width or shift the labels"
        )
    return _cross_entropy(logits, labels=labels)


def _mse_rule(g, z, prediction, target):
    return (prediction - target) * (g * (2.0 / math.prod(prediction.shape)))


def _mse_forward(prediction, target):
    error = prediction - target
    error *= error
    return error.mean()


_mse = op(
    _mse_forward,
    _mse_rule,
    lambda g, z, prediction, target: -_mse_rule(g, z, prediction, target),
    name="mse_loss",
)


def mse_loss(prediction: Any, target: Any) -> Any:
    """Mean of (prediction − target)² over all entries.

    Raises:
        ShapeError: the shapes differ ((N, 1) against (N,) would broadcast to N × N), or the batch
            is empty.
    """
    prediction, target = operand(prediction), operand(target)
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"mse_loss of shapes {tuple(prediction.shape)} and {tuple(target.shape)}: they must "
            "be equal; reshape one of them"
        )
    if 0 in prediction.shape:
        raise ShapeError(f"mse_loss of an empty batch of shape {tuple(prediction.shape)}")
    return _mse(prediction, target)


def accuracy(logits: Any, labels: Any) -> float:
    """Share of rows (N, classes) whose largest logit is the label's (N,), from 0 to 1.

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


def gain(nonlinearity: str) -> float:
    """The factor by which weights are scaled up to make good for a nonlinearity (as torch)."""
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}
    if nonlinearity not in gains:
        raise ValueError(f"unknown nonlinearity {nonlinearity!r}: use one of {sorted(gains)}")
    return gains[nonlinearity]
