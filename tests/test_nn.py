"""Layers, modes, state, initialisation and the table of costs."""

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError, nn

pytestmark = pytest.mark.usefixtures("library")


def images(n=4, c=2, size=6):
    return dl.asarray(dl.rng(0).standard_normal((n, c, size, size)))


def small_net():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Residual(nn.Linear(27, 27), scale=0.5, drop=0.2), nn.Dropout(0.3),
        nn.StochasticDepth(0.1), nn.LayerNorm(27), nn.Linear(27, 4),
    )  # fmt: skip


def test_a_network_of_every_layer_runs_and_learns():
    net, x = small_net(), images(8)
    labels = np.arange(8) % 4
    opt = dl.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = dl.cross_entropy(net(x), labels)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    net.eval()
    assert dl.cross_entropy(net(x), labels).item() < 0.5 * losses[0]


def test_train_and_eval_reach_every_module():
    net, x = small_net(), images()
    net.eval()
    assert not net[5].branch.training
    first, second = net(x).numpy(), net(x).numpy()
    assert (first == second).all()
    net.train()
    assert not np.allclose(net(x).numpy(), net(x).numpy())


def test_batch_norm_follows_torch_in_both_modes():
    torch = pytest.importorskip("torch")
    mine, other = nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2).double()
    for step in range(5):
        x = dl.rng(step).standard_normal((4, 2, 3, 3)) * 2 + 1
        z, t = mine(dl.asarray(x)), other(torch.tensor(x))
        assert np.allclose(z.numpy(), t.detach())
    assert np.allclose(dl.to_numpy(mine.running_mean), other.running_mean)
    assert np.allclose(dl.to_numpy(mine.running_var), other.running_var)
    x = dl.rng(9).standard_normal((4, 2, 3, 3))
    assert np.allclose(mine.eval()(dl.asarray(x)).numpy(), other.eval()(torch.tensor(x)).detach())


def test_batch_norm_in_evaluation_takes_a_batch_of_one():
    layer = nn.BatchNorm1d(3).eval()
    assert layer(dl.asarray(np.ones((1, 3)))).shape == (1, 3)


def test_a_dropped_branch_is_scaled_to_keep_the_mean():
    block = nn.Residual(nn.Flatten(), drop=0.25)
    z = block(dl.Tensor(np.ones((20_000, 1)))).numpy()
    assert set(np.round(np.unique(z), 12)) == {1.0, round(1 + 1 / 0.75, 12)}
    assert z.mean() == pytest.approx(2.0, abs=0.02)


class Spy(nn.Module):
    """Notes how many examples come by; entry by entry, so that examples do not mix."""

    def __init__(self):
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape[0])
        return dl.tanh(x)


@pytest.mark.parametrize("shape", [(40, 3), (40, 2, 3, 3)])
def test_a_branch_is_computed_for_the_examples_that_keep_it_only(shape):
    spy = Spy()
    block = nn.Residual(spy, scale=0.5, drop=0.4)
    p = dl.Tensor(dl.rng(0).standard_normal(shape), requires_grad=True)
    dl.seed(3)
    kept = dl.backend.stream().random(40) >= 0.4
    dl.seed(3)
    z = block(p)
    assert spy.seen == [kept.sum()]
    x, mask = p.numpy(), kept.reshape(-1, *[1] * (len(shape) - 1))
    assert np.allclose(z.numpy(), x + mask * np.tanh(x) * (0.5 / 0.6), rtol=1e-14)
    g = dl.rng(1).standard_normal(shape)
    z.backward(g)
    slope = 1 + mask * (1 - np.tanh(x) ** 2) * (0.5 / 0.6)
    assert np.allclose(dl.to_numpy(p.grad), g * slope, rtol=1e-14)


def test_a_branch_that_all_examples_skip_is_not_computed():
    spy, x = Spy(), dl.asarray(np.ones((5, 2)))
    assert nn.Residual(spy, drop=1.0)(x) is x
    assert spy.seen == []
    nn.Residual(spy, drop=1.0).eval()(x)
    nn.Residual(spy, drop=0.0)(x)
    assert spy.seen == [5, 5]


def test_skipping_costs_less():
    block, x = nn.Residual(nn.Linear(16, 16), drop=0.5), dl.Tensor(np.ones((100, 16)))
    dl.seed(0)
    kept = (dl.backend.stream().random(100) >= 0.5).sum()
    dl.seed(0)
    assert dl.cost(lambda: block(x)).forward.products == kept * 2 * 16 * 16


