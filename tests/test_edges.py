"""The places where implementations differ: kinks, infinities, empty and size-1 axes, sharing.

Where torch defines a derivative, ours is torch's.
"""

import copy
import pickle

import numpy as np
import pytest

import dlmini as dl
from dlmini import Tensor, nn, ops
from dlmini import functional as F

INF, NAN = np.inf, np.nan


pytestmark = pytest.mark.usefixtures("library")


# --- as torch -------------------------------------------------------------------------------------


def table():
    """name: (ours, torch's, arguments)."""
    import torch
    import torch.nn.functional as T

    tied = np.array([[3.0, 1.0, 3.0, 3.0], [2.0, 2.0, -1.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    kink = np.array([-2.0, -0.0, 0.0, 1.5])
    rows = np.array([[1.0, -INF, 2.0], [-INF, -INF, 0.5], [0.0, -INF, -INF]])
    return {
        "max of ties": (ops.max, torch.amax, [tied]),
        "max of ties by row": (lambda x: ops.max(x, 1), lambda x: torch.amax(x, 1), [tied]),
        "max of ties, kept": (
            lambda x: ops.max(x, (0, 1), keepdims=True),
            lambda x: torch.amax(x, (0, 1), keepdim=True),
            [tied],
        ),
        "min of ties by column": (lambda x: ops.min(x, 0), lambda x: torch.amin(x, 0), [tied]),
        "maximum of equals": (ops.maximum, torch.maximum, [tied, np.roll(tied, 1, 1)]),
        "minimum of equals": (ops.minimum, torch.minimum, [tied, np.roll(tied, 1, 1)]),
        "abs at 0": (ops.abs, torch.abs, [kink]),
        "relu at 0": (ops.relu, T.relu, [kink]),
        "leaky relu at 0": (F.leaky_relu, T.leaky_relu, [kink]),
        "elu at 0": (F.elu, T.elu, [kink]),
        "elu of another height": (
            lambda x: F.elu(x, 0.7),
            lambda x: T.elu(x, 0.7),
            [np.array([-3.0, -0.1, 2.0])],
        ),
        "softmax far out": (
            F.softmax,
            lambda x: torch.softmax(x, -1),
            [np.array([[1000.0, 0.0, 999.0], [-1000.0, -1000.0, -1001.0]])],
        ),
        "gelu at 0": (F.gelu, lambda x: T.gelu(x, approximate="tanh"), [kink]),
        "softplus far out": (ops.softplus, T.softplus, [np.array([-800.0, -40.0, 0.0, 800.0])]),
        "sigmoid far out": (ops.sigmoid, torch.sigmoid, [np.array([-800.0, 0.0, 800.0])]),
        "tanh far out": (ops.tanh, torch.tanh, [np.array([-800.0, 0.0, 800.0])]),
        "clip at its ends": (
            lambda x: ops.clip(x, -2.0, 1.5),
            lambda x: x.clamp(-2.0, 1.5),
            [np.array([-3.0, -2.0, 0.0, 1.5, 2.0])],
        ),
        "sqrt at 0": (ops.sqrt, torch.sqrt, [np.array([0.0, 4.0])]),
        "norm at 0": (
            lambda x: ops.sqrt(ops.sum(x * x, 1)),
            lambda x: torch.sqrt((x * x).sum(1)),
            [np.array([[0.0, 0.0], [3.0, 4.0]])],
        ),
        "log at 0": (ops.log, torch.log, [np.array([0.0, 1.0])]),
        "1/x at 0": (lambda x: 1.0 / x, lambda x: 1.0 / x, [np.array([0.0, 2.0])]),
        **{
            f"x**{p} at 0": (lambda x, p=p: x**p, lambda x, p=p: x**p, [np.array([0.0, 2.0, -3.0])])
            for p in (0, 0.0, 1, 2, 3, -1, 1.0, 2.0)
        },
        "x**0.5 at 0": (lambda x: x**0.5, lambda x: x**0.5, [np.array([0.0, 2.0])]),
        "0**p": (ops.power, torch.pow, [np.zeros(5), np.array([0.0, 0.5, 1.0, 2.0, 3.0])]),
        "x**0": (ops.power, torch.pow, [np.array([0.0, 0.5, 2.0]), np.zeros(3)]),
        "0**-1": (ops.power, torch.pow, [np.zeros(1), -np.ones(1)]),
        "2**p": (lambda p: 2.0**p, lambda p: 2.0**p, [kink]),
        "0.0**p": (lambda p: 0.0**p, lambda p: 0.0**p, [np.array([0.0, 1.0, 2.0])]),
        "logsumexp with -inf": (ops.logsumexp, lambda x: torch.logsumexp(x, -1), [rows]),
        "logsumexp of nothing but -inf": (
            ops.logsumexp,
            lambda x: torch.logsumexp(x, -1),
            [np.array([[-INF, -INF], [-INF, 1.0]])],
        ),
        "logsumexp with +inf": (
            ops.logsumexp,
            lambda x: torch.logsumexp(x, -1),
            [np.array([[INF, 1.0], [INF, INF], [INF, -INF]])],
        ),
        "softmax with -inf": (F.softmax, lambda x: torch.softmax(x, -1), [rows]),
        "cross entropy with -inf": (
            lambda x: F.cross_entropy(x, [0, 2, 0]),
            lambda x: T.cross_entropy(x, torch.tensor([0, 2, 0])),
            [rows],
        ),
        "where beside NaN": (
            lambda x, y: ops.where(np.array([True, False, True]), x, y),
            lambda x, y: torch.where(torch.tensor([True, False, True]), x, y),
            [np.array([1.0, NAN, 2.0]), np.array([NAN, 3.0, INF])],
        ),
        "variance of one": (lambda x: ops.var(x, 0), lambda x: x.var(0, correction=0),
                            [np.array([[1.0, 2.0]])]),
        "batch norm of equal rows": (
            lambda x: F.batch_norm(x, np.ones(2), np.zeros(2))[0],
            lambda x: T.batch_norm(x, None, None, training=True),
            [np.array([[1.0, 2.0], [1.0, 3.0], [1.0, -3.0]])],
        ),
        "max pool of ties": (
            lambda x: F.max_pool2d(x, 2, 1),
            lambda x: T.max_pool2d(x, 2, 1),
            [np.array([[[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]]])],
        ),
    }  # fmt: skip


NAMES = [
    "max of ties", "max of ties by row", "max of ties, kept", "min of ties by column",
    "maximum of equals", "minimum of equals", "abs at 0", "relu at 0", "leaky relu at 0",
    "elu at 0", "elu of another height", "gelu at 0", "softplus far out", "sigmoid far out",
    "tanh far out", "softmax far out",
    "clip at its ends", "sqrt at 0", "norm at 0", "log at 0", "1/x at 0",
    *(f"x**{p} at 0" for p in (0, 0.0, 1, 2, 3, -1, 1.0, 2.0, 0.5)),
    "0**p", "x**0", "0**-1", "2**p", "0.0**p",
    "logsumexp with -inf", "logsumexp of nothing but -inf", "logsumexp with +inf",
    "softmax with -inf", "cross entropy with -inf", "where beside NaN", "variance of one",
    "batch norm of equal rows", "max pool of ties",
]  # fmt: skip


# Where torch's second derivative is not the derivative of its first.
FIRST_ORDER = {
    "x**0": "it forgets that d²(xᵖ)/dx dp = 1/x at p = 0; test_ops has the number",
    "elu at 0": "0 takes the slope of the left side, but the curvature of the right",
}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_derivatives_at_the_edge_are_torchs(name):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    ours, theirs, arguments = table()[name]
    mine = [Tensor(a, requires_grad=True) for a in arguments]
    other = [torch.tensor(a, requires_grad=True) for a in arguments]
    rng = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        z, t = ours(*mine), theirs(*other)
        same(z.numpy(), t)
        c = rng.standard_normal(z.shape)
        plain = dl.grad(z, mine, c, retain_graph=True)
        first = dl.grad(z, mine, c, create_graph=True)
        expected = torch.autograd.grad(t, other, torch.tensor(c), create_graph=True)
        for a, b, e in zip(plain, first, expected, strict=True):
            same(a.numpy(), e)
            same(b.numpy(), e)
        directions = [rng.standard_normal(a.shape) for a in arguments]
        total = sum((g * dl.asarray(d)).sum() for g, d in zip(first, directions, strict=True))
        reference = sum(
            (g * torch.tensor(d)).sum() for g, d in zip(expected, directions, strict=True)
        )
        if reference.requires_grad and name not in FIRST_ORDER:
            second = dl.grad(total, mine) if total.requires_grad else [0.0 * a for a in mine]
            wanted = torch.autograd.grad(reference, other, allow_unused=True)
            for a, e in zip(second, wanted, strict=True):
                e = np.zeros(a.shape) if e is None else e.numpy(force=True)
                # Torch's second derivatives of x**p are NaN at x = 0: 0 · log 0.
                defined = ~np.isnan(e) if "*" in name else np.ones(a.shape, bool)
                same(a.numpy()[defined], e[defined])


def same(found, expected):
    expected = expected.numpy(force=True) if hasattr(expected, "cpu") else expected
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-11, atol=1e-14, equal_nan=True), (found, expected)


def test_nothing_that_is_right_here_came_with_a_warning():
    """What has a finite value and derivative is found without NumPy complaining on the way."""
    silent = [
        "max of ties", "maximum of equals", "abs at 0", "relu at 0", "leaky relu at 0", "elu at 0",
        "softplus far out", "sigmoid far out", "tanh far out", "clip at its ends", "x**0 at 0",
        "x**2 at 0", "x**2.0 at 0", "variance of one", "batch norm of equal rows",
        "softmax with -inf", "max pool of ties",
    ]  # fmt: skip
    pytest.importorskip("torch", reason="torch is not installed: the cases are beside torch's")
    cases = table()
    for name in silent:
        ours, _, arguments = cases[name]
        leaves = [Tensor(a, requires_grad=True) for a in arguments]
        with np.errstate(all="raise", under="ignore"):
            z = ours(*leaves)
            for g in dl.grad(z, leaves, np.ones(z.shape), create_graph=True):
                assert np.isfinite(g.numpy()).all(), name


def test_a_cotangent_of_zero_stays_zero():
    x = Tensor([0.0, 2.0, -3.0], requires_grad=True)
    for f in (lambda t: t**0, lambda t: t**2, ops.abs, ops.relu, lambda t: dl.exp(t), dl.tanh):
        with np.errstate(all="raise"):
            [g] = dl.grad(f(x), [x], np.zeros(3))
        assert g.numpy().tolist() == [0.0, 0.0, 0.0]


# --- where ----------------------------------------------------------------------------------------


def test_where_takes_value_and_slope_of_the_taken_branch_only():
    x = Tensor([-1.0, 4.0, 0.0], requires_grad=True)
    inside = Tensor([NAN, 2.0, INF], requires_grad=True)
    mask = np.array([False, True, False])
    with np.errstate(invalid="ignore"):
        z = dl.where(mask, inside * x, 3.0 * x)
    assert z.numpy().tolist() == [-3.0, 8.0, 0.0]
    g = dl.grad(dl.where(mask, inside, x), [x, inside], [NAN, 5.0, 7.0])
    assert np.array_equal(g[0].numpy(), [NAN, 0.0, 7.0], equal_nan=True)
    assert g[1].numpy().tolist() == [0.0, 5.0, 0.0]


# --- batch of one, size-1 and empty axes ----------------------------------------------------------


def gradients(f, *arrays, cotangent=None):
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    z = f(*leaves)
    c = np.random.default_rng(2).standard_normal(z.shape) if cotangent is None else cotangent
    return z.numpy(), c, [g.numpy() for g in dl.grad(z, leaves, c)]


def test_a_batch_of_one():
    rng = np.random.default_rng(3)
    x, w, b = rng.standard_normal((1, 4)), rng.standard_normal((3, 4)), rng.standard_normal(3)
    z, c, (gx, gw, gb) = gradients(F.linear, x, w, b)
    assert np.allclose(z, x @ w.T + b)
    assert np.allclose(gx, c @ w)
    assert np.allclose(gw, c.T @ x)
    assert np.allclose(gb, c[0])
    z, _, (g,) = gradients(lambda t: F.cross_entropy(t, [2]), x, cotangent=1.0)
    p = np.exp(x[0]) / np.exp(x[0]).sum()
    assert np.allclose(z, -np.log(p[2]))
    assert np.allclose(g[0], p - np.eye(4)[2])
    image = rng.standard_normal((1, 1, 3, 3))
    z, c, (gx, gw) = gradients(F.conv2d, image, rng.standard_normal((1, 1, 3, 3)))
    assert z.shape == (1, 1, 1, 1)
    assert np.allclose(gw, c.item() * image)


def test_batch_norm_of_one_example_trains_on_images_and_evaluates_on_rows():
    layer, rows = nn.BatchNorm2d(2), nn.BatchNorm1d(2)
    x = dl.asarray(np.random.default_rng(4).standard_normal((1, 2, 3, 3)))
    z = layer(x).numpy()
    assert np.allclose(z.mean((0, 2, 3)), 0, atol=1e-12)
    assert np.allclose(z.var((0, 2, 3)), 1, atol=1e-3)
    with pytest.raises(dl.ShapeError, match=r"one value per channel.*net\.eval\(\)"):
        rows(dl.asarray(np.ones((1, 2))))
    assert np.allclose(rows.eval()(dl.asarray([[3.0, -1.0]])).numpy(), [[3.0, -1.0]], rtol=1e-4)


def test_class_of_one():
    z, _, (g,) = gradients(lambda t: F.cross_entropy(t, [0, 0]), np.ones((2, 1)), cotangent=1.0)
    assert z == 0
    assert not g.any()


EMPTY = {
    "sum": (ops.sum, [(0, 3)], 0.0),
    "sum by axis": (lambda x: ops.sum(x, 0), [(0, 3)], np.zeros(3)),
    "sum of an empty axis": (lambda x: ops.sum(x, 1), [(2, 0)], np.zeros(2)),
    "add": (ops.add, [(0, 3), (3,)], np.zeros((0, 3))),
    "mul by a column": (ops.mul, [(0, 3), (1, 1)], np.zeros((0, 3))),
    "relu": (ops.relu, [(0,)], np.zeros(0)),
    "matmul inside": (ops.matmul, [(2, 0), (0, 3)], np.zeros((2, 3))),
    "matmul of no rows": (ops.matmul, [(0, 2), (2, 3)], np.zeros((0, 3))),
    "linear of no rows": (F.linear, [(0, 2), (3, 2), (3,)], np.zeros((0, 3))),
    "softmax of no rows": (F.softmax, [(0, 3)], np.zeros((0, 3))),
    "logsumexp of no rows": (ops.logsumexp, [(0, 3)], np.zeros(0)),
    "concatenate": (lambda x, y: ops.concatenate([x, y]), [(0, 2), (3, 2)], np.ones((3, 2))),
    "stack": (lambda x, y: ops.stack([x, y]), [(0,), (0,)], np.zeros((2, 0))),
    "slice": (lambda x: x[3:], [(3, 2)], np.zeros((0, 2))),
    "index": (lambda x: x[np.array([], dtype=int)], [(3, 2)], np.zeros((0, 2))),
    "mask": (lambda x: x[np.zeros(3, dtype=bool)], [(3, 2)], np.zeros((0, 2))),
    "reshape": (lambda x: ops.reshape(x, (0, 5)), [(3, 0)], np.zeros((0, 5))),
    "transpose": (ops.transpose, [(2, 0)], np.zeros((0, 2))),
    "where": (lambda x: ops.where(np.zeros((0, 2), bool), x, 1.0), [(2,)], np.zeros((0, 2))),
    "layer norm of no rows": (F.layer_norm, [(0, 3), (3,), (3,)], np.zeros((0, 3))),
    "conv of no images": (F.conv2d, [(0, 1, 3, 3), (2, 1, 2, 2)], np.zeros((0, 2, 2, 2))),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_axes_have_values_and_gradients_of_their_shapes(name):
    f, shapes, expected = EMPTY[name]
    z, c, found = gradients(f, *(np.ones(shape) for shape in shapes))
    assert np.array_equal(z, expected)
    assert [g.shape for g in found] == shapes
    if name == "sum" or z.size == 0:
        assert not any(g.any() for g in found), "what went nowhere has no gradient"
    if name == "concatenate":
        assert np.array_equal(found[1], c)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: dl.mean(Tensor(np.ones((0, 2)))), r"mean of an empty array of shape \(0, 2\)"),
        (lambda: dl.var(Tensor(np.ones((2, 0))), 1), r"mean of an empty array of shape \(2, 0\)"),
        (lambda: dl.max(Tensor(np.ones((0, 2)))), r"max cannot take float64\(0, 2\)"),
        (lambda: dl.min(Tensor(np.ones((0, 2))), 0), r"min cannot take float64\(0, 2\)"),
        (lambda: dl.logsumexp(Tensor(np.ones((2, 0)))), r"logsumexp cannot take float64\(2, 0\)"),
        (lambda: dl.cross_entropy(np.ones((0, 3)), np.ones(0, int)), "empty batch"),
        (lambda: dl.mse_loss(np.ones((0, 3)), np.ones((0, 3))), r"empty batch of shape \(0, 3\)"),
    ],
)
def test_what_has_no_value_on_nothing_says_so(act, words):
    with pytest.raises(dl.ShapeError, match=words):
        act()


