"""What is held, let go and never made: cycles, growth, activations, warnings."""

import gc
import tracemalloc
import warnings

import numpy as np
import pytest

import dlmini as dl
from dlmini import nn

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((8, 6)).astype("float32")
IMAGES = RNG.standard_normal((8, 1, 6, 6)).astype("float32")
LABELS = np.arange(8) % 3


@pytest.fixture(autouse=True)
def numpy():
    dl.use("numpy")
    dl.seed(0)
    yield
    dl.use("numpy")


def dense():
    return nn.mlp(6, 8, 3), ROWS


def convolution():
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2, 3)), IMAGES


def normalised():
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)
    return nn.Sequential(*layers), ROWS


def noisy():
    block = nn.Residual(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.GELU()), drop=0.3)
    return nn.Sequential(block, nn.Dropout(0.2), nn.ELU(), nn.Linear(6, 3)), ROWS


NETS = {f.__name__: f for f in (dense, convolution, normalised, noisy)}


def steps(net, x, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        dl.cross_entropy(net(x), LABELS).backward()
        optimizer.step()


# --- reference cycles -----------------------------------------------------------------------------


@pytest.fixture
def collector():
    """Off within the test: what is in a cycle then stays until it is counted."""
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", NETS)
def test_a_thousand_training_steps_leave_no_reference_cycle(name, backend, collector):
    if backend == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(backend)
    net, x = NETS[name]()
    x = dl.asarray(x)
    optimizer = dl.optim.Adam(net.parameters(), lr=1e-3)
    steps(net, x, optimizer, 2)  # what is made once, such as the tables of ops
    collector()
    steps(net, x, optimizer, 1000 if backend == "numpy" else 200)
    assert collector() == 0


@pytest.mark.parametrize("name", NETS)
def test_second_derivatives_leave_no_reference_cycle(name, collector):
    net, x = NETS[name]()
    parameters = net.parameters()
    directions = [RNG.standard_normal(p.shape).astype("float32") for p in parameters]

    def products(count):
        for _ in range(count):
            first = dl.grad(dl.cross_entropy(net(x), LABELS), parameters, create_graph=True)
            along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
            dl.grad(along, parameters)

    products(2)
    collector()
    products(50)
    assert collector() == 0


def test_a_run_with_everything_leaves_no_reference_cycle(collector, tmp_path):
    def run(path):
        net, x = dense()
        optimizer = dl.regularize.SAM(dl.optim.SGD(net.parameters(), 0.1, momentum=0.9))
        average = dl.regularize.WeightAverage(optimizer.flat)
        dl.train.fit(
            net, dl.cross_entropy, x, LABELS, optimizer, 30, batch_size=3, metric_every=5,
            metric={"accuracy": dl.accuracy}, validation=(x, LABELS),
            on_step=lambda t, history: average.update(), keep={"average": average},
            checkpoint=path, checkpoint_every=10,
        )  # fmt: skip

    run(tmp_path / "warm.npz")
    collector()
    run(tmp_path / "run.npz")  # not resumed: NumPy's reader of .npy headers makes cycles
    assert collector() == 0


def test_an_error_in_the_middle_leaves_the_next_step_right(collector):
    net, x = dense()
    optimizer = dl.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(20):
        with pytest.raises(dl.ShapeError):
            dl.cross_entropy(net(x), LABELS[:3]).backward()
    expected = copy_of_step(x)
    steps(net, x, optimizer, 1)
    assert optimizer.flat.snapshot().tobytes() == expected


def copy_of_step(x):
    dl.seed(0)
    net = nn.mlp(6, 8, 3)
    optimizer = dl.optim.SGD(net.parameters(), lr=0.1)
    steps(net, x, optimizer, 1)
    return optimizer.flat.snapshot().tobytes()


# --- growth ---------------------------------------------------------------------------------------


def test_ten_thousand_steps_hold_no_more_than_a_thousand():
    net, x = nn.mlp(2, 4, 3), ROWS[:, :2].copy()
    optimizer = dl.optim.Adam(net.parameters(), lr=1e-3)
    steps(net, x, optimizer, 200)
    tracemalloc.start()
    try:
        steps(net, x, optimizer, 1000)
        after_1000 = tracemalloc.get_traced_memory()[0]
        steps(net, x, optimizer, 9000)
        after_10000, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert abs(after_10000 - after_1000) < 4096
    assert peak - after_1000 < 100_000


# --- activations ----------------------------------------------------------------------------------

WIDTH, BATCH = 64, 1024
ACTIVATION = WIDTH * BATCH * 4  # bytes


def peak(work):
    """Most bytes held at once above what was held before, in activations."""
    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return (tracemalloc.get_traced_memory()[1] - before) / ACTIVATION
    finally:
        tracemalloc.stop()


def deep(depth, activation=nn.ReLU):
    net = nn.mlp(*[WIDTH] * (depth + 1), activation=activation)
    net.zero_grad()
    dl.flat.pack(net.parameters())
    return net


def training_peak(depth, **given):
    net, x = deep(depth, **given), RNG.standard_normal((BATCH, WIDTH)).astype("float32")
    return peak(lambda: (net(x) * 1.0).mean().backward())


def test_training_holds_about_one_activation_a_layer():
    shallow, far = training_peak(10), training_peak(40)
    assert (far - shallow) / 30 <= 1.02
    assert far <= 1.1 * 40


def test_the_walk_back_lets_each_activation_go():
    """On the way back no more is held than at the end of the way there, but for a few arrays."""
    net, x = deep(40), RNG.standard_normal((BATCH, WIDTH)).astype("float32")
    losses = []
    forward = peak(lambda: losses.append(net(x).sum()) or losses.pop())
    assert training_peak(40) <= forward + 4


def test_inference_is_flat_in_depth():
    x = RNG.standard_normal((BATCH, WIDTH)).astype("float32")

    def inference(depth):
        net = deep(depth)
        with dl.no_grad():
            return peak(lambda: net(x))

    assert inference(40) - inference(5) < 0.1
    assert inference(40) < 2.3  # a layer's input, its output, and the product before the bias


# --- warnings -------------------------------------------------------------------------------------

LAYERS = {
    **NETS,
    "every activation": lambda: (
        nn.Sequential(
            nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Softplus(), nn.Linear(6, 6),
            nn.LeakyReLU(), nn.Linear(6, 6), nn.ELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3),
        ),
        ROWS,
    ),
}  # fmt: skip
OPTIMIZERS = {
    "SGD": lambda p: dl.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SAM": lambda p: dl.regularize.SAM(dl.optim.SGD(p, 0.05)),
    **{
        name: lambda p, name=name: getattr(dl.optim, name)(p, 0.01)
        for name in ("AdaGrad", "RMSprop", "Adam", "AdamW", "Muon")
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_training_gives_no_warnings(name, dtype):
    dl.use("numpy", dtype)
    net, x = LAYERS[name]()
    for make in OPTIMIZERS.values():
        with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
            warnings.simplefilter("error")
            history = dl.train.fit(
                net, dl.cross_entropy, x, LABELS, make(net.parameters()), 20, batch_size=3,
                metric={"accuracy": dl.accuracy, "loss ": dl.cross_entropy},
                validation=(x, LABELS), metric_every=10,
            )  # fmt: skip
        assert np.isfinite(history.loss).all()


@pytest.mark.parametrize("name", LAYERS)
def test_training_with_torch_arrays_gives_no_warnings(name):
    pytest.importorskip("torch", reason="torch is not installed")
    dl.use("torch")
    net, x = LAYERS[name]()
    for make in OPTIMIZERS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dl.train.fit(net, dl.cross_entropy, x, LABELS, make(net.parameters()), 5, batch_size=4)
