"""Penalties, dropout, label smoothing, early stopping, SAM and averages of the parameters."""

import copy
import math
import pickle

import numpy as np
import pytest

import dlmini as dl
from dlmini import GradientError, ShapeError, Tensor, optim, regularize
from dlmini.testing import gradcheck, gradgradcheck

rng = np.random.default_rng(0)
X = rng.standard_normal((4, 5))
LABELS = np.array([0, 4, 2, 2])


def parameter(*values):
    return Tensor(np.array(values), requires_grad=True)


@pytest.fixture
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


# --- penalties ------------------------------------------------------------------------------------


def test_penalties_are_the_norms_of_all_parameters(library):
    a, b = parameter(1.0, -2.0), Tensor([[3.0], [0.0]], requires_grad=True)
    assert regularize.l1_penalty([a, b], 0.5).item() == 0.5 * 6
    assert regularize.l2_penalty([a, b], 0.5).item() == 0.25 * 14
    assert regularize.l2_penalty(a, 2.0).item() == 5
    net = dl.nn.mlp(2, 3, 1)
    whole = dl.flat.pack(net.parameters()).snapshot()
    assert regularize.l2_penalty(net, 0.1).item() == pytest.approx(0.05 * (whole**2).sum())
    assert regularize.l1_penalty(net, 0.0).item() == 0


def test_the_gradients_are_lambda_sign_theta_and_lambda_theta(library):
    for penalty, expected in (
        (regularize.l1_penalty, [0.3, -0.3, 0]),
        (regularize.l2_penalty, [0.6, -1.2, 0]),
    ):
        p = parameter(2.0, -4.0, 0.0)
        penalty([p], 0.3).backward()
        assert dl.to_numpy(p.grad) == pytest.approx(expected)


def test_the_second_derivatives_of_the_l2_penalty_are_lambda(library):
    p = parameter(2.0, -4.0)
    first = dl.grad(regularize.l2_penalty([p], 0.3), [p], create_graph=True)[0]
    assert dl.grad(first[0], [p])[0].numpy() == pytest.approx([0.3, 0])
    first = dl.grad(regularize.l2_penalty([p * p], 0.3), [p], create_graph=True)[0]
    assert dl.grad(first.sum(), [p])[0].numpy() == pytest.approx([0.3 * 6 * 4, 0.3 * 6 * 16])
    first = dl.grad(regularize.l1_penalty([p * p], 0.3), [p], create_graph=True)[0]
    assert dl.grad(first.sum(), [p])[0].numpy() == pytest.approx([0.6, 0.6])


def test_an_l2_penalty_trains_as_coupled_weight_decay_does(double):
    ends = []
    for penalty, decay in ((0.1, 0.0), (0.0, 0.1)):
        dl.seed(0)
        net = dl.nn.mlp(5, 8, 5, activation=dl.nn.Tanh)
        opt = optim.Adam(net.parameters(), 0.01, weight_decay=decay)
        for _ in range(30):
            opt.zero_grad()
            loss = dl.cross_entropy(net(X), LABELS)
            (loss + regularize.l2_penalty(net, penalty) if penalty else loss).backward()
            opt.step()
        ends.append(opt.flat.snapshot())
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


# --- noise ----------------------------------------------------------------------------------------