@pytest.mark.parametrize("axis", [0, 1, (0, 1), None])
def test_reductions_over_size_1_axes_are_the_entries_themselves(axis):
    x = np.array([[2.5]])
    for f in (ops.sum, ops.mean, ops.max, ops.min):
        z, c, (g,) = gradients(lambda t, f=f: f(t, axis), x)
        assert z.sum() == 2.5
        assert g.sum() == np.sum(c)
    z, _, (g,) = gradients(lambda t: ops.var(t, axis), x)
    assert z.sum() == g.sum() == 0


# --- windows at the border ------------------------------------------------------------------------


def like_torchs(ours, theirs, *arrays):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    z, c, found = gradients(ours, *arrays)
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    t = theirs(*leaves)
    same(z, t)
    for g, expected in zip(found, torch.autograd.grad(t, leaves, torch.tensor(c)), strict=True):
        assert np.allclose(g, expected.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 1), (3, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (2, 0), (0, 2), (1, 2)])
def test_convolution_with_unequal_sides(kernel, stride, padding):
    rng = np.random.default_rng(10)
    T = pytest.importorskip("torch.nn.functional", reason="torch is not installed")

    like_torchs(
        lambda *a: F.conv2d(*a, stride=stride, padding=padding),
        lambda *a: T.conv2d(*a, stride=stride, padding=padding),
        rng.standard_normal((2, 3, 5, 7)),
        rng.standard_normal((4, 3, *kernel)),
        rng.standard_normal(4),
    )


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 1), (5, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (1, 3), (4, 4), (2, 3)])
def test_pooling_with_unequal_sides(kernel, stride):
    x = np.random.default_rng(11).permutation(2.0 * 3 * 5 * 7 * np.arange(210)).reshape(2, 3, 5, 7)
    T = pytest.importorskip("torch.nn.functional", reason="torch is not installed")

    for name in ("max_pool2d", "avg_pool2d"):
        like_torchs(
            lambda a, name=name: getattr(F, name)(a, kernel, stride),
            lambda a, name=name: getattr(T, name)(a, kernel, stride),
            x / x.max(),
        )


