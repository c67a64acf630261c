"""Everything stays where the parameters are: training on torch's "meta" device, without a GPU.

There an array has a shape and no numbers. An array left on the host raises when it meets one, and
so does every number that is asked for, which on a GPU would make the host wait.
"""

import numpy as np
import pytest

import dlmini as dl
from dlmini import functional, nn, optim, regularize

torch = pytest.importorskip("torch", reason="torch is not installed")
X = np.zeros((8, 6))
IMAGES = np.zeros((8, 2, 6, 6))
LABELS = np.arange(8) % 3


@pytest.fixture(autouse=True)
def meta():
    dl.use("torch:meta")
    dl.seed(0)
    yield
    dl.use("numpy")


def cross_entropy(z):
    return dl.cross_entropy(z, LABELS)


def steps(net, x, loss=cross_entropy, make=lambda p: optim.SGD(p, 0.1), count=2):
    optimizer = make(net.parameters())
    for _ in range(count):
        optimizer.zero_grad()
        loss(net(dl.asarray(x))).backward()
        optimizer.step()
    for p in net.parameters():
        assert p.data.is_meta
        assert p.grad.is_meta


# --- layers ---------------------------------------------------------------------------------------


class HostArray(nn.Module):
    """What must not pass: a layer that made an array on the CPU."""

    def forward(self, x):
        return x * torch.ones(6)


ROWS = {
    **{kind.__name__: kind for kind in (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LeakyReLU,
                                        nn.ELU, nn.GELU, nn.Dropout, nn.Identity, nn.Flatten)},
    "BatchNorm1d": lambda: nn.BatchNorm1d(6),
    "BatchNorm1d in evaluation": lambda: nn.BatchNorm1d(6).eval(),
    "BatchNorm1d frozen": lambda: nn.BatchNorm1d(6).freeze(),
    "LayerNorm": lambda: nn.LayerNorm(6),
    "StochasticDepth": lambda: nn.StochasticDepth(0.3),
    "Residual": lambda: nn.Residual(nn.Linear(6, 6), scale=0.5),
    "Residual with drop": lambda: nn.Residual(nn.Linear(6, 6), drop=0.5),
    "Residual with drop and batch norm": lambda: nn.Residual(
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), drop=0.5
    ),
}  # fmt: skip
PIXELS = {
    "Conv2d": lambda: (nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.MaxPool2d(3)),
    "MaxPool2d": lambda: (nn.MaxPool2d(2), nn.MaxPool2d(3)),
    "MaxPool2d overlapping": lambda: (nn.MaxPool2d(4, stride=1), nn.MaxPool2d(3)),
    "AvgPool2d": lambda: (nn.AvgPool2d(2), nn.AvgPool2d(3)),
    "BatchNorm2d": lambda: (nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(6)),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_step_through_every_layer(name):
    steps(nn.Sequential(nn.Linear(6, 6), ROWS[name](), nn.Linear(6, 3)), X)


@pytest.mark.parametrize("name", PIXELS)
def test_a_step_through_every_layer_of_images(name):
    first, last = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3, 3)
    steps(nn.Sequential(first, *PIXELS[name](), nn.Flatten(), last), IMAGES)


def test_every_layer_of_the_package_is_among_these():
    layers = {
        name
        for name, kind in vars(nn).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module
    }
    assert layers - {"BatchNorm", "Linear", "Sequential"} <= {*ROWS, *PIXELS}


def test_an_array_left_on_the_host_is_found():
    with pytest.raises(dl.ShapeError, match="device"):
        steps(nn.Sequential(nn.Linear(6, 6), HostArray(), nn.Linear(6, 3)), X)


def test_a_number_that_is_asked_for_is_found():
    with pytest.raises(RuntimeError, match="meta"):
        cross_entropy(nn.mlp(6, 3)(dl.asarray(X))).item()


# --- losses and penalties -------------------------------------------------------------------------