def test_skipped_branches_have_second_derivatives_and_tangents():
    block = nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), drop=0.5)

    def f(x):
        dl.seed(1)
        return block(x)

    x, v = dl.rng(0).standard_normal((6, 3)), dl.rng(1).standard_normal((6, 3))
    dl.testing.gradcheck(f, [x])
    dl.testing.gradgradcheck(f, [x])
    step = 1e-6
    difference = (f(dl.Tensor(x + step * v)).numpy() - f(dl.Tensor(x - step * v)).numpy()) / 2
    assert np.allclose(dl.jvp(f, [x], [v])[1].numpy(), difference / step, atol=1e-8)


def test_batch_norm_in_a_branch_sees_the_whole_batch_though_examples_skip_it():
    norm = nn.BatchNorm1d(3, momentum=1.0)
    block = nn.Residual(nn.Sequential(norm), drop=0.7)
    x = dl.rng(0).standard_normal((8, 3))
    for k in range(30):  # of eight examples one is often left alone
        dl.seed(k)
        z = block(dl.asarray(x))
        if not np.allclose(z.numpy() if hasattr(z, "numpy") else z, x):
            assert np.allclose(dl.to_numpy(norm.running_mean), x.mean(0))


# --- frozen statistics ----------------------------------------------------------------------------


def test_frozen_batch_norm_uses_its_running_statistics_in_training_and_keeps_them():
    norm, x = nn.BatchNorm1d(3), dl.asarray(dl.rng(0).standard_normal((7, 3)) * 2 + 1)
    norm(x)
    expected = norm.eval()(x).numpy()
    state = norm.train().freeze().state_dict()
    assert (norm(x).numpy() == expected).all()
    assert all((state[name] == value).all() for name, value in norm.state_dict().items())
    dl.testing.gradcheck(norm, [dl.rng(1).standard_normal((4, 3))])
    assert not np.allclose(norm.freeze(False)(x).numpy(), expected)
    assert not (state["running_mean"] == norm.state_dict()["running_mean"]).all()


def test_a_net_frozen_at_a_batch_computes_the_same_function_there_and_no_longer_adapts():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 5), nn.BatchNorm1d(5), nn.Dropout(0.5),
    ).eval()  # fmt: skip
    net[1].train()
    x = images(8)
    dl.seed(7)
    with dl.no_grad():
        net[5].training = True
        before = net(x).numpy()
        net[5].training = False
    draws = dl.backend.stream().bit_generator.state
    assert nn.freeze_batch_norm(net, x) is net
    assert dl.backend.stream().bit_generator.state == draws
    assert np.allclose(net(x).numpy(), before, rtol=1e-10)
    assert net[1].training
    assert not net[5].training
    nn.freeze_batch_norm(net, x * 3.0 + 1.0)  # what was frozen adapts once more
    nn.freeze_batch_norm(net, x)
    assert np.allclose(net(x).numpy(), before, rtol=1e-10)
    net[4].weight.data *= 2.0
    assert not np.allclose(net(x).numpy(), before, rtol=0.1)  # unfrozen, the scale would not matter


# --- traces ---------------------------------------------------------------------------------------


def test_a_trace_names_every_layer_with_its_value_and_gradient():
    net, x = small_net(), images(8)
    labels = np.arange(8) % 4
    dl.seed(5)
    trace = nn.trace(net, x, lambda z: dl.cross_entropy(z, labels))
    names = [f"layers.{i}" for i in range(10)]
    assert list(trace) == [*names[:5], "layers.5.branch", *names[5:]]
    assert trace["layers.0"].layer is net[0]
    dl.seed(5)
    h = x
    for i, layer in enumerate(net.layers):
        h = layer(h)
        assert np.allclose(dl.to_numpy(trace[f"layers.{i}"].value), h.numpy(), rtol=1e-13), i
    logits = dl.Tensor(trace["layers.9"].value, requires_grad=True)
    dl.cross_entropy(logits, labels).backward()
    assert np.allclose(dl.to_numpy(trace["layers.9"].grad), dl.to_numpy(logits.grad))
    weight = dl.to_numpy(net[9].weight.data)
    assert np.allclose(
        dl.to_numpy(trace["layers.8"].grad), dl.to_numpy(trace["layers.9"].grad) @ weight
    )


def test_a_trace_leaves_nothing_behind():
    net, x = small_net(), images(8)
    net(x).sum().backward()
    state, grads = net.state_dict(), [np.array(dl.to_numpy(p.grad)) for p in net.parameters()]
    draws = dl.backend.stream().bit_generator.state
    nn.trace(net, x, lambda z: (z * z).sum())
    assert dl.backend.stream().bit_generator.state == draws
    assert all((state[name] == value).all() for name, value in net.state_dict().items())
    assert all((g == dl.to_numpy(p.grad)).all()
               for g, p in zip(grads, net.parameters(), strict=True))  # fmt: skip
    assert net.training