def test_a_filter_as_large_as_the_padded_image_fits_just_so():
    x, w = np.ones((1, 1, 2, 3)), np.ones((1, 1, 4, 3))
    assert F.conv2d(x, w, padding=(1, 0)).tolist() == [[[[6.0]]]]
    with pytest.raises(
        dl.ShapeError, match=r"\(5, 3\) does not fit into images of \(2, 3\) padded"
    ):
        F.conv2d(x, np.ones((1, 1, 5, 3)), padding=(1, 0))
    with pytest.raises(dl.ShapeError, match=r"\(4, 4\) does not fit"):
        F.conv2d(x, np.ones((1, 1, 4, 4)), padding=(1, 0))
    assert F.conv2d(x, np.ones((1, 1, 6, 3)), padding=(2, 0)).shape == (1, 1, 1, 1)


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_with_p_0_is_the_identity_and_with_p_1_the_zero():
    x = np.array([[1.0, -2.0], [3.0, 0.5]])
    for p, scale in ((0.0, 1.0), (1.0, 0.0)):
        layer = nn.Dropout(p)
        z, c, (g,) = gradients(layer, x)
        assert (z == scale * x).all()
        assert (g == scale * c).all()
        assert (layer.eval()(dl.asarray(x)) == dl.asarray(x)).all()
    kept = nn.Residual(nn.Linear(2, 2), drop=1.0)
    z, c, (g,) = gradients(kept, x)
    assert (z == x).all()
    assert (g == c).all()
    with np.errstate(all="raise"):
        F.dropout(Tensor(x), 1.0)


