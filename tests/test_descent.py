"""Descent on plain functions: against closed forms."""

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError
from dlmini.descent import asymptotic_rate, descend, largest_stable_lr, quadratic, steps_to


@pytest.fixture(autouse=True)
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


@pytest.fixture
def small():
    """A small network with a smooth loss: (flat, loss)."""
    dl.seed(0)
    net = dl.nn.mlp(3, 4, 2, activation=dl.nn.Tanh)
    x, y = dl.rng(1).standard_normal((10, 3)), dl.rng(2).integers(0, 2, 10)
    return dl.flat.pack(net.parameters()), lambda: dl.cross_entropy(net(x), y)


# --- descent --------------------------------------------------------------------------------------


def test_descent_on_a_quadratic_is_the_closed_form():
    h = dl.data.random_hessian(5, 10, rng=dl.rng(0))
    start, centre = np.arange(5.0), np.ones(5)
    run = descend(quadratic(h, centre), start, 0.7, 30)
    expected = centre + np.linalg.matrix_power(np.eye(5) - 0.7 * h, 30) @ (start - centre)
    assert run.points[-1] == pytest.approx(expected, abs=1e-12)
    assert run.losses[0] == pytest.approx(0.5 * (start - centre) @ h @ (start - centre))


OPTIMIZERS = {
    "SGD": lambda params, lr=0.1: dl.optim.SGD(params, lr),
    "momentum": lambda params, lr=0.1: dl.optim.SGD(params, lr, 0.9, nesterov=True),
    "AdaGrad": lambda params, lr=0.1: dl.optim.AdaGrad(params, lr),
    "RMSprop": lambda params, lr=0.1: dl.optim.RMSprop(params, lr, centered=True, momentum=0.5),
    "Adam": lambda params, lr=0.1: dl.optim.Adam(params, lr, amsgrad=True),
    "AdamW": lambda params, lr=0.1: dl.optim.AdamW(params, lr, weight_decay=0.3),
    "Muon": lambda params, lr=0.1: dl.optim.Muon(params, lr),
    "SAM": lambda params, lr=0.1: dl.regularize.SAM(dl.optim.SGD(params, lr), 0.1),
}
EACH_ENTRY_ALONE = [name for name in OPTIMIZERS if name not in ("Muon", "SAM")]
by_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def curved(theta):
    """A valley that is no quadratic, for one point or a row of them."""
    return ((theta**4) * np.array([0.1, 1.0, 0.3]) + theta**2 * [1.0, 0.5, 4.0]).sum(-1)


@by_optimizer
def test_an_optimizer_goes_the_way_that_it_goes_in_training(name, library):
    start = np.array([1.5, -1.0, 2.0])
    run = descend(curved, start, optimizer=OPTIMIZERS[name], steps=30)
    theta = dl.Tensor(start, requires_grad=True)
    opt = OPTIMIZERS[name]([theta])
    for point, loss in zip(run.points, run.losses, strict=True):
        assert point == pytest.approx(theta.numpy(), rel=1e-11)
        assert loss == pytest.approx(curved(theta).item(), rel=1e-11)
        opt.zero_grad()
        curved(theta).backward()
        if name == "SAM":
            opt.ascend()
            curved(theta).backward()
        opt.step()


@pytest.mark.parametrize("name", EACH_ENTRY_ALONE)
def test_an_optimizer_takes_many_runs_and_rates_side_by_side(name, library):
    make = OPTIMIZERS[name]
    start, rates = dl.rng(0).standard_normal((4, 3)), np.array([0.01, 0.03, 0.1, 0.05])
    together = descend(
        curved, start, rates, 20, schedule=lambda t: 0.9**t, optimizer=lambda p: make(p, 1.0)
    )
    for i, lr in enumerate(rates):
        theta = dl.Tensor(start[i], requires_grad=True)
        opt = make([theta], lr)
        for t in range(20):
            opt.zero_grad()
            curved(theta).backward()
            opt.lr = lr * 0.9**t
            opt.step()
        assert together.points[-1, i] == pytest.approx(theta.numpy(), rel=1e-10)


def test_sgd_by_name_is_sgd_by_formula():
    h = dl.data.random_hessian(5, 10, rng=dl.rng(0))
    by_formula = descend(quadratic(h), np.arange(5.0), 0.3, 40, momentum=0.8)
    by_name = descend(
        quadratic(h), np.arange(5.0), steps=40, optimizer=lambda p: dl.optim.SGD(p, 0.3, 0.8)
    )
    assert by_name.points == pytest.approx(by_formula.points, abs=1e-13)


@pytest.mark.parametrize("name", EACH_ENTRY_ALONE)
def test_an_optimizer_that_diverges_stands_still_beside_one_that_does_not(name):
    make = OPTIMIZERS[name]
    start = [[1.0, 1.0, 1.0], [1e3, 1e3, 1e3]]
    rates = [1e-3, 1e9]
    run = descend(curved, start, rates, 50, optimizer=lambda p: make(p, 1.0))
    assert run.diverged.tolist() == [False, True]
    assert np.isfinite(run.points).all()
    assert (run.points[-1, 1] == run.points[-20, 1]).all()


def test_a_loss_that_starts_at_zero_or_is_huge_is_no_obstacle():
    run = descend(lambda t: (t * t).sum(-1) - 1.0, [1.0], 0.1, 50)
    assert len(run.losses) == 51
    assert run.losses[-1] == pytest.approx(-1.0, abs=1e-6)
    assert largest_stable_lr(quadratic([[1e8]]), [1.0]) == pytest.approx(2e-8, rel=2e-3)


