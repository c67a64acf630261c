"""The shape of the loss around a point: curvature, and slices through the landscape.

A loss is a function without arguments that builds the scalar from the packed parameters, the
same one at every call: fixed data, no dropout. (Batch norm in training mode goes on updating its
running averages at every call.) A symmetric matrix A that is too large to write down is a
function v ↦ A v, such as `lambda v: hvp(loss, flat, v)`; its spectrum is found in float64
whatever the network computes in. With float32 products all of it is good to about 1e-6 of the
largest eigenvalue, no better: work in float64 where small eigenvalues matter.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import backend
from .backend import Array, count, like, positive, xp
from .flat import Flat
from .tensor import GradientError, Leaf, ShapeError, Tensor, grad, no_grad

Loss = Callable[[], Tensor]  #: builds the scalar loss anew from the packed parameters
Matvec = Callable[[np.ndarray], Any]  #: v ↦ A v for a symmetric matrix A


def _direction(name: str, vector: Any, flat: Flat) -> np.ndarray:
    """`vector` as NumPy, or a ShapeError if it has not one entry per parameter."""
    v = backend.to_numpy(vector)
    if v.shape != (flat.size,):
        raise ShapeError(f"{name} must have shape ({flat.size},), got {v.shape}")
    return v


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    """`rng`, or the stream that `dl.seed` started."""
    if rng is None:
        return backend.stream()
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a NumPy generator, such as dl.rng(0) makes, got {rng!r}")
    return rng


# --- products with matrices that are never written down -------------------------------------------


def _inner(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> Any:
    """Σ t · a over all entries of all pairs, recorded."""
    return sum((t * a).sum() for t, a in zip(tensors, arrays, strict=True))


def _packed(tensors: Sequence[Tensor], flat: Flat) -> Array:
    """One vector (P,) from one Tensor per parameter."""
    result = xp(flat.theta).empty_like(flat.theta)
    for out, t in zip(flat.split(result), tensors, strict=True):
        out[...] = t.data
    return result


def _derivative(slope: Tensor, flat: Flat, retain_graph: bool = False) -> Array:
    """∇ of a scalar that a backward pass has made, (P,); zeros if it is a constant."""
    if not slope.requires_grad:
        return xp(flat.theta).zeros_like(flat.theta)
    return _packed(grad(slope, flat.parameters, retain_graph=retain_graph), flat)


def hvp(loss: Loss, flat: Flat, vector: Any) -> Array:
    """Hessian-vector product H v = ∇(∇L · v), two backward passes.

    Args:
        loss: builds the scalar loss anew from the packed parameters.
        flat: the packed parameters.
        vector: v, (P,).

    Returns:
        (P,), an array of the library and precision of the parameters.

    Raises:
        ShapeError: v has not one entry per parameter.
        GradientError: the loss is not a scalar Tensor that depends on parameters.

    Source: Pearlmutter (1994).
    """
    parts = flat.split(like(_direction("vector", vector, flat), flat.theta))
    return _derivative(_inner(grad(loss(), flat.parameters, create_graph=True), parts), flat)


def gnvp(
    outputs: Callable[[], Tensor],
    loss_of_outputs: Callable[[Tensor], Tensor],
    flat: Flat,
    vector: Any,
) -> Array:
    """Gauss-Newton product G v = Jᵀ (H_L (J v)): the curvature of the loss through a linear net.

    With outputs z(θ), their Jacobian J = ∂z/∂θ and the Hessian H_L of the loss by z,

        H = G + Σᵢ ∂L/∂zᵢ ∇²zᵢ,    G = Jᵀ H_L J

    so G is the Hessian of the loss with z replaced by its tangent at θ. It leaves out how the
    net itself bends: it equals H where the net is linear in θ or the residuals ∂L/∂z vanish. For
    a loss convex in z (squared error, cross-entropy) it has no negative eigenvalue, whatever H
    has; for cross-entropy it is the Fisher information as well. J v is the derivative by u of
    (Jᵀu) · v, which is linear in u: the reverse mode twice.

    Args:
        outputs: builds z, of any shape, anew from the packed parameters.
        loss_of_outputs: z ↦ the scalar loss, of z alone: a penalty on θ is not seen.
        flat: the packed parameters.
        vector: v, (P,).

    Returns:
        (P,), an array of the library and precision of the parameters.

    Raises:
        ShapeError: v has not one entry per parameter.
        GradientError: `outputs` made no Tensor that depends on parameters, or the loss is not a
            scalar that depends on the outputs.

    Source: Schraudolph (2002); Martens (2010).
    """
    parts = flat.split(like(_direction("vector", vector, flat), flat.theta))
    z = outputs()
    if z.__class__ is not Tensor:
        raise GradientError(
            f"outputs() gave {type(z).__name__}, not a Tensor: write lambda: net(x)"
        )
    u, here = _leaf(xp(z.data).zeros_like(z.data)), _leaf(z.data)
    pulled = _inner(grad(z, flat.parameters, u, create_graph=True), parts)  # (Jᵀu) · v
    pushed = grad(pulled, [u], retain_graph=True)  # J v
    slope = _inner(grad(loss_of_outputs(here), [here], create_graph=True), [pushed[0].data])
    if not slope.requires_grad:  # the loss is linear in the outputs
        return xp(flat.theta).zeros_like(flat.theta)
    return _packed(grad(z, flat.parameters, grad(slope, [here])[0]), flat)


def _leaf(array: Array) -> Tensor:
    """A Tensor to differentiate by, in the array's own precision."""
    return Tensor.wrap(array, Leaf(array))


