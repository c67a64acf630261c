"""Curvature: against closed forms, SciPy, differences of gradients and spectra made to order."""

import itertools

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import expit, softmax
from scipy.stats import norm

import dlmini as dl
from dlmini import GradientError, ShapeError
from dlmini.curvature import (
    Spectrum,
    condition_number,
    eigenpairs,
    filter_direction,
    gnvp,
    hessian,
    hvp,
    lanczos,
    loss_slice,
    principal_plane,
    spectral_density,
    top_eigenvalue,
    trace,
)

rng = np.random.default_rng


@pytest.fixture(autouse=True)
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


class Problem:
    """A network, its data and its loss: what the functions under test are given."""

    def __init__(self, net, features, classes=2, n=10, criterion=dl.cross_entropy, target=None):
        self.net, self.classes, self.criterion = net, classes, criterion
        self.x = rng(1).standard_normal((n, *features))
        labels = rng(2).integers(0, classes, n)
        self.y = dl.backend.asarray(labels if target is None else target)
        self.flat = dl.flat.pack(net.parameters())
        self.flat.assign(0.7 * rng(3).standard_normal(self.flat.size))
        self.input = dl.backend.asarray(self.x)

    def outputs(self):
        return self.net(self.input)

    def of_outputs(self, z):
        return self.criterion(z, self.y)

    def loss(self):
        return self.of_outputs(self.outputs())

    def hvp(self, v):
        return hvp(self.loss, self.flat, v)

    def gnvp(self, v):
        return gnvp(self.outputs, self.of_outputs, self.flat, v)


def tanh_net(widths=(3, 4, 2), **options):
    net = dl.nn.mlp(*widths, activation=dl.nn.Tanh)
    return Problem(net, widths[:1], widths[-1], **options)


def regression_net():
    return tanh_net((3, 4, 2), criterion=dl.mse_loss, target=rng(5).standard_normal((10, 2)))


def batch_norm_net():
    layers = dl.nn.Linear(3, 4), dl.nn.BatchNorm1d(4), dl.nn.Tanh(), dl.nn.Linear(4, 2)
    return Problem(dl.nn.Sequential(*layers), (3,))


def conv_net():
    layers = dl.nn.Conv2d(2, 2, 2), dl.nn.GELU(), dl.nn.Flatten(), dl.nn.Linear(8, 2)
    return Problem(dl.nn.Sequential(*layers), (2, 3, 3))


@pytest.fixture
def small():
    return tanh_net()


def at(flat, moved):
    """Go there, by a step of its own: differences are taken between two such places."""
    flat.assign(moved)
    return flat


def differences(flat, f, h=1e-5):
    """d f/dθ by central differences, one row for each parameter."""
    here, rows = flat.snapshot(), []
    for e in np.eye(flat.size):
        up = dl.to_numpy(f(at(flat, here + h * e))).copy()
        down = dl.to_numpy(f(at(flat, here - h * e))).copy()
        rows.append((up - down).ravel() / (2 * h))
    flat.assign(here)
    return np.array(rows)


def hessian_by_differences(problem):
    return differences(problem.flat, lambda flat: flat.gradient(problem.loss))


def matrix(matvec, size):
    return np.array([dl.to_numpy(matvec(e)) for e in np.eye(size)])


