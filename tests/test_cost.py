"""Operations against formulas, torch's own counter and tracemalloc; the tape; memory in time."""

import gc
import math
import tracemalloc

import numpy as np
import pytest

import dlmini as dl
from dlmini import nn, tensor

RNG = np.random.default_rng(0)
LABELS = np.arange(32) % 10


pytestmark = pytest.mark.usefixtures("library")


def batch(*shape):
    return dl.asarray(RNG.standard_normal(shape))


def loss_of(net, x):
    return lambda: dl.cross_entropy(net(x), LABELS[: len(x)])


# --- operations -----------------------------------------------------------------------------------


def test_one_product_of_matrices_by_hand():
    a, b = dl.Tensor(batch(3, 5), requires_grad=True), dl.Tensor(batch(5, 7), requires_grad=True)
    cost = dl.cost(lambda: (a @ b).sum())
    assert cost.forward == dl.counting.Operations(products=2 * 3 * 5 * 7, others=3 * 7 - 1)
    assert cost.backward.products == 2 * (2 * 3 * 5 * 7)
    assert cost.recomputed.total == 0


def test_elementwise_work_by_hand():
    p = dl.Tensor(batch(4, 6), requires_grad=True)
    cost = dl.cost(lambda: (dl.tanh(p) * 3.0).sum())
    assert cost.forward == dl.counting.Operations(0, 24 + 24 + 23)
    # g·3 and then g·(1 − z·z); the gradient is written, not added
    assert cost.backward == dl.counting.Operations(0, 24 + 3 * 24)


def test_to_choose_is_no_operation():
    x, y, mask = batch(4, 6), batch(4, 6), dl.asarray(RNG.integers(2, size=(4, 6)) > 0)
    assert dl.cost(lambda: dl.where(mask, x, y)).forward.total == 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("width", [4, 8, 32, 128, 700])
def test_backward_costs_two_forward_passes_less_the_first_layer(width, activation):
    """P from 170 to a million: the first layer alone has no gradient of its input to make."""
    net, x = nn.mlp(16, width, width, width, 10, activation=activation), batch(32, 16)
    cost = dl.cost(loss_of(net, x))
    sizes = [p.size for p in net.parameters() if p.ndim == 2]
    predicted = 2 - sizes[0] / sum(sizes)
    assert cost.backward.products / cost.forward.products == pytest.approx(predicted, rel=1e-14)
    if width >= 32:
        rel = 0.07 if activation is nn.Sigmoid else 0.03  # elementwise work shows in small nets
        assert cost.backward.total / cost.forward.total == pytest.approx(predicted, rel=rel)


def networks():
    image = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 10))  # fmt: skip
    block = nn.Residual(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()))
    return {
        "dense": (nn.mlp(16, 20, 10), batch(32, 16)),
        "batch norm": (nn.mlp(16, 20, 10, norm=nn.BatchNorm1d), batch(32, 16)),
        "residual": (nn.Sequential(block, nn.Linear(16, 10)), batch(32, 16)),
        "convolution": (image, batch(8, 1, 8, 8)),
    }


@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_products_are_those_that_torchs_own_counter_sees(name):
    pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    net, x = networks()[name]
    cost = dl.cost(loss_of(net, x))
    dl.use("torch", "float64")
    twin, x = networks()[name]
    with FlopCounterMode(display=False) as counter:
        loss_of(twin, x)().backward()
    assert cost.forward.products + cost.backward.products == counter.get_total_flops()


@pytest.mark.parametrize("name", networks())
def test_both_libraries_count_alike(name):
    pytest.importorskip("torch", reason="torch is not installed")
    found = []
    for library in ("numpy", "torch"):
        dl.use(library, "float64")
        net, x = networks()[name]
        found.append(dl.cost(loss_of(net, x)))
    one, two = found
    assert one.forward.products == two.forward.products
    assert one.backward.products == two.backward.products
    assert one.forward.total == pytest.approx(two.forward.total, rel=0.01)
    assert one.backward.total == pytest.approx(two.backward.total, rel=0.05)  # relu's gate: 2 or 1
    assert one.bytes == pytest.approx(two.bytes, rel=0.1)
    assert one.peak == pytest.approx(two.peak, rel=0.1)


def test_a_checkpoint_costs_one_more_forward_pass():
    net, x = nn.mlp(*[16] * 17, activation=nn.Tanh), batch(32, 16)
    plain = dl.cost(lambda: net(x).sum())
    cost = dl.cost(lambda: nn.checkpoint_sequential(net, 4, x).sum())
    assert cost.recomputed.products == cost.forward.products == plain.forward.products
    assert cost.backward == plain.backward


