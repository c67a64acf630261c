"""Layers and losses as functions, built from ops and fused where the field fuses them."""

import math
from typing import Any

import numpy as np

from . import backend
from .backend import xp
from .ops import matmul, raw, reshape, sum, transpose
from .tensor import ShapeError, op

# --- the dense layer ------------------------------------------------------------------------------


def _linear_forward(x, weight, bias=None):
    z = xp(x).matmul(x, weight.T)
    if bias is not None:
        z += bias
    return z


def _column_sums(g):
    """Σ over rows. A product with ones is faster than `sum(0)` in NumPy and torch."""
    if g.__class__.__name__ == "Tensor":
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
    if x.ndim == 0 or x.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"linear: the input has shape {tuple(x.shape)}, but the layer takes "
            f"{weight.shape[-1]} features on the last axis: reshape the input or change in_features"
        )
    rows = x if x.ndim == 2 else reshape(x, (-1, x.shape[-1]))
    z = _linear(rows, weight) if bias is None else _linear(rows, weight, bias)
    return z if x.ndim == 2 else reshape(z, (*x.shape[:-1], weight.shape[0]))


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


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over the batch of −log softmax(logits)[label], in nats.

    Args:
        logits: (N, classes).
        labels: (N,) integers from 0 to classes − 1.

    Raises:
        ShapeError: shapes do not fit, or the batch is empty.
        ValueError: labels are not integers or out of range.
    """
    if logits.ndim != 2:
        raise ShapeError(f"cross_entropy needs logits (N, classes), got {tuple(logits.shape)}")
    if xp(raw(logits)) is np:
        labels = np.asarray(labels)
    else:
        labels = xp(raw(logits)).as_tensor(labels, device=raw(logits).device)
    n, classes = logits.shape
    if tuple(labels.shape) != (n,):
        raise ShapeError(
            f"cross_entropy: {n} rows of logits but labels of shape {tuple(labels.shape)}: "
            "labels are class numbers, one per row, not one-hot"
        )
    if n == 0:
        raise ShapeError("cross_entropy of an empty batch")
    if backend.is_float(labels):
        raise ValueError("labels are class numbers: convert them with .astype(int)")
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
        ShapeError: the shapes differ ((N, 1) against (N,) would broadcast to N × N).
    """
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"mse_loss of shapes {tuple(prediction.shape)} and {tuple(target.shape)}: they must "
            "be equal; reshape one of them"
        )
    return _mse(prediction, target)


def accuracy(logits: Any, labels: Any) -> float:
    """Share of rows whose largest logit is the label's, from 0 to 1."""
    return float(np.mean(backend.to_numpy(logits).argmax(-1) == backend.to_numpy(labels)))


def gain(nonlinearity: str) -> float:
    """The factor by which weights are scaled up to make good for a nonlinearity (as torch)."""
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}
    if nonlinearity not in gains:
        raise ValueError(f"unknown nonlinearity {nonlinearity!r}: use one of {sorted(gains)}")
    return gains[nonlinearity]