def hessian(loss: Loss, flat: Flat, limit: int = 5000) -> np.ndarray:
    """The Hessian H = ∇²L itself, one more backward pass for each of its rows.

    Args:
        loss: builds the scalar loss from the packed parameters.
        flat: the packed parameters.
        limit: the largest P that is not refused; 5000 parameters make 200 MB in float64.

    Returns:
        (P, P) NumPy, in the precision of the parameters, symmetric up to rounding.

    Raises:
        ValueError: more than `limit` parameters.
        GradientError: the loss is not a scalar Tensor that depends on parameters.
    """
    size = flat.size
    if size > count("limit", limit):
        width = backend.to_numpy(flat.theta).itemsize
        raise ValueError(
            f"a Hessian of {size} × {size} entries takes {size * size * width / 1e9:.2g} GB and "
            f"{size} backward passes: use hvp, eigenpairs or spectral_density, which do without "
            f"it, or a smaller net, or raise limit={limit}"
        )
    gradients = grad(loss(), flat.parameters, create_graph=True)
    rows = np.empty((size, size), backend.to_numpy(flat.theta).dtype)
    unit = xp(flat.theta).zeros_like(flat.theta)
    for i in range(size):
        unit[i] = 1
        slope = _inner(gradients, flat.split(unit))
        rows[i] = backend.to_numpy(_derivative(slope, flat, retain_graph=True))
        unit[i] = 0
    return rows


# --- eigenvalues ----------------------------------------------------------------------------------

#: A vector that has lost all but this share of its length to its projection is rounding error.
BREAKDOWN = 1e-10


def _product(matvec: Matvec, v: np.ndarray) -> np.ndarray:
    """A v in float64, or an error if it is no vector of finite numbers."""
    w = np.array(backend.to_numpy(matvec(v)), dtype=float)
    if w.shape != v.shape:
        raise ShapeError(f"matvec must return shape {v.shape}, as it is given, got {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError(
            "matvec returned numbers that are not finite: has the loss, or its curvature, "
            "overflowed? Look at loss() and at flat.theta"
        )
    return w