LOSSES = {
    "cross_entropy": cross_entropy,
    "labels on the device": lambda z: dl.cross_entropy(z, dl.asarray(LABELS)),
    "mse_loss": lambda z: dl.mse_loss(z, np.zeros((8, 3))),
    "smoothed": lambda z: regularize.cross_entropy_smoothed(z, LABELS, 0.1),
    "softmax": lambda z: functional.softmax(z).sum(),
    "with dropout": lambda z: cross_entropy(regularize.stochastic_depth(z, 0.3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_by_every_loss(name):
    steps(nn.mlp(6, 4, 3), X, LOSSES[name])


def test_penalties():
    net = nn.mlp(6, 4, 3)
    penalties = regularize.l1_penalty(net, 0.1) + regularize.l2_penalty(net, 0.1)
    (cross_entropy(net(dl.asarray(X))) + penalties).backward()
    assert all(p.grad.is_meta for p in net.parameters())


def test_labels_are_checked_where_they_were_given():
    with pytest.raises(ValueError, match="labels run from 0 to 2, but there are 2 classes"):
        steps(nn.mlp(6, 2), X)
    with pytest.raises(ValueError, match="labels run from -1 to 2"):
        dl.cross_entropy(nn.mlp(6, 3)(dl.asarray(X)), np.array([-1, 0, 0, 0, 0, 0, 0, 2]))


# --- optimizers -----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "AdaGrad": lambda p: optim.AdaGrad(p, 0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.1),
    "Adam": lambda p: optim.Adam(p, 0.1),
    "Adam, amsgrad": lambda p: optim.Adam(p, 0.1, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 0.1),
    "Muon": lambda p: optim.Muon(p, 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_by_every_optimizer(name):
    steps(nn.mlp(6, 4, 4, 3), X, make=OPTIMIZERS[name], count=3)


def test_sam_and_clipping_read_the_norm_of_the_gradient_and_nothing_else(monkeypatch):
    for module in (optim, regularize):
        monkeypatch.setattr(module, "grad_norm", lambda flat: 2.0)
    net = nn.mlp(6, 4, 3)
    sam = regularize.SAM(optim.Adam(net.parameters(), 0.1))
    sam.step(lambda: cross_entropy(net(dl.asarray(X))))
    assert optim.clip_grad_norm(sam.flat, 1.0) == 2.0
    assert sam.flat.theta.is_meta


def test_fit_reads_the_loss_and_nothing_else(monkeypatch):
    monkeypatch.setattr(dl.Tensor, "item", lambda self: 1.5)
    net = nn.mlp(6, 4, 3)
    optimizer = optim.Adam(net.parameters(), 0.1)
    history = dl.train.fit(net, dl.cross_entropy, X, LABELS, optimizer, 3, batch_size=4)
    assert history.loss == [1.5] * 3


# --- the rest of the engine -----------------------------------------------------------------------


def test_second_derivatives_and_forward_mode():
    net = nn.mlp(6, 4, 3, activation=nn.Tanh)
    parameters = net.parameters()
    first = dl.grad(cross_entropy(net(dl.asarray(X))), parameters, create_graph=True)
    dl.grad(sum((g * g).sum() for g in first), parameters)
    tangents = [np.ones(p.shape) for p in parameters]
    _, moved = dl.jvp(lambda *_: net(dl.asarray(X)), parameters, tangents)
    assert moved.data.is_meta


def test_checkpoints_averages_traces_and_costs():
    net = nn.mlp(6, 4, 4, 3, norm=nn.BatchNorm1d)
    nn.checkpoint_sequential(net, 2, dl.asarray(X)).sum().backward()
    average = regularize.WeightAverage(net.parameters())
    average.update()
    average.update()
    assert average.mean.is_meta
    nn.freeze_batch_norm(nn.normal_(net, 1.0, 0.1), X)
    nn.freeze_batch_norm(net, dl.Tensor(dl.asarray(X)))
    nn.summary(net, dl.Tensor(dl.asarray(X)))
    assert nn.trace(net, X, cross_entropy)["layers.0"].grad.is_meta
    assert dl.cost(lambda: cross_entropy(net(dl.asarray(X)))).backward.products > 0
