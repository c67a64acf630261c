"""Every rule of the derivative table: against central differences, first and second order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlmini as dl
from dlmini import ShapeError, ops
from dlmini import functional as F
from dlmini.tensor import Op
from dlmini.testing import gradcheck, gradgradcheck

UNARY = {
    "neg": (ops.neg, "any"), "exp": (ops.exp, "any"), "log": (ops.log, "positive"),
    "sqrt": (ops.sqrt, "positive"), "sin": (ops.sin, "any"), "cos": (ops.cos, "any"),
    "tanh": (ops.tanh, "any"), "abs": (ops.abs, "off zero"), "relu": (ops.relu, "off zero"),
    "sigmoid": (ops.sigmoid, "any"), "softplus": (ops.softplus, "any"),
    "cube": (lambda x: ops.power(x, 3), "any"),
    "inverse square": (lambda x: ops.power(x, -2.0), "positive"),
    "2 to the x": (lambda x: dl.exp(x * 0.5) + 2.0 / (x * x + 1.0), "any"),
}  # fmt: skip
BINARY = {
    "add": (ops.add, "any"), "sub": (ops.sub, "any"), "mul": (ops.mul, "any"),
    "div": (ops.div, "positive"), "power": (ops.power, "positive"),
    "maximum": (ops.maximum, "any"), "minimum": (ops.minimum, "any"),
    "where": (lambda x, y: ops.where(ops.raw(x) > 0.3, x * x, y), "any"),
}  # fmt: skip
REDUCTIONS = {
    "sum": ops.sum, "mean": ops.mean, "max": ops.max, "min": ops.min,
}  # fmt: skip


def draw(rng, shape, domain="any"):
    """Random numbers in a domain, away from kinks by more than the difference step."""
    x = rng.standard_normal(shape)
    if domain == "positive":
        return np.abs(x) + 0.5
    if domain == "off zero":
        return x + 0.1 * np.sign(x)
    return x


def both(f, *inputs, rng):
    gradcheck(f, inputs, rng=rng)
    gradgradcheck(f, inputs, rng=rng)


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("name", UNARY)
@few
@given(shape=shapes, seed=seeds)
def test_unary_rule_matches_differences(name, shape, seed):
    rng = np.random.default_rng(seed)
    f, domain = UNARY[name]
    both(f, draw(rng, shape, domain), rng=rng)


@st.composite
def broadcastable(draw_from):
    """Two shapes that broadcast: axes dropped from the left or set to 1, on either side."""
    full = draw_from(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    made = []
    for _ in range(2):
        keep = draw_from(st.integers(0, len(full)))
        cut = full[len(full) - keep :]
        made.append(tuple(1 if draw_from(st.booleans()) else n for n in cut))
    return made


@pytest.mark.parametrize("name", BINARY)
@few
@given(shapes=broadcastable(), seed=seeds)
def test_binary_rule_matches_differences_under_broadcasting(name, shapes, seed):
    rng = np.random.default_rng(seed)
    f, domain = BINARY[name]
    both(f, *(draw(rng, shape, domain) for shape in shapes), rng=rng)


@pytest.mark.parametrize("name", REDUCTIONS)
@few
@given(shape=st.lists(st.integers(1, 3), max_size=3).map(tuple), seed=seeds, data=st.data())
def test_reduction_rule_matches_differences(name, shape, seed, data):
    rng = np.random.default_rng(seed)
    axes = data.draw(st.sets(st.integers(0, max(len(shape) - 1, 0)), max_size=len(shape)))
    axis = data.draw(st.sampled_from([None, tuple(axes) if shape else None]))
    keepdims = data.draw(st.booleans())
    x = draw(rng, shape)
    if np.unique(x).size == x.size:  # ties have a test of their own
        both(lambda t: REDUCTIONS[name](t, axis, keepdims), x, rng=rng)


@few
@given(n=st.integers(1, 3), m=st.integers(1, 3), k=st.integers(1, 3), seed=seeds)
def test_matrix_products_match_differences(n, m, k, seed):
    rng = np.random.default_rng(seed)
    both(ops.matmul, draw(rng, (n, m)), draw(rng, (m, k)), rng=rng)
    both(ops.matmul, draw(rng, (2, n, m)), draw(rng, (m, k)), rng=rng)
    both(ops.matmul, draw(rng, (2, 1, n, m)), draw(rng, (3, m, k)), rng=rng)
    both(ops.matmul, draw(rng, m), draw(rng, (m, k)), rng=rng)
    both(ops.matmul, draw(rng, (n, m)), draw(rng, m), rng=rng)
    both(ops.matmul, draw(rng, m), draw(rng, m), rng=rng)
    both(F.linear, draw(rng, (n, m)), draw(rng, (k, m)), draw(rng, k), rng=rng)
    both(F.linear, draw(rng, (2, n, m)), draw(rng, (k, m)), rng=rng)


@few
@given(n=st.integers(1, 4), c=st.integers(1, 4), seed=seeds)
def test_softmax_losses_match_differences(n, c, seed):
    rng = np.random.default_rng(seed)
    x, labels = draw(rng, (n, c)), rng.integers(0, c, n)
    both(lambda t: F.cross_entropy(t, labels), x, rng=rng)
    both(F.softmax, x, rng=rng)
    both(lambda t: ops.logsumexp(t, 0), x, rng=rng)
    both(lambda t: ops.logsumexp(t, -1, keepdims=True), x, rng=rng)
    both(F.mse_loss, x, draw(rng, (n, c)), rng=rng)


@few
@given(shape=st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple), seed=seeds)
def test_shape_rules_match_differences(shape, seed):
    rng = np.random.default_rng(seed)
    x, y = draw(rng, shape), draw(rng, shape)
    order = tuple(int(i) for i in rng.permutation(len(shape)))
    both(lambda t: ops.reshape(t, -1), x, rng=rng)
    both(lambda t: ops.transpose(t, order), x, rng=rng)
    both(lambda t: t.T, x, rng=rng)
    both(lambda t, u: ops.concatenate([t, u, t], 1), x, y, rng=rng)
    both(lambda t, u: ops.stack([t, u], -1), x, y, rng=rng)
    both(lambda t: ops.pad(t, [(i, 1) for i in range(t.ndim)]), x, rng=rng)
    both(lambda t: ops.broadcast_to(t, (2, *shape)), x, rng=rng)
    both(lambda t: ops.unbroadcast(t, (1,) * len(shape)), x, rng=rng)


INDICES = {
    "one row": 1, "a slice": slice(1, None), "a strided slice": slice(None, None, 2),
    "a new axis": (slice(None), None), "a column": (slice(None), 0), "the rest": (..., 0),
    "rows twice": np.array([0, 1, 1, 1]), "entries": (np.array([0, 0, 2]), np.array([1, 1, 0])),
    "a mask": np.array([True, False, True]),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_indexing_rule_matches_differences(name):
    rng = np.random.default_rng(3)
    both(lambda t: ops.getitem(t, INDICES[name]), draw(rng, (3, 2)), rng=rng)


def test_every_op_is_in_one_of_the_tests_above():
    checked = {
        o.name for o in (f for f, _ in [*UNARY.values(), *BINARY.values()]) if isinstance(o, Op)
    }
    checked |= set(
        "sum max min matmul linear cross_entropy mse_loss softmax logsumexp reshape transpose "
        "leaky_relu conv2d conv2d_relu conv2d_input conv2d_weight max_pool2d pool_gather "
        "pool_spread linear_relu normalise normalise_relu "  # these in test_functional
        "checkpoint "  # in test_modes
        "take_rows place_rows "  # in test_nn
        "concatenate broadcast_to unbroadcast getitem scatter where astype power".split()
    )
    made = {
        o.name for module in (ops, F, dl.tensor) for o in vars(module).values() if isinstance(o, Op)
    }
    assert made <= checked


# --- kinks and edges ------------------------------------------------------------------------------


def slope(f, *values):
    """Derivatives by each scalar argument."""
    leaves = [dl.Tensor(np.array(v, dtype="float64"), requires_grad=True) for v in values]
    return [float(g.item()) for g in dl.grad(f(*leaves), leaves)]


def test_derivatives_at_kinks_are_torchs():
    assert slope(ops.relu, 0.0) == [0.0]
    assert slope(ops.abs, 0.0) == [0.0]
    assert slope(ops.maximum, 1.0, 1.0) == [0.5, 0.5]
    assert slope(ops.minimum, 2.0, 2.0) == [0.5, 0.5]
    x = dl.Tensor([3.0, 1.0, 3.0], requires_grad=True)
    dl.max(x).backward()
    assert x.grad.tolist() == [0.5, 0.0, 0.5]


def test_powers_at_zero():
    assert slope(lambda x: x**0, 0.0) == [0.0]
    assert slope(lambda x: x**1, 0.0) == [1.0]
    assert slope(lambda x: x**2, 0.0) == [0.0]
    assert slope(ops.power, 0.0, 2.0) == [0.0, 0.0]
    assert slope(ops.power, 0.0, 0.0)[0] == 0.0


def test_mixed_second_derivative_of_a_power_at_exponent_zero():
    x = dl.Tensor(np.array(3.0), requires_grad=True)
    p = dl.Tensor(np.array(0.0), requires_grad=True)
    [dx] = dl.grad(x**p, [x], create_graph=True)
    [dxdp] = dl.grad(dx, [p])
    assert dxdp.item() == pytest.approx(1 / 3)


def test_where_keeps_nan_of_the_untaken_branch_out():
    x = dl.Tensor([-1.0, 4.0], requires_grad=True)
    with np.errstate(invalid="ignore"):
        dl.where(x.data > 0, dl.sqrt(x), 0.0).sum().backward()
    # The root's own slope at -1 is NaN·0; only a safe argument gives a clean gradient.
    safe = dl.Tensor([-1.0, 4.0], requires_grad=True)
    inner = dl.where(safe.data > 0, safe, 1.0)
    dl.where(safe.data > 0, dl.sqrt(inner), 0.0).sum().backward()
    assert safe.grad.tolist() == [0.0, 0.25]


def test_large_arguments_do_not_overflow():
    x = dl.Tensor([-1e4, 0.0, 1e4], requires_grad=True)
    with np.errstate(over="raise", invalid="raise"):
        assert dl.sigmoid(x).numpy().tolist() == [0.0, 0.5, 1.0]
        assert dl.softplus(x).numpy()[2] == pytest.approx(1e4)
        assert float(dl.logsumexp(x)) == pytest.approx(1e4)
        loss = dl.cross_entropy(dl.reshape(x, (1, 3)), [0])
        loss.backward()
    assert float(loss) == pytest.approx(2e4)
    assert np.isfinite(x.grad).all()


def test_logsumexp_of_infinities():
    assert float(dl.logsumexp(dl.Tensor([-np.inf, -np.inf]))) == -np.inf
    assert float(dl.logsumexp(dl.Tensor([np.inf, 1.0]))) == np.inf
    assert float(dl.logsumexp(dl.Tensor([-np.inf, 2.0]))) == 2.0


def test_padding_is_numpys_and_says_what_it_needs():
    x = np.arange(6.0).reshape(2, 3)
    assert dl.pad(x, ((1, 0), (2, 1))).tolist() == np.pad(x, ((1, 0), (2, 1))).tolist()
    for widths in ([(1, 1)], [(1, 1), (0, -1)], [(1,), (1,)]):
        with pytest.raises(ShapeError, match="pad of 2 axes takes"):
            dl.pad(x, widths)