def test_dropout_drops_a_share_p_and_scales_up_the_rest(library):
    x = Tensor(np.ones((200, 200)))
    z = regularize.dropout(x, 0.25, rng=np.random.default_rng(0)).numpy()
    assert set(np.unique(z)) == {0.0, 1 / 0.75}
    assert (z == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert z.mean() == pytest.approx(1, abs=0.01)


def test_stochastic_depth_drops_whole_examples(library):
    x = Tensor(np.ones((1000, 2, 3)))
    z = regularize.stochastic_depth(x, 0.4, rng=np.random.default_rng(0)).numpy()
    assert (z == z[:, :1, :1]).all()
    assert set(np.unique(z)) == {0.0, 1 / 0.6}
    assert (z[:, 0, 0] == 0).mean() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("noise", [regularize.dropout, regularize.stochastic_depth])
def test_noise_at_its_ends_and_after_training(noise, library):
    x = Tensor(X, requires_grad=True)
    assert noise(x, 0) is x
    assert noise(x, 0.9, training=False) is x
    z = noise(x, 1)
    assert not z.numpy().any()
    z.sum().backward()
    assert not dl.to_numpy(x.grad).any()


@pytest.mark.parametrize("noise", [regularize.dropout, regularize.stochastic_depth])
def test_the_gradient_passes_where_the_value_does(noise, library):
    x = Tensor(np.abs(X), requires_grad=True)
    z = noise(x, 0.5, rng=np.random.default_rng(3))
    c = rng.standard_normal(X.shape)
    (z * c).sum().backward()
    assert dl.to_numpy(x.grad) == pytest.approx(c * z.numpy() / np.abs(X))
    gradgradcheck(lambda x: noise(x * x * x, 0.5, rng=np.random.default_rng(3)), [dl.asarray(X)])


@pytest.mark.parametrize("noise", [regularize.dropout, regularize.stochastic_depth])
def test_noise_follows_the_seed_and_keeps_the_precision(noise):
    x = Tensor(np.ones((30, 4)))
    draws = []
    for seed in (1, 1, 2):
        dl.seed(seed)
        draws.append(noise(x, 0.5).numpy())
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    assert draws[0].dtype == np.float32
    assert type(noise(np.ones((3, 2)), 0.5)) is np.ndarray


# --- label smoothing ------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_cross_entropy_is_torchs_up_to_second_derivatives(smoothing, library):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    z, t = Tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    ours = regularize.cross_entropy_smoothed(z, LABELS, smoothing)
    theirs = torch.nn.functional.cross_entropy(t, torch.tensor(LABELS), label_smoothing=smoothing)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    c = rng.standard_normal(X.shape)
    g = dl.grad(ours, [z], create_graph=True)[0]
    h = torch.autograd.grad(theirs, t, create_graph=True)[0]
    assert np.allclose(g.numpy(), h.detach().numpy(), rtol=1e-10, atol=1e-12)
    second = dl.grad((g * dl.asarray(c)).sum(), [z])[0]
    reference = torch.autograd.grad((h * torch.tensor(c)).sum(), t)[0]
    assert np.allclose(second.numpy(), reference.numpy(), rtol=1e-10, atol=1e-12)


def test_smoothed_cross_entropy_against_differences(library):
    loss = lambda z: regularize.cross_entropy_smoothed(z, LABELS, 0.3)  # noqa: E731
    gradcheck(loss, [dl.asarray(X)])
    gradgradcheck(loss, [dl.asarray(X)])


def test_smoothing_is_cross_entropy_against_smoothed_targets(double):
    targets = 0.9 * np.eye(5)[LABELS] + 0.1 / 5
    log_p = np.log(dl.softmax(X))
    expected = -(targets * log_p).sum(1).mean()
    assert regularize.cross_entropy_smoothed(X, LABELS, 0.1) == pytest.approx(expected)


# --- early stopping -------------------------------------------------------------------------------


def test_early_stopping_waits_and_goes_back_to_the_best():
    p = parameter(0.0)
    flat = dl.flat.pack([p])
    stop = regularize.EarlyStopping(flat, patience=2)
    said = []
    for at, loss in enumerate([3.0, 1.0, 2.0, 1.5, 9.0]):
        flat.assign([float(at)])
        said.append(stop.update(loss))
    assert said == [False, False, False, True, True]
    assert (stop.best, stop.best_at) == (1.0, 1)
    stop.restore()
    assert p.numpy() == [1.0]


def test_early_stopping_counts_only_improvements_beyond_min_delta():
    stop = regularize.EarlyStopping([parameter(0.0)], patience=2, min_delta=0.1)
    assert [stop.update(loss) for loss in (1.0, 0.95, 0.91)] == [False, False, True]
    assert stop.best == 1.0
    stop = regularize.EarlyStopping([parameter(0.0)], patience=2)
    assert [stop.update(1.0) for _ in range(3)] == [False, False, True]  # a tie is none


def test_a_loss_that_is_not_a_number_is_no_improvement():
    stop = regularize.EarlyStopping([parameter(0.0)], patience=2)
    assert [stop.update(loss) for loss in (math.nan, Tensor(math.nan))] == [False, True]
    with pytest.raises(GradientError, match=r"update\(\) has not seen a finite loss"):
        stop.restore()


def test_early_stopping_of_a_network_brings_its_statistics_back():
    class Net(dl.nn.Module):
        def __init__(self):
            self.layer, self.running = dl.nn.Linear(1, 1), np.zeros(1)

        def state_dict(self):
            return {"running": self.running}

        def load_state_dict(self, state):
            self.running[...] = state["running"]

    net = Net()
    stop = regularize.EarlyStopping(net, patience=1)
    weight = net.layer.weight.numpy().copy()
    stop.update(1.0)
    net.running += 1
    net.layer.weight.data = weight + 1
    stop.update(2.0)
    stop.restore()
    assert net.running == 0
    assert net.layer.weight.numpy() == weight


# --- SAM ------------------------------------------------------------------------------------------

A = np.diag([10.0, 1.0])


def quadratic(theta):
    return 0.5 * (theta * (dl.asarray(A) @ theta)).sum()


def test_sam_steps_by_the_gradient_at_the_worst_point_nearby(library):
    start = np.array([1.0, -2.0])
    p = parameter(*start)
    sam = regularize.SAM(optim.SGD([p], lr=0.05), rho=0.3)
    value = sam.step(lambda: quadratic(p))
    g = A @ start
    worst = start + 0.3 * g / np.linalg.norm(g)
    assert p.numpy() == pytest.approx(start - 0.05 * A @ worst)
    assert value.item() == pytest.approx(0.5 * start @ A @ start)


def test_sam_in_the_words_of_a_training_loop_is_the_same(library):
    one, two = parameter(1.0, -2.0), parameter(1.0, -2.0)
    whole = regularize.SAM(optim.Adam([one], lr=0.05))
    parts = regularize.SAM(optim.Adam([two], lr=0.05))
    for _ in range(5):
        whole.step(lambda: quadratic(one))
        parts.zero_grad()
        quadratic(two).backward()
        parts.ascend()
        quadratic(two).backward()
        parts.step()
    assert (one.numpy() == two.numpy()).all()
    assert not np.array_equal(one.numpy(), [1.0, -2.0])


class Noisy(dl.nn.Module):
    """Notes its masks: where dropout left something of a row of ones."""

    def __init__(self):
        self.net = dl.nn.Sequential(dl.nn.Linear(3, 50), dl.nn.BatchNorm1d(50))
        self.masks = []

    def forward(self, x):
        z = self.net(x)
        mask = regularize.dropout(z * 0.0 + 1.0, 0.5)
        self.masks.append(mask.numpy() > 0)
        return z * mask


def by_fit(net, sam, x):
    y = np.zeros((9, 50))
    dl.train.fit(net, dl.mse_loss, x, y, sam, 2, batch_size=9, rng=np.random.default_rng(0))


def by_steps(net, sam, x):
    for _ in range(2):
        sam.step(lambda: dl.mse_loss(net(x), np.zeros((9, 50))))


@pytest.mark.parametrize("train", [by_fit, by_steps])
def test_the_second_pass_of_sam_repeats_the_first(library, train):
    """Both gradients are of one function, and the batch counts once, at θ."""
    dl.seed(0)
    net, x = Noisy(), dl.asarray(rng.standard_normal((9, 3)))
    first = dl.ops.mean(net.net[0](x), 0).numpy()
    draws = dl.backend.stream().bit_generator.state
    train(net, regularize.SAM(optim.SGD(net.parameters(), lr=1e-9)), x)
    a, again, b, once_more = net.masks
    assert (a == again).all()
    assert (b == once_more).all()
    assert (a != b).any()
    assert dl.to_numpy(net.net[1].running_mean) == pytest.approx(first * (0.1 + 0.9 * 0.1))
    stream = dl.backend.stream()
    after, stream.bit_generator.state = stream.bit_generator.state, draws
    stream.random((2, 9, 50))  # one draw a step
    assert stream.bit_generator.state == after


def test_sam_at_a_stationary_point_stays():
    p = parameter(0.0, 0.0)
    regularize.SAM(optim.SGD([p], lr=0.1)).step(lambda: quadratic(p))
    assert not p.numpy().any()


def test_sam_hands_through_learning_rate_and_state():
    p = parameter(1.0, 2.0)
    sam = regularize.SAM(optim.SGD([p], lr=0.1, momentum=0.9))
    sam.lr = 0.2
    assert sam.optimizer.lr == sam.lr == 0.2
    sam.step(lambda: quadratic(p))
    again = regularize.SAM(optim.SGD([parameter(1.0, 2.0)], lr=0.1, momentum=0.9))
    again.load_state_dict(sam.state_dict())
    assert again.lr == 0.2
    assert (again.optimizer.velocity == sam.optimizer.velocity).all()
    with pytest.raises(ValueError, match="learning rate lr"):
        sam.lr = 0


def test_a_loss_that_fails_on_the_way_leaves_the_parameters_where_they_were():
    p, calls = parameter(1.0, 2.0), []

    def loss():
        calls.append(p.numpy().copy())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quadratic(p)

    sam = regularize.SAM(optim.SGD([p], lr=0.1))
    with pytest.raises(KeyboardInterrupt):
        sam.step(loss)
    assert not np.array_equal(calls[1], [1.0, 2.0])
    assert p.numpy().tolist() == [1.0, 2.0]
    sam.step(lambda: quadratic(p))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_sam_goes_on_alone(clone):
    p = parameter(1.0, -2.0)
    sam = regularize.SAM(optim.Adam([p], lr=0.05))
    q, twin = clone((p, sam))
    sam.step(lambda: quadratic(p))
    assert q.numpy().tolist() == [1.0, -2.0]
    twin.step(lambda: quadratic(q))
    assert (q.numpy() == p.numpy()).all()


# --- averages -------------------------------------------------------------------------------------


def averaged(decay, path):
    p = parameter(0.0, 0.0)
    flat = dl.flat.pack([p])
    average = regularize.WeightAverage(flat, decay)
    for theta in path:
        flat.assign(theta)
        average.update()
    return p, average


PATH = rng.standard_normal((20, 2))


def test_the_plain_average_is_the_mean_of_the_path(library):
    _, average = averaged(None, PATH)
    assert dl.to_numpy(average.mean) == pytest.approx(PATH.mean(0))


def test_the_exponential_average_starts_at_the_first_theta_and_is_torchs(library):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, average = averaged(0.9, PATH)
    module = torch.nn.Linear(2, 1, bias=False).double()
    theirs = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for theta in PATH:
        with torch.no_grad():
            module.weight.copy_(torch.tensor(theta))
        theirs.update_parameters(module)
    expected = theirs.module.weight.detach().numpy()[0]
    assert dl.to_numpy(average.mean) == pytest.approx(expected, rel=1e-12)


def test_the_average_is_swapped_in_and_out(library):
    p, average = averaged(None, PATH)
    with average.applied():
        assert p.numpy() == pytest.approx(PATH.mean(0))
    assert (p.numpy() == PATH[-1]).all()
    assert dl.to_numpy(average.mean) == pytest.approx(PATH.mean(0))
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert (p.numpy() == PATH[-1]).all()
    average.swap()
    assert p.numpy() == pytest.approx(PATH.mean(0))


def test_a_saved_average_goes_on_with_the_same_bits():
    _, average = averaged(None, PATH[:10])
    p = parameter(0.0, 0.0)
    again = regularize.WeightAverage([p])
    again.load_state_dict(average.state_dict())
    for theta in PATH[10:]:
        again.flat.assign(theta)
        again.update()
    assert (again.mean == averaged(None, PATH)[1].mean).all()


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: regularize.l1_penalty([parameter(1.0)], -1), ValueError, "strength.*>= 0, got -1"),
        (lambda: regularize.l2_penalty([], 1), GradientError, "expected.*its parameters, got none"),
        (lambda: regularize.l2_penalty([X], 1), GradientError, r"got ndarray.*\[layer\.weight\]"),
        (lambda: regularize.dropout(X, -0.1), ValueError, "p must be.*got -0.1"),
        (lambda: regularize.dropout(X, 1.1), ValueError, "p is a probability.*got 1.1"),
        (lambda: regularize.dropout(X, 1.1, training=False), ValueError, "got 1.1"),
        (lambda: regularize.stochastic_depth(X, math.nan), ValueError, "got nan"),
        (lambda: regularize.stochastic_depth(Tensor(1.0), 0.1), ShapeError, r"\(N, …\), got \(\)"),
        (
            lambda: regularize.cross_entropy_smoothed(X, LABELS, 2),
            ValueError,
            "smoothing is a prob",
        ),
        (lambda: regularize.cross_entropy_smoothed(X, [0, 5, 1, 1], 0.1), ValueError, "5 classes"),
        (lambda: regularize.cross_entropy_smoothed(X[0], [0], 0.1), ShapeError, r"\(N, classes\)"),
        (lambda: regularize.EarlyStopping([parameter(1.0)], 0), ValueError, "patience.*got 0"),
        (lambda: regularize.EarlyStopping([parameter(1.0)], 1.5), ValueError, "patience.*got 1.5"),
        (lambda: regularize.EarlyStopping([parameter(1.0)], 1, -1), ValueError, "min_delta must"),
        (lambda: regularize.SAM(optim.SGD([parameter(1.0)], 1), 0), ValueError, "rho must be"),
        (
            lambda: regularize.SAM(optim.SGD([parameter(1.0)], 1)).step(),
            GradientError,
            r"step\(\) before ascend\(\)",
        ),
        (lambda: sam_up().ascend(), GradientError, r"ascend\(\) twice"),
        (
            lambda: regularize.WeightAverage([parameter(1.0)], 1),
            ValueError,
            "decay must be below 1",
        ),
        (lambda: regularize.WeightAverage([parameter(1.0)], -1), ValueError, "decay must be"),
        (
            lambda: regularize.WeightAverage([parameter(1.0)]).swap(),
            GradientError,
            "update.. after",
        ),
        (
            lambda: regularize.WeightAverage([parameter(1.0)]).load_state_dict(
                {"n": 1, "mean": np.ones(3)}
            ),
            ShapeError,
            r"shape \(3,\), but there are 1 parameters",
        ),
    ],
)
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def sam_up():
    sam = regularize.SAM(optim.SGD([parameter(1.0)], 1))
    sam.ascend()
    return sam
