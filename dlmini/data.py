"""Small real data sets, simulated ones, and honest splits."""

import gzip
import importlib
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .tensor import ShapeError


class DataFileError(RuntimeError):
    """A data file is missing, damaged or of another kind; says which, and what was expected."""


@dataclass
class Split:
    """Training and test examples that share none.

    Attributes:
        x_train, x_test: inputs (N, features), floating.
        y_train, y_test: targets (N,); integers for classes.
        groups_train, groups_test: NumPy (N,), what each example belongs to (a form, a patient);
            None where that is not known.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    groups_train: np.ndarray | None = None
    groups_test: np.ndarray | None = None


# --- splits ---------------------------------------------------------------------------------------


def random_split(
    x: Any, y: Any, test: float = 0.2, rng: np.random.Generator | None = None
) -> Split:
    """Deal the examples at random into a training and a test part; none is in both.

    Examples that belong together (copies, images by one writer, visits of one patient) can
    still fall on both sides: `grouped_split` keeps them together.

    Args:
        x: (N, …) inputs.
        y: (N,) targets.
        test: share of the test part, between 0 and 1.
        rng: default the stream that `dl.seed` started.

    Raises:
        ShapeError: x and y differ in length.
        ValueError: `test` leaves one of the parts empty.
    """
    x, y = _pairs(x, y)
    return _deal(x, y, *_random_rows(len(x), test, rng))


def grouped_split(
    x: Any, y: Any, groups: Any, test: float = 0.2, rng: np.random.Generator | None = None
) -> Split:
    """Deal whole groups at random into a training and a test part; none is in both.

    The test score then says how the network does on new groups (writers, patients, families),
    which is what a random split of related examples hides. The number of test examples is the
    nearest to the wanted share that whole groups, in random order, allow.

    Args:
        x: (N, …) inputs.
        y: (N,) targets.
        groups: (N,) labels, numbers or strings: examples with equal labels stay together.
        test: share of the test part, between 0 and 1.
        rng: default the stream that `dl.seed` started.

    Returns:
        A `Split` that holds the groups as well.

    Raises:
        ShapeError: x, y and groups differ in length.
        ValueError: fewer than two groups, a share that is not between 0 and 1.
    """
    x, y = _pairs(x, y)
    groups = backend.to_numpy(groups)
    if groups.shape != (len(x),):
        raise ShapeError(f"{len(x)} inputs but groups of shape {groups.shape}: one label for each")
    share = _share("test", test)
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"all {len(x)} examples are in group {names[0]!r}: nothing can be split")
    order = (rng or backend.stream()).permutation(len(names))
    sizes = np.cumsum(np.bincount(group_of)[order])[:-1]  # at least one group is for training
    chosen = order[: 1 + int(np.argmin(abs(sizes - share * len(x))))]
    held = np.isin(group_of, chosen)
    split = _deal(x, y, np.flatnonzero(~held), np.flatnonzero(held), groups)
    assert not set(groups[held].tolist()) & set(groups[~held].tolist()), "a group is on both sides"
    return split


def standardise(train: Any, test: Any) -> tuple[Array, Array]:
    """(x − mean)/std for each feature, with the mean and std of the training part alone.

    Statistics of all examples would tell the training about the test. A feature that is constant
    in training becomes 0 there.

    Args:
        train: (N, features).
        test: (M, features).

    Returns:
        Both parts, floating.

    Raises:
        ShapeError: not two arrays with the same features on the axes after the first.
        ValueError: no training examples, or values that are not finite.
    """
    parts = _two_parts("standardise", train, test)
    mean, std = parts[0].mean(0), parts[0].std(0)
    # The mean of equal numbers is off by a rounding error, and so is their std from 0.
    std = np.where(parts[0].max(0) == parts[0].min(0), 1.0, std)
    first, second = ((part - mean) / std for part in parts)
    return backend.asarray(first), backend.asarray(second)


def whiten(train: Any, test: Any, eps: float = 0.0) -> tuple[Array, Array]:
    """(x − mean)(C + εI)^(−½) with the mean and covariance C of the training part alone.

    The features of the training part are then uncorrelated and of variance 1: where C has the
    eigenvalue λ, the result has λ/(λ + ε), so that its condition number is 1 for ε = 0. This is
    ZCA, the whitening that moves the examples least: a whitened image is still an image. PCA
    whitening, the same turned to the eigenvectors of C, differs from it by a rotation, which
    gradient descent does not notice.

    The price: directions of little variance, mostly noise, are stretched to the size of all
    others, at most by 1/√ε. In the test part they can be large where training saw none.

    Args:
        train: (N, features).
        test: (M, features).
        eps: ε ≥ 0, a variance, in the features' units squared.

    Returns:
        Both parts, floating.

    Raises:
        ShapeError: not two matrices with the same features.
        ValueError: no training examples, values that are not finite, or a direction without
            variance and ε = 0.

    Source: Bell & Sejnowski (1997); Kessy, Lewin & Strimmer (2018).
    """
    eps = backend.positive("eps", eps, allow_zero=True)
    first, second = _two_parts("whiten", train, test)
    if first.ndim != 2:
        raise ShapeError(
            f"whiten takes one row per example, got {first.shape}: reshape(len(x), -1)"
        )
    n, d = first.shape
    mean = first.mean(0)
    # Singular values of the examples: those of C would lose half of the digits.
    _, s, rows = np.linalg.svd((first - mean) / math.sqrt(n), full_matrices=n < d)
    s = np.concatenate([s, np.zeros(d - len(s))])
    still = int((s <= max(n, d) * np.finfo(float).eps * s.max(initial=0.0)).sum())
    if still and not eps:
        raise ValueError(
            f"whiten: in {still} of {d} directions the training part has no variance (constant or "
            "dependent features, or too few examples): give eps > 0, such as a hundredth of the "
            "mean variance"
        )
    root = (rows.T / np.sqrt(s**2 + eps)) @ rows
    return backend.asarray((first - mean) @ root), backend.asarray((second - mean) @ root)


def _two_parts(what: str, train: Any, test: Any) -> list[np.ndarray]:
    """Both parts in float64, looked at."""
    given = backend.to_numpy(train), backend.to_numpy(test)
    if min(a.ndim for a in given) == 0 or given[0].shape[1:] != given[1].shape[1:]:
        raise ShapeError(
            f"{what}: training part {given[0].shape} and test part {given[1].shape} must "
            "have the same features"
        )
    if len(given[0]) == 0:
        raise ValueError(f"{what}: the training part is empty, it has no mean")
    parts = [a.astype(np.float64) for a in given]
    for name, part in zip(("training", "test"), parts, strict=True):
        if not np.isfinite(part).all():
            bad = np.argwhere(~np.isfinite(part))[0].tolist()
            raise ValueError(f"{what}: the {name} part has {part[tuple(bad)]} at {bad}")
    return parts


def _pairs(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = backend.to_numpy(x), backend.to_numpy(y)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(f"x and y hold one example each row, got shapes {x.shape} and {y.shape}")
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} inputs but {len(y)} targets")
    return x, y


def _random_rows(
    n: int, test: float, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which of n examples are for training, and which for the test."""
    cut = round(n * _share("test", test))
    if not 0 < cut < n:
        raise ValueError(f"test={test!r} of {n} examples leaves the test or training part empty")
    order = (rng or backend.stream()).permutation(n)
    return order[cut:], order[:cut]


