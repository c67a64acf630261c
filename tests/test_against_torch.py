"""dlmini against torch.autograd and torch.optim, and dlmini on torch tensors against NumPy."""

import numpy as np
import pytest

import dlmini as dl
from dlmini import functional as F
from dlmini import ops

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
POSITIVE = np.abs(X) + 0.5
LABELS = np.array([0, 3, 1])

# name: (inputs, dlmini's function, torch's function)
CASES = {
    "add": ([X, Y[0]], ops.add, torch.add),
    "sub": ([X, Y[:, :1]], ops.sub, torch.sub),
    "mul": ([X, Y], ops.mul, torch.mul),
    "div": ([X, POSITIVE], ops.div, torch.div),
    "power": ([POSITIVE, Y], ops.power, torch.pow),
    "cube": ([X], lambda x: x**3, lambda x: x**3),
    "to the x": ([X], lambda x: 2.0**x, lambda x: 2.0**x),
    "exp": ([X], ops.exp, torch.exp),
    "log": ([POSITIVE], ops.log, torch.log),
    "sqrt": ([POSITIVE], ops.sqrt, torch.sqrt),
    "sin": ([X], ops.sin, torch.sin),
    "cos": ([X], ops.cos, torch.cos),
    "tanh": ([X], ops.tanh, torch.tanh),
    "abs": ([X], ops.abs, torch.abs),
    "relu": ([X], ops.relu, torch.relu),
    "sigmoid": ([X], ops.sigmoid, torch.sigmoid),
    "softplus": ([X], ops.softplus, torch.nn.functional.softplus),
    "maximum": ([X, Y], ops.maximum, torch.maximum),
    "minimum": ([X, Y], ops.minimum, torch.minimum),
    "sum": ([X], lambda x: ops.sum(x, 0), lambda x: x.sum(0)),
    "mean": ([X], lambda x: ops.mean(x, (0, 1)), lambda x: x.mean((0, 1))),
    "max": ([X], lambda x: ops.max(x, 1), lambda x: x.amax(1)),
    "min": ([X], lambda x: ops.min(x, 0, True), lambda x: x.amin(0, True)),
    "logsumexp": ([X], lambda x: ops.logsumexp(x, 0), lambda x: x.logsumexp(0)),
    "matmul": ([X, Y.T], ops.matmul, torch.matmul),
    "reshape": ([X], lambda x: ops.reshape(x, (2, 6)), lambda x: x.reshape(2, 6)),
    "transpose": ([X], lambda x: ops.transpose(x), lambda x: x.T),
    "concatenate": ([X, Y], lambda x, y: ops.concatenate([x, y], 1),
                    lambda x, y: torch.cat([x, y], 1)),
    "stack": ([X, Y], lambda x, y: ops.stack([x, y], 1), lambda x, y: torch.stack([x, y], 1)),
    "getitem": ([X], lambda x: x[LABELS % 3], lambda x: x[LABELS % 3]),
    "linear": ([X, Y[:2], Y[0, :2]], F.linear, torch.nn.functional.linear),
    "softmax": ([X], F.softmax, lambda x: x.softmax(-1)),
    "cross_entropy": ([X], lambda x: F.cross_entropy(x, LABELS),
                      lambda x: torch.nn.functional.cross_entropy(x, torch.as_tensor(LABELS))),
    "mse_loss": ([X, Y], F.mse_loss, torch.nn.functional.mse_loss),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("library")


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_their_gradients_equal_torchs(name):
    inputs, ours, theirs = CASES[name]
    mine = [dl.Tensor(a, requires_grad=True) for a in inputs]
    other = [torch.tensor(a, requires_grad=True) for a in inputs]
    z, t = ours(*mine), theirs(*other)
    assert np.allclose(z.numpy(), t.detach(), rtol=1e-12, atol=1e-14)
    c = np.random.default_rng(1).standard_normal(z.shape)
    g = dl.grad(z, mine, c, create_graph=True)
    h = torch.autograd.grad(t, other, torch.tensor(c), create_graph=True)
    total = dl.Tensor(0.0)
    reference = torch.zeros((), dtype=torch.float64, requires_grad=True) * 1.0
    for i, (a, b) in enumerate(zip(g, h, strict=True)):
        assert np.allclose(a.numpy(), b.detach(), rtol=1e-10, atol=1e-12)
        weights = np.random.default_rng(2 + i).standard_normal(a.shape)
        total = total + (a * dl.asarray(weights)).sum()
        reference = reference + (b * torch.tensor(weights)).sum()
    if not total.requires_grad:  # a linear function: its gradient is constant
        return
    second = dl.grad(total, mine)
    expected = torch.autograd.grad(reference, other, allow_unused=True)
    for a, b in zip(second, expected, strict=True):
        b = np.zeros(a.shape) if b is None else b.numpy()
        assert np.allclose(a.numpy(), b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", [
    {"lr": 0.05},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.02, "momentum": 0.8, "nesterov": True},
])  # fmt: skip
def test_sgd_follows_torch_for_60_steps(options):
    net = dl.nn.mlp(4, 6, 3, activation=dl.nn.Tanh)
    twin = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    ).double()
    with torch.no_grad():
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            theirs.copy_(torch.as_tensor(ours.numpy().copy()))
    mine = dl.optim.SGD(net.parameters(), **options)
    other = torch.optim.SGD(twin.parameters(), **options)
    for _ in range(60):
        mine.zero_grad()
        dl.cross_entropy(net(dl.asarray(X)), LABELS % 3).backward()
        mine.step()
        other.zero_grad()
        torch.nn.functional.cross_entropy(
            twin(torch.tensor(X)), torch.tensor(LABELS % 3)
        ).backward()
        other.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert np.allclose(ours.numpy(), theirs.detach(), rtol=1e-10, atol=1e-12)


def test_a_seed_gives_the_same_run_on_every_backend():
    losses = {}
    for name in ("numpy", "torch"):
        dl.use(name, "float64")
        dl.seed(3)
        net = dl.nn.mlp(4, 6, 3)
        opt = dl.optim.SGD(net.parameters(), 0.1, momentum=0.5)
        x, y = rng_data()
        losses[name] = dl.train.fit(net, dl.cross_entropy, x, y, opt, 30, batch_size=8).loss
    assert np.allclose(losses["numpy"], losses["torch"], rtol=1e-10)


def rng_data():
    r = np.random.default_rng(5)
    return r.standard_normal((40, 4)), r.integers(0, 3, 40)


def test_a_tensor_that_torch_tracks_is_refused():
    tracked = torch.ones(2, requires_grad=True)
    with pytest.raises(dl.backend.BackendError, match=r"shape \(2,\).*x\.detach\(\)"):
        dl.Tensor(tracked)
    with pytest.raises(dl.backend.BackendError, match="detach"):
        dl.Tensor([1.0, 2.0]) * tracked


def test_the_readers_own_torch_code_goes_on_working():
    dl.use("torch")
    dl.grad(dl.Tensor([1.0], requires_grad=True).sum(), [dl.Tensor([1.0], requires_grad=True)])
    x = torch.tensor(2.0, requires_grad=True)
    (x * x).backward()
    assert x.grad == 4
    assert torch.is_grad_enabled()


def test_numpy_arrays_beside_a_tensor_are_moved_to_its_library():
    w = dl.Tensor(X, requires_grad=True)
    z = dl.matmul(np.ones((2, 3)), w) * np.ones(4)
    z.sum().backward()
    assert np.allclose(dl.to_numpy(w.grad), 2.0)
    assert type(z.data) is type(w.data)