def test_one_directional_derivative_costs_three_forward_passes_less_the_first_layer():
    net, x = nn.mlp(16, 32, 32, 10, activation=nn.Tanh), batch(8, 16)
    parameters = net.parameters()
    v = [RNG.standard_normal(p.shape) for p in parameters]
    cost = dl.cost(lambda: dl.jvp(lambda *_: net(x), parameters, v))
    sizes = [p.size for p in parameters if p.ndim == 2]
    passes = cost.forward.products / dl.cost(lambda: net(x)).forward.products
    assert passes == pytest.approx(3 - sizes[0] / sum(sizes), rel=1e-14)
    assert cost.backward.total == 0


def test_a_walk_inside_counts_as_backward_and_second_derivatives_too():
    net, x = nn.mlp(6, 8, 10, activation=nn.Tanh), batch(9, 6)
    parameters = net.parameters()

    def hessian_product():
        slopes = dl.grad(loss_of(net, x)(), parameters, create_graph=True)
        dl.grad(sum((g * g).sum() for g in slopes), parameters)

    gradient, product = dl.cost(loss_of(net, x)), dl.cost(hessian_product)
    assert product.forward.products == gradient.forward.products
    assert 2 < product.backward.products / gradient.backward.products < 5
    assert [r.name for r in product.tape] == [r.name for r in gradient.tape]


def test_inference_has_no_tape_and_no_backward():
    net, x = nn.mlp(6, 8, 10), batch(9, 6)
    with dl.no_grad():
        cost = dl.cost(loss_of(net, x))
    assert cost.tape == []
    assert cost.backward.total == 0
    assert cost.forward == dl.cost(loss_of(net, x)).forward


# --- the tape -------------------------------------------------------------------------------------


def test_the_tape_says_which_rule_reads_what():
    w, x = dl.Tensor(batch(5, 4), requires_grad=True), batch(3, 4)
    tape = dl.cost(lambda: dl.softplus(dl.tanh(dl.linear(x, w))).sum()).tape
    assert [r.name for r in tape] == ["linear", "tanh", "softplus", "sum"]
    assert [r.parents for r in tape] == [("parameter",), (0,), (1,), (2,)]
    assert [r.shape for r in tape] == [(3, 5), (3, 5), (3, 5), ()]
    linear, tanh, softplus, total = (r.kept for r in tape)
    assert [(k.role, k.held) for k in linear] == [("x", "data")]  # no gradient of x: no weight
    assert [(k.role, k.shape, k.bytes) for k in tanh] == [("output", (3, 5), 120)]
    assert [(k.role, k.bytes, k.held) for k in softplus] == [("x", 0, "earlier")]
    assert total == ()


