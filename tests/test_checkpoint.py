"""Checkpoints: a run that was killed and resumed is the run that never was."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import dlmini as dl
from dlmini.train import CheckpointError, NonFiniteLoss

STEPS = 60
BACKENDS = [("numpy", "float32"), ("numpy", "float64"), ("torch", "float32"), ("torch", "float64")]


@pytest.fixture(params=BACKENDS, ids=" ".join)
def library(request):
    backend, dtype = request.param
    if backend == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(backend, dtype)
    yield
    dl.use("numpy")


class Run:
    """A small program that trains: the same network, data and random stream each time it starts."""

    def __init__(self, optimizer=None, widths=(5, 8, 3), net=None):
        dl.seed(3)
        self.net = net() if net else dl.nn.mlp(*widths)
        make = optimizer or (lambda p: dl.optim.SGD(p, 0.1, momentum=0.9))
        self.optimizer = make(self.net.parameters())
        rng = dl.rng(4)
        self.x, self.y = rng.standard_normal((50, widths[0])), rng.integers(0, 3, 50)
        self.rng = dl.rng(5)

    def fit(self, steps=STEPS, **given):
        given = {
            "batch_size": 16,
            "rng": self.rng,
            "metric": {"accuracy": dl.accuracy},
            "validation": (self.x, self.y),
            "metric_every": 7,
            "checkpoint_every": 10,
        } | given
        x, y = given.pop("x", self.x), given.pop("y", self.y)
        return dl.train.fit(self.net, dl.cross_entropy, x, y, self.optimizer, steps, **given)

    def numbers(self):
        state = self.optimizer.state_dict()
        return [
            self.optimizer.flat.snapshot().tobytes(),
            {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in state.items()},
            {k: v.tobytes() for k, v in self.net.state_dict().items()},
            self.rng.bit_generator.state,
            dl.backend.stream().bit_generator.state,
        ]


class PowerCut(Exception):
    pass


def cut_at(*moments):
    def on_step(t, history):
        if t in moments:
            raise PowerCut

    return on_step


def interrupted(path, moment=37, **given):
    """A run that got as far as `moment`; its file is from the last multiple of 10 before."""
    run = Run(given.pop("optimizer", None), net=given.pop("net", None))
    with pytest.raises(PowerCut):
        run.fit(checkpoint=path, on_step=cut_at(moment), **given)
    return run


OPTIMIZERS = {
    "SGD": lambda p: dl.optim.SGD(p, 0.1),
    "momentum": lambda p: dl.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
}
for name in ("AdaGrad", "RMSprop", "Adam", "AdamW", "Muon"):
    OPTIMIZERS[name] = lambda p, name=name: getattr(dl.optim, name)(p, 0.01)


def sam(parameters):
    regularize = pytest.importorskip("dlmini.regularize")
    return regularize.SAM(dl.optim.SGD(parameters, 0.1, momentum=0.9), rho=0.1)


OPTIMIZERS["SAM"] = sam


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_run_ends_with_the_same_bits(optimizer, library, tmp_path):
    whole = Run(optimizer)
    history = whole.fit()
    path = tmp_path / "run.npz"
    interrupted(path, optimizer=optimizer)
    second = Run(optimizer)
    with pytest.raises(PowerCut):
        second.fit(checkpoint=path, resume=True, on_step=cut_at(51))
    third = Run(optimizer)
    assert third.fit(checkpoint=path, resume=True) == history
    assert third.numbers() == whole.numbers()


def test_layers_that_draw_and_remember_are_resumed_too(library, tmp_path):
    def net():
        return dl.nn.Sequential(
            dl.nn.Linear(5, 8), dl.nn.BatchNorm1d(8), dl.nn.ReLU(), dl.nn.Dropout(0.3),
            dl.nn.Linear(8, 3),
        )  # fmt: skip

    whole = Run(net=net)
    history = whole.fit()
    path = tmp_path / "run.npz"
    interrupted(path, net=net)
    resumed = Run(net=net)
    assert resumed.fit(checkpoint=path, resume=True) == history
    assert resumed.numbers() == whole.numbers()


class Jitter(dl.nn.Module):
    """Adds noise from the stream of `dl.seed` and from one of its own."""

    def __init__(self):
        self.linear = dl.nn.Linear(5, 3)
        self.rng = dl.rng(8)

    def forward(self, x):
        draws = dl.backend.stream().standard_normal(3) + self.rng.standard_normal(3)
        return self.linear(x) + dl.backend.asarray(0.1 * draws)


def test_every_stream_that_a_layer_draws_from_is_resumed(library, tmp_path):
    def net():
        return dl.nn.Sequential(Jitter())

    whole = Run(net=net)
    history = whole.fit()
    interrupted(tmp_path / "run.npz", net=net)
    resumed = Run(net=net)
    assert resumed.fit(checkpoint=tmp_path / "run.npz", resume=True) == history
    assert resumed.numbers() == whole.numbers()


def test_the_same_session_can_resume_after_an_interrupt(tmp_path):
    whole = Run()
    history = whole.fit()
    run = interrupted(tmp_path / "run.npz")
    assert run.fit(checkpoint=tmp_path / "run.npz", resume=True) == history
    assert run.numbers() == whole.numbers()


def test_a_schedule_goes_on_where_it_was(tmp_path):
    schedule = dl.optim.cosine(0.1, STEPS)
    history = Run().fit(schedule=schedule)
    interrupted(tmp_path / "run.npz", schedule=schedule)
    assert Run().fit(checkpoint=tmp_path / "run.npz", resume=True, schedule=schedule) == history


@pytest.mark.parametrize("kind", ["MT19937", "Philox", "SFC64"])
def test_every_kind_of_random_stream_is_kept(kind, tmp_path):
    def stream():
        return np.random.Generator(getattr(np.random, kind)(1))

    history = Run().fit(rng=stream())
    interrupted(tmp_path / "run.npz", rng=stream())
    assert Run().fit(checkpoint=tmp_path / "run.npz", resume=True, rng=stream()) == history


def test_a_run_without_a_file_starts_from_the_beginning_and_keeps_its_last_step(tmp_path):
    path = tmp_path / "run.npz"
    history = Run().fit(checkpoint=path, resume=True, steps=13)
    assert os.listdir(tmp_path) == ["run.npz"]
    again = Run()
    before = path.read_bytes()
    assert again.fit(checkpoint=path, resume=True, steps=13) == history
    assert path.read_bytes() == before


def test_a_finished_run_can_be_made_longer(tmp_path):
    whole = Run()
    history = whole.fit()
    Run().fit(checkpoint=tmp_path / "run.npz", steps=35)
    longer = Run()
    assert longer.fit(checkpoint=tmp_path / "run.npz", resume=True).loss == history.loss
    assert longer.numbers()[0] == whole.numbers()[0]


def test_a_run_that_was_stopped_stays_stopped(tmp_path):
    given = {"checkpoint": tmp_path / "run.npz", "on_step": lambda t, history: t == 20}
    history = Run().fit(**given)
    assert history.stopped == 20
    assert len(history.loss) == history.metric_steps[-1] == 21
    assert Run().fit(**given, resume=True) == history


def test_the_file_holds_no_pickle(tmp_path):
    Run().fit(checkpoint=tmp_path / "run.npz", steps=10)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        kinds = {archive[name].dtype.kind for name in archive.files}
    assert kinds <= set("fiu")


def test_load_takes_the_network_from_a_checkpoint(library, tmp_path):
    run = Run()
    history = run.fit(checkpoint=tmp_path / "run.npz")
    other = dl.nn.mlp(5, 8, 3)
    assert dl.train.load(tmp_path / "run.npz", other) == history
    for p, q in zip(other.parameters(), run.net.parameters(), strict=True):
        assert p.numpy().tobytes() == q.numpy().tobytes()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*other\.npz"):
        dl.train.load(tmp_path / "other.npz", other)


# --- what on_step remembers -----------------------------------------------------------------------


class Watched(Run):
    """A run that averages its parameters and stops early; the loss it is told goes up and down."""

    def __init__(self, patience=2, decay=0.9):
        super().__init__(net=lambda: dl.nn.Sequential(dl.nn.Linear(5, 3), dl.nn.BatchNorm1d(3)))
        self.stop = dl.regularize.EarlyStopping(self.net, patience=patience)
        self.average = dl.regularize.WeightAverage(self.optimizer.flat, decay)

    def fit(self, steps=STEPS, cut=None, **given):
        def on_step(t, history):
            self.average.update()
            if t == cut:
                raise PowerCut
            return t % 8 == 7 and self.stop.update(self.told(t))

        keep = {"stop": self.stop, "average": self.average} if "checkpoint" in given else None
        return super().fit(steps, on_step=on_step, **{"keep": keep} | given)

    def told(self, t):
        """The third of the losses (at t = 23) is the best; two worse ones end the run at 39."""
        return abs(t - 23) + 1.0

    def remembered(self):
        self.stop.restore()
        return [self.stop.best, self.stop.best_at, self.average.n, *self.numbers(),
                np.array(self.average.state_dict()["mean"]).tobytes()]  # fmt: skip


@pytest.mark.parametrize("moments", [(5,), (22,), (27,), (31, 38)])
def test_early_stopping_and_averages_go_on_where_they_were(moments, library, tmp_path):
    whole = Watched()
    history = whole.fit()
    assert history.stopped == 39
    path = tmp_path / "run.npz"
    for moment in moments:
        with pytest.raises(PowerCut):
            Watched().fit(checkpoint=path, resume=True, cut=moment, checkpoint_every=3)
    last = Watched()
    assert last.fit(checkpoint=path, resume=True) == history
    assert last.remembered() == whole.remembered()
    # Once more from the file of the ended run: nothing is trained, everything is there.
    again = Watched()
    assert again.fit(checkpoint=path, resume=True) == history
    assert again.stop.best_at == 2
    assert (again.stop.flat.snapshot() != whole.stop.flat.snapshot()).any()
    again.stop.restore()
    assert (again.stop.flat.snapshot() == whole.stop.flat.snapshot()).all()


def test_without_keep_the_memory_would_be_lost(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(PowerCut):
        Watched().fit(checkpoint=path, cut=27, checkpoint_every=3, keep=None)
    forgetful = Watched()
    assert forgetful.fit(checkpoint=path, resume=True, keep=None).stopped != 39


@pytest.mark.parametrize(
    ("made", "given", "words"),
    [
        ({"patience": 3}, {}, r"keep stop: 'EarlyStopping\(patience=2, min_delta=0\.0\)' in the "
                              r"file, 'EarlyStopping\(patience=3"),
        ({"decay": None}, {}, r"keep average: 'WeightAverage\(decay=0\.9\)' in the file, "
                              r"'WeightAverage\(\)'"),
        ({}, {"keep": None}, r"keep stop: .* in the file, None here"),
    ],
)  # fmt: skip
def test_other_settings_of_what_is_kept_are_refused(made, given, words, tmp_path):
    with pytest.raises(PowerCut):
        Watched().fit(checkpoint=tmp_path / "run.npz", cut=27)
    refused(tmp_path / "run.npz", words, run=Watched(**made), **given)


def test_a_state_that_one_of_them_refuses_changes_none_of_them(tmp_path):
    with pytest.raises(PowerCut):
        Watched().fit(checkpoint=tmp_path / "run.npz", cut=27)
    run = Watched()
    run.average = dl.regularize.WeightAverage([dl.Tensor([1.0, 2.0], requires_grad=True)], 0.9)
    refused(tmp_path / "run.npz", r"a state of 'average' that WeightAverage\(decay=0\.9\) does not "
                                  r"take: the saved mean has shape \(24,\)", run=run)  # fmt: skip
    assert (run.stop.best_at, run.stop.best) == (None, float("inf"))


def test_what_is_kept_needs_a_state_and_a_file(tmp_path):
    with pytest.raises(TypeError, match=r"keep\['x'\] is 3: expected an object with state_dict"):
        Run().fit(checkpoint=tmp_path / "run.npz", keep={"x": 3})
    with pytest.raises(ValueError, match="keep needs checkpoint=PATH"):
        Run().fit(keep={"x": Watched().average})


# --- killed ---------------------------------------------------------------------------------------

KILLS = 20
PROGRAM = """
import os, random, signal, sys, time
import numpy as np
import dlmini as dl

