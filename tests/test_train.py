"""Networks, losses, data and the training loop."""

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError
from dlmini.train import NonFiniteLoss

pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the digits")


@pytest.fixture(scope="module")
def digits():
    return dl.data.digits(rng=dl.rng(0))


# --- networks -------------------------------------------------------------------------------------


def test_parameters_have_names_and_shared_ones_are_listed_once():
    net = dl.nn.mlp(3, 4, 2)
    names = [name for name, _ in net.named_parameters()]
    assert names == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert net.num_parameters == 3 * 4 + 4 + 4 * 2 + 2
    twice = dl.nn.Sequential(net[0], net[0])
    assert len(twice.parameters()) == 2
    assert repr(net) == "Sequential(Linear(3, 4), ReLU(), Linear(4, 2))"


@pytest.mark.parametrize("activation", [dl.nn.ReLU, dl.nn.Tanh, dl.nn.Sigmoid])
def test_initialisation_keeps_the_size_of_activations(activation):
    dl.seed(0)
    follows = activation.__name__.lower()
    layer = dl.nn.Linear(400, 4000, nonlinearity=follows)
    z = layer(dl.backend.stream().standard_normal((4, 400)).astype("float32"))
    assert z.numpy().std() == pytest.approx(dl.functional.gain(follows), rel=0.05)
    assert not layer.bias.numpy().any()


def test_a_linear_layer_takes_leading_axes():
    layer = dl.nn.Linear(3, 2)
    x = np.ones((4, 5, 3), "float32")
    assert layer(x).shape == (4, 5, 2)
    assert layer(x[0, 0]).shape == (2,)


def test_zero_grad_of_a_network():
    net = dl.nn.mlp(2, 2)
    net(np.ones((1, 2))).sum().backward()
    net.zero_grad()
    assert all(not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: dl.nn.Linear(0, 3), ValueError, "in_features must be an integer >= 1, got 0"),
        (lambda: dl.nn.Linear(3, 2.0), ValueError, "out_features.*got 2.0"),
        (lambda: dl.nn.Linear(3, 2, nonlinearity="swish"), ValueError, "'swish'.*'relu'"),
        (lambda: dl.nn.Linear(3, 2)(np.ones((5, 4))), ShapeError, r"\(5, 4\).*takes 3 features"),
        (lambda: dl.nn.Sequential(dl.nn.ReLU), TypeError, r"layer 0.*ReLU\(\) instead of ReLU"),
        (lambda: dl.nn.Sequential(3), TypeError, "layer 0 is 3"),
        (lambda: dl.nn.mlp(3), ValueError, "at least an input and an output"),
        (lambda: dl.nn.Module()(1), NotImplementedError, "no forward"),
        (lambda: dl.cross_entropy(np.ones((2, 3)), [0, 3]), ValueError, "0 to 3.*3 classes"),
        (lambda: dl.cross_entropy(np.ones((2, 3)), [-1, 0]), ValueError, "from -1"),
        (lambda: dl.cross_entropy(np.ones((2, 3)), [0.0, 1.0]), ValueError, "astype\\(int\\)"),
        (lambda: dl.cross_entropy(np.ones((2, 3)), np.eye(3)[:2]), ShapeError, "not one-hot"),
        (lambda: dl.cross_entropy(np.ones(3), [0]), ShapeError, r"\(N, classes\), got \(3,\)"),
        (lambda: dl.cross_entropy(np.ones((0, 3)), np.ones(0, int)), ShapeError, "empty batch"),
        (lambda: dl.mse_loss(np.ones((3, 1)), np.ones(3)), ShapeError, r"\(3, 1\) and \(3,\)"),
    ],
)
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


# --- data -----------------------------------------------------------------------------------------


def test_digits_are_split_without_overlap(digits):
    assert digits.x_train.shape == (1438, 64)
    assert digits.x_test.shape == (359, 64)
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 1
    everything = np.concatenate([digits.x_train, digits.x_test])
    assert len(np.unique(everything, axis=0)) == 1797


