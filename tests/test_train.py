"""Networks, losses and the training loop."""

import os
import re
import subprocess
import sys

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


# --- the loop -------------------------------------------------------------------------------------


VALIDATION = (np.ones((2, 64)), np.zeros(2, int))


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
        schedule=dl.optim.step_decay(0.1, 1, 0.5),
        on_step=lambda t, history: calls.append((t, len(history.loss), history.lr[-1])),
    )  # fmt: skip
    assert history.lr == pytest.approx([0.1, 0.05, 0.025])
    assert calls == [(t, t + 1, history.lr[t]) for t in range(3)]


def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(digits):
    net, opt = make()
    net[0].weight.data = np.full((16, 64), 1e38)
    with pytest.raises(
        NonFiniteLoss, match=r"step 0: the output of layer layers\.0 \(Linear\(64, 16"
    ):
        dl.train.fit(net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 5)


class Branches(dl.nn.Module):
    """Calls its parts in another order than it lists them, and one of them deep inside."""

    def __init__(self):
        self.last = dl.nn.Linear(8, 10)
        self.first = dl.nn.Sequential(dl.nn.Sequential(dl.nn.Linear(64, 8)), dl.nn.ReLU())
        self.scale = dl.Tensor(1.0, requires_grad=True)

    def forward(self, x):
        return self.last(self.first(x)) * self.scale


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda net: net.first[0][0].weight,
            r"the output of layer first\.layers\.0\.layers\.0 \(Linear\(64, 8",
        ),
        (lambda net: net.last.weight, r"the output of layer last \(Linear\(8, 10"),
        (lambda net: net.scale, r"the output of the network \(Branches"),
    ],
)
def test_blame_follows_the_order_of_calls(spoil, words, digits):
    net = Branches()
    spoil(net).data = np.full(spoil(net).shape, 3e38)
    opt = dl.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(NonFiniteLoss, match=words):
        dl.train.fit(net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 5)
    assert all("forward" not in vars(m) for m in (net, net.last, net.first, net.first[0]))


def test_parameters_that_are_not_finite_are_blamed_before_what_they_give(digits):
    net, opt = make()
    net[2].bias.data = np.full(10, np.nan)
    with pytest.raises(NonFiniteLoss, match=r"the parameters of layer layers\.2 \(Linear\(16, 10"):
        dl.train.fit(net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 5)


def test_data_that_are_not_finite_are_blamed_first(digits):
    net, opt = make()
    x = digits.x_train.copy()
    x[3, 2] = np.nan
    with pytest.raises(NonFiniteLoss, match="step 0: the inputs of this batch hold NaN"):
        dl.train.fit(net, dl.cross_entropy, x, digits.y_train, opt, 5)


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
        ({"x": np.float32(1)}, ShapeError, "x of the training examples is one number"),
        ({"metric_every": 0}, ValueError, "metric_every must be an integer >= 1, got 0"),
        ({"metric": {"accuracy": dl.accuracy}}, ValueError, "give both metric=.*validation="),
        ({"validation": VALIDATION}, ValueError, "give both metric=.*validation="),
        ({"metric": dl.accuracy, "validation": VALIDATION}, TypeError, "name ↦ function"),
        ({"metric": {"a": 1}, "validation": VALIDATION}, TypeError, "name ↦ function.*'a': 1"),
        ({"metric": {"lr": max}, "validation": VALIDATION}, ValueError, "cannot be named"),
        (
            {"metric": {"a": dl.accuracy}, "validation": (np.ones((2, 64)), [1])},
            ShapeError,
            "2 inputs but 1 targets",
        ),
        (
            {"metric": {"a": dl.accuracy}, "validation": (np.ones((0, 64)), [])},
            ValueError,
            "no validation examples",
        ),
        ({"x": np.ones((0, 64)), "y": np.ones(0, int)}, ValueError, "no training examples"),
        ({"y": np.zeros(3, int)}, ShapeError, "5 inputs but 3 targets"),
    ],
)
def test_bad_input_to_the_loop_is_named(changed, kind, words):
    net, opt = make()
    given = {"x": np.ones((5, 64)), "y": np.zeros(5, int), "steps": 1, "batch_size": None} | changed
    with pytest.raises(kind, match=words):
        dl.train.fit(net, dl.cross_entropy, optimizer=opt, **given)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((0, 64)), np.ones(0, int), "no given examples"),
        (np.ones((2, 64)), np.zeros(3, int), "2 inputs but 3 targets"),
    ],
)
def test_bad_input_to_evaluate_is_named(x, y, words):
    with pytest.raises(ValueError, match=words):
        dl.train.evaluate(make()[0], dl.cross_entropy, x, y)