def _deal(
    x: np.ndarray,
    y: np.ndarray,
    kept: np.ndarray,
    held: np.ndarray,
    groups: np.ndarray | None = None,
) -> Split:
    """The rows `kept` for training, `held` for the test; together they are all rows, once."""
    once = np.bincount(np.concatenate([kept, held]), minlength=len(x))
    assert (once == 1).all(), "an example is on both sides or on neither"
    parts = (x[kept], y[kept], x[held], y[held])
    of_each = () if groups is None else (groups[kept], groups[held])
    return Split(*(backend.asarray(p) for p in parts), *of_each)


def _share(name: str, value: Any, top: float = 1.0) -> float:
    result = backend.positive(name, value, allow_zero=True)
    if result > top:
        raise ValueError(f"{name} is a share, from 0 to {top:g}, got {value!r}")
    return result


# --- real data that ships with scikit-learn -------------------------------------------------------


def _load(name: str, **options: Any) -> Any:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"the data set {name!r} comes with scikit-learn, which is not installed: "
            "pip install 'dlmini[notebooks]' or pip install scikit-learn"
        ) from error
    return getattr(datasets, f"load_{name}")(**options)


# Where each form begins. It asks for the same 130 digits of every writer, so that the labels show
# it: 0 to 9 three times, then 0 9 5 5 6 …; some forms lack a few.
_FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)


