"""Forward mode against backprop, and checkpointing against keeping everything."""

import tracemalloc

import numpy as np
import pytest

import dlmini as dl
from dlmini import GradientError, ShapeError, Tensor, nn
from dlmini.flat import pack

backends = pytest.mark.parametrize("backend", ["numpy", "torch"])


@pytest.fixture(autouse=True)
def float64():
    dl.use("numpy", dtype="float64")
    yield
    dl.use("numpy")


def images(*shape, seed=0):
    return dl.asarray(np.random.default_rng(seed).standard_normal(shape))


def every_layer():
    dl.seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())),
        nn.LayerNorm(6), nn.Tanh(), nn.Dropout(0.3), nn.GELU(), nn.ELU(), nn.LeakyReLU(),
        nn.Softplus(), nn.Sigmoid(), nn.Linear(6, 3),
    )  # fmt: skip


# --- forward mode ---------------------------------------------------------------------------------


@backends
def test_both_modes_agree_on_a_network_of_every_layer(backend):
    pytest.importorskip(backend)
    dl.use(backend, dtype="float64")
    net, x = every_layer(), Tensor(images(6, 2, 6, 6), requires_grad=True)
    inputs = [x, *net.parameters()]

    def loss(*_):
        dl.seed(5)  # the same dropout mask in each pass
        return dl.cross_entropy(net(x), [0, 1, 2, 0, 1, 2])

    rng = np.random.default_rng(7)
    v = [rng.standard_normal(t.shape) for t in inputs]
    value, slope = dl.jvp(loss, inputs, v)
    gradients = dl.grad(loss(), inputs)
    expected = sum(float((g.numpy() * d).sum()) for g, d in zip(gradients, v, strict=True))
    assert float(value) == pytest.approx(float(loss()), rel=1e-12)
    assert float(slope) == pytest.approx(expected, rel=1e-9)


def test_columns_of_the_jacobian_one_pass_each():
    a = np.random.default_rng(0).standard_normal((3, 2))
    columns = [dl.jvp(lambda x: dl.matmul(a, dl.sin(x)), [[0.3, -2.0]], [e])[1] for e in np.eye(2)]
    assert np.stack([c.numpy() for c in columns], 1) == pytest.approx(a * np.cos([0.3, -2.0]))


def test_an_output_that_does_not_move_has_tangent_zero():
    _, slope = dl.jvp(lambda x: Tensor([1.0, 2.0]), [3.0], [1.0])
    assert slope.numpy().tolist() == [0.0, 0.0]
    _, slope = dl.jvp(lambda x: x, [3.0], [2.0])
    assert float(slope) == 2.0


def test_forward_mode_keeps_no_activations():
    x, v = np.ones(20_000), np.ones(20_000)

    def peak(depth):
        def chain(x):
            for _ in range(depth):
                x = dl.tanh(x)
            return x

        tracemalloc.start()
        dl.jvp(chain, [x], [v])
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(100)[0] < 1.1 * peak(10)[0]


def test_forward_mode_says_what_it_cannot_do():
    cube = dl.op(lambda x: x**3, lambda g, z, x: g * 3 * x**2, name="cube")
    with pytest.raises(GradientError, match=r"cube has no rule for forward mode.*`jvp`"):
        dl.jvp(cube, [2.0], [1.0])
    with pytest.raises(ShapeError, match=r"tangent 0 has shape \(3,\), its primal \(2,\)"):
        dl.jvp(dl.exp, [[1.0, 2.0]], [[1.0, 2.0, 3.0]])
    with pytest.raises(ShapeError, match="1 primals but 2 tangents"):
        dl.jvp(dl.exp, [1.0], [1.0, 1.0])
    with pytest.raises(GradientError, match="reverse mode inside jvp"):
        dl.jvp(lambda x: dl.grad(x * x, [x])[0], [1.0], [1.0])
    with pytest.raises(TypeError, match="one Tensor, got float"):
        dl.jvp(lambda x: 1.0, [1.0], [1.0])
    p = Tensor(2.0, requires_grad=True)
    (p * p).backward()  # an error within jvp leaves the engine as it was
    assert float(p.grad) == 4.0


# --- checkpointing --------------------------------------------------------------------------------