# --- metrics, history, bar ------------------------------------------------------------------------


def test_metrics_are_taken_every_k_steps_and_after_the_last(digits):
    net, opt = make()
    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 25, batch_size=64,
        metric={"accuracy": dl.accuracy, "loss on test": dl.cross_entropy},
        validation=(digits.x_test, digits.y_test), metric_every=10,
    )  # fmt: skip
    assert history.metric_steps == [10, 20, 25]
    assert list(history.metrics) == ["accuracy", "loss on test"]
    assert history.metrics["accuracy"][-1] == dl.accuracy(net(digits.x_test), digits.y_test)
    last = dl.train.evaluate(net, dl.cross_entropy, digits.x_test, digits.y_test)
    assert history.metrics["loss on test"][-1] == last


class ModeSpy(dl.nn.Module):
    """Remembers in which mode each call found it."""

    def __init__(self):
        self.inner = dl.nn.Linear(64, 10)
        self.frozen = dl.nn.BatchNorm1d(10).eval()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        return self.inner(x)


def test_metrics_are_taken_in_evaluation_mode_and_training_goes_on(digits):
    net = ModeSpy()
    opt = dl.optim.SGD(net.parameters(), 0.1)
    dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 4, metric_every=2,
        metric={"accuracy": dl.accuracy}, validation=(digits.x_test, digits.y_test),
    )  # fmt: skip
    assert net.seen == [True, True, False, True, True, False]
    dl.train.evaluate(net, dl.cross_entropy, digits.x_test, digits.y_test)
    assert net.seen[-1] is False
    assert net.training
    assert not net.frozen.training, "what was in evaluation mode before stays there"


def test_measuring_does_not_change_the_training(digits):
    def train(**given):
        dl.seed(0)
        net, opt = make()
        return dl.train.fit(
            net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 20, 64, **given
        ).loss

    validation = (digits.x_test, digits.y_test)
    measured = train(metric={"a": dl.accuracy}, validation=validation, metric_every=1)
    assert measured == train()


def test_gradients_can_be_clipped_before_the_step(digits):
    net, opt = make(lr=1.0)
    before = opt.flat.snapshot()

    def scale(t):
        opt.flat.g[...] /= np.linalg.norm(opt.flat.g)

    dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 1, on_gradient=scale
    )  # fmt: skip
    assert np.linalg.norm(opt.flat.snapshot() - before) == pytest.approx(1, rel=1e-4)


def test_sam_takes_its_second_gradient_from_the_same_batch(digits):
    regularize = pytest.importorskip("dlmini.regularize")
    dl.seed(0)
    net, opt = make()
    dl.train.fit(
        net, dl.cross_entropy, digits.x_train[:9], digits.y_train[:9],
        regularize.SAM(opt, rho=0.1), 5, rng=dl.rng(0), batch_size=3,
    )  # fmt: skip
    dl.seed(0)
    other, opt = make()
    sam, rng = regularize.SAM(opt, rho=0.1), dl.rng(0)
    for order in (rng.permutation(9), rng.permutation(9)):
        for rows in (order[:3], order[3:6], order[6:])[: 5 - opt.t]:
            sam.step(
                lambda rows=rows: dl.cross_entropy(
                    other(digits.x_train[rows]), digits.y_train[rows]
                )
            )
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert (p.numpy() == q.numpy()).all()


def test_on_step_can_end_the_run(digits):
    net, opt = make()
    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 50,
        on_step=lambda t, history: t == 3,
    )  # fmt: skip
    assert history.stopped == 3
    assert len(history.loss) == len(history.lr) == 4


@pytest.mark.parametrize("wrong", [lambda t: None, lambda: None, [].append, 3])
def test_an_on_step_without_two_arguments_is_refused_before_training(wrong, digits):
    net, opt = make()
    words = r"on_step is called as on_step\(t, history\), got .*write on_step=lambda t, history"
    with pytest.raises(TypeError, match=words):
        dl.train.fit(net, None, digits.x_train, digits.y_train, opt, 1, on_step=wrong)


def test_on_step_may_take_more_if_it_has_defaults(digits):
    net, opt = make()
    seen = []

    def keep(t, history, to=seen):
        to.append(history)

    history = dl.train.fit(
        net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 2, on_step=keep
    )
    assert seen == [history, history]


# --- the same search for every arm ----------------------------------------------------------------


def valley(seed, lr):
    """Lowest at 0.1; the seed adds noise that all settings share."""
    return abs(np.log10(lr) + 1) + 0.01 * seed


