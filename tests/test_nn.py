"""Layers, modes, state, initialisation and the table of costs."""

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError, nn


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def backend(request):
    if request.param == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(request.param, "float64")
    dl.seed(0)
    yield request.param
    dl.use("numpy")


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
        (lambda: nn.xavier_normal_(parameter(3)), ShapeError, r"got shape \(3,\).*zeros_"),
        (lambda: nn.BatchNorm1d(3)(dl.asarray(np.ones((1, 3)))), ShapeError, "no variance"),
    ],
)  # fmt: skip
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()