def run(path, resume, on_step=None):
    dl.seed(1)
    net = dl.nn.mlp(4, 6, 3)
    optimizer = dl.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    rng = dl.rng(2)
    x, y = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    average = dl.regularize.WeightAverage(optimizer.flat, 0.99)
    stop = dl.regularize.EarlyStopping(net, patience=10)

    def after(t, history):
        average.update()
        stop.update(np.sin(0.01 * t))
        return on_step is not None and on_step(t, history)

    history = dl.train.fit(
        net, dl.cross_entropy, x, y, optimizer, 1500, 16, dl.optim.cosine(0.05, 1500), dl.rng(3),
        metric={"accuracy": dl.accuracy}, validation=(x, y), metric_every=50,
        checkpoint=path, checkpoint_every=3, resume=resume, on_step=after,
        keep={"average": average, "stop": stop} if path else None,
    )
    vectors = [optimizer.flat.snapshot(), optimizer.velocity, average.mean]
    stop.restore()
    vectors += [optimizer.flat.theta, np.array([stop.best, stop.best_at, average.n])]
    return [v.tobytes().hex() for v in vectors], history

def life(path, steps, seconds):
    # A child that trains until it is killed, some time after it has told of so many steps;
    # True if the kill found it alive.
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        run(path, True, lambda t, history: os.write(tell, b".") and None)
        os._exit(0)
    os.close(tell)
    for _ in range(steps):
        if not os.read(told, 1):
            break
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.close(told)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