# --- parameters that are not used, and those used twice -------------------------------------------


class Spare(nn.Module):
    """Has a layer that it never calls, and one that it calls twice."""

    def __init__(self):
        self.twice = nn.Linear(3, 3)
        self.never = nn.Linear(3, 3)
        self.again = self.twice

    def forward(self, x):
        return self.again(dl.tanh(self.twice(x)))


def test_unused_parameters_have_no_gradient_and_stay():
    net, x = Spare(), dl.asarray(np.random.default_rng(5).standard_normal((4, 3)))
    before = net.never.weight.numpy().copy()
    optimizer = dl.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) ** 2).sum().backward()
        optimizer.step()
    assert (net.never.weight.numpy() == before).all()
    assert not dl.to_numpy(net.never.weight.grad).any()
    assert dl.to_numpy(net.twice.weight.grad).any()
    [g] = dl.grad((net(x) ** 2).sum(), [net.never.weight])
    assert g.shape == (3, 3)
    assert not g.numpy().any()


def test_a_gradient_from_before_does_not_stay_in_an_unused_parameter():
    w, v = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0], requires_grad=True)
    flat = dl.flat.pack([w, v])
    (w.sum() * v.sum()).backward()
    flat.zero_grad()
    (w * 5.0).sum().backward()
    assert dl.to_numpy(flat.g).tolist() == [5.0, 5.0, 0.0]