A = 64 * 256 * 8  # bytes of an activation
LAYERS = {
    "linear": (lambda: [nn.Linear(64, 64)], 1),
    "linear, relu": (lambda: [nn.Linear(64, 64), nn.ReLU()], 1),
    "linear, tanh": (lambda: [nn.Linear(64, 64), nn.Tanh()], 1),
    "linear, sigmoid": (lambda: [nn.Linear(64, 64), nn.Sigmoid()], 1),
    "linear, softplus": (lambda: [nn.Linear(64, 64), nn.Softplus()], 2),
    "linear, relu, dropout": (lambda: [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1)], 3),
    "residual (linear, relu)": (
        lambda: [nn.Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))],
        2,
    ),
    "residual (relu, linear)": (
        lambda: [nn.Residual(nn.Sequential(nn.ReLU(), nn.Linear(64, 64)))],
        1,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activations_kept_per_layer(name):
    make, activations = LAYERS[name]
    x = batch(256, 64)

    def tape(depth):
        net = nn.Sequential(*(layer for _ in range(depth) for layer in make()))
        return dl.cost(lambda: net(x).sum()).bytes

    assert (tape(9) - tape(4)) / 5 == pytest.approx(activations * A)


# --- memory in time -------------------------------------------------------------------------------


def chain(depth):
    return nn.mlp(*[64] * (depth + 1), activation=nn.Tanh), batch(256, 64)


@pytest.mark.parametrize("depth", [4, 16])
def test_memory_is_a_tent_that_comes_back_to_nothing(depth):
    net, x = chain(depth)
    cost = dl.cost(lambda: net(x).sum())
    held = [round(m.bytes / A, 2) for m in cost.timeline]
    phases = [m.phase for m in cost.timeline]
    top = phases.index("backward")
    assert phases == ["forward"] * top + ["backward"] * (len(phases) - top)
    assert held[:top] == sorted(held[:top])
    assert held[top - 1] == pytest.approx(depth, abs=0.01)  # one a layer, the last one's output
    assert cost.peak / A == pytest.approx(depth + 2, abs=0.01)
    assert held[-1] <= 2
    assert {"linear", "tanh", "sum"} == {m.name for m in cost.timeline[:top]}


@pytest.mark.parametrize("segments", [2, 4, 8, 16])
def test_checkpoints_hold_segments_plus_the_length_of_one(segments):
    net, x = chain(64)
    cost = dl.cost(lambda: nn.checkpoint_sequential(net, segments, x).sum())
    assert cost.peak / A == pytest.approx(segments + 64 / segments + 1, abs=0.6)
    ups = [m.phase == "recomputed" for m in cost.timeline]
    blades = sum(now and not before for before, now in zip([False, *ups], ups, strict=False))
    assert blades == segments


def test_inference_holds_two_activations_at_every_depth():
    for depth in (4, 32):
        net, x = chain(depth)
        with dl.no_grad():
            assert dl.cost(lambda net=net, x=x: net(x)).peak / A == pytest.approx(2, abs=0.01)


def test_the_peak_is_what_the_allocator_saw(library):
    if library == "torch":
        pytest.skip("tracemalloc does not see torch's memory")
    net, x = chain(30)
    f = lambda: net(x).sum()  # noqa: E731
    counted = dl.cost(f).peak
    dl.flat.pack(net.parameters())
    f().backward()
    net.zero_grad()
    gc.collect()
    tracemalloc.start()
    try:
        f().backward()
        seen = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counted == pytest.approx(seen, rel=0.04)


# --- nothing is left behind -----------------------------------------------------------------------


def test_counting_changes_no_number_and_no_gradient(library):
    for name in networks():
        dl.seed(0)
        net, x = networks()[name]
        values, outputs = [], []

        def f(net=net, x=x, values=values, outputs=outputs):
            outputs.append(net(x))
            values.append(loss_of(net, x)())
            return values[-1]

        f().backward()
        before = [np.array(dl.to_numpy(p.grad)) for p in net.parameters()]
        dl.cost(f)
        assert values[0].item() == values[1].item()
        for kept in (values, outputs):  # no counted array gets out
            assert type(kept[1].data) is type(kept[0].data)
        for p, g in zip(net.parameters(), before, strict=True):
            assert (dl.to_numpy(p.grad) == g).all()


def test_the_counted_gradient_is_the_gradient():
    net, x = nn.mlp(6, 8, 10, norm=nn.BatchNorm1d, activation=nn.GELU), batch(9, 6)
    found = []
    dl.cost(lambda: found.extend(dl.grad(loss_of(net, x)(), net.parameters())))
    for counted, plain in zip(found, dl.grad(loss_of(net, x)(), net.parameters()), strict=True):
        assert type(counted.data) is type(plain.data)
        assert np.allclose(counted.numpy(), plain.numpy(), rtol=1e-13, atol=1e-15)


def test_afterwards_nothing_counts():
    call, walk = tensor.Op.__call__, tensor._walk
    with pytest.raises(KeyError):
        dl.cost(lambda: {}["x"])
    dl.cost(lambda: dl.tanh(dl.Tensor(1.0)))
    assert tensor.Op.__call__ is call
    assert tensor._walk is walk
    assert dl.counting._meter is None


def test_a_parameter_without_gradient_has_none_afterwards():
    net, x = nn.mlp(6, 10), batch(9, 6)
    dl.cost(loss_of(net, x))
    assert all(p.grad is None for p in net.parameters())


# --- the report -----------------------------------------------------------------------------------


def test_the_report_can_be_read():
    net, x = nn.mlp(16, 8, 10), batch(32, 16)
    cost = dl.cost(loss_of(net, x))
    lines = repr(cost).splitlines()
    assert lines[0].split() == ["operations", "matrix", "products", "others", "total"]
    assert lines[1].split()[:2] == ["forward", f"{2 * 32 * (16 * 8 + 8 * 10):,}"]
    assert lines[2].startswith("backward")
    assert lines[3].startswith(f"tape: 3 operations keep {cost.bytes:,} bytes; at most ")
    first = cost.table().splitlines()[1].split()
    assert first[:4] == ["0", "linear_relu", "32", "×"]
    assert "x (data)" in cost.table()


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: dl.cost(dl.Tensor(1.0)), TypeError, r"got Tensor: write dl\.cost\(lambda"),
        (lambda: dl.cost(lambda: dl.cost(lambda: 1)), RuntimeError, "one thing at a time"),
    ],
)
def test_errors_say_what_to_write(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_a_dense_net_of_the_books_formula():
    """As `nn.summary` counts by formula: 2K − 1 a unit and its bias are 2K operations."""
    net, x = nn.mlp(16, 8, 10, activation=nn.Tanh), batch(32, 16)
    found = dl.cost(lambda: net(x)).forward
    table = nn.summary(net, x).splitlines()[-1].split()
    assert found.total == int(table[-1].replace(",", "")) + 32 * (8 + 10)
    assert found.products == 2 * 32 * (16 * 8 + 8 * 10)
    assert math.isclose(found.others, 32 * (8 + 8 + 10))