def test_a_trace_without_a_loss_or_before_any_parameter_has_no_gradient():
    shared = nn.Tanh()
    net = nn.Sequential(shared, nn.Linear(3, 3), shared)
    x = dl.rng(0).standard_normal((2, 3))
    assert [a.grad for a in nn.trace(net, x).values()] == [None] * 3
    trace = nn.trace(net, x, lambda z: z.sum())
    assert list(trace) == ["layers.0", "layers.1", "layers.0:2"]
    assert trace["layers.0"].grad is None
    assert trace["layers.1"].grad.shape == (2, 3)


def test_identity_is_x_itself():
    x = images()
    assert nn.Identity()(x) is x
    assert "Identity" in nn.summary(nn.Sequential(nn.Identity(), nn.Flatten()), x)


# --- dense nets -----------------------------------------------------------------------------------


class Squared(nn.Module):
    def forward(self, x):
        return x * x


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Identity,
     Squared],
)  # fmt: skip
def test_mlp_takes_every_activation_and_starts_with_its_gain(activation):
    net = nn.mlp(4, 300, 300, 2, activation=activation)
    name = activation.__name__.lower()
    gain = 1 / np.sqrt(3) if activation is Squared else dl.functional.gain(name)
    assert net[2].weight.numpy().std() == pytest.approx(gain / np.sqrt(300), rel=0.03)
    assert net[4].weight.numpy().std() == pytest.approx(1 / np.sqrt(300), rel=0.1)
    assert net(dl.asarray(np.ones((5, 4)))).shape == (5, 2)


def test_mlp_normalises_before_each_activation():
    net = nn.mlp(4, 8, 6, 2, norm=nn.BatchNorm1d, activation=nn.Tanh)
    kinds = [type(layer).__name__ for layer in net.layers]
    assert kinds == ["Linear", "BatchNorm1d", "Tanh"] * 2 + ["Linear"]
    assert [layer.bias is None for layer in net.layers[::3]] == [True, True, False]
    net = nn.mlp(4, 8, 2, norm=nn.LayerNorm)
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "LayerNorm", "ReLU",
                                                             "Linear"]  # fmt: skip
    assert net[0].bias is not None


# --- state ----------------------------------------------------------------------------------------


def test_state_travels_between_networks_with_buffers():
    a, b, x = small_net(), small_net(), images()
    a(x)
    state = a.state_dict()
    assert "layers.1.running_var" in state
    b.load_state_dict(state)
    assert np.allclose(a.eval()(x).numpy(), b.eval()(x).numpy())
    state["layers.0.bias"][...] = 99.0  # a copy
    assert not (a[0].bias.numpy() == 99.0).any()


def test_a_foreign_state_changes_nothing_and_is_explained():
    net = nn.mlp(2, 3)
    before = net.state_dict()
    state = {"layers.0.weight": np.ones((3, 5)), "layers.0.bias": np.ones(3), "extra": np.ones(1)}
    with pytest.raises(
        ShapeError, match=r"extra is unknown.*weight has shape \(3, 5\) instead of \(3, 2\)"
    ):
        net.load_state_dict(state)
    del state["layers.0.bias"]
    with pytest.raises(ShapeError, match=r"layers\.0\.bias is missing"):
        net.load_state_dict(state)
    assert all((before[k] == v).all() for k, v in net.state_dict().items())


# --- initialisation -------------------------------------------------------------------------------


def parameter(*shape):
    return dl.Tensor(np.empty(shape), requires_grad=True)


def test_initial_variances():
    p = parameter(300, 500)
    nn.xavier_normal_(p, gain=2.0)
    assert p.numpy().var() == pytest.approx(4 * 2 / 800, rel=0.02)
    nn.kaiming_normal_(p)
    assert p.numpy().var() == pytest.approx(2 / 500, rel=0.02)
    conv = parameter(100, 50, 3, 3)
    nn.kaiming_normal_(conv, "tanh")
    assert conv.numpy().var() == pytest.approx((5 / 3) ** 2 / 450, rel=0.03)
    nn.zeros_(p)
    assert not p.numpy().any()