def test_shared_weights_get_the_sum_of_both_uses():
    net, x = Spare(), np.random.default_rng(6).standard_normal((4, 3))
    assert [name for name, _ in net.named_parameters()] == [
        "twice.weight", "twice.bias", "never.weight", "never.bias", "again.weight", "again.bias"
    ]  # fmt: skip
    assert len(net.parameters()) == 4
    w, b = net.twice.weight.numpy().copy(), net.twice.bias.numpy().copy()
    c = np.random.default_rng(7).standard_normal((4, 3))
    flat = dl.flat.pack(net.parameters())
    assert flat.size == 24
    net(dl.asarray(x)).backward(c)
    h = np.tanh(x @ w.T + b)
    inner = (c @ w) * (1 - h**2)
    assert np.allclose(dl.to_numpy(net.twice.weight.grad), c.T @ h + inner.T @ x)
    assert np.allclose(dl.to_numpy(net.twice.bias.grad), c.sum(0) + inner.sum(0))
    assert np.allclose(dl.to_numpy(flat.g)[:9].reshape(3, 3), c.T @ h + inner.T @ x)


@pytest.mark.parametrize("f", [lambda x: x + 1.0, lambda x: x], ids=["x + 1", "x"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_that_was_handed_out_is_the_readers_own(f, create_graph):
    x = Tensor(3.0, requires_grad=True)
    g = dl.grad(f(x), x, create_graph=create_graph)[0].data
    g *= 0.5
    after = dl.grad(2.0 * x, x)[0].item()
    g *= 2.0  # if this memory is the engine's, as it was
    assert after == 2.0


# --- copies ---------------------------------------------------------------------------------------

CLONES = [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]


def everything():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Residual(nn.Linear(2, 2)), nn.LayerNorm(2), nn.Linear(2, 3),
    )  # fmt: skip
    return net, dl.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.01)