def test_a_search_tries_every_setting_with_every_seed_in_order():
    calls = []
    tuned = dl.train.tune(
        lambda **given: calls.append(given) or 1.0,
        {"lr": np.array([0.1, 1.0]), "momentum": (0, 0.9)},
        seeds=np.arange(2),
    )
    assert calls == [
        {"seed": s, "lr": lr, "momentum": m} for lr in (0.1, 1.0) for m in (0, 0.9) for s in (0, 1)
    ]
    assert tuned.settings == [{"lr": lr, "momentum": m} for lr in (0.1, 1.0) for m in (0, 0.9)]
    assert tuned.scores.shape == (4, 2)
    assert tuned.runs == len(calls) == 8
    assert {type(value) for call in calls for value in call.values()} == {int, float}


def test_a_search_keeps_medians_and_quartiles_and_the_best():
    tuned = dl.train.tune(valley, {"lr": [1e-3, 1e-2, 0.1, 1.0]}, seeds=range(4))
    assert tuned.table == pytest.approx(np.quantile(tuned.scores, [0.25, 0.5, 0.75], axis=1).T)
    assert tuned.table[:, 1] == pytest.approx([2.015, 1.015, 0.015, 1.015])
    assert tuned.best == {"lr": 0.1}
    assert tuned.at_edge == []


@pytest.mark.parametrize("n", range(1, 8))
def test_quartiles_count_a_run_that_broke_as_the_worst(n):
    """As sorted ranks have it: infinite from the first rank that touches an infinite run."""
    for broken in range(n + 1):
        losses = [*range(n - broken), *[np.inf, np.nan, -np.inf] * n][:n]
        table = dl.train.tune(lambda seed, losses=losses: losses[seed], {}, range(n)).table[0]
        ranks = np.array([0.25, 0.5, 0.75]) * (n - 1)
        expected = np.where(np.ceil(ranks) < n - broken, ranks, np.inf)
        assert table.tolist() == pytest.approx(expected.tolist())


def test_a_run_that_raises_a_loss_that_is_not_finite_is_the_worst():
    def run(seed, lr):
        if lr > 0.5:
            raise NonFiniteLoss("step 3")
        return dl.Tensor(lr)

    tuned = dl.train.tune(run, {"lr": [0.5, 1.0]}, [7])
    assert tuned.scores.tolist() == [[0.5], [np.inf]]
    with pytest.raises(ZeroDivisionError):  # a mistake in the run is no bad loss
        dl.train.tune(lambda seed: 1 / 0, {}, [0])


def test_of_equal_settings_the_smallest_lr_wins_then_the_first():
    best = dl.train.tune(lambda **given: 1.0, {"b": [2, 1], "lr": [0.3, 0.1, 0.2]}, [0]).best
    assert best == {"b": 2, "lr": 0.1}


def test_a_best_value_at_the_end_of_its_grid_is_a_warning():
    def run(seed, lr, depth, kind):
        return valley(seed, lr) - depth

    grid = {"lr": [1.0, 0.01], "depth": [1, 3, 2], "kind": ["a", "b"]}
    tuned = dl.train.tune(run, grid, range(3))
    assert tuned.at_edge == ["lr", "depth"]  # both ends; words have none
    assert repr(tuned).endswith(
        "the best lr is at the end of the grid: widen it\n"
        "the best depth is at the end of the grid: widen it"
    )
    one = dl.train.tune(run, {"lr": [0.1], "depth": [0, 2], "kind": "a".split()}, [0])
    assert one.at_edge == ["depth"], "a single value is no search"


def test_a_search_reads_as_a_table():
    tuned = dl.train.tune(valley, {"lr": np.geomspace(1e-2, 1, 3)}, [0, 2, 4])
    assert repr(tuned) == (
        "3 settings × 3 seeds = 9 runs\n"
        "lr    median  quartiles\n"
        "0.01  1.02    1.01 to 1.03\n"
        "0.1   0.02    0.01 to 0.03  <- best\n"
        "1     1.02    1.01 to 1.03"
    )


def test_a_search_in_which_nothing_trains_has_no_best():
    tuned = dl.train.tune(lambda seed, lr: np.nan, {"lr": [1.0, 2.0]}, [0, 1])
    assert "best" not in repr(tuned)
    assert tuned.at_edge == []
    with pytest.raises(ValueError, match=r"none of the 2 settings.*smaller learning rates"):
        tuned.best


