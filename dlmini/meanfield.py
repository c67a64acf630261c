"""Very wide networks at the start: what a layer does to the size and the likeness of its inputs.

With weights N(0, σw²/n) and biases N(0, σb²) (`nn.normal_`) the pre-activations of a wide layer
are normal, and a network is a map of three numbers: their variance q, the factor χ by which the
squared gradient changes from layer to layer, and the correlation c of two inputs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .tensor import Leaf, Tensor, grad

_REACH = 12.0  # standard deviations; beyond, 1e-32 of the mass
_LEAST, _MOST = 1e-30, 1e8  # variances: as good as 0, and the largest whose means are good
_HALVINGS = 16
_POINTS = 20


@functools.cache
def _panels() -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of an integral over [0, 1], in panels that halve towards 0.

    A kink at 0 is an end of a panel, and what is narrow around 0 has panels as narrow.
    """
    x, w = np.polynomial.legendre.leggauss(_POINTS)
    ends = np.concatenate([[0.0], 0.5 ** np.arange(_HALVINGS, -1, -1.0)])
    width = np.diff(ends)[:, None]
    return (ends[:-1, None] + width * (x + 1) / 2).ravel(), (width * w / 2).ravel()


@functools.cache
def _normal() -> tuple[np.ndarray, np.ndarray]:
    """Places z and weights of the mean over a standard normal number."""
    places, weights = _panels()
    z = _REACH * np.concatenate([-places[::-1], places])
    w = _REACH * np.concatenate([weights[::-1], weights])
    return z, w * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _values(phi: Callable[[Any], Any], z: np.ndarray) -> np.ndarray:
    return np.asarray(backend.to_numpy(phi(Tensor.wrap(z, None)).data), dtype=float)


def second_moment(phi: Callable[[Any], Any], q: float = 1.0) -> float:
    """E[φ(√q z)²] with z ~ N(0, 1).

    Args:
        phi: φ, an operation or a layer that works entry by entry.
        q: variance of what goes into it, ≥ 0.

    Raises:
        ValueError: q < 0.
    """
    z, w = _normal()
    q = backend.positive("q", q, allow_zero=True)
    return float(w @ _values(phi, math.sqrt(q) * z) ** 2)


def squared_slope(phi: Callable[[Any], Any], q: float = 1.0) -> float:
    """E[φ′(√q z)²] with z ~ N(0, 1); φ′ is found by differentiating φ.

    Args:
        phi, q: as `second_moment`; 0 stands for the limit q → 0, ½ for relu.

    Raises:
        ValueError: q < 0.
    """
    z, w = _normal()
    q = backend.positive("q", q, allow_zero=True)
    x = math.sqrt(max(q, _LEAST)) * z  # not only 0, where φ may have a kink
    t = Tensor.wrap(x, Leaf(x))
    slope = grad(phi(t), [t], cotangent=np.ones_like(x))[0].data
    return float(w @ slope**2)


class MeanField:
    """The theory of very wide networks whose layers compute W φ(x) + b.

        theory = dl.meanfield.MeanField(dl.tanh, weight=1.0, bias=0.3)
        theory.chi()  # the squared gradient shrinks by this factor a layer, once q has settled

    The means are integrals in panels that halve towards 0, good to about 12 digits for any q up
    to 10⁸ (Gauss–Hermite nodes miss the narrow φ′ of large q and the kinks of relu).

    Args:
        phi: φ, an operation or a layer that works entry by entry.
        weight: σw; weights have variance σw²/fan_in.
        bias: σb, the standard deviation of biases.

    Raises:
        ValueError: σw ≤ 0 or σb < 0.

    Source: Poole et al. (2016); Schoenholz et al. (2017).
    """

    def __init__(self, phi: Callable[[Any], Any], weight: float = 1.0, bias: float = 0.0):
        self.phi = phi
        self.weight = backend.positive("weight", weight)
        self.bias = backend.positive("bias", bias, allow_zero=True)

    def variance(self, q: float) -> float:
        """q of the next layer: σw² E[φ(√q z)²] + σb²."""
        return self.weight**2 * second_moment(self.phi, q) + self.bias**2

    def fixed_point(self) -> float:
        """q*, the largest variance that stays as it is and that its neighbours come to.

        Raises:
            ValueError: there is none up to 10⁸, since q grows or stays wherever it starts.
        """
        high = max(1.0, self.bias**2)
        while self.variance(high) >= high * (1 - 1e-9):
            high *= 4
            if high > _MOST:
                raise ValueError(
                    f"with weight={self.weight:g} and bias={self.bias:g} the variance settles "
                    f"nowhere below {_MOST:g}: it grows without bound or stays wherever it starts "
                    "(as in a relu net with weight ≥ √2): give q yourself, as in chi(q)"
                )
        low = 0.0 if self.variance(0.0) > 0 else 1e-6
        if self.variance(low) <= low:
            return 0.0  # it dies out
        while high - low > 1e-14 * high:
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (middle, high) if self.variance(middle) > middle else (low, middle)
        return (low + high) / 2

    def chi(self, q: float | None = None) -> float:
        """χ = σw² E[φ′(√q z)²]: squared gradients change by this factor a layer.

        Below 1 they vanish and inputs become alike; above 1 they explode and inputs part.

        Args:
            q: variance of the pre-activations; q* if None.

        Raises:
            ValueError: q is None and there is no q*.
        """
        q = self.fixed_point() if q is None else q
        return self.weight**2 * squared_slope(self.phi, q)

    def depth_scale(self) -> float:
        """ξ = 1/|ln χ| layers: within so many the squared gradient changes by a factor e.

        Infinite at χ = 1, up to the error of the means, and 0 at χ = 0.

        Raises:
            ValueError: there is no q*.
        """
        chi = self.chi()
        if abs(chi - 1) < 1e-12:
            return math.inf
        return 1 / abs(math.log(chi)) if chi else 0.0

    def correlation(self, c: float, q: float | None = None) -> float:
        """c of the next layer, for two inputs of variance q whose pre-activations correlate by c.

        (σw² E[φ(u) φ(v)] + σb²)/q′ with u = √q z₁, v = √q (c z₁ + √(1 − c²) z₂), and q′ the
        variance of the next layer.

        Args:
            c: from −1 to 1.
            q: variance of the pre-activations; q* if None.

        Raises:
            ValueError: |c| > 1; q = 0; or q is None and there is no q*.
        """
        if not -1 <= c <= 1:
            raise ValueError(f"a correlation lies between −1 and 1, got {c!r}")
        q = backend.positive("q", self.fixed_point() if q is None else q)
        z, w = _normal()
        u, root = math.sqrt(q) * z, math.sqrt(max(1 - c * c, 0.0))
        inner = _values(self.phi, c * u)
        if root > 1e-8:
            # v changes sign at z₂ = −c z₁/√(1 − c²): panels from there outwards on both sides.
            places, weights = _panels()
            kink = np.clip(-c * z / root, -_REACH, _REACH)[:, None]
            right, left = _REACH - kink, _REACH + kink
            z2 = np.concatenate([kink - left * places, kink + right * places], axis=1)
            density = np.exp(-(z2**2) / 2) / math.sqrt(2 * math.pi)
            w2 = np.concatenate([left * weights, right * weights], axis=1) * density
            inner = (w2 * _values(self.phi, c * u[:, None] + math.sqrt(q) * root * z2)).sum(1)
        product = float(w @ (_values(self.phi, u) * inner))
        return (self.weight**2 * product + self.bias**2) / self.variance(q)