def digits(
    test: float = 0.2, rng: np.random.Generator | None = None, groups: bool = False
) -> Split:
    """Handwritten digits: 1,797 images of 8 × 8 pixels from 13 writers, classes 0 to 9.

    Pixels run from 0 to 1; x is (N, 64). These are the 13 writers of the original test set; the
    30 of its training set are not in it. They filled in 14 forms of 130 digits each, and the
    images lie in the order of the forms, so that the sequence of labels, which repeats, tells
    which image is on which form: `groups_train` and `groups_test`, 0 to 13. Who wrote which form
    is not recorded. Every second image has its nearest neighbour on its own form: a random split
    tests new digits by known hands, whole forms test new hands. Ships with scikit-learn, no
    download.

    Args:
        test: share of the test part, between 0 and 1.
        rng: default the stream that `dl.seed` started.
        groups: keep each form on one side, as `grouped_split` does; by default every image is
            dealt on its own.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits.
    """
    bunch = _load("digits")
    x, y = bunch.data / 16.0, bunch.target.astype(np.int64)
    form = np.searchsorted(_FORMS, np.arange(len(y)), side="right") - 1
    if groups:
        return grouped_split(x, y, form, test, rng)
    return _deal(x, y, *_random_rows(len(x), test, rng), form)


def wine(test: float = 0.2, rng: np.random.Generator | None = None) -> Split:
    """Chemical analyses of 178 Italian wines from 3 cultivars, 13 features in their own units.

    x is (N, 13), as measured: from 0.1 (phenols) to 1,680 (proline), see `standardise`; classes
    0 to 2. Ships with scikit-learn, no download.

    Args:
        test, rng: as `random_split`.

    Source: Aeberhard & Forina (1991), Wine. UCI Machine Learning Repository.
    """
    bunch = _load("wine")
    return random_split(bunch.data, bunch.target.astype(np.int64), test, rng)


def breast_cancer(test: float = 0.2, rng: np.random.Generator | None = None) -> Split:
    """569 tumours, described by 30 features of their cell nuclei; 0 malignant, 1 benign.

    x is (N, 30), as measured: from 0 to 4,254 (area), see `standardise`. Ships with scikit-learn,
    no download.

    Args:
        test, rng: as `random_split`.

    Source: Street, Wolberg & Mangasarian (1993), Nuclear feature extraction for breast tumor
        diagnosis.
    """
    bunch = _load("breast_cancer")
    return random_split(bunch.data, bunch.target.astype(np.int64), test, rng)


def diabetes(test: float = 0.2, rng: np.random.Generator | None = None) -> Split:
    """442 patients: 10 features at the start, and how far diabetes had progressed a year later.

    x is (N, 10) in its own units (scikit-learn's default scales it with statistics of all
    patients, test ones included); y runs from 25 to 346, a regression target. Ships with
    scikit-learn, no download.

    Args:
        test, rng: as `random_split`.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), Least Angle Regression.
    """
    bunch = _load("diabetes", scaled=False)
    return random_split(bunch.data, bunch.target.astype(np.float64), test, rng)


# --- simulated data -------------------------------------------------------------------------------


