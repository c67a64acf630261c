"""Small real data sets, simulated ones, and honest splits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .tensor import ShapeError


@dataclass
class Split:
    """Training and test examples that share none.

    Attributes:
        x_train, x_test: inputs (N, features), floating.
        y_train, y_test: targets (N,); integers for classes.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def random_split(
    x: Any, y: Any, test: float = 0.2, rng: np.random.Generator | None = None
) -> Split:
    """Deal the examples at random into a training and a test part.

    Args:
        x: (N, …) inputs; y: (N,) targets.
        test: share of the test part, between 0 and 1.
        rng: default the stream that `dl.seed` started.

    Raises:
        ShapeError: x and y differ in length.
        ValueError: `test` leaves one of the parts empty.
    """
    x, y = backend.to_numpy(x), backend.to_numpy(y)
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} inputs but {len(y)} targets")
    cut = round(len(x) * float(test))
    if not 0 < cut < len(x):
        raise ValueError(
            f"test={test!r} of {len(x)} examples leaves the test or training part empty"
        )
    order = (rng or backend.stream()).permutation(len(x))
    held, kept = order[:cut], order[cut:]
    parts = (x[kept], y[kept], x[held], y[held])
    return Split(*(backend.asarray(p) for p in parts))


def digits(test: float = 0.2, rng: np.random.Generator | None = None) -> Split:
    """Handwritten digits: 1,797 images of 8 × 8 pixels from 43 writers, classes 0 to 9.

    Pixels run from 0 to 1; x is (N, 64). Ships with scikit-learn, no download.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'dlmini[notebooks]' or pip install scikit-learn"
        ) from error
    bunch = load_digits()
    return random_split(bunch.data / 16.0, bunch.target.astype(np.int64), test, rng)


def random_hessian(
    d: int, kappa: float, top: float = 1.0, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A symmetric positive matrix with chosen extreme eigenvalues and random directions.

    Args:
        d: dimension, at least 2.
        kappa: condition number κ = λmax/λmin ≥ 1; the other eigenvalues lie log-uniformly
            between.
        top: λmax > 0.

    Returns:
        (d, d), float64.
    """
    if d < 2 or kappa < 1:
        raise ValueError(f"random_hessian needs d >= 2 and kappa >= 1, got d={d}, kappa={kappa}")
    backend.positive("top", top)
    rng = rng or backend.stream()
    inner = np.exp(rng.uniform(-np.log(kappa), 0.0, d - 2))
    eigenvalues = top * np.concatenate([[1.0 / kappa], inner, [1.0]])
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    q = q * np.sign(np.diag(r))  # uniform over rotations (Mezzadri 2007)
    h = (q * eigenvalues) @ q.T
    return (h + h.T) / 2


def linear_regression(
    n: int, d: int, noise: float = 1.0, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated regression y = x·w + noise with normal inputs, weights and noise.

    Returns:
        x (n, d) and y (n,), float64.
    """
    if n < 1 or d < 1:
        raise ValueError(f"linear_regression needs n >= 1 and d >= 1, got n={n}, d={d}")
    backend.positive("noise", noise, allow_zero=True)
    rng = rng or backend.stream()
    x = rng.standard_normal((n, d))
    return x, x @ rng.standard_normal(d) + noise * rng.standard_normal(n)