def test_a_split_moves_inputs_and_targets_together():
    split = dl.data.random_split(np.arange(20.0)[:, None], np.arange(20), 0.25, dl.rng(1))
    assert (split.x_train[:, 0] == split.y_train).all()
    assert sorted([*split.y_train, *split.y_test]) == list(range(20))
    assert len(split.y_test) == 5


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: dl.data.random_split(np.ones(3), np.ones(2)), ShapeError, "3 inputs but 2"),
        (lambda: dl.data.random_split(np.ones(3), np.ones(3), 1.0), ValueError, "empty"),
        (lambda: dl.data.random_hessian(1, 2), ValueError, "d >= 2"),
        (lambda: dl.data.random_hessian(3, 0.5), ValueError, "kappa=0.5"),
        (lambda: dl.data.random_hessian(3, 2, top=0), ValueError, "top must be"),
        (lambda: dl.data.linear_regression(0, 2), ValueError, "n=0"),
        (lambda: dl.data.linear_regression(3, 2, noise=-1), ValueError, "noise must be"),
    ],
)
def test_bad_data_arguments_are_named(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_absent_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'dlmini\[notebooks\]'"):
        dl.data.digits()


def test_a_random_hessian_has_the_chosen_ends():
    h = dl.data.random_hessian(6, kappa=50, top=3.0, rng=dl.rng(0))
    values = np.linalg.eigvalsh(h)
    assert values[[0, -1]] == pytest.approx([3.0 / 50, 3.0])
    assert (h == h.T).all()


# --- the loop -------------------------------------------------------------------------------------


def make(lr=0.3, **options):
    net = dl.nn.mlp(64, 16, 10)
    return net, dl.optim.SGD(net.parameters(), lr, **options)


def test_training_learns_to_read_digits(digits):
    dl.seed(0)
    net, opt = make(momentum=0.9)
    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 300, batch_size=64
    )
    assert len(history.loss) == len(history.lr) == 300
    assert dl.accuracy(net(digits.x_test), digits.y_test) > 0.9
    assert dl.train.evaluate(net, dl.cross_entropy, digits.x_test, digits.y_test) < 0.4


def test_each_epoch_uses_every_example_once(digits):
    seen = []

    def spy(output, labels):
        seen.append(len(labels))
        return dl.cross_entropy(output, labels)

    net, opt = make()
    dl.train.fit(net, spy, digits.x_train[:100], digits.y_train[:100], opt, 4, batch_size=32)
    assert seen == [32, 32, 32, 4]


def test_a_schedule_sets_the_learning_rate_and_on_step_is_called(digits):
    net, opt = make()
    calls = []
    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 3,
        schedule=dl.optim.step_decay(0.1, 1, 0.5), on_step=calls.append,
    )  # fmt: skip
    assert history.lr == pytest.approx([0.1, 0.05, 0.025])
    assert calls == [0, 1, 2]


def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(digits):
    net, opt = make()
    net[0].weight.data = np.full((16, 64), 1e38)
    with pytest.raises(
        NonFiniteLoss, match=r"step 0: the output of layer layers\.0 \(Linear\(64, 16"
    ):
        dl.train.fit(net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 5)


def test_divergence_can_be_noted_instead(digits):
    net, opt = make(lr=1e30)
    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 50, 64, stop_at_divergence=True
    )
    assert history.diverged == len(history.loss) - 1 < 50
    assert not np.isfinite(history.loss[-1])


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size.*got 2.5"),
        ({"x": np.ones((0, 64)), "y": np.ones(0, int)}, ValueError, "no training examples"),
        ({"y": np.zeros(3, int)}, ShapeError, "5 inputs but 3 targets"),
    ],
)
def test_bad_input_to_the_loop_is_named(changed, kind, words):
    net, opt = make()
    given = {"x": np.ones((5, 64)), "y": np.zeros(5, int), "steps": 1, "batch_size": None} | changed
    with pytest.raises(kind, match=words):
        dl.train.fit(net, dl.cross_entropy, optimizer=opt, **given)


def test_the_bar_is_tqdms_and_its_absence_is_named(monkeypatch, capsys):
    net, opt = make()
    given = (net, dl.cross_entropy, np.ones((5, 64)), np.zeros(5, int), opt, 2)
    pytest.importorskip("tqdm")
    dl.train.fit(*given, progress=True)
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        dl.train.fit(*given, progress=True)