def train(net, optimizer, steps):
    rng = np.random.default_rng(8)
    x, y = dl.asarray(rng.standard_normal((6, 1, 3, 3))), rng.integers(0, 3, 6)
    for _ in range(steps):
        optimizer.zero_grad()
        dl.cross_entropy(net(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("clone", CLONES, ids=["deepcopy", "pickle"])
def test_a_copied_network_with_its_optimizer_trains_on_alone_and_alike(clone):
    net, optimizer = everything()
    train(net, optimizer, 3)
    twin, its = clone((net, optimizer))
    kept = {name: value.tobytes() for name, value in net.state_dict().items()}
    train(twin, its, 4)
    assert {k: v.tobytes() for k, v in net.state_dict().items()} == kept, "the copy shares memory"
    train(net, optimizer, 4)
    found, expected = twin.state_dict(), net.state_dict()
    assert {k: v.tobytes() for k, v in found.items()} == {
        k: v.tobytes() for k, v in expected.items()
    }
    assert its.t == optimizer.t == 7
    # θ of the copy is under the copy's parameters: writing to it is seen there.
    its.flat.assign(np.arange(float(its.flat.size)))
    assert twin[0].weight.numpy().ravel().tolist() == list(range(8))
    assert dl.to_numpy(net[0].weight.data).ravel().tolist() != list(range(8))


@pytest.mark.parametrize("clone", CLONES, ids=["deepcopy", "pickle"])
def test_copies_keep_what_is_shared(clone):
    net = Spare()
    optimizer = dl.optim.SGD(net.parameters(), lr=0.1)
    twin, its = clone((net, optimizer))
    assert twin.again is twin.twice
    assert its.flat.size == 24
    assert [id(p) for p in its.flat.parameters] == [id(p) for p in twin.parameters()]
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in net.parameters())


@pytest.mark.parametrize("clone", CLONES, ids=["deepcopy", "pickle"])
def test_a_network_copied_without_its_optimizer_is_complete(clone):
    net, optimizer = everything()
    train(net, optimizer, 2)
    twin = clone(net)
    x = dl.asarray(np.random.default_rng(9).standard_normal((6, 1, 3, 3)))
    assert (twin.eval()(x).numpy() == net.eval()(x).numpy()).all()
    fresh = dl.optim.SGD(twin.train().parameters(), lr=0.1)
    before = net.state_dict()
    train(twin, fresh, 1)
    assert all((before[k] == v).all() for k, v in net.state_dict().items())


# --- bad input: what was given, what was expected, the fix ----------------------------------------


def divergent_run(tmp_path):
    net = nn.mlp(2, 3, 2)
    optimizer = dl.optim.SGD(net.parameters(), lr=0.1)

    def spoil(t, history):
        if t == 4:
            net[2].weight.data = np.full((2, 3), 1e200)
            net[0].weight.data = np.full((3, 2), 1e200)

    dl.train.fit(net, dl.cross_entropy, np.ones((4, 2)), np.zeros(4, int), optimizer, 9,
                 on_step=spoil, checkpoint=tmp_path / "run.npz", checkpoint_every=2)  # fmt: skip


def another_architecture(tmp_path):
    divergent = nn.mlp(2, 3, 2)
    optimizer = dl.optim.SGD(divergent.parameters(), lr=0.1)
    dl.train.fit(divergent, dl.cross_entropy, np.ones((4, 2)), np.zeros(4, int), optimizer, 1,
                 checkpoint=tmp_path / "run.npz")  # fmt: skip
    dl.train.load(tmp_path / "run.npz", nn.mlp(2, 4, 2))


def truncated_checkpoint(tmp_path):
    (tmp_path / "run.npz").write_bytes(b"PK\x03\x04 and no more")
    dl.train.load(tmp_path / "run.npz", nn.mlp(2, 3, 2))


def parameter(*values):
    return Tensor(np.array(values), requires_grad=True)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda _: parameter(1.0, 2.0) + np.ones(3), r"add cannot take float64\(2,\), float64\(3,"),
        (lambda _: parameter(1.0, 2.0).backward(), r"needs a scalar.*shape \(2,\): take \.sum\(\)"),
        (lambda _: parameter(1.0).__setitem__(0, 2.0), r"in place.*dl\.where.*p\.data = values"),
        (lambda _: parameter(1, 2), r"a parameter needs floating.*got int64 of shape \(2,\).*1\.0"),
        (lambda _: dl.cross_entropy(np.ones((2, 3)), [1, 3]), r"labels run from 1 to 3.*3 classes"),
        (lambda _: dl.optim.SGD([parameter(1.0)], lr=0.0), r"learning rate lr must.*> 0, got 0\.0"),
        (lambda _: dl.cross_entropy(np.ones((0, 3)), np.ones(0, int)), "of an empty batch"),
        (divergent_run, r"not finite at step 5: the output of layer layers\.\d \(Linear.*a tenth"),
        (another_architecture, r"another network: expected layers\.0\.weight \(4, 2\).*found"),
        (truncated_checkpoint, r"run\.npz \(16 bytes\) is truncated or no checkpoint"),
    ],
)
def test_each_bad_input_of_the_design_is_explained(act, words, tmp_path):
    """Truncated data files are in test_data, a missing CUDA device is in test_backend."""
    with pytest.raises((ValueError, TypeError, RuntimeError, ArithmeticError), match=words):
        act(tmp_path)
    if act is divergent_run:
        assert len(dl.train.load(tmp_path / "run.npz", nn.mlp(2, 3, 2)).loss) == 4


# --- gaps that mutants of the rules found ---------------------------------------------------------


def test_clip_to_one_value():
    z, c, (g,) = gradients(lambda x: ops.clip(x, 1.0, 1.0), np.array([0.0, 1.0, 2.0]))
    assert z.tolist() == [1.0, 1.0, 1.0]
    assert g.tolist() == [0.0, c[1], 0.0]