def test_runs_that_diverge_stand_still_beside_those_that_do_not():
    run = descend(quadratic([[1.0]]), [[1.0], [1.0]], [0.5, 100.0], 400)
    assert run.points[-1, 0] == pytest.approx(0, abs=1e-12)
    assert run.points[-1, 1] == run.points[-100, 1]


def test_runs_side_by_side_equal_runs_alone():
    h = np.stack([dl.data.random_hessian(4, 10, rng=dl.rng(k)) for k in range(3)])
    start, rates = dl.rng(5).standard_normal((3, 4)), np.array([0.1, 0.5, 1.0])
    together = descend(quadratic(h), start, rates, 20, momentum=0.5)
    for i in range(3):
        alone = descend(quadratic(h[i]), start[i], rates[i], 20, momentum=0.5)
        assert together.points[:, i] == pytest.approx(alone.points)
        assert together.losses[:, i] == pytest.approx(alone.losses)


def test_a_schedule_scales_the_learning_rate():
    run = descend(quadratic([[1.0]]), [1.0], 0.5, 2, schedule=lambda t: 1 / (1 + t))
    assert run.points[:, 0] == pytest.approx([1, 0.5, 0.375])


def test_a_diverging_run_stops_without_a_warning():
    run = descend(quadratic([[1.0]]), [1.0], 1e9, 200)
    assert run.diverged
    assert np.isfinite(run.points).all()
    assert not descend(quadratic([[1.0]]), [1.0], 1.9, 200).diverged


def test_the_longest_stable_step_is_found():
    h = np.diag([0.1, 2.0])
    assert largest_stable_lr(quadratic(h), [1.0, 1.0]) == pytest.approx(1.0, rel=2e-3)


def test_momentum_moves_the_limit_to_two_times_one_plus_mu():
    found = largest_stable_lr(quadratic(np.diag([1.0, 4.0])), [1.0, 1.0], momentum=0.9)
    assert found == pytest.approx(2 * 1.9 / 4, rel=2e-3)


def test_rates_and_steps():
    run = descend(quadratic(np.diag([1.0, 0.5])), [1.0, 1.0], 1.0, 60)
    assert asymptotic_rate(run) == pytest.approx(0.5)
    assert steps_to(run, 0.25 * 0.5**2) == 1
    assert np.isnan(steps_to(run, -1.0))


def test_slopes_along_directions_are_g_dot_u(small):
    flat, loss = small
    g = flat.gradient(loss)
    u = dl.rng(3).standard_normal((5, flat.size))
    before = flat.theta.copy()
    assert dl.descent.slopes_along(loss, flat, u) == pytest.approx(u @ g, rel=1e-6)
    assert (flat.theta == before).all()


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: descend(quadratic(np.eye(2)), [1, 1], 0, 5), ValueError, "lr must be.*> 0, got 0"),
        (lambda: descend(quadratic(np.eye(2)), [1, 1], np.nan, 5), ValueError, "lr must be"),
        (lambda: descend(quadratic(np.eye(2)), [1, 1], 0.1, 0), ValueError, "steps must be"),
        (lambda: descend(quadratic(np.eye(2)), [1, 1], 0.1, 5, -1), ValueError, "momentum"),
        (
            lambda: descend(quadratic(np.eye(2)), [1, 1], [0.1, 0.2], 5),
            ShapeError,
            "learning rates",
        ),
        (lambda: descend(lambda t: t * t, [1, 1], 0.1, 5), ShapeError, r"must have shape \(\)"),
        (lambda: descend(curved, [1, 1, 1]), ValueError, "lr must be.*> 0, got None"),
        (
            lambda: descend(curved, [1, 1, 1], momentum=0.9, optimizer=dl.optim.Adam),
            ValueError,
            r"momentum=0.9 beside an optimizer.*SGD\(params, lr, momentum\)",
        ),
        (
            lambda: descend(curved, [1, 1, 1], optimizer="adam"),
            TypeError,
            r"function of the parameters.*lambda params: .*got 'adam'",
        ),
        (
            lambda: descend(curved, [1, 1, 1], optimizer=lambda params: None),
            TypeError,
            "such as lambda params",
        ),
        (lambda: quadratic(np.ones(3)), ShapeError, "square matrix"),
        (lambda: quadratic([[np.nan]]), ValueError, "not finite"),
        (lambda: descend(quadratic([[1.0]]), 1.0, 0.1, 5), ShapeError, r"write \[number\]"),
        (lambda: descend(quadratic([[1.0]]), [1.0], "big", 5), ValueError, "got 'big'"),
        (lambda: descend(lambda t: 3.0, [1.0], 0.1, 5), TypeError, "must return a Tensor"),
        (
            lambda: asymptotic_rate(descend(quadratic([[1.0]]), [1.0], 0.1, 1)),
            ValueError,
            "two steps",
        ),
        (lambda: asymptotic_rate(descend(quadratic([[1.0]]), [1.0], 1.0, 9)), ValueError, "zero"),
        (
            lambda: dl.descent.slopes_along(None, dl.flat.pack(dl.nn.mlp(1, 1).parameters()), [1]),
            ShapeError,
            r"directions must be \(n, 2\), got \(1,\)",
        ),
        (lambda: quadratic([[1, 2], [0, 1]]), ValueError, r"\(A \+ A.T\)/2"),
        (lambda: largest_stable_lr(lambda t: (t * 0.0).sum(-1), [1.0]), ValueError, "bounded"),
    ],
)
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()