def test_normal_draws_weights_by_fan_in_and_biases_too():
    net = nn.Sequential(nn.Conv2d(50, 80, 3), nn.Residual(nn.Linear(300, 400)), nn.LayerNorm(3))
    assert nn.normal_(net, weight=1.5, bias=0.3) is net
    conv, linear, norm = net[0], net[1].branch, net[2]
    assert conv.weight.numpy().std() == pytest.approx(1.5 / np.sqrt(450), rel=0.02)
    assert linear.weight.numpy().std() == pytest.approx(1.5 / np.sqrt(300), rel=0.02)
    biases = np.concatenate([conv.bias.numpy(), linear.bias.numpy()])
    assert biases.std() == pytest.approx(0.3, rel=0.15)
    assert (norm.weight.numpy() == 1).all()
    nn.normal_(net)
    assert not linear.bias.numpy().any()


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (4, 2, 3, 3)])
def test_orthogonal_rows_or_columns(shape):
    p = parameter(*shape)
    nn.orthogonal_(p, gain=3.0)
    m = p.numpy().reshape(shape[0], -1)
    gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    assert gram == pytest.approx(9 * np.eye(len(gram)), abs=1e-12)


def test_gains_are_torchs():
    torch = pytest.importorskip("torch")
    for name in ("linear", "sigmoid", "tanh", "relu"):
        assert dl.functional.gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    theirs = torch.nn.init.calculate_gain("leaky_relu", 0.01)
    assert dl.functional.gain("leaky_relu") == pytest.approx(theirs, rel=1e-14)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu", "softplus"])
def test_a_gain_keeps_the_second_moment(name):
    torch = pytest.importorskip("torch")
    z = torch.tensor(dl.rng(0).standard_normal(2_000_000))
    options = {"approximate": "tanh"} if name == "gelu" else {}
    phi = getattr(torch.nn.functional, name)(z, **options)
    assert dl.functional.gain(name) == pytest.approx((phi**2).mean().item() ** -0.5, rel=2e-3)


def test_the_gain_of_any_function():
    assert dl.functional.gain(dl.relu) == pytest.approx(np.sqrt(2))
    assert dl.functional.gain(nn.ReLU()) == pytest.approx(np.sqrt(2))
    assert dl.functional.gain(dl.tanh) == pytest.approx(1.5925374, rel=1e-7)
    with pytest.raises(ValueError, match=r"is 0\.0: no gain can make good"):
        dl.functional.gain(lambda x: 0.0 * x)
    with pytest.raises(ValueError, match=r"unknown nonlinearity 'swish'.*'gelu'.*pass the"):
        dl.functional.gain("swish")
    with pytest.raises(TypeError, match=r"got <class .*GELU'>: write nn.GELU\(\) instead"):
        nn.Linear(3, 3, nonlinearity=nn.GELU)
    with pytest.raises(TypeError, match="a name, a function or a layer, got 3"):
        dl.functional.gain(3)


# --- summary --------------------------------------------------------------------------------------


def test_the_table_counts_what_can_be_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    table = nn.summary(net, images(5)).splitlines()
    assert [line.split()[0] for line in table] == ["layer", "layers.0", "layers.1", "layers.2",
                                                   "layers.3", "total"]  # fmt: skip
    conv, linear, total = table[1].split(), table[4].split(), table[5].split()
    assert conv[-3:] == ["57", f"{5 * 3 * 36 * 8:,}", f"{5 * 3 * 36 * 2 * 18:,}"]
    assert linear[-3:] == ["436", f"{5 * 4 * 8}", f"{5 * 4 * 2 * 108:,}"]
    assert total[1] == f"{57 + 436}"
    assert net.training


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: nn.Conv2d(1, 0, 3), ValueError, "out_channels must be an integer >= 1"),
        (lambda: nn.BatchNorm1d(3, momentum=2), ValueError, "momentum is a probability"),
        (lambda: nn.Dropout(-0.1), ValueError, "p must be"),
        (lambda: nn.Residual(nn.Linear(2, 3))(np.ones((1, 2))), ShapeError,
         r"keep the shape.*\(1, 2\).*\(1, 3\)"),
        (lambda: nn.mlp(2, 3, 2, norm="batch"), TypeError, "norm must be a Module class.*'batch'"),
        (lambda: nn.mlp(2, 3, 2, activation=None), TypeError, "got None: write nn.Identity"),
        (lambda: nn.normal_(nn.Tanh()), ValueError, r"Linear and Conv2d layers, Tanh\(\) has none"),
        (lambda: nn.normal_(nn.mlp(2, 2), weight=-1), ValueError, "weight must be"),
        (lambda: nn.freeze_batch_norm(nn.mlp(2, 2), np.ones((3, 2))), ValueError, "no batch norm"),
        (lambda: nn.Residual(nn.Flatten(), drop=0.5)(dl.asarray(np.ones((50, 2, 2)))), ShapeError,
         "keep the shape"),
        (lambda: nn.xavier_normal_(parameter(3)), ShapeError, r"got shape \(3,\).*zeros_"),
        (lambda: nn.BatchNorm1d(3)(dl.asarray(np.ones((1, 3)))), ShapeError, "no variance"),
    ],
)  # fmt: skip
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()