def test_a_search_over_a_network_is_the_same_again(digits):
    def run(seed, lr):
        dl.seed(seed)
        net, opt = make(lr)
        dl.train.fit(net, dl.cross_entropy, digits.x_train, digits.y_train, opt, 5, 32)
        return dl.train.evaluate(net, dl.cross_entropy, digits.x_train, digits.y_train)

    first, second = (dl.train.tune(run, {"lr": [0.01, 0.3, 1e30]}, [0, 1]) for _ in range(2))
    assert (first.scores == second.scores).all()
    assert first.best == {"lr": 0.3}
    assert np.isinf(first.scores[2]).all()


tune = dl.train.tune


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: tune(valley, [0.1], [0]), TypeError, r"name ↦ values, .*got \[0.1\]"),
        (lambda: tune(valley, {"lr": 0.1}, [0]), TypeError, r"such as .*got {'lr': 0.1}"),
        (lambda: tune(valley, {"lr": "0.1"}, [0]), TypeError, "got {'lr': '0.1'}"),
        (lambda: tune(valley, {"lr": []}, [0]), ValueError, r"needs values.*got {'lr': \[\]}"),
        (lambda: tune(valley, {"seed": [1]}, [0]), ValueError, "none is 'seed'"),
        (lambda: tune(valley, {"lr": [1]}, 5), TypeError, r"such as range\(5\), got 5"),
        (lambda: tune(valley, {"lr": [1]}, [0.5]), TypeError, r"seeds are integers.*got \[0.5\]"),
        (lambda: tune(valley, {"lr": [1]}, []), ValueError, r"seeds must be there.*got \[\]"),
        (lambda: tune(valley, {"lr": [1]}, [1, 1]), ValueError, r"differ.*got \[1, 1\]"),
        (lambda: tune(lambda seed: [1, 2], {}, [0]), ValueError, r"one number.*\(2,\)"),
        (lambda: tune(lambda seed: None, {}, [0]), TypeError, "run returned None: let it return"),
    ],
)
def test_a_bad_search_is_named(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_a_history_draws_its_curves():
    plt = pytest.importorskip("matplotlib.pyplot")
    history = dl.train.History(
        loss=[3.0, 2.0, 1.0], lr=[0.1] * 3, metrics={"accuracy": [0.5, 0.9]}, metric_steps=[2, 3]
    )
    figure, ax = plt.subplots()
    line = dl.plot.history(ax, history)
    assert line.get_xydata().tolist() == [[0, 3], [1, 2], [2, 1]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps done", "mini-batch loss")
    line = dl.plot.history(ax, history, "accuracy")
    assert line.get_xydata().tolist() == [[2, 0.5], [3, 0.9]]
    assert line.get_color() == dl.plot.COLORS["test"]
    assert dl.plot.history(ax, history, "lr").get_ydata().tolist() == [0.1] * 3
    with pytest.raises(ValueError, match="no values of 'recall'; it has 'loss', 'lr', 'accuracy'"):
        dl.plot.history(ax, history, "recall")
    with pytest.raises(ValueError, match="no values of 'loss'; it has nothing"):
        dl.plot.history(ax, dl.train.History())
    plt.close(figure)


def test_training_does_not_import_matplotlib():
    code = "import sys, dlmini.train; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bar_shows_loss_metric_and_time_left(tmp_path):
    pytest.importorskip("tqdm")
    code = """if True:
        import sys, numpy as np, dlmini as dl
        x, y = np.ones((5, 4)), np.zeros(5, int)
        for steps in (30, 40):
            dl.seed(0)
            net = dl.nn.mlp(4, 3)
            opt = dl.optim.SGD(net.parameters(), 0.1)
            dl.train.fit(net, dl.cross_entropy, x, y, opt, steps, progress=True, resume=True,
                         metric={"accuracy": dl.accuracy}, validation=(x, y), metric_every=5,
                         checkpoint=sys.argv[1])
    """
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run.npz")], check=True, capture_output=True,
        text=True, env=environment | {"TQDM_MININTERVAL": "0"},
    ).stderr  # fmt: skip
    assert re.search(r"30/30 \[.*step/s, loss=0\.\d+, accuracy=1\]", shown)
    assert re.search(r"20/30 \[\d\d:\d\d<\d\d:\d\d", shown), "the time left is not shown"
    assert re.search(r"75%.* 30/40 ", shown), "a resumed bar starts where the run does"


def test_the_bar_is_tqdms_and_its_absence_is_named(monkeypatch, capsys):
    net, opt = make()
    given = (net, dl.cross_entropy, np.ones((5, 64)), np.zeros(5, int), opt, 2)
    pytest.importorskip("tqdm")
    dl.train.fit(*given, progress=True)
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        dl.train.fit(*given, progress=True)