def with_spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors, and the vectors (rows)."""
    q = np.linalg.qr(rng(seed).standard_normal((len(values), len(values))))[0]
    return (q * values) @ q.T, q.T


def times(a):
    return lambda v: a @ v


# --- the Hessian and products with it -------------------------------------------------------------


def blocks(x, weights):
    """Σₙ weights[n] ⊗ x̃ₙ x̃ₙᵀ with x̃ = (x, 1), its rows in the order of weight (C, d), bias (C,)."""
    n, d = x.shape
    extended = np.column_stack([x, np.ones(n)])
    h = sum(np.kron(w, np.outer(e, e)) for w, e in zip(weights, extended, strict=True))
    places = np.arange(weights.shape[1] * (d + 1)).reshape(-1, d + 1)
    order = np.concatenate([places[:, :d].ravel(), places[:, d]])
    return h[np.ix_(order, order)]


def least_squares():
    target = rng(5).standard_normal((12, 2))
    problem = Problem(dl.nn.Linear(3, 2), (3,), 2, 12, dl.mse_loss, target)
    return problem, blocks(problem.x, np.array([np.eye(2) * 2 / 24] * 12))


def logistic_regression():
    def criterion(z, y):
        return (dl.softplus(z[:, 0]) - y * z[:, 0]).mean()

    target = rng(6).integers(0, 2, 12).astype(float)
    problem = Problem(dl.nn.Linear(3, 1), (3,), 1, 12, criterion, target)
    p = expit(dl.to_numpy(problem.outputs().data))
    return problem, blocks(problem.x, (p * (1 - p))[:, :, None] / 12)


def softmax_regression():
    problem = Problem(dl.nn.Linear(3, 4), (3,), 4, 12)
    p = softmax(dl.to_numpy(problem.outputs().data), axis=1)
    return problem, blocks(problem.x, np.array([np.diag(q) - np.outer(q, q) for q in p]) / 12)


@pytest.mark.parametrize("case", [least_squares, logistic_regression, softmax_regression])
def test_linear_models_have_their_closed_form_hessian(case, library):
    problem, expected = case()
    assert hessian(problem.loss, problem.flat) == pytest.approx(expected, abs=1e-12)
    v = rng(7).standard_normal(problem.flat.size)
    assert dl.to_numpy(problem.hvp(v)) == pytest.approx(expected @ v, abs=1e-12)
    assert dl.to_numpy(problem.gnvp(v)) == pytest.approx(expected @ v, abs=1e-12)


@pytest.mark.parametrize("make", [tanh_net, regression_net, batch_norm_net, conv_net])
def test_the_hessian_is_the_derivative_of_the_gradient(make, library):
    problem = make()
    expected = hessian_by_differences(problem)
    found = hessian(problem.loss, problem.flat)
    assert found == pytest.approx(expected, abs=1e-8)
    assert found == pytest.approx(found.T, abs=1e-14)
    assert np.abs(found).max() > 0.1
    v = rng(4).standard_normal(problem.flat.size)
    assert dl.to_numpy(problem.hvp(v)) == pytest.approx(found @ v, abs=1e-13)


@pytest.mark.parametrize("name", ["hvp", "gnvp"])
@pytest.mark.parametrize("make", [tanh_net, batch_norm_net])
def test_products_are_linear_and_their_own_adjoint(make, name, library):
    problem = make()
    u, v = rng(8).standard_normal((2, problem.flat.size))

    def product(w):
        return dl.to_numpy(getattr(problem, name)(w))

    assert u @ product(v) == pytest.approx(v @ product(u), abs=1e-13)
    assert product(2 * u - 3 * v) == pytest.approx(2 * product(u) - 3 * product(v), abs=1e-12)


@pytest.mark.parametrize("name", ["hvp", "gnvp"])
def test_products_come_in_the_library_and_precision_of_the_parameters(name, library):
    for dtype in ("float32", "float64"):
        dl.use(library, dtype)
        problem = tanh_net()
        # Its own precision counts, not the one in use by now.
        dl.use(library, "float32" if dtype == "float64" else "float64")
        product = getattr(problem, name)(rng(0).standard_normal(problem.flat.size))
        assert type(product) is type(problem.flat.theta)
        assert product.dtype == problem.flat.theta.dtype


def test_looking_changes_nothing(small):
    small.loss().backward()
    theta, g = small.flat.snapshot(), small.flat.g.copy()
    small.hvp(theta)
    small.gnvp(theta)
    hessian(small.loss, small.flat)
    assert (small.flat.theta == theta).all()
    assert (small.flat.g == g).all()


def test_the_hessian_of_a_linear_loss_and_of_unused_parameters_is_zero():
    p, unused = (dl.Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    flat = dl.flat.pack([p, unused])
    assert hvp(lambda: (p * 3.0).sum(), flat, np.ones(4)).tolist() == [0.0] * 4
    assert not hessian(lambda: (p * 3.0).sum(), flat).any()
    assert gnvp(lambda: p * p, lambda z: z.sum(), flat, np.ones(4)).tolist() == [0.0] * 4
    cubes = hessian(lambda: (p * p * p).sum(), flat, limit=4)
    assert cubes.tolist() == np.diag([6.0, 12.0, 0.0, 0.0]).tolist()


# --- Gauss-Newton ---------------------------------------------------------------------------------


def test_gauss_newton_is_the_jacobian_around_the_hessian_of_the_loss(library):
    problem = regression_net()
    j = differences(problem.flat, lambda _: problem.outputs().data).T
    expected = j.T @ j * 2 / 20
    size = problem.flat.size
    assert matrix(problem.gnvp, size) == pytest.approx(expected, abs=1e-9)

    problem = tanh_net((3, 4, 3))
    j = differences(problem.flat, lambda _: problem.outputs().data).T
    p = softmax(dl.to_numpy(problem.outputs().data), axis=1)
    h = np.zeros((30, 30))
    for n in range(10):
        h[3 * n : 3 * n + 3, 3 * n : 3 * n + 3] = (np.diag(p[n]) - np.outer(p[n], p[n])) / 10
    assert matrix(problem.gnvp, problem.flat.size) == pytest.approx(j.T @ h @ j, abs=1e-9)


def test_gauss_newton_of_cross_entropy_is_the_fisher_information():
    problem = tanh_net((3, 4, 3), n=4)
    p = softmax(problem.outputs().numpy(), axis=1)
    fisher = 0.0
    for n, c in itertools.product(range(4), range(3)):
        problem.input, problem.y = problem.x[n : n + 1], np.array([c])
        g = problem.flat.gradient(problem.loss)
        fisher = fisher + p[n, c] * np.outer(g, g) / 4
    problem.input, problem.y = problem.x, np.zeros(4, int)
    assert matrix(problem.gnvp, problem.flat.size) == pytest.approx(fisher, abs=1e-13)


@pytest.mark.parametrize("make", [tanh_net, regression_net])
def test_gauss_newton_has_no_negative_eigenvalue_where_the_hessian_has(make):
    problem = make()
    h = np.linalg.eigvalsh(hessian(problem.loss, problem.flat))
    g = np.linalg.eigvalsh(matrix(problem.gnvp, problem.flat.size))
    assert h[0] < -0.01 * h[-1]
    assert g[0] > -1e-14
    assert g[-1] > 0.1


def test_gauss_newton_is_the_hessian_where_there_are_no_residuals():
    problem = regression_net()
    away = hessian(problem.loss, problem.flat) - matrix(problem.gnvp, problem.flat.size)
    assert np.abs(away).max() > 0.01
    problem.y = problem.outputs().numpy()
    there = hessian(problem.loss, problem.flat)
    assert matrix(problem.gnvp, problem.flat.size) == pytest.approx(there, abs=1e-14)


# --- eigenpairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_eigenpairs_of_a_network_are_scipys(k, largest, library):
    problem = tanh_net((5, 8, 3))
    size = problem.flat.size
    operator = LinearOperator((size, size), lambda v: dl.to_numpy(problem.hvp(v)), dtype=float)
    values, vectors = eigsh(operator, k, which="LA" if largest else "SA", tol=1e-13)
    order = np.argsort(values)[:: -1 if largest else 1]
    found = eigenpairs(problem.hvp, size, k, largest, tol=1e-9, rng=rng(0))
    assert found.values == pytest.approx(values[order], abs=1e-12)
    assert np.abs((found.vectors * vectors[:, order].T).sum(axis=1)) == pytest.approx(1, abs=1e-9)
    assert found.vectors @ found.vectors.T == pytest.approx(np.eye(k), abs=1e-13)


def test_errors_are_residuals_and_hold_an_eigenvalue_within():
    a, _ = with_spectrum(np.linspace(-1, 1, 60) ** 3)
    exact = np.linalg.eigvalsh(a)
    for k, steps, largest in itertools.product((1, 4), (4, 9, 16, 30), (True, False)):
        found = eigenpairs(times(a), 60, k, largest, tol=0, steps=steps, rng=rng(steps))
        assert found.products == steps
        residual = found.vectors @ a - found.values[:, None] * found.vectors
        assert found.errors == pytest.approx(np.linalg.norm(residual, axis=1), abs=1e-13)
        distance = np.abs(found.values[:, None] - exact).min(axis=1)
        assert (distance <= found.errors + 1e-14).all()
    assert found.errors.min() > 1e-5  # 30 of 60 steps are not enough here, and it says so


def test_errors_show_a_product_that_is_not_symmetric_or_never_twice_the_same():
    a, _ = with_spectrum(np.r_[10.0, 5.0, np.linspace(0, 1, 38)])
    askew = a + 1e-3 * rng(1).standard_normal((40, 40))
    found = eigenpairs(times(askew), 40, 2, rng=rng(2))
    residual = found.vectors @ askew.T - found.values[:, None] * found.vectors
    assert found.errors == pytest.approx(np.linalg.norm(residual, axis=1), abs=1e-13)
    assert found.errors.min() > 1e-3
    noise = rng(3)
    dropped = eigenpairs(lambda v: a @ (v * (noise.random(40) > 0.01)), 40, 2, rng=rng(2))
    assert dropped.errors.min() > 1e-2


def test_it_stops_when_the_errors_are_small_enough():
    a = dl.data.random_hessian(100, 1e4, rng=rng(1)) * 50
    loose, tight = (eigenpairs(times(a), 100, 3, tol=t, rng=rng(2)) for t in (1e-2, 1e-8))
    assert 3 <= loose.products < tight.products < 100
    assert loose.errors.max() <= 1e-2 * 50
    assert tight.errors.max() <= 1e-8 * 50
    # One look is not far behind the step at which it converged: some step before was not enough.
    short = eigenpairs(times(a), 100, 3, tol=0, steps=int(0.85 * tight.products), rng=rng(2))
    assert short.errors.max() > 1e-8 * 50
    assert eigenpairs(times(a), 100, 3, tol=10, rng=rng(2)).products == 3


def test_repeated_eigenvalues_are_found_as_often_as_they_are_repeated():
    spectrum = np.repeat([5.0, 2.0, 0.5, -1.0], [3, 2, 20, 4])
    a, _ = with_spectrum(spectrum)
    top = eigenpairs(times(a), len(a), 5, rng=rng(1))
    assert top.values == pytest.approx([5, 5, 5, 2, 2], abs=1e-12)
    assert top.vectors @ a == pytest.approx(top.values[:, None] * top.vectors, abs=1e-12)
    bottom = eigenpairs(times(a), len(a), 5, largest=False, rng=rng(1))
    assert bottom.values == pytest.approx([-1, -1, -1, -1, 0.5], abs=1e-12)


@pytest.mark.parametrize("largest", [True, False])
def test_a_start_near_the_answer_saves_products_and_changes_no_answer(largest, library):
    problem = tanh_net((5, 8, 3))
    size, theta = problem.flat.size, problem.flat.snapshot()
    given = {"k": 2, "largest": largest, "tol": 1e-4}
    before = eigenpairs(problem.hvp, size, **given, rng=rng(0))
    problem.flat.assign(theta * 1.0001)
    cold = eigenpairs(problem.hvp, size, **given, rng=rng(1))
    warm = eigenpairs(problem.hvp, size, **given, start=before.vectors)
    assert warm.products <= 4 < cold.products
    assert warm.values == pytest.approx(cold.values, rel=1e-6)
    assert warm.errors.max() <= 1e-4 * np.abs(warm.values).max()


def test_the_top_eigenvalue_is_followed_along_a_run_by_few_products(small):
    pairs = eigenpairs(small.hvp, small.flat.size, 2, tol=1e-3, rng=rng(0))
    cold = warm = 0
    for _ in range(20):
        small.flat.assign(small.flat.snapshot() - 0.02 * small.flat.gradient(small.loss))
        pairs = eigenpairs(
            small.hvp, small.flat.size, 2, tol=1e-3, rng=rng(0), start=pairs.vectors[:1]
        )
        exact = np.linalg.eigvalsh(hessian(small.loss, small.flat))
        assert pairs.values[0] == pytest.approx(exact[-1], rel=1e-3)
        warm += pairs.products
        cold += eigenpairs(small.hvp, small.flat.size, 2, tol=1e-3, rng=rng(0)).products
    assert warm < cold


def test_a_random_vector_beside_the_start_notices_when_it_is_overtaken():
    a = np.diag([1.0, 3.0, *np.linspace(0, 0.5, 18)])
    stale = np.eye(20)[0]  # an eigenvector, though not of the largest eigenvalue
    assert eigenpairs(times(a), 20, start=stale).values.tolist() == [1]
    found = eigenpairs(times(a), 20, 2, start=stale, rng=rng(0))
    assert found.values == pytest.approx([3, 1])
    assert np.abs(found.vectors[1]) == pytest.approx(stale, abs=1e-6)


def test_a_start_is_taken_at_any_length_and_draws_nothing_where_it_is_whole():
    a = dl.data.random_hessian(20, 100, rng=rng(1))
    start = rng(2).standard_normal((2, 20))
    before = dl.backend.stream().bit_generator.state
    found = eigenpairs(times(a), 20, 2, steps=8, start=start)
    assert dl.backend.stream().bit_generator.state == before
    scaled = eigenpairs(times(a), 20, 2, steps=8, start=start * [[1e-100], [-1e5]])
    assert scaled.values == pytest.approx(found.values, rel=1e-12)
    lone = eigenpairs(times(a), 20, steps=1, start=start[0])
    assert lone.values[0] == pytest.approx(start[0] @ a @ start[0] / (start[0] @ start[0]))


def test_the_way_down_from_a_saddle_is_the_lowest_eigenvector(library):
    """At 0 the Hessian of a linear net, ½ E‖y − W₂W₁x‖², has the eigenvalues ±σ of E[y xᵀ]."""
    x, y = rng(0).standard_normal((50, 4)), rng(1).standard_normal((50, 3))
    y = y + x[:, :3] * [2.0, 1.0, 0.5]
    net = dl.nn.Sequential(dl.nn.Linear(4, 5), dl.nn.Linear(5, 3))
    flat = dl.flat.pack([p for p in net.parameters() if p.ndim == 2])
    flat.assign(np.zeros(flat.size))
    inputs, targets = dl.backend.asarray(x), dl.backend.asarray(y)

    def loss():
        return 1.5 * dl.mse_loss(net(inputs), targets)  # half the squares over three outputs

    sigma = np.linalg.svd(y.T @ x / 50, compute_uv=False)
    assert np.abs(dl.to_numpy(flat.gradient(loss))).max() == 0
    found = eigenpairs(lambda v: hvp(loss, flat, v), flat.size, 6, largest=False, rng=rng(2))
    assert found.values == pytest.approx(np.repeat(-sigma, 5)[:6], abs=1e-6)
    height, way = loss().item(), found.vectors[0]
    flat.assign(0.1 * way)
    assert loss().item() - height == pytest.approx(0.5 * found.values[0] * 0.1**2, rel=0.05)


def test_each_output_of_least_squares_has_the_same_curvature():
    problem, expected = least_squares()
    values = eigenpairs(problem.hvp, problem.flat.size, 4, rng=rng(3)).values
    assert values == pytest.approx(np.linalg.eigvalsh(expected)[:-5:-1], abs=1e-12)
    assert values[0] == pytest.approx(values[1], abs=1e-12)


@pytest.mark.parametrize(
    ("spectrum", "products"),
    [
        ([3.0] * 40, 2),  # one vector after another is mapped into its own span
        ([0.0] * 40, 2),
        ([7.0] + [0.0] * 39, 4),  # each start vector has two parts
        ([7.0] + [3.0] * 20 + [-2.0] * 19, 5),  # 7 is there once only, so it is five, not six
        ([1e-150] + [0.0] * 39, 4),
    ],
)
def test_it_stops_where_the_vectors_so_far_are_mapped_into_their_own_span(spectrum, products):
    a, _ = with_spectrum(np.array(spectrum))
    found = eigenpairs(times(a), 40, 2, tol=0, rng=rng(4))
    scale = max(map(abs, spectrum))
    assert found.products <= products
    assert found.values == pytest.approx(sorted(spectrum)[:-3:-1], abs=1e-13 * scale)
    assert found.errors == pytest.approx([0, 0], abs=1e-13 * scale)


def test_all_pairs_of_a_small_matrix_are_its_decomposition():
    a, rows = with_spectrum(np.array([4.0, -3.0, 2.0, 1.0]))
    found = eigenpairs(times(a), 4, 4, rng=rng(5))
    assert found.values == pytest.approx([4, 2, 1, -3], abs=1e-13)
    assert np.abs(found.vectors @ rows[[0, 2, 3, 1]].T) == pytest.approx(np.eye(4), abs=1e-12)
    single = eigenpairs(lambda v: -2 * v, 1, rng=rng(5))
    assert single.values.tolist() == [-2]
    assert single.products == 1


def test_float32_products_are_good_to_a_millionth_of_the_largest(library):
    exact = tanh_net((5, 8, 3))
    h = np.linalg.eigvalsh(hessian(exact.loss, exact.flat))
    dl.use(library, "float32")
    problem = tanh_net((5, 8, 3))
    for largest, expected in ((True, h[:-4:-1]), (False, h[:3])):
        found = eigenpairs(problem.hvp, problem.flat.size, 3, largest, rng=rng(0))
        assert found.values == pytest.approx(expected, abs=1e-6 * h[-1])
        assert found.errors.max() <= 1e-6 * h[-1]
        assert found.vectors.dtype == np.float64
    assert hessian(problem.loss, problem.flat).dtype == np.float32


def test_the_top_eigenvalue_is_the_hessians(small):
    expected = np.linalg.eigvalsh(hessian_by_differences(small))[-1]
    assert top_eigenvalue(small.loss, small.flat, rng=rng(0)) == pytest.approx(expected, rel=1e-7)
    first = top_eigenvalue(small.loss, small.flat, steps=1, rng=rng(0))
    v = rng(0).standard_normal(small.flat.size)
    assert first == pytest.approx(v @ small.hvp(v) / (v @ v))


def test_by_default_the_stream_that_was_seeded_is_drawn_from(small):
    def draws():
        dl.seed(3)
        a = with_spectrum(np.arange(20.0))[0]
        return [
            filter_direction(small.flat)[:1],
            eigenpairs(times(a), 20, steps=2).values,
            top_eigenvalue(small.loss, small.flat, steps=2),
            lanczos(times(a), 20, 2)[0],
            spectral_density(times(a), 20, 2, 2).nodes,
            trace(times(a), 20, 2),
        ]

    before = dl.backend.stream().bit_generator.state
    for one, other in zip(draws(), draws(), strict=True):
        assert np.array_equal(one, other)
    assert dl.backend.stream().bit_generator.state != before


# --- the condition number -------------------------------------------------------------------------


def test_the_condition_number_is_the_ratio_of_the_ends():
    a = dl.data.random_hessian(30, 1234.5, top=7.0, rng=rng(0))
    assert condition_number(a) == pytest.approx(1234.5)
    assert condition_number([2, 8, 4]) == 4
    low, high = (eigenpairs(times(a), 30, largest=e, tol=1e-9).values[0] for e in (False, True))
    assert condition_number([low, high]) == pytest.approx(1234.5)
    problem, expected = least_squares()
    found = condition_number(hessian(problem.loss, problem.flat))
    assert found == pytest.approx(np.linalg.cond(expected), rel=1e-9)


def test_a_flat_direction_has_no_finite_condition_number():
    a, _ = with_spectrum(np.array([3.0, 2.0, 1.0, 0.0]))
    assert condition_number(a) == np.inf
    assert condition_number(np.zeros((2, 2))) == np.inf
    assert condition_number([1e-13, 1.0]) == pytest.approx(1e13)
    assert condition_number([1e-15, 1.0]) == np.inf
    assert condition_number([1e-7, 1.0], rtol=1e-6) == np.inf
    assert condition_number([-1e-7, 1.0], rtol=1e-6) == np.inf
    assert condition_number([2e-6, 1.0], rtol=1e-6) == pytest.approx(5e5)
    assert condition_number(np.array([1e-6, 1.0], np.float32)) == np.inf
    # Rounding grows with the matrix.
    assert condition_number(np.array([1e-13] + [1.0] * 999)) == np.inf


def test_float32_makes_no_saddle_of_a_flat_direction():
    dl.use("numpy")
    a = with_spectrum(np.r_[np.geomspace(1, 1e-3, 30), np.zeros(30)])[0].astype(np.float32)
    assert np.linalg.eigvalsh(a)[0] < 0
    assert condition_number(a) == np.inf


# --- Lanczos and the spectral density -------------------------------------------------------------


def tridiagonal(diagonal, beside):
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)


def test_lanczos_finds_both_ends_and_stops_early_on_a_small_space():
    h = dl.data.random_hessian(50, 100, rng=dl.rng(1))
    a, b = lanczos(times(h), 50, 50, dl.rng(2))
    assert np.linalg.eigvalsh(tridiagonal(a, b)) == pytest.approx(np.linalg.eigvalsh(h), abs=1e-10)
    for c in (3, 0, 1e-150):
        a, b = lanczos(lambda v, c=c: c * v, 50, 50, dl.rng(2))
        assert a == pytest.approx([c])
        assert len(b) == 0
    spectrum = np.repeat([4.0, -1.0, 0.0], [1, 10, 39])
    a, b = lanczos(times(with_spectrum(spectrum)[0]), 50, 50, dl.rng(2))
    assert np.linalg.eigvalsh(tridiagonal(a, b)) == pytest.approx([-1, 0, 4], abs=1e-12)


def test_lanczos_is_a_quadrature_exact_for_twice_as_many_powers():
    a, _ = with_spectrum(rng(6).uniform(-1, 1, 40))
    v = rng(7).standard_normal(40)
    v /= np.linalg.norm(v)
    t = tridiagonal(*lanczos(times(a), 40, 6, rng(7)))
    assert t.shape == (6, 6)
    power, image = np.eye(6)[0], v
    for _ in range(12):  # powers 0 to 11 = 2·6 − 1
        assert power[0] == pytest.approx(v @ image, abs=1e-14)
        power, image = t @ power, a @ image
    assert abs(power[0] - v @ image) > 1e-8  # power 12 is not exact


def test_a_spectral_density_has_the_moments_of_its_probes():
    a, _ = with_spectrum(rng(8).uniform(-2, 3, 50))
    found = spectral_density(times(a), 50, steps=4, probes=3, rng=rng(9))
    assert found.nodes.shape == found.weights.shape == (12,)
    v = rng(9).standard_normal((3, 50))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    for power in range(8):
        expected = np.mean([u @ np.linalg.matrix_power(a, power) @ u for u in v])
        assert found.weights @ found.nodes**power == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_its_moments_are_those_of_the_matrix(seed):
    spectrum = np.r_[np.geomspace(1, 20, 8), 0.1 * rng(seed).standard_normal(192)]
    a, _ = with_spectrum(spectrum, seed)
    found = spectral_density(times(a), 200, steps=20, probes=30, rng=rng(seed + 10))
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    for power in (1, 2):
        exact = np.mean(spectrum**power)
        # Of uniform unit v: var(vᵀ B v) = 2 (mean of squares − square of the mean)/(P + 2)
        variance = 2 * (np.mean(spectrum ** (2 * power)) - exact**2) / 202
        assert abs(found.weights @ found.nodes**power - exact) < 4 * np.sqrt(variance / 30)
    # 8 of 200 eigenvalues lie above a half; 20 steps tell them from the bulk.
    outside = found.weights[found.nodes > 0.5].sum()
    assert abs(outside - 0.04) < 4 * np.sqrt(2 * 0.04 * 0.96 / 202 / 30)


def test_the_density_is_a_sum_of_gaussians_that_integrates_to_one():
    a, _ = with_spectrum(np.repeat([0.0, 1.0, 5.0], [60, 30, 10]))
    found = spectral_density(times(a), 100, steps=10, probes=5, rng=rng(0))
    for sigma in (0.02, 0.3):
        grid, density = found.density(sigma)
        assert grid[0] == pytest.approx(-6 * sigma, abs=1e-10)
        assert grid[-1] == pytest.approx(5 + 6 * sigma, abs=1e-10)
        assert 0.2 * sigma < np.diff(grid).max() <= 0.25001 * sigma
        expected = norm.pdf(grid[:, None], found.nodes, sigma) @ found.weights
        assert density == pytest.approx(expected, rel=1e-12)
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-8)
        mean = np.trapezoid(grid * density, grid)
        assert mean == pytest.approx(found.weights @ found.nodes, abs=1e-7)
    grid, density = found.density()
    assert np.diff(grid).max() == pytest.approx(0.05 / 4, rel=1e-2)  # σ = 5/100
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-8)
    near_one = (grid > 0.5) & (grid < 1.5)
    assert np.trapezoid(density[near_one], grid[near_one]) == pytest.approx(0.3, abs=0.1)
    mine, density = found.density(0.3, [0.0, 2.5])
    assert mine.tolist() == [0, 2.5]
    assert density == pytest.approx(norm.pdf(mine[:, None], found.nodes, 0.3) @ found.weights)


def test_the_density_of_one_repeated_eigenvalue_is_one_gaussian():
    grid, density = spectral_density(lambda v: -3 * v, 20, rng=rng(0)).density()
    assert density == pytest.approx(norm.pdf(grid, -3, 0.03), rel=1e-9)
    assert grid[0] == pytest.approx(-3.18)


def test_the_spectrum_of_a_network_is_its_hessians(library):
    problem = tanh_net((5, 8, 3))
    exact = np.linalg.eigvalsh(hessian(problem.loss, problem.flat))
    found = spectral_density(problem.hvp, problem.flat.size, 75, 40, rng(1))
    # The share of eigenvalues below each level.
    levels = np.quantile(exact, np.linspace(0.05, 0.95, 10))
    for level in levels:
        share = np.mean(exact <= level)
        assert abs(found.weights[found.nodes <= level].sum() - share) < 4 * np.sqrt(
            2 * share * (1 - share) / 77 / 40
        )
    assert found.nodes.max() == pytest.approx(exact[-1], rel=1e-6)
    assert found.nodes.min() == pytest.approx(exact[0], rel=1e-6)


# --- the trace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_trace_is_within_four_standard_errors(seed, library):
    problem = tanh_net((4, 5, 3))
    exact = np.trace(hessian(problem.loss, problem.flat))
    estimate, error = trace(problem.hvp, problem.flat.size, 60, rng(seed))
    assert abs(estimate - exact) < 4 * error
    assert error < 0.2 * exact


def test_the_standard_error_is_honest():
    a, _ = with_spectrum(np.r_[10.0, 3.0, np.linspace(-1, 1, 28)])
    exact = np.trace(a)
    found = np.array([trace(times(a), 30, 50, rng(seed)) for seed in range(400)])
    off = (found[:, 0] - exact) / found[:, 1]
    # 95 % within 1.96 of them, give or take four times √(0.95 · 0.05/400).
    assert 0.906 < np.mean(np.abs(off) < 1.96) < 0.994


def test_the_standard_error_is_the_one_of_theory():
    a, _ = with_spectrum(np.r_[10.0, 3.0, np.linspace(-1, 1, 28)])
    variance = 2 * ((a**2).sum() - (np.diag(a) ** 2).sum())
    # However few the probes, it is right on average: 1.3 % is what 20,000 signs tell it to.
    for probes in (2, 50):
        runs = 20_000 // probes
        errors = [trace(times(a), 30, probes, rng(seed))[1] for seed in range(runs)]
        found = np.sqrt(np.mean(np.square(errors)))
        assert found == pytest.approx(np.sqrt(variance / probes), rel=4 * 0.013)


def test_the_trace_of_a_diagonal_matrix_takes_two_probes():
    diagonal = rng(0).standard_normal(30)
    estimate, error = trace(lambda v: diagonal * v, 30, 2, rng(1))
    assert estimate == pytest.approx(diagonal.sum(), abs=1e-13)
    assert error == pytest.approx(0, abs=1e-13)


# --- slices ---------------------------------------------------------------------------------------


def test_filters_keep_their_length_and_biases_stay(library):
    flat = conv_net().flat
    direction = filter_direction(flat, dl.rng(0))
    assert type(direction) is type(flat.theta)
    for d, p in zip(flat.split(direction), flat.parameters, strict=True):
        d, p = dl.to_numpy(d), p.numpy()
        if p.ndim >= 2:
            d, p = d.reshape(len(p), -1), p.reshape(len(p), -1)
            assert np.linalg.norm(d, axis=1) == pytest.approx(np.linalg.norm(p, axis=1))
            assert (np.abs(d / p).std(axis=1) > 0.1).all()  # the whole, not entry by entry
        else:
            assert not d.any()


def test_a_slice_evaluates_the_loss_and_leaves_the_parameters(small, library):
    problem = tanh_net()
    flat, loss = problem.flat, problem.loss
    before, value = flat.snapshot(), loss().item()
    u, w = np.eye(flat.size)[:2]
    grid = loss_slice(loss, flat, u, w, [0.0, 0.5], [0.0, 1.0, 2.0])
    assert (flat.snapshot() == before).all()
    assert grid.shape == (3, 2)
    assert grid[0, 0] == pytest.approx(value)
    flat.assign(before + 0.5 * u + 2.0 * w)
    assert grid[2, 1] == pytest.approx(loss().item())
    elsewhere = flat.snapshot()
    again = loss_slice(loss, flat, u, w, [0.0, 0.5], [0.0, 1.0, 2.0], centre=before)
    assert again == pytest.approx(grid)
    assert (flat.snapshot() == elsewhere).all()


def test_a_slice_that_fails_leaves_the_parameters_too(small):
    before = small.flat.snapshot()
    losses = iter([small.loss])
    with pytest.raises(StopIteration):
        loss_slice(lambda: next(losses)(), small.flat, before, before, [1.0, 2.0], [1.0])
    assert (small.flat.snapshot() == before).all()


def test_the_principal_plane_of_a_flat_path_holds_all_of_it():
    t = np.linspace(0, 1, 30)
    path = np.stack([np.cos(t), np.sin(t)], axis=1) @ dl.rng(0).standard_normal((2, 7))
    plane, walk, share = principal_plane(path)
    assert share.sum() == pytest.approx(1)
    assert plane @ plane.T == pytest.approx(np.eye(2), abs=1e-12)
    assert walk @ plane == pytest.approx(path - path[-1], abs=1e-12)
    assert walk[-1] == pytest.approx([0, 0], abs=1e-12)
    # The first direction is that of the largest variance, and its share is that variance's.
    variance = np.linalg.eigvalsh(np.cov(path.T))[::-1]
    assert np.var(walk, axis=0, ddof=1) == pytest.approx(variance[:2])
    assert share == pytest.approx(variance[:2] / variance.sum())


def test_three_points_in_the_plane_are_a_path():
    path = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    plane, walk, share = principal_plane(path)
    assert np.abs(plane[0]) == pytest.approx([0.6, 0.8])
    assert np.abs(walk[:, 0]) == pytest.approx([10, 5, 0])
    assert share == pytest.approx([1, 0])


def test_a_random_walk_looks_planar_to_the_known_degree():
    walk = np.cumsum(dl.rng(0).standard_normal((300, 3000)), axis=0)
    assert principal_plane(walk)[2].sum() == pytest.approx(0.76, abs=0.02)


# --- bad input ------------------------------------------------------------------------------------


def bad(matvec):
    return lambda p: eigenpairs(matvec, 3, rng=rng(0))


def begin(start):
    return lambda p: eigenpairs(p.hvp, 26, 2, start=start)


def spectrum_of(*nodes):
    return Spectrum(np.array(nodes), np.full(len(nodes), 1 / len(nodes)))


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda p: p.hvp(np.ones(3)), ShapeError, r"vector must have shape \(26,\), got \(3,\)"),
        (lambda p: p.gnvp(np.ones((26, 1))), ShapeError, r"vector must.*got \(26, 1\)"),
        (lambda p: hvp(p.outputs, p.flat, np.ones(26)), GradientError, r"scalar.*\(10, 2\)"),
        (lambda p: hessian(p.outputs, p.flat), GradientError, r"scalar.*\(10, 2\)"),
        (
            lambda p: gnvp(p.outputs, lambda z: z * z, p.flat, np.ones(26)),
            GradientError,
            r"scalar.*\(10, 2\)",
        ),
        (lambda p: hvp(lambda: 3.0, p.flat, np.ones(26)), GradientError, "float, not a Tensor"),
        (
            lambda p: gnvp(lambda: p.x, p.of_outputs, p.flat, np.ones(26)),
            GradientError,
            r"outputs\(\) gave ndarray, not a Tensor: write lambda: net\(x\)",
        ),
        (
            lambda p: gnvp(lambda: dl.Tensor([1.0]), p.of_outputs, p.flat, np.ones(26)),
            GradientError,
            "nothing to differentiate",
        ),
        (
            lambda p: hessian(p.loss, p.flat, limit=25),
            ValueError,
            r"26 × 26 entries takes 5.4e-06 GB and 26 backward passes: use hvp.*limit=25",
        ),
        (lambda p: hessian(p.loss, p.flat, limit=0), ValueError, "limit must be.*>= 1, got 0"),
        (lambda p: eigenpairs(p.hvp, 26, 27), ValueError, "at most the 26.*got 27"),
        (lambda p: eigenpairs(p.hvp, 26, 0), ValueError, "k must be.*>= 1, got 0"),
        (lambda p: eigenpairs(p.hvp, 0), ValueError, "size must be.*>= 1, got 0"),
        (lambda p: eigenpairs(p.hvp, 26, 5, steps=4), ValueError, "5.*at least 5 steps, got.*4"),
        (lambda p: eigenpairs(p.hvp, 26, steps=0), ValueError, "steps must be.*>= 1, got 0"),
        (lambda p: eigenpairs(p.hvp, 26, tol=-1), ValueError, "tol must be.*>= 0, got -1"),
        (lambda p: eigenpairs(p.hvp, 25), ShapeError, r"vector must have shape \(26,\)"),
        (lambda p: eigenpairs(p.hvp, 26, rng=0), TypeError, r"dl.rng\(0\) makes, got 0"),
        (lambda p: filter_direction(p.flat, 7), TypeError, "NumPy generator.*got 7"),
        (lambda p: lanczos(p.hvp, 26, 3, 7), TypeError, "NumPy generator.*got 7"),
        (lambda p: trace(p.hvp, 26, 3, 7), TypeError, "NumPy generator.*got 7"),
        (begin(np.ones(25)), ShapeError, r"\(26,\) or \(m, 26\) with m from 1 to k=2, got \(25,\)"),
        (begin(np.ones((3, 26))), ShapeError, r"from 1 to k=2, got \(3, 26\)"),
        (begin(np.ones((0, 26))), ShapeError, r"from 1 to k=2, got \(0, 26\)"),
        (begin(np.ones((1, 2, 26))), ShapeError, r"from 1 to k=2, got \(1, 2, 26\)"),
        (begin(np.zeros(26)), ValueError, "start has a vector that is zero or not finite"),
        (begin(np.full(26, np.nan)), ValueError, "zero or not finite"),
        (begin(np.ones((2, 26))), ValueError, "the start vectors are dependent"),
        (bad(lambda v: v[:2]), ShapeError, r"matvec must return shape \(3,\).*got \(2,\)"),
        (bad(lambda v: v[0]), ShapeError, r"matvec must return shape \(3,\).*got \(\)"),
        (bad(lambda v: v * np.nan), ValueError, r"not finite.*overflowed\? Look at loss\(\)"),
        (lambda p: lanczos(lambda v: v / 0.0, 3, 2), ValueError, "not finite"),
        (lambda p: trace(lambda v: v * np.inf, 3), ValueError, "not finite"),
        (lambda p: top_eigenvalue(p.loss, p.flat, 0), ValueError, "steps must be.*got 0"),
        (lambda p: lanczos(p.hvp, 26, 0), ValueError, "steps must be.*>= 1, got 0"),
        (lambda p: lanczos(p.hvp, 0, 1), ValueError, "size must be.*>= 1, got 0"),
        (lambda p: spectral_density(p.hvp, 26, 0), ValueError, "steps must be.*>= 1, got 0"),
        (lambda p: spectral_density(p.hvp, 26, 5, 0), ValueError, "probes must be.*>= 1, got 0"),
        (lambda p: trace(p.hvp, 26, 1), ValueError, "probes must be.*>= 2, got 1"),
        (lambda p: trace(p.hvp, 0), ValueError, "size must be.*>= 1, got 0"),
        (lambda p: spectrum_of(1.0, 2.0).density(0), ValueError, "sigma must be.*> 0, got 0"),
        (lambda p: spectrum_of(0.0, 0.0).density(), ValueError, "no scale: give sigma"),
        (lambda p: spectrum_of(0.0, 1.0).density(3e-6), ValueError, r"1e\+06 points.*wider sigma"),
        (lambda p: condition_number([1.0, -0.5]), ValueError, "eigenvalue is -0.5 < 0.*minimum"),
        (lambda p: condition_number(-np.eye(2)), ValueError, "eigenvalue is -1 < 0"),
        (lambda p: condition_number([-1e-12, 1.0]), ValueError, "no minimum here"),
        (lambda p: condition_number([[1, 2], [0, 1]]), ValueError, r"\(A \+ A.T\)/2"),
        (lambda p: condition_number([1.0, np.inf]), ValueError, "not finite"),
        (lambda p: condition_number(np.ones((2, 3))), ShapeError, r"square matrix.*\(2, 3\)"),
        (lambda p: condition_number([]), ShapeError, r"list of eigenvalues, got shape \(0,\)"),
        (lambda p: condition_number(3.0), ShapeError, r"got shape \(\)"),
        (lambda p: condition_number([1.0], rtol=-1), ValueError, "rtol must be.*>= 0, got -1"),
        (
            lambda p: loss_slice(p.loss, p.flat, np.ones(2), np.ones(26), [0], [0]),
            ShapeError,
            r"first must have shape \(26,\), got \(2,\)",
        ),
        (
            lambda p: loss_slice(p.loss, p.flat, np.ones(26), np.ones(2), [0], [0]),
            ShapeError,
            "second must have shape",
        ),
        (
            lambda p: loss_slice(p.loss, p.flat, np.ones(26), np.ones(26), [0], [0], np.ones(3)),
            ShapeError,
            "centre must have shape",
        ),
        (lambda p: principal_plane([[1.0, 2.0, 3.0]] * 5), ShapeError, r"that differ.*\(5, 3\)"),
        (lambda p: principal_plane(np.eye(2)), ShapeError, r"T >= 3.*\(2, 2\)"),
        (lambda p: principal_plane(np.arange(5.0)), ShapeError, r"is \(T, P\).*\(5,\)"),
        (lambda p: principal_plane(np.eye(4)[:, :1]), ShapeError, r"P >= 2.*\(4, 1\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_errors_name_the_input_and_the_fix(act, kind, words, small):
    with pytest.raises(kind, match=words):
        act(small)