def two_moons(
    n: int, noise: float = 0.1, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated: two half circles of radius 1 that reach into each other, classes 0 and 1.

    Class 0 is (cos a, sin a), class 1 is (1 − cos a, ½ − sin a) with a uniform in [0, π], plus
    normal noise. No straight line separates them.

    Args:
        n: points, half of each class.
        noise: standard deviation ≥ 0.
        rng: default the stream that `dl.seed` started.

    Returns:
        x (n, 2) float64 in random order, y (n,) int64.
    """
    n, noise = backend.count("n", n, 2), backend.positive("noise", noise, allow_zero=True)
    rng = rng or backend.stream()
    y = rng.permutation(np.arange(n) % 2)
    a = rng.uniform(0, math.pi, n)
    upper, lower = (
        np.stack([np.cos(a), np.sin(a)], 1),
        np.stack([1 - np.cos(a), 0.5 - np.sin(a)], 1),
    )
    x = np.where(y[:, None] == 0, upper, lower)
    return x + noise * rng.standard_normal((n, 2)), y


def spirals(
    n: int,
    classes: int = 2,
    turns: float = 1.0,
    noise: float = 0.02,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated: `classes` arms that wind around the origin, r from 0 to 1.

    An arm is r (cos a, sin a) with a = 2π (turns · r + class/classes) and r² uniform in [0, 1]
    (as many points per area outside as inside), plus normal noise. A problem that needs depth
    or width.

    Args:
        n: points, equally many per class.
        classes: number of arms, at least 2.
        turns: how often an arm winds around, > 0.
        noise: standard deviation ≥ 0.
        rng: default the stream that `dl.seed` started.

    Returns:
        x (n, 2) float64 in random order, y (n,) int64.

    Source: after Lang & Witbrock (1988), Learning to tell two spirals apart.
    """
    classes = backend.count("classes", classes, 2)
    n, turns = backend.count("n", n, classes), backend.positive("turns", turns)
    noise = backend.positive("noise", noise, allow_zero=True)
    rng = rng or backend.stream()
    y = rng.permutation(np.arange(n) % classes)
    r = np.sqrt(rng.uniform(0, 1, n))
    a = 2 * math.pi * (turns * r + y / classes)
    x = np.stack([r * np.cos(a), r * np.sin(a)], 1)
    return x + noise * rng.standard_normal((n, 2)), y


def random_hessian(
    d: int, kappa: float, top: float = 1.0, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A symmetric positive matrix with chosen extreme eigenvalues and random directions.

    Args:
        d: dimension, at least 2.
        kappa: condition number κ = λmax/λmin ≥ 1; the other eigenvalues lie log-uniformly
            between.
        top: λmax > 0.
        rng: default the stream that `dl.seed` started.

    Returns:
        (d, d), float64.

    Raises:
        ValueError: an argument outside its range.
    """
    if d < 2 or kappa < 1:
        raise ValueError(f"random_hessian needs d >= 2 and kappa >= 1, got d={d}, kappa={kappa}")
    backend.positive("top", top)
    rng = rng or backend.stream()
    inner = np.exp(rng.uniform(-np.log(kappa), 0.0, d - 2))
    eigenvalues = top * np.concatenate([[1.0 / kappa], inner, [1.0]])
    q = _rotation(d, d, rng)
    h = (q * eigenvalues) @ q.T
    return (h + h.T) / 2


def _rotation(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """d orthonormal columns of n entries, uniform over rotations (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((n, d)))
    return q * np.sign(np.diag(r))


def linear_regression(
    n: int, d: int, noise: float = 1.0, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated regression y = x·w + noise with normal inputs, weights and noise.

    Args:
        n: examples, at least 1.
        d: features, at least 1.
        noise: standard deviation ≥ 0 of the noise; inputs and weights are standard normal.
        rng: default the stream that `dl.seed` started.

    Returns:
        x (n, d) and y (n,), float64.

    Raises:
        ValueError: an argument outside its range.
    """
    if n < 1 or d < 1:
        raise ValueError(f"linear_regression needs n >= 1 and d >= 1, got n={n}, d={d}")
    backend.positive("noise", noise, allow_zero=True)
    rng = rng or backend.stream()
    x = rng.standard_normal((n, d))
    return x, x @ rng.standard_normal(d) + noise * rng.standard_normal(n)


def ill_conditioned_regression(
    n: int,
    d: int,
    kappa: float,
    noise: float = 1.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated regression y = x·w + noise whose loss is a valley of chosen condition number.

    x = √n U diag(√λ) Vᵀ with random rotations U and V, so that XᵀX/n, the Hessian of half the
    mean squared error, has the eigenvalues λ: from 1/κ to 1, evenly spaced in their logarithm.

    Args:
        n: examples, at least d.
        d: features, at least 2.
        kappa: κ = λmax/λmin ≥ 1.
        noise: standard deviation ≥ 0 of the noise on y; the weights w are standard normal.
        rng: default the stream that `dl.seed` started.

    Returns:
        x (n, d) and y (n,), float64.

    Raises:
        ValueError: an argument outside its range.
    """
    d = backend.count("d", d, 2)
    n, kappa = backend.count("n", n, d), backend.positive("kappa", kappa)
    if kappa < 1:
        raise ValueError(f"kappa is λmax/λmin and at least 1, got {kappa:g}")
    noise = backend.positive("noise", noise, allow_zero=True)
    rng = rng or backend.stream()
    eigenvalues = np.geomspace(1 / kappa, 1, d)
    x = math.sqrt(n) * (_rotation(n, d, rng) * np.sqrt(eigenvalues)) @ _rotation(d, d, rng).T
    return x, x @ rng.standard_normal(d) + noise * rng.standard_normal(n)


def noisy_labels(y: Any, share: float, rng: np.random.Generator | None = None) -> Array:
    """The labels with a share of them replaced, each by one of the other classes at random.

    Exactly round(share · N) labels are wrong afterwards; y itself is left as it is.

    Args:
        y: (N,) class numbers 0, 1, …
        share: from 0 (none) to 1 (all are wrong).
        rng: default the stream that `dl.seed` started.

    Raises:
        ShapeError: y is not a list of labels.
        ValueError: labels that are not integers ≥ 0, a single class, a share outside 0 to 1.

    Source: Zhang et al. (2017), Understanding deep learning requires rethinking generalization.
    """
    labels = np.array(backend.to_numpy(y))
    if labels.ndim != 1:
        raise ShapeError(f"noisy_labels takes labels (N,), got shape {labels.shape}")
    if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise ValueError(
            f"noisy_labels takes class numbers 0, 1, …, got {labels.dtype} {labels[:5].tolist()}"
        )
    classes = int(labels.max()) + 1
    if classes < 2:
        raise ValueError("noisy_labels: there is only class 0, a label cannot be wrong")
    rng = rng or backend.stream()
    wrong = rng.permutation(len(labels))[: round(_share("share", share) * len(labels))]
    labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return backend.asarray(labels)


# --- larger real data, downloaded once ------------------------------------------------------------

#: Where MNIST is kept; the second is asked where the first does not answer.
MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
#: What its files must be.
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",  # noqa: E501
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
#: Where CIFAR-10 is kept.
CIFAR10_URLS = ("https://www.cs.toronto.edu/~kriz/",)
#: What its archive must be.
CIFAR10_SHA256 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}


def mnist(folder: str | os.PathLike | None = None) -> Split:
    """Handwritten digits: 60,000 training and 10,000 test images of 28 × 28 pixels, 0 to 9.

    Pixels run from 0 to 1; x is (N, 1, 28, 28). Training and test writers differ. Downloads
    11 MB once and compares the checksums.

    Args:
        folder: where the files are kept; by default the user's cache folder.

    Raises:
        ImportError: pooch is not installed.
        DataFileError: no download, a wrong checksum, a damaged file.

    Source: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document
    recognition.
    """
    paths = _fetch(MNIST_URLS, MNIST_SHA256, folder)
    x_train, y_train, x_test, y_test = (read_idx(path) for path in paths)
    for x, y, path in ((x_train, y_train, paths[0]), (x_test, y_test, paths[2])):
        if x.ndim != 3 or y.shape != (len(x),):
            raise DataFileError(
                f"{path} holds images {x.shape}, its labels are {y.shape}: expected (N, 28, 28) "
                "and (N,)"
            )
    return Split(
        _pixels(x_train[:, None]), _classes(y_train), _pixels(x_test[:, None]), _classes(y_test)
    )


def cifar10(folder: str | os.PathLike | None = None) -> Split:
    """Colour photographs of 10 kinds of things: 50,000 for training, 10,000 for the test.

    Pixels run from 0 to 1; x is (N, 3, 32, 32), red, green, blue. Downloads 170 MB once and
    compares the checksum; the arrays take 740 MB in float32.

    Args:
        folder: where the file is kept; by default the user's cache folder.

    Raises:
        ImportError: pooch is not installed.
        DataFileError: no download, a wrong checksum, a damaged file.

    Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    (path,) = _fetch(CIFAR10_URLS, CIFAR10_SHA256, folder)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    try:
        with tarfile.open(path) as archive:
            members = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
            batches = [
                _cifar_records(member.read(), f"{path}: {name}")
                for name, member in zip(names, members, strict=True)
                if member is not None
            ]
    except (tarfile.TarError, zlib.error, KeyError, EOFError, OSError) as error:
        raise DataFileError(f"{path} is not the archive of CIFAR-10: {error}") from error
    x, y = (np.concatenate(parts) for parts in zip(*batches[:-1], strict=True))
    x_test, y_test = batches[-1]
    return Split(_pixels(x), _classes(y), _pixels(x_test), _classes(y_test))


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """The array in a (gzipped) idx file, the format of MNIST: header, sizes, then bytes.

    Args:
        path: the file.

    Returns:
        uint8, in the shape that the header gives.

    Raises:
        DataFileError: damaged, of another format, or longer or shorter than its header says.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        size = f"{path.stat().st_size:,} bytes" if path.exists() else "missing"
        raise DataFileError(f"{path} ({size}) cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataFileError(
            f"{path} is no idx file of bytes: it begins with {raw[:4].hex(' ') or 'nothing'}, "
            "expected 00 00 08 and the number of axes"
        )
    axes = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    expected = 4 + 4 * axes + math.prod(shape)
    if len(raw) != expected:
        raise DataFileError(
            f"{path} has {len(raw):,} bytes unpacked, but its header says {shape}, that is "
            f"{expected:,} bytes: it is truncated or damaged, download it again"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_cifar(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in a .bin file of CIFAR-10: records of one label and 3,072 pixel bytes.

    Args:
        path: the file.

    Returns:
        x (N, 3, 32, 32) and y (N,), uint8.

    Raises:
        DataFileError: the size is no multiple of a record, or a label is above 9.
    """
    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"{path} is missing")
    return _cifar_records(path.read_bytes(), str(path))


def _cifar_records(raw: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    record = 1 + 3 * 32 * 32
    if not raw or len(raw) % record:
        raise DataFileError(
            f"{name} has {len(raw):,} bytes, no multiple of the {record:,} of a record: it is "
            "truncated or no CIFAR-10 file"
        )
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    y = rows[:, 0]
    if y.max() > 9:
        raise DataFileError(
            f"{name} has label {y.max()} in record {y.argmax():,}: labels are 0 to 9, it is "
            "damaged or no CIFAR-10 file"
        )
    return rows[:, 1:].reshape(-1, 3, 32, 32), y


def _fetch(
    urls: tuple[str, ...], sha256: Mapping[str, str], folder: str | os.PathLike | None
) -> list[Path]:
    """Paths of the files, downloaded where they are not there yet, checksums compared."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "downloading data needs pooch, which is not installed: "
            "pip install 'dlmini[notebooks]' or pip install pooch"
        ) from error
    where = Path(folder) if folder is not None else Path(pooch.os_cache("dlmini"))
    return [_fetch_one(pooch.retrieve, urls, name, sha256[name], where) for name in sha256]


def _fetch_one(
    retrieve: Callable[..., str], urls: tuple[str, ...], name: str, sha256: str, folder: Path
) -> Path:
    path, failed = folder / name, []
    for url in urls:
        try:
            return Path(retrieve(url + name, f"sha256:{sha256}", name, folder))
        except (OSError, ValueError) as error:  # no connection; a checksum that does not match
            failed.append(f"{url}: {str(error).splitlines()[0][:200]}")
    there = (
        f"has {path.stat().st_size:,} bytes and a wrong checksum" if path.exists() else "is missing"
    )
    raise DataFileError(
        f"{path} {there} (expected SHA-256 {sha256}), and no source gave it: {'; '.join(failed)}. "
        "Connect to the network, or put the file there by hand"
    )


def _pixels(x: np.ndarray) -> Array:
    """Bytes as numbers from 0 to 1, in the precision in use from the start: these are large."""
    values = x.astype(backend.dtype_name(backend.asarray(0.0).dtype))
    values /= 255
    return backend.asarray(values)


def _classes(y: np.ndarray) -> Array:
    return backend.asarray(y.astype(np.int64))