def test_reshape_works_out_one_axis_and_leaves_alone_what_fits():
    x = Tensor(np.ones((2, 6)), requires_grad=True)
    assert ops.reshape(x, (2, -1)) is ops.reshape(x, (2, 6)) is x
    assert x.reshape(3, -1).shape == x.reshape((3, 4)).shape == (3, 4)
    assert x.reshape(-1).shape == (12,)
    with pytest.raises(dl.ShapeError, match=r"reshape cannot take float64\(0, 5\)"):
        ops.reshape(Tensor(np.ones((0, 5))), (0, -1))
    with pytest.raises(dl.ShapeError, match="reshape cannot take"):
        ops.reshape(x, (5, -1))


def test_comparisons_at_equality():
    x, one = Tensor([0.0, 1.0, 2.0]), np.ones(3)
    for found, expected in (
        (x < 1, [True, False, False]),
        (x <= 1, [True, True, False]),
        (x > dl.asarray(one), [False, False, True]),
        (x >= Tensor(one), [False, True, True]),
        (x == 1, [False, True, False]),
        (x != 1, [True, False, True]),
    ):
        assert found.tolist() == expected


def test_a_rule_that_reads_all_arguments_together_keeps_them():
    weighted = dl.op(
        lambda *xs, power: xs[0] * xs[1] ** power,
        lambda g, z, *xs, power: g * xs[1] ** power,
        lambda g, z, *xs, power: g * xs[0] * (power * xs[1] ** (power - 1)),
        name="weighted",
    )
    rng = np.random.default_rng(12)
    x, y = rng.standard_normal((2, 3))
    _, c, (gx, gy) = gradients(lambda *a: weighted(*a, power=3), x, y)
    assert np.allclose(gx, c * y**3)
    assert np.allclose(gy, c * x * 3 * y**2)


def test_a_layer_between_two_precisions_writes_gradients_in_that_of_its_weights(library):
    if library == "torch":
        pytest.skip("torch multiplies no matrices of different precisions")
    rng = np.random.default_rng(13)
    x, c = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    dl.use("numpy", "float32")
    w, b = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (2,)))
    flat = dl.flat.pack([w, b])
    dl.use("numpy", "float64")
    flat.zero_grad()
    z = F.linear(Tensor(x), w, b)
    assert z.dtype == np.float64
    z.backward(c)
    assert np.allclose(w.grad, c.T @ x, rtol=1e-5)
    assert np.allclose(flat.g[6:], c.sum(0), rtol=1e-5)
    assert w.grad.dtype == flat.g.dtype == np.float32


def test_filters_start_as_dense_weights_do():
    layer = nn.Conv2d(16, 64, 3, nonlinearity="tanh")
    assert layer.weight.numpy().std() == pytest.approx(5 / 3 / np.sqrt(16 * 9), rel=0.03)
    assert not layer.bias.numpy().any()
    dense = nn.Linear(100, 90, nonlinearity="relu")
    assert dense.weight.numpy().std() == pytest.approx(np.sqrt(2 / 100), rel=0.03)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 2)])
def test_batch_norm_with_a_scale_a_shift_and_a_large_eps_is_torchs_in_both_modes(shape):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(14)
    mine = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, eps=0.3, momentum=0.2)
    other = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(
        3, eps=0.3, momentum=0.2, dtype=torch.float64
    )
    for name in ("weight", "bias"):
        values = rng.standard_normal(3)
        getattr(mine, name).data = values
        getattr(other, name).data = torch.tensor(values)
    for _ in range(3):
        x = rng.standard_normal(shape) * 3 + 1
        assert np.allclose(mine(dl.asarray(x)).numpy(), other(torch.tensor(x)).detach())
    mine.eval(), other.eval()
    like_torchs(mine, other, rng.standard_normal(shape))


def test_a_residual_block_scales_its_branch_and_skips_it_for_whole_images():
    branch = nn.Conv2d(2, 2, 3, padding=1)
    x = dl.asarray(np.random.default_rng(15).standard_normal((40, 2, 3, 3)))
    inner = branch(x).numpy()
    z = nn.Residual(branch, scale=0.25)(x).numpy()
    assert np.allclose(z, dl.to_numpy(x) + 0.25 * inner)
    added = nn.Residual(branch, scale=2.0, drop=0.5)(x).numpy() - dl.to_numpy(x)
    skipped = np.array([np.allclose(a, 0) for a in added])
    kept = np.array([np.allclose(a, 2.0 * 2.0 * i) for a, i in zip(added, inner, strict=True)])
    assert (skipped ^ kept).all()
    assert 5 < skipped.sum() < 35