whole = run(None, False)
path, moments = sys.argv[1], random.Random()
killed, reached = 0, []
while killed < int(sys.argv[2]):
    alive = life(path, moments.randrange(60), moments.uniform(0, 0.003))
    killed += alive
    if os.path.exists(path):
        reached.append(len(dl.train.load(path, dl.nn.mlp(4, 6, 3)).loss))
    if not alive:
        os.remove(path)  # it got to its end: begin again
assert run(path, True) == whole, "the resumed run differs"
print(killed, len(set(reached)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "run.npz"), str(KILLS)],
        capture_output=True, text=True, timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, places = map(int, done.stdout.split())
    assert killed == KILLS
    assert places >= 3, "the kills did not fall at different moments of the run"
    # A kill in the middle of a write leaves a neighbour behind, which the next write takes over.
    assert set(os.listdir(tmp_path)) <= {"run.npz"}


@pytest.mark.parametrize("broken", ["numpy.savez", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file(broken, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    interrupted(path)
    before = path.read_bytes()

    def fail(*args, **more):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(OSError, match="no space"):
            Run().fit(checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert Run().fit(checkpoint=path, resume=True) == Run().fit()


# --- refused --------------------------------------------------------------------------------------


def refused(path, match, run=None, **given):
    """The run is refused with these words; file, network and random stream stay as they were."""
    run = run or Run()
    before, bytes_before = run.numbers(), path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        run.fit(checkpoint=path, **{"resume": True} | given)
    assert path.read_bytes() == bytes_before
    assert run.numbers() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    interrupted(tmp_path / "run.npz")
    refused(
        tmp_path / "run.npz", r"run\.npz is there already, from step 30 .*resume=True", resume=False
    )


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    interrupted(path)
    whole = path.read_bytes()
    for size in [0, 1, 3, 4, 100, *range(200, len(whole), len(whole) // 15), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path, rf"run\.npz \({size:,} bytes\) is truncated or no checkpoint.*left as it is")


def test_damaged_files_are_refused_or_harmless(tmp_path):
    path = tmp_path / "run.npz"
    interrupted(path)
    whole = path.read_bytes()
    good = Run()
    good.fit(checkpoint=path, resume=True, steps=31)
    rng, found = np.random.default_rng(0), 0
    for at in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        run = Run()
        try:
            run.fit(checkpoint=path, resume=True, steps=31)
        except CheckpointError:
            found += 1
        else:  # the bit was in a time stamp or the like
            assert run.numbers() == good.numbers()
    assert found > 30


def foreign(path, kind):
    with open(path, "wb") as file:
        if kind == "text":
            file.write(b"epoch,loss\n1,0.5\n")
        elif kind == "npy":
            np.save(file, np.ones(3))
        elif kind == "npz":
            np.savez(file, weights=np.ones(3), bias=np.zeros(2))
        elif kind == "pickle":
            np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        else:
            header = json.dumps({"format": "dlmini checkpoint", "version": 99})
            np.savez(file, header=np.frombuffer(header.encode(), np.uint8))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "no checkpoint: expected a file written by dlmini.train.fit"),
        ("npy", "no checkpoint"),
        ("npz", "found arrays named weights, bias"),
        ("pickle", "no checkpoint"),
        ("version", r"version 1\), found format 'dlmini checkpoint', version 99"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_foreign_files_are_refused(kind, words, resume, tmp_path):
    foreign(tmp_path / "run.npz", kind)
    refused(tmp_path / "run.npz", words, resume=resume)
    with pytest.raises(CheckpointError, match=words):
        dl.train.load(tmp_path / "run.npz", Run().net)


def other_width():
    return Run(widths=(5, 9, 3))


def deeper():
    return Run(net=lambda: dl.nn.mlp(5, 8, 3, 3))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (other_width, r"another network: expected layers\.0\.weight \(9, 5\) float32, found "
                      r"layers\.0\.weight \(8, 5\) float32 \(3 of 4 entries differ\)"),
        (deeper, r"expected layers\.4\.weight \(3, 3\) float32, found nothing more \(2 of 6"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused(other, words, tmp_path):
    interrupted(tmp_path / "run.npz")
    refused(tmp_path / "run.npz", words, run=other())
    net = other().net
    before = [p.numpy().tobytes() for p in net.parameters()]
    with pytest.raises(CheckpointError, match=words):
        dl.train.load(tmp_path / "run.npz", net)
    assert [p.numpy().tobytes() for p in net.parameters()] == before


def test_another_precision_is_refused(tmp_path):
    interrupted(tmp_path / "run.npz")
    dl.use("numpy", "float64")
    try:
        refused(tmp_path / "run.npz", r"expected .* float64, found .* float32 \(4 of 4")
    finally:
        dl.use("numpy")


@pytest.mark.parametrize(
    ("optimizer", "given", "words"),
    [
        (lambda p: dl.optim.SGD(p, 0.2, momentum=0.9), {}, r"lr: 0\.1 in the file, 0\.2 here"),
        (lambda p: dl.optim.SGD(p, 0.1, momentum=0.8), {}, r"momentum: 0\.9 in the file"),
        (None, {"batch_size": 17}, "batch_size: 16 in the file, 17 here"),
        (None, {"x": np.ones((50, 5))}, r"training x: '\(50, 5\) float32 \w+' in the file"),
        (None, {"y": np.zeros(50, int)}, "training y: .* in the file"),
        (None, {"schedule": lambda t: 0.1}, r"lr: 0\.1 in the file, 'set by a schedule' here"),
        (None, {"metric": None, "validation": None}, r"metrics: \['accuracy'\] in the file, \[\]"),
        (None, {"steps": 20}, "has 30 steps behind it, more than steps=20"),
        (None, {"rng": np.random.Generator(np.random.SFC64(0))}, "random streams: .*PCG64.*SFC64"),
    ],
)  # fmt: skip
def test_a_run_with_other_settings_is_refused(optimizer, given, words, tmp_path):
    interrupted(tmp_path / "run.npz")
    refused(tmp_path / "run.npz", words, run=Run(optimizer), **given)


def test_another_optimizer_is_refused(tmp_path):
    interrupted(tmp_path / "run.npz")
    words = "optimizer: 'SGD' in the file, 'Adam' here"
    refused(tmp_path / "run.npz", words, run=Run(lambda p: dl.optim.Adam(p, 0.1)))
    words = "around it: None in the file, 'SAM' here"
    refused(tmp_path / "run.npz", words, run=Run(sam))
    (tmp_path / "run.npz").unlink()
    interrupted(tmp_path / "run.npz", optimizer=sam)
    refused(tmp_path / "run.npz", "rho: 0.1 in the file, None here")


def test_an_optimizer_over_other_parameters_is_refused(tmp_path):
    interrupted(tmp_path / "run.npz")
    run = Run()
    run.optimizer = dl.optim.SGD(run.net[0].parameters(), 0.1, momentum=0.9)
    words = r"optimizer state: .*'velocity': \(75,\).* in the file, .*'velocity': \(48,\)"
    refused(tmp_path / "run.npz", words, run=run)


def test_a_missing_folder_and_a_missing_path_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"folder '.*nowhere' .* does not exist"):
        Run().fit(checkpoint=tmp_path / "nowhere" / "run.npz")
    with pytest.raises(ValueError, match="resume=True needs checkpoint=PATH"):
        Run().fit(resume=True)
    with pytest.raises(ValueError, match="checkpoint_every must be an integer >= 1, got 0"):
        Run().fit(checkpoint=tmp_path / "run.npz", checkpoint_every=0)


# --- not finite -----------------------------------------------------------------------------------


def test_a_state_that_is_not_finite_never_replaces_a_good_one(tmp_path):
    path = tmp_path / "run.npz"
    run = Run()

    def spoil(t, history):
        if t == 25:
            run.net[0].weight.data = np.full((8, 5), np.nan)

    with pytest.raises(NonFiniteLoss, match=r"step 26: the parameters of layer layers\.0"):
        run.fit(checkpoint=path, checkpoint_every=1, on_step=spoil)
    good = dl.nn.mlp(5, 8, 3)
    assert len(dl.train.load(path, good).loss) == 25
    assert all(np.isfinite(p.numpy()).all() for p in good.parameters())


def test_training_leaves_the_name_dl_checkpoint_to_the_function():
    code = "import dlmini as dl; dl.train; assert dl.checkpoint is dl.tensor.checkpoint"
    subprocess.run([sys.executable, "-c", code], check=True)