def gradients(run, net):
    """g after one pass in which dropout draws alike, and the running statistics."""
    dl.seed(11)
    flat = pack(net.parameters())
    flat.zero_grad()
    dl.cross_entropy(run(), [0, 1, 2, 0, 1, 2]).backward()
    return flat.snapshot(), dl.to_numpy(flat.g).copy(), net.state_dict()


@backends
@pytest.mark.parametrize("segments", [1, 4, 20])
def test_checkpointed_gradients_are_equal_to_the_last_bit(backend, segments):
    pytest.importorskip(backend)
    dl.use(backend, dtype="float32")
    x = images(6, 2, 6, 6)
    kept, again = every_layer(), every_layer()
    plain = gradients(lambda: kept(x), kept)
    checkpointed = gradients(lambda: nn.checkpoint_sequential(again, segments, x), again)
    assert np.abs(plain[1]).max() > 0
    assert np.array_equal(plain[1], checkpointed[1])
    for name, value in plain[2].items():  # running statistics counted once
        assert np.array_equal(value, checkpointed[2][name]), name


def test_shared_weights_and_what_a_piece_uses_on_the_side():
    w = Tensor(np.random.default_rng(0).standard_normal((4, 4)), requires_grad=True)
    x = Tensor(images(3, 4), requires_grad=True)

    def loss(wrap):
        y = dl.tanh(x @ w)
        z = wrap(lambda h: dl.tanh(h @ w) + y, y)  # y also from outside, w once more
        z = wrap(lambda h: h, z)
        return (wrap(lambda h: wrap(dl.exp, h) * w.sum(), z) * z).sum()

    def keep(f, *args):
        return f(*args)

    for inputs in ([w], [x], [w, x]):
        for a, b in zip(
            dl.grad(loss(keep), inputs), dl.grad(loss(dl.checkpoint), inputs), strict=True
        ):
            assert np.array_equal(a.numpy(), b.numpy())
    loss(dl.checkpoint).backward()
    assert np.array_equal(w.grad, dl.grad(loss(keep), [w])[0].numpy())


def test_second_derivatives_through_a_checkpoint():
    x = Tensor([0.3, -0.7], requires_grad=True)
    [g] = dl.grad(dl.checkpoint(lambda t: dl.sin(t).sum(), x), [x], create_graph=True)
    assert dl.grad(g.sum(), [x])[0].numpy() == pytest.approx(-np.sin([0.3, -0.7]))


def test_a_checkpoint_keeps_the_guards_of_the_graph():
    w = Tensor(2.0, requires_grad=True)
    z = dl.checkpoint(lambda: w * w)
    z.backward(retain_graph=True)
    z.backward()
    assert float(w.grad) == 8.0
    with pytest.raises(GradientError, match="already walked"):
        z.backward()
    z = dl.checkpoint(lambda: w * w)
    w.data = 3.0
    with pytest.raises(GradientError, match="changed after the forward pass"):
        z.backward()
    with pytest.raises(TypeError, match="returns one Tensor"):
        dl.checkpoint(lambda: 1.0)
    with dl.no_grad():
        assert not dl.checkpoint(lambda: w * w).requires_grad
    assert not dl.checkpoint(lambda: Tensor(1.0)).requires_grad


def test_the_stream_of_random_numbers_goes_on_as_if_nothing_were_repeated():
    w = Tensor(np.ones(8), requires_grad=True)
    draws = []
    for wrap in (lambda f, x: f(x), dl.checkpoint):
        dl.seed(1)
        wrap(lambda t: dl.functional.dropout(t, 0.5), w).sum().backward()
        draws.append((w.grad.tolist(), dl.backend.stream().random()))
        w.zero_grad()
    assert draws[0] == draws[1]


def test_checkpoints_of_a_square_root_keep_few_activations():
    def peak(segments):
        dl.seed(0)
        net = nn.Sequential(*[m for _ in range(100) for m in (nn.Linear(40, 40), nn.ReLU())])
        x = images(500, 40)
        dl.optim.SGD(net.parameters(), 0.1)
        net.zero_grad()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        out = nn.checkpoint_sequential(net, segments, x) if segments else net(x)
        (out * out).mean().backward()
        top = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return top / x.nbytes

    assert 95 < peak(0) < 106
    assert peak(10) < 26