def _orthogonalise(w: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of w without its part in the span of `basis` (orthonormal rows), and that
    part's coefficients. Twice is enough (Kahan; Parlett 1998)."""
    coefficients = np.zeros(len(basis))
    for _ in range(2):
        part = basis @ w
        w = w - part @ basis
        coefficients += part
    return w, coefficients


class Eigenpairs(NamedTuple):
    """Eigenvalues with their eigenvectors, and how sure they are (see `eigenpairs`).

    Attributes:
        values: (k,), the extreme one first.
        vectors: (k, P), orthonormal rows.
        errors: (k,), ‖A y − λ y‖: an eigenvalue of A lies within this of λ, up to rounding.
        products: how many products A v it took.
    """

    values: np.ndarray
    vectors: np.ndarray
    errors: np.ndarray
    products: int


def eigenpairs(
    matvec: Matvec,
    size: int,
    k: int = 1,
    largest: bool = True,
    tol: float = 1e-6,
    steps: int = 200,
    rng: np.random.Generator | None = None,
    start: Any = None,
) -> Eigenpairs:
    """The k largest (or smallest) eigenvalues of a symmetric A with their eigenvectors.

    Block Lanczos: k random vectors, then A times each vector found so far in turn, made
    orthogonal to all before. In that basis A is a small matrix, and its extreme eigenvalues θ
    with vectors y approach A's. k vectors at once find an eigenvalue as often as it is repeated,
    where a single one would find it once. The ends converge first, and the sooner the further
    they stand off from the rest: the smallest of many eigenvalues near zero may take all of P.

    Where A changes little from call to call, as along a training run, the vectors of the last
    call are a `start` that saves products:

        pairs = eigenpairs(product, size, k=2, tol=1e-3, start=pairs.vectors[:1])

    The second vector, random, is there to notice when another direction overtakes: a start that
    is an eigenvector already, whichever, has no error and is looked at no further.

    Args:
        matvec: v ↦ A v for NumPy vectors (P,); A symmetric.
        size: P.
        k: how many pairs.
        largest: the largest, in descending order; else the smallest (most negative first).
        tol: stop when every error is below tol · max|θ|. The error of θ itself is usually far
            smaller, its square over the distance to the next one. float32 products allow 1e-6.
        steps: products at most; each keeps a vector (P,) in float64. When they run out the
            errors say how far it got.
        rng: for the first vectors; by default the stream that `dl.seed` started.
        start: up to k first vectors, (P,) or (m, P), of any length; the others are random.

    Raises:
        ValueError: k > P, steps < k, start vectors that are dependent or not finite, or a product
            that is not finite.
        ShapeError: a product of another shape, or a start.

    Source: Lanczos (1950); Golub & Underwood (1977); Ruhe (1979); Parlett (1998), error bound.
    """
    size, k, steps = count("size", size), count("k", k), count("steps", steps)
    tol = positive("tol", tol, allow_zero=True)
    if k > size:
        raise ValueError(f"k must be at most the {size} eigenvalues that there are, got {k}")
    if steps < k:
        raise ValueError(f"{k} eigenpairs take at least {k} steps, got steps={steps}")
    limit = min(steps, size)
    basis = np.empty((limit + k, size))
    basis[:k] = _first_vectors(start, size, k, rng)
    small = np.zeros((limit + k, limit))  # column j: the coefficients of A·basis[j]
    found, scale, check = k, 0.0, k
    for done in range(1, limit + 1):
        w = _product(matvec, basis[done - 1])
        scale = max(scale, float(np.linalg.norm(w)))
        w, small[:found, done - 1] = _orthogonalise(w, basis[:found])
        norm = float(np.linalg.norm(w))
        if norm > BREAKDOWN * scale:  # else A maps the span of the basis into itself so far
            basis[found], small[found, done - 1] = w / norm, norm
            found += 1
        last = done in (limit, found)
        if last or done >= check:
            check = done + 1 + done // 10  # looking costs time as well
            values, y, errors = _ritz(small[:found, :done], k, largest)
            if last or errors.max() <= tol * np.abs(values).max():
                break
    return Eigenpairs(values[:k], y.T @ basis[:done], errors, done)


def _first_vectors(start: Any, size: int, k: int, rng: np.random.Generator | None) -> np.ndarray:
    """k orthonormal rows: those of `start` first, then random ones."""
    if start is None:
        return np.linalg.qr(_generator(rng).standard_normal((size, k)))[0].T
    given = np.atleast_2d(backend.to_numpy(start)).astype(float)
    if given.ndim != 2 or given.shape[1] != size or not 1 <= len(given) <= k:
        raise ShapeError(
            f"start must be ({size},) or (m, {size}) with m from 1 to k={k}, got {np.shape(start)}"
        )
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        given = given / lengths
    if not np.isfinite(given).all():
        raise ValueError("start has a vector that is zero or not finite: leave it out")
    if len(given) < k:
        given = np.concatenate([given, _generator(rng).standard_normal((k - len(given), size))])
    q, r = np.linalg.qr(given.T)
    if np.abs(np.diag(r)).min() <= BREAKDOWN:
        raise ValueError("the start vectors are dependent: one is a combination of the others")
    return q.T


def _ritz(small: np.ndarray, k: int, largest: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All eigenvalues of the square part of `small`, extreme ones first, the first k vectors as
    columns, and the lengths of their residuals."""
    square = small[: small.shape[1]]
    values, y = np.linalg.eigh((square + square.T) / 2)
    if largest:
        values, y = values[::-1], y[:, ::-1]
    y = y[:, :k]
    residual = small @ y
    residual[: len(y)] -= y * values[:k]
    return values, y, np.linalg.norm(residual, axis=0)


def top_eigenvalue(
    loss: Loss, flat: Flat, steps: int = 40, rng: np.random.Generator | None = None
) -> float:
    """The sharpness of the loss: λmax of its Hessian, by at most `steps` ≥ 1 products.

    Gradient descent on the quadratic around θ is stable for learning rates below 2/λmax.
    `eigenpairs` gives the direction and the error as well.

    Args:
        loss: builds the scalar loss from the packed parameters.
        flat: the packed parameters.
        steps: of Lanczos at most; fewer where it converges sooner.
        rng: for the first vector; by default the stream that `dl.seed` started.

    Raises:
        ValueError: steps < 1, or a curvature that is not finite.

    Source: Cohen et al. (2021).
    """
    pairs = eigenpairs(lambda v: hvp(loss, flat, v), flat.size, steps=steps, rng=rng)
    return float(pairs.values[0])


def condition_number(values: Any, rtol: float | None = None) -> float:
    """κ = λmax/λmin of a positive definite matrix: how many times steeper one way than another.

    Gradient descent at its best learning rate shrinks the error by (κ − 1)/(κ + 1) a step.

    Args:
        values: a symmetric matrix (P, P), such as `hessian` gives; or its eigenvalues (n,), of
            which the two ends will do: `[lowest.values[0], highest.values[0]]` of two calls of
            `eigenpairs`, with tol far below 1/κ.
        rtol: eigenvalues of at most rtol · max|λ| either way count as zero; by default P, but at
            least 100, times the precision of `values`. With `eigenpairs` of float32 products
            write 1e-6.

    Returns:
        κ ≥ 1, or inf if the matrix is singular: some direction is flat, and descent along it
        never ends.

    Raises:
        ValueError: a negative eigenvalue, so that the point is a saddle or a maximum, where no
            learning rate converges and κ says nothing; a matrix that is not symmetric; numbers
            that are not finite.
        ShapeError: neither a square matrix nor a list.
    """
    a = backend.to_numpy(values)
    if a.dtype.kind != "f":
        a = a.astype(float)
    if a.size == 0 or a.ndim not in (1, 2) or (a.ndim == 2 and a.shape[0] != a.shape[1]):
        raise ShapeError(f"expected a square matrix or a list of eigenvalues, got shape {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError("a condition number of entries that are not finite")
    scale = float(np.abs(a).max())
    if a.ndim == 2:
        if np.abs(a - a.T).max() > 1e-3 * scale:
            raise ValueError("the matrix is not symmetric: take (A + A.T)/2 if that is meant")
        a = np.linalg.eigvalsh((a + a.T) / 2)
    low, high = float(a.min()), float(a.max())
    if rtol is None:
        rtol = max(len(a), 100) * float(np.finfo(a.dtype).eps)
    zero = positive("rtol", rtol, allow_zero=True) * max(abs(low), abs(high))
    if low < -zero:
        raise ValueError(
            f"the smallest eigenvalue is {low:.3g} < 0 (the largest {high:.3g}): there is no "
            "minimum here, and a condition number only where all curvature is positive. Train "
            "further, add a penalty, or take the Gauss-Newton matrix (gnvp)"
        )
    return high / low if low > zero else float("inf")


# --- all of the spectrum at once ------------------------------------------------------------------


def lanczos(
    matvec: Matvec, size: int, steps: int, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric tridiagonal matrix that a symmetric A is, seen from one random vector.

    Its extreme eigenvalues approach A's; every new vector is made orthogonal to all before, so
    that no eigenvalue appears twice. Its eigenvalues and the squared first entries of its
    eigenvectors are the nodes and weights of a Gauss quadrature of A's spectrum.

    Args:
        matvec: v ↦ A v for NumPy vectors (P,); A symmetric.
        size: P.
        steps: products at most.
        rng: for the first vector; by default the stream that `dl.seed` started.

    Returns:
        diagonal (m,) and off-diagonal (m − 1,), with m ≤ min(steps, size): less where A maps the
        vectors so far into their own span, and their eigenvalues are then eigenvalues of A.

    Raises:
        ValueError: steps < 1, or a product that is not finite.
        ShapeError: a product of another shape.

    Source: Lanczos (1950); Golub & Welsch (1969).
    """
    limit = min(count("steps", steps), count("size", size))
    basis = np.empty((limit, size))
    v = _generator(rng).standard_normal(size)
    basis[0] = v / np.linalg.norm(v)
    diagonal: list[float] = []
    beside: list[float] = []
    scale = 0.0
    for done in range(1, limit + 1):
        w = _product(matvec, basis[done - 1])
        scale = max(scale, float(np.linalg.norm(w)))
        w, coefficients = _orthogonalise(w, basis[:done])
        diagonal.append(float(coefficients[-1]))
        norm = float(np.linalg.norm(w))
        if done == limit or norm <= BREAKDOWN * scale:
            break
        beside.append(norm)
        basis[done] = w / norm
    return np.array(diagonal), np.array(beside)


class Spectrum(NamedTuple):
    """How the eigenvalues of a matrix are spread: point masses that stand for all of them.

    Attributes:
        nodes: (n,), where.
        weights: (n,), what share of the P eigenvalues; they sum to 1. So `weights @ nodes**2`
            estimates the mean of λ².
    """

    nodes: np.ndarray
    weights: np.ndarray

    def density(
        self, sigma: float | None = None, grid: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Share of the eigenvalues per unit of λ: every node a Gaussian of width σ.

        φ(λ) = Σᵢ wᵢ exp(−(λ − λᵢ)²/2σ²) / (σ √2π)

        Args:
            sigma: σ > 0, in the units of λ: what lies closer together is not told apart. By
                default a hundredth of the largest |λ|.
            grid: where to evaluate; by default steps of σ/4 from 6 σ below the lowest node to 6 σ
                above the highest, over which φ integrates to 1.

        Returns:
            the grid and φ on it.

        Raises:
            ValueError: σ ≤ 0; no σ for a matrix that is zero; σ so small that the grid would
                have more than a million points.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        if sigma is None:
            sigma = max(abs(low), abs(high)) / 100
            if sigma == 0:
                raise ValueError("all eigenvalues are zero, so there is no scale: give sigma")
        sigma = positive("sigma", sigma)
        if grid is None:
            points = 4 * ((high - low) / sigma + 12)
            if points > 1e6:
                raise ValueError(
                    f"sigma={sigma:.3g} needs a grid of {points:.0g} points to cover {low:.3g} to "
                    f"{high:.3g}: give a wider sigma, or the part of interest as grid"
                )
            grid = np.linspace(low - 6 * sigma, high + 6 * sigma, int(np.ceil(points)) + 1)
        grid = np.asarray(grid, dtype=float)
        density = np.zeros(grid.shape)
        for node, weight in zip(self.nodes, self.weights, strict=True):
            density += weight * np.exp(-0.5 * ((grid - node) / sigma) ** 2)
        return grid, density / (sigma * np.sqrt(2 * np.pi))


def spectral_density(
    matvec: Matvec,
    size: int,
    steps: int = 80,
    probes: int = 10,
    rng: np.random.Generator | None = None,
) -> Spectrum:
    """The density of the eigenvalues of a symmetric A, by stochastic Lanczos quadrature.

    For a random unit vector v the spectrum weighted by (v · uᵢ)², for all eigenvectors uᵢ, is on
    average that of A. Lanczos from v gives its Gauss quadrature, exact for polynomials of degree
    2·steps − 1; the mean over several v brings the average.

    Args:
        matvec: v ↦ A v for NumPy vectors (P,); A symmetric.
        size: P.
        steps: products for each probe. More of them resolve finer detail.
        probes: random vectors. More of them lessen the noise, as 1/√(probes · P).
        rng: for the probes; by default the stream that `dl.seed` started.

    Returns:
        a `Spectrum` of at most steps · probes nodes.

    Raises:
        ValueError: steps or probes < 1, or a product that is not finite.
        ShapeError: a product of another shape.

    Source: Ubaru, Chen & Saad (2017); Ghorbani, Krishnan & Xiao (2019).
    """
    nodes, weights = [], []
    for _ in range(count("probes", probes)):
        diagonal, beside = lanczos(matvec, size, steps, rng)
        values, y = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        nodes.append(values)
        weights.append(y[0] ** 2 / probes)
    return Spectrum(np.concatenate(nodes), np.concatenate(weights))


def trace(
    matvec: Matvec, size: int, probes: int = 100, rng: np.random.Generator | None = None
) -> tuple[float, float]:
    """tr A = E[zᵀ A z] over random signs z, with its standard error.

    One probe has variance 2 Σ_{i≠j} aᵢⱼ²: a diagonal A is exact at once.

    Args:
        matvec: v ↦ A v for NumPy vectors (P,); A symmetric.
        size: P.
        probes: how many z, at least 2. The error falls as 1/√probes.
        rng: for the signs; by default the stream that `dl.seed` started.

    Returns:
        the mean over the probes, and its standard error.

    Raises:
        ValueError: probes < 2, or a product that is not finite.
        ShapeError: a product of another shape.

    Source: Hutchinson (1990).
    """
    size, probes, rng = count("size", size), count("probes", probes, least=2), _generator(rng)
    signs = (rng.integers(0, 2, size) * 2.0 - 1.0 for _ in range(probes))
    values = [float(z @ _product(matvec, z)) for z in signs]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(probes))


# --- slices through the landscape -----------------------------------------------------------------


def filter_direction(flat: Flat, rng: np.random.Generator | None = None) -> Array:
    """A random direction whose every filter is as long as the network's own.

    A filter is what feeds one unit: a row of a weight matrix. Vectors (biases) stay put. Without
    this a network whose layers are rescaled, which computes the same function, would seem to
    have another landscape (Li et al. 2018).

    Args:
        flat: the packed parameters.
        rng: default the stream that `dl.seed` started.

    Returns:
        (P,).
    """
    rng = _generator(rng)
    result = np.zeros(flat.size)
    parts = zip(flat.split(result), flat.split(backend.to_numpy(flat.theta)), strict=True)
    for out, weights in parts:
        d = rng.standard_normal(weights.shape)
        if weights.ndim >= 2:
            axes = tuple(range(1, weights.ndim))
            size = np.sqrt((d**2).sum(axes, keepdims=True))
            out[...] = d * np.sqrt((weights**2).sum(axes, keepdims=True)) / size
    return like(result, flat.theta)


def loss_slice(
    loss: Loss,
    flat: Flat,
    first: Any,
    second: Any,
    a: Any,
    b: Any,
    centre: Any = None,
) -> np.ndarray:
    """L(θ + aᵢ·first + bⱼ·second) on a grid; the parameters are left as they were.

    Args:
        loss: builds the loss from the packed parameters.
        flat: the packed parameters.
        first, second: directions, (P,).
        a, b: coordinates along them, (n,) and (m,).
        centre: θ, (P,); the present parameters if None.

    Returns:
        (m, n): one row per b, as contour plots want it.
    """
    kept = flat.snapshot()
    origin = kept if centre is None else _direction("centre", centre, flat)
    first, second = _direction("first", first, flat), _direction("second", second, flat)
    values = np.empty((len(b), len(a)))
    try:
        with no_grad():
            for j, bj in enumerate(b):
                for i, ai in enumerate(a):
                    flat.assign(origin + ai * first + bj * second)
                    values[j, i] = loss().item()
    finally:
        flat.assign(kept)
    return values


def principal_plane(path: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane in which a path spreads most: its first two principal directions (Lorch 2016).

    Args:
        path: (T, P), parameters along a training run.

    Returns:
        directions (2, P), orthonormal; coordinates (T, 2) of the path, with its end at the
        origin; and the share of the path's variance that each direction holds, (2,). For a
        random walk in many dimensions the two shares come to 0.76 (Antognini & Sohl-Dickstein
        2018).

    Raises:
        ShapeError: fewer than three points, or points that are all alike.
    """
    points = backend.to_numpy(path)
    if points.ndim != 2 or min(points.shape) < 2 or len(points) < 3 or not np.ptp(points, 0).any():
        raise ShapeError(
            f"a path is (T, P) with T >= 3 points that differ and P >= 2, got {points.shape}"
        )
    _, singular, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    share = singular**2 / (singular**2).sum()
    return directions[:2], (points - points[-1]) @ directions[:2].T, share[:2]