def test_xavier_counts_the_pixels_of_a_filter_on_both_sides():
    filters = Tensor(np.zeros((60, 20, 3, 3)), requires_grad=True)
    nn.xavier_normal_(filters)
    assert filters.numpy().var() == pytest.approx(2 / (20 * 9 + 60 * 9), rel=0.05)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_orthogonal_matrices_prefer_no_direction(shape):
    """Of a normal matrix that is q r, q is uniform if the signs make the diagonal of r positive."""
    matrix = Tensor(np.zeros(shape), requires_grad=True)
    dl.seed(3)
    nn.orthogonal_(matrix)
    dl.seed(3)
    drawn = dl.backend.stream().standard_normal(shape)
    q, drawn = (m if shape[0] >= shape[1] else m.T for m in (matrix.numpy(), drawn))
    r = q.T @ drawn
    assert np.allclose(r, np.triu(r))
    assert (np.diag(r) > 0).all()


def test_a_checkpoint_beside_another_use_of_its_argument():
    x = np.random.default_rng(16).standard_normal(4)

    def f(t, wrap):
        h = dl.tanh(t)
        other = h * h
        z = wrap(lambda u: dl.sin(u) * u, h)
        return z * other + h

    expected = gradients(lambda t: f(t, lambda g, u: g(u)), x)
    found = gradients(lambda t: f(t, dl.checkpoint), x)
    assert (found[0] == expected[0]).all()
    assert np.allclose(found[2][0], expected[2][0], rtol=1e-13)


def test_the_gradient_of_a_parameter_by_itself():
    x = Tensor(3.0, requires_grad=True)
    assert dl.grad(x, x)[0].item() == 1.0
    assert x.grad is None
    x.backward()
    x.backward()
    assert x.grad == 2.0


def test_shapes_are_plain_tuples():
    x = Tensor(np.ones((2, 3)))
    assert type(x.shape) is type((x * 2.0).shape) is tuple


class Scaled:
    """Rules that say nothing of what they read: functions of a kind that has no code to look at."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, g, z, x):
        return g * self.factor * x

    def rule(self, g, z, x):
        return g * self.factor * x


@pytest.mark.parametrize("rule", [Scaled(2.0), Scaled(2.0).rule], ids=["object", "method"])
def test_a_rule_without_code_to_read_keeps_everything(rule):
    square = dl.op(lambda x: x * x, rule, name="square")
    x = np.array([1.0, -3.0])
    _, c, (g,) = gradients(square, x)
    assert g.tolist() == (2 * c * x).tolist()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: F.linear(np.ones((2, 3)), np.ones(3)), r"needs a weight \(out, in\).*got \(3,\)"),
        (lambda: F.linear(np.ones((2, 3)), np.ones((4, 3)), np.ones(3)), r"bias \(out,\).*\(3,\)"),
        (lambda: F.linear(np.float64(1), np.ones((4, 3))), r"shape \(\), but the layer takes 3"),
        (lambda: F.max_pool2d(np.ones((1, 1, 2, 9)), 3), r"\(3, 3\) does not fit into \(2, 9\)"),
        (lambda: F.avg_pool2d(np.ones((1, 1, 9, 2)), 3), r"\(3, 3\) does not fit into \(9, 2\)"),
    ],
)
def test_layers_refuse_what_fits_on_one_side_only(act, words):
    with pytest.raises(dl.ShapeError, match=words):
        act()


def test_reductions_over_everything_can_keep_their_axes():
    x = np.random.default_rng(17).standard_normal((2, 3))
    for f, expected in (
        (ops.sum, x.sum()), (ops.mean, x.mean()), (ops.max, x.max()), (ops.min, x.min()),
        (ops.var, x.var()),
    ):  # fmt: skip
        z, _, (g,) = gradients(lambda t, f=f: f(t, keepdims=True), x)
        assert z.shape == (1, 1)
        assert z.item() == pytest.approx(expected)
        assert g.shape == (2, 3)
        assert f(x).shape == ()


def test_one_of_a_kind():
    x = np.random.default_rng(18).standard_normal((2, 3))
    for f in (lambda t: ops.concatenate([t], 1), lambda t: ops.stack([t], 1)[:, 0]):
        z, c, (g,) = gradients(f, x)
        assert (z == x).all()
        assert (g == c).all()
    z, c, (g,) = gradients(lambda t: dl.where([True, False], t, 0.0), np.array([1.0, 2.0]))
    assert z.tolist() == [1.0, 0.0]
    assert g.tolist() == [c[0], 0.0]
    z, _, (g,) = gradients(lambda t: F.layer_norm(t, np.ones(3), np.zeros(3)), x[0])
    assert z.shape == g.shape == (3,)
    assert z.std() == pytest.approx(1, rel=1e-3)
    z = F.batch_norm(x, np.ones(3), np.zeros(3), eps=1e-12)[0]
    assert np.allclose(np.abs(z), 1)
    assert not F.dropout(x, 1.0, mask=np.ones((2, 3))).any()


@pytest.mark.parametrize(
    "shapes",
    [((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((4,), (5, 2, 4, 3)), ((5, 1, 3, 4), (2, 4, 2))],
)
def test_vectors_times_batches_of_matrices(shapes):
    rng = np.random.default_rng(19)
    x, y = (rng.standard_normal(s) for s in shapes)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    like_torchs(ops.matmul, torch.matmul, x, y)
    assert np.allclose(ops.matmul(x, y), x @ y)
