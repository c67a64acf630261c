"""Convolution, pooling, normalisation and the activations: differences, torch, adjoints, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlmini as dl
from dlmini import ShapeError, ops
from dlmini import functional as F
from dlmini.testing import gradcheck, gradgradcheck

few = settings(max_examples=6, deadline=None)


@pytest.fixture(autouse=True)
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


def both(f, *inputs, seed=0):
    rng = np.random.default_rng(seed)
    gradcheck(f, inputs, rng=rng)
    gradgradcheck(f, inputs, rng=rng)


def images(n, c, h, w, seed=0):
    return np.random.default_rng(seed).standard_normal((n, c, h, w))


# --- against differences --------------------------------------------------------------------------


@pytest.mark.parametrize("f", [F.leaky_relu, F.elu, F.gelu, lambda x: ops.clip(x, -0.7, 0.9),
                               ops.var, lambda x: ops.var(x, 1, keepdims=True)])  # fmt: skip
def test_activations_and_variance_match_differences(f):
    x = np.random.default_rng(1).standard_normal((3, 4))
    both(f, x + 0.05 * np.sign(x))


@few
@given(n=st.integers(1, 2), c=st.integers(1, 2), o=st.integers(1, 2), h=st.integers(3, 5),
       w=st.integers(3, 4), k=st.integers(1, 3), s=st.integers(1, 2), p=st.integers(0, 1),
       seed=st.integers(0, 99))  # fmt: skip
def test_convolution_matches_differences(n, c, o, h, w, k, s, p, seed):
    rng = np.random.default_rng(seed)
    both(
        lambda x, v, b: F.conv2d(x, v, b, stride=s, padding=p),
        rng.standard_normal((n, c, h, w)),
        rng.standard_normal((o, c, k, min(k, 2))),
        rng.standard_normal(o),
        seed=seed,
    )


def test_the_three_convolutions_are_adjoint():
    rng = np.random.default_rng(2)
    x, w = images(2, 3, 6, 5), rng.standard_normal((4, 3, 3, 2))
    options = {"stride": (2, 1), "padding": (1, 0), "shapes": (x.shape, w.shape)}
    z = F._conv(x, w, **options)
    g = rng.standard_normal(z.shape)
    inner = (g * z).sum()
    assert (x * F._conv_input(g, w, **options)).sum() == pytest.approx(inner)
    assert (w * F._conv_weight(g, x, **options)).sum() == pytest.approx(inner)


@pytest.mark.parametrize(("kernel", "stride"), [(2, None), (3, 1), ((2, 1), (1, 2))])
def test_pooling_matches_differences(kernel, stride):
    x = images(2, 2, 4, 5)
    both(lambda t: F.avg_pool2d(t, kernel, stride), x)
    both(lambda t: F.max_pool2d(t, kernel, stride), x)


def test_batch_and_layer_norm_match_differences_in_second_order_too():
    rng = np.random.default_rng(3)
    gamma, beta = rng.standard_normal((2, 3))
    both(lambda x, w, b: F.batch_norm(x, w, b)[0], rng.standard_normal((5, 3)), gamma, beta)
    both(lambda x, w, b: F.batch_norm(x, w, b)[0], images(2, 3, 2, 2), gamma, beta)
    both(F.layer_norm, rng.standard_normal((2, 4, 3)), gamma, beta)


def test_the_hessian_of_batch_norm_is_not_that_of_constant_statistics():
    rng = np.random.default_rng(4)
    x, c = rng.standard_normal((4, 1)), rng.standard_normal((4, 1))

    def value(t):
        z = F.batch_norm(t, np.ones(1), np.zeros(1))[0]
        return (z * z * z * c).sum()

    t = dl.Tensor(x, requires_grad=True)
    [g] = dl.grad(value(t), [t], create_graph=True)
    hessian = np.stack(
        [dl.grad(g[i, 0], [t], retain_graph=True)[0].numpy()[:, 0] for i in range(4)]
    )
    assert hessian == pytest.approx(hessian.T, abs=1e-9)
    # The output does not change when x is shifted, nor to first order when it is scaled.
    assert hessian @ np.ones(4) == pytest.approx(np.zeros(4), abs=1e-8)


# --- against torch --------------------------------------------------------------------------------


def torch_cases():
    import torch.nn.functional as T

    x, v, b = images(2, 3, 6, 7), images(4, 3, 3, 2, seed=1), np.arange(4.0)
    flat = np.random.default_rng(5).standard_normal((6, 3))
    gamma, beta = np.random.default_rng(6).standard_normal((2, 3))
    return {
        "conv": ([x, v, b], lambda *a: F.conv2d(*a, stride=(2, 1), padding=1),
                 lambda *a: T.conv2d(*a, stride=(2, 1), padding=1)),
        "avg": ([x], lambda a: F.avg_pool2d(a, 2), lambda a: T.avg_pool2d(a, 2)),
        "max": ([x], lambda a: F.max_pool2d(a, 3, 2), lambda a: T.max_pool2d(a, 3, 2)),
        "max of ties": ([np.maximum(x, 0.0)], lambda a: F.max_pool2d(a, 2),
                        lambda a: T.max_pool2d(a, 2)),
        "batch norm": ([x, gamma, beta], lambda *a: F.batch_norm(*a)[0],
                       lambda a, w, b: T.batch_norm(a, None, None, w, b, training=True)),
        "layer norm": ([flat, gamma, beta], F.layer_norm,
                       lambda a, w, b: T.layer_norm(a, (3,), w, b)),
        "leaky relu": ([flat], F.leaky_relu, T.leaky_relu),
        "elu": ([flat * 3], F.elu, T.elu),
        "gelu": ([flat], F.gelu, lambda a: T.gelu(a, approximate="tanh")),
        "clip": ([flat], lambda a: ops.clip(a, -0.5, 0.5), lambda a: a.clamp(-0.5, 0.5)),
        "var": ([flat], lambda a: ops.var(a, 0), lambda a: a.var(0, correction=0)),
    }  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["conv", "avg", "max", "max of ties", "batch norm", "layer norm",
                                  "leaky relu", "elu", "gelu", "clip", "var"])  # fmt: skip
def test_values_gradients_and_their_gradients_equal_torchs(name, backend):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    dl.use(backend, "float64")
    inputs, ours, theirs = torch_cases()[name]
    mine = [dl.Tensor(a, requires_grad=True) for a in inputs]
    other = [torch.tensor(a, requires_grad=True) for a in inputs]
    z, t = ours(*mine), theirs(*other)
    assert np.allclose(z.numpy(), t.detach(), rtol=1e-11, atol=1e-12)
    rng = np.random.default_rng(7)
    c = rng.standard_normal(z.shape)
    g = dl.grad(z, mine, c, create_graph=True)
    h = torch.autograd.grad(t, other, torch.tensor(c), create_graph=True)
    total, reference = dl.Tensor(0.0), torch.zeros((), dtype=torch.float64)
    for a, b in zip(g, h, strict=True):
        assert np.allclose(a.numpy(), b.detach(), rtol=1e-10, atol=1e-11)
        weights = rng.standard_normal(a.shape)
        total = total + (a * dl.asarray(weights)).sum()
        reference = reference + (b * torch.tensor(weights)).sum()
    if total.requires_grad and reference.requires_grad:
        second = dl.grad(total, mine)
        expected = torch.autograd.grad(reference, other, allow_unused=True)
        for a, b in zip(second, expected, strict=True):
            assert np.allclose(a.numpy(), 0.0 if b is None else b, rtol=1e-9, atol=1e-10)


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_keeps_the_expectation_over_all_masks():
    x = np.array([1.0, -2.0, 3.0])
    masks = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T
    p = 0.3
    chance = np.prod(np.where(masks, 1 - p, p), axis=1)
    mean = sum(c * F.dropout(x, p, mask=m) for c, m in zip(chance, masks, strict=True))
    assert mean == pytest.approx(x)


def test_dropout_at_both_ends():
    x = dl.Tensor([1.0, 2.0], requires_grad=True)
    assert F.dropout(x, 0.0) is x
    z = F.dropout(x, 1.0)
    z.sum().backward()
    assert z.numpy().tolist() == [0.0, 0.0]
    assert x.grad.tolist() == [0.0, 0.0]


# --- errors in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: F.conv2d(np.ones((1, 2, 4, 4)), np.ones((3, 1, 2, 2))), ShapeError,
         r"one C, got \(1, 2, 4, 4\) and \(3, 1, 2, 2\)"),
        (lambda: F.conv2d(np.ones((1, 1, 2, 4)), np.ones((3, 1, 3, 3))), ShapeError,
         r"\(3, 3\) does not fit.*\(2, 4\).*pad more"),
        (lambda: F.conv2d(np.ones((1, 1, 4, 4)), np.ones((3, 1, 3, 3)), stride=0), ValueError,
         "stride must be an integer >= 1.*got 0"),
        (lambda: F.conv2d(np.ones((1, 1, 4, 4)), np.ones((3, 1, 3, 3)), padding=(1, 2, 3)),
         ValueError, "padding must be an integer >= 0 or a pair"),
        (lambda: F.max_pool2d(np.ones((4, 4)), 2), ShapeError, r"needs images.*\(4, 4\)"),
        (lambda: F.avg_pool2d(np.ones((1, 1, 2, 2)), 3), ShapeError, "does not fit into"),
        (lambda: F.batch_norm(np.ones((4, 3)), np.ones(2), np.ones(2)), ShapeError,
         r"2 channels.*\(4, 3\)"),
        (lambda: F.batch_norm(np.ones((1, 3)), np.ones(3), np.ones(3)), ShapeError,
         r"no variance.*net\.eval\(\)"),
        (lambda: F.batch_norm(np.ones((2, 3)), np.ones(3), np.ones(3), eps=0), ValueError, "eps"),
        (lambda: F.layer_norm(np.ones((4, 3)), np.ones(2), np.ones(2)), ShapeError, "2 features"),
        (lambda: F.dropout(np.ones(2), 1.5), ValueError, "p is a probability.*got 1.5"),
        (lambda: F.dropout(np.ones(2), -0.1), ValueError, "p must be"),
        (lambda: ops.clip(np.ones(2), 1, 0), ValueError, "low=1 and high=0"),
    ],
)  # fmt: skip
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()
