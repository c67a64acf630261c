"""Data sets: what is in them, splits that share nothing, files that are read strictly."""

import difflib
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError
from dlmini.data import DataFileError

REAL = {  # examples, features, classes
    "digits": (1797, 64, 10),
    "wine": (178, 13, 3),
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
}


# --- splits ---------------------------------------------------------------------------------------


def test_a_split_moves_inputs_and_targets_together():
    split = dl.data.random_split(np.arange(20.0)[:, None], np.arange(20), 0.25, dl.rng(1))
    assert (split.x_train[:, 0] == split.y_train).all()
    assert sorted([*split.y_train, *split.y_test]) == list(range(20))
    assert len(split.y_test) == 5


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_on_both_sides(seed):
    rng = dl.rng(seed)
    n = int(rng.integers(2, 200))
    groups = rng.integers(0, rng.integers(2, 30), n)
    groups[:2] = 0, 1
    split = dl.data.grouped_split(np.arange(n)[:, None] * 1.0, np.arange(n), groups, 0.3, rng)
    train, test = set(groups[split.y_train]), set(groups[split.y_test])
    assert train
    assert test
    assert not train & test
    assert sorted([*split.y_train, *split.y_test]) == list(range(n))
    assert (split.x_test[:, 0] == split.y_test).all()


def test_a_grouped_split_comes_as_near_to_the_share_as_groups_allow():
    groups = np.repeat([f"writer {i}" for i in range(40)], 5)
    split = dl.data.grouped_split(np.ones((200, 1)), np.arange(200), groups, 0.25, dl.rng(0))
    assert len(split.y_test) == 50
    others = dl.data.grouped_split(np.ones((200, 1)), np.arange(200), groups, 0.25, dl.rng(1))
    assert set(split.y_test) != set(others.y_test)


def test_a_leaking_split_is_an_assertion():
    x = np.arange(4.0)
    with pytest.raises(AssertionError, match="both sides"):
        dl.data._deal(x, x, np.array([0, 1]), np.array([1, 2, 3]))
    with pytest.raises(AssertionError, match="neither"):
        dl.data._deal(x, x, np.array([0]), np.array([2, 3]))


def test_a_group_on_both_sides_is_an_assertion(monkeypatch):
    monkeypatch.setattr(np, "isin", lambda group_of, chosen: np.arange(len(group_of)) % 2 == 0)
    with pytest.raises(AssertionError, match="a group is on both sides"):
        dl.data.grouped_split(np.ones(6), np.ones(6), [0, 0, 0, 1, 1, 1])


def test_standardising_uses_the_training_part_alone():
    rng = dl.rng(0)
    train, test = rng.normal(5, 3, (50, 4)), rng.normal(-2, 9, (20, 4))
    a, b = dl.data.standardise(train, test)
    assert a.mean(0) == pytest.approx(0, abs=1e-6)
    assert a.std(0) == pytest.approx(1, rel=1e-5)
    assert b == pytest.approx((test - train.mean(0)) / train.std(0), rel=1e-5)
    other = dl.data.standardise(train, 100 * test)[0]
    assert (other == a).all(), "the test part had a say"


def test_a_constant_feature_becomes_zero():
    train = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])
    a, b = dl.data.standardise(train, train[:1] + 1)
    assert a[:, 0] == pytest.approx(0, abs=1e-7)
    assert b[:, 0] == pytest.approx(1)


@pytest.fixture
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


def mixed(n=200, d=5):
    rng = dl.rng(0)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_whitening_is_the_inverse_root_of_the_covariance(eps, double):
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    train, test = mixed(), mixed()[:7] * 3
    covariance = np.cov(train.T, bias=True)
    root = linalg.inv(linalg.sqrtm(covariance + eps * np.eye(5)))
    a, b = dl.data.whiten(train, test, eps)
    assert a == pytest.approx((train - train.mean(0)) @ root, rel=1e-9)
    assert b == pytest.approx((test - train.mean(0)) @ root, rel=1e-9)
    found, before = np.linalg.eigvalsh(np.cov(a.T, bias=True)), np.linalg.eigvalsh(covariance)
    assert found == pytest.approx(before / (before + eps), rel=1e-9)
    assert (dl.data.whiten(train, 100 * test, eps)[0] == a).all(), "the test part had a say"


@pytest.mark.parametrize(
    ("name", "raw"), [("wine", 1e5), ("breast_cancer", 1e9), ("diabetes", 1e2)]
)
def test_whitened_data_has_condition_number_one(name, raw, double):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the data")
    split = getattr(dl.data, name)(rng=dl.rng(0))
    kappas = [
        np.linalg.cond(np.cov(np.asarray(x).T, bias=True))
        for x in (split.x_train, dl.data.whiten(split.x_train, split.x_test)[0])
    ]
    assert kappas[0] > raw
    assert kappas[1] == pytest.approx(1, abs=1e-7)


def test_one_step_of_descent_solves_a_whitened_regression(double):
    x, y = dl.data.ill_conditioned_regression(100, 8, 1e4, rng=dl.rng(0))
    x = dl.data.whiten(x, x)[0]
    step = x.T @ (y - y.mean()) / len(y)  # −∇ of half the mean squared error at 0, η = 1
    assert step == pytest.approx(np.linalg.lstsq(x, y - y.mean())[0], rel=1e-9)


def test_epsilon_bounds_how_far_a_direction_is_stretched(double):
    train = np.concatenate([mixed(20, 3), np.ones((20, 2))], 1)  # two constant features
    other = train[:1] + np.array([0, 0, 0, 0, 1.0])
    a, b = dl.data.whiten(train, other, eps=0.04)
    assert a[:, 3:] == pytest.approx(0, abs=1e-9)
    assert b[0] - a[0] == pytest.approx([0, 0, 0, 0, 5])
    few, beside = dl.data.whiten(mixed(3, 6), mixed(3, 6) + 1, eps=0.04)
    assert np.isfinite(few).all()
    assert np.linalg.norm(beside - few, axis=1).max() <= 5 * np.sqrt(6) + 1e-9


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_real_sets_are_complete_and_split_without_overlap(name):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the data")
    n, features, classes = REAL[name]
    split = getattr(dl.data, name)(rng=dl.rng(0))
    assert split.x_train.shape == (n - round(n / 5), features)
    assert split.x_test.shape == (round(n / 5), features)
    assert split.x_train.dtype == "float32"
    everything = np.concatenate([split.x_train, split.x_test])
    assert len(np.unique(everything, axis=0)) == n, "the same example twice"
    if classes:
        assert split.y_train.dtype == "int64"
        assert set(split.y_train) == set(split.y_test) == set(range(classes))
    else:
        assert split.y_train.dtype == "float32"


@pytest.fixture
def labels():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="scikit-learn is not installed: it holds the data"
    )
    return datasets.load_digits().target


def test_every_form_asks_for_the_same_digits(labels):
    """A form may lack a few digits, and one label is another; a wrong start would add digits."""
    parts = np.split(labels, dl.data._FORMS[1:])
    whole = parts[0].tolist()
    assert len(whole) == 130
    assert whole[:30] == [*range(10)] * 3
    for part in parts:
        edits = difflib.SequenceMatcher(None, whole, part.tolist(), autojunk=False).get_opcodes()
        kinds = [kind for kind, *_ in edits if kind != "equal"]
        assert kinds in (["replace"], ["delete"] * len(kinds)), edits
        assert len(part) >= 122
    assert sum(len(part) == 130 for part in parts) == 9


def test_neighbours_share_a_form():
    """What makes the forms worth knowing: hands differ, so a random split leaks."""
    spatial = pytest.importorskip("scipy.spatial", reason="scipy is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the data")
    split = dl.data.digits(rng=dl.rng(0))
    _, nearest = spatial.cKDTree(split.x_train).query(split.x_train, 2)
    same = split.groups_train[nearest[:, 1]] == split.groups_train
    assert same.mean() == pytest.approx(0.52, abs=0.05)  # by chance 1/14 = 0.07


@pytest.mark.parametrize("whole", [False, True])
def test_digits_tell_the_form_of_each_image(labels, whole):
    split = dl.data.digits(3 / 14, dl.rng(0), groups=whole)
    assert len(split.groups_train) == len(split.y_train)
    assert len(split.groups_test) == len(split.y_test)
    for form, part in enumerate(np.split(labels, dl.data._FORMS[1:])):
        found = [
            y[groups == form]
            for y, groups in (
                (split.y_train, split.groups_train),
                (split.y_test, split.groups_test),
            )
        ]
        assert sorted(np.concatenate(found)) == sorted(part)
    shared = set(split.groups_train) & set(split.groups_test)
    assert len(shared) == (0 if whole else 14)
    if whole:
        assert len(set(split.groups_test)) == 3


def test_the_groups_of_a_split_go_with_its_examples():
    groups = np.array(["a", "b", "c", "b", "a"])
    split = dl.data.grouped_split(np.arange(5.0), np.arange(5), groups, 0.4, dl.rng(0))
    assert (groups[split.y_train] == split.groups_train).all()
    assert (groups[split.y_test] == split.groups_test).all()
    assert dl.data.random_split(np.ones(5), np.ones(5)).groups_test is None


def test_features_come_as_measured():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the data")
    digits, wine, diabetes = dl.data.digits(), dl.data.wine(), dl.data.diabetes()
    assert (digits.x_train.min(), digits.x_train.max()) == (0, 1)
    assert max(wine.x_train.max(), wine.x_test.max()) == 1680
    ages = np.concatenate([diabetes.x_train, diabetes.x_test])[:, 0]
    assert (ages.min(), ages.max()) == (19, 79)


@pytest.mark.parametrize("name", REAL)
def test_absent_scikit_learn_is_named(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=rf"'{name}'.*pip install 'dlmini\[notebooks\]'"):
        getattr(dl.data, name)()


def test_data_come_in_the_library_in_use():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: it holds the data")
    dl.use("torch", "float64")
    try:
        split = dl.data.wine()
        scaled = dl.data.standardise(split.x_train, split.x_test)
        noisy = dl.data.noisy_labels(split.y_train, 0.5, dl.rng(0))
        again = dl.data.grouped_split(split.x_train, split.y_train, split.y_train)
    finally:
        dl.use("numpy")
    for part in (split.x_train, *scaled, again.x_test):
        assert part.dtype == torch.float64
    assert noisy.dtype == torch.int64
    assert int((noisy != split.y_train).sum()) == round(len(noisy) / 2)


# --- simulated data -------------------------------------------------------------------------------


def test_moons_lie_on_their_half_circles():
    x, y = dl.data.two_moons(101, noise=0, rng=dl.rng(0))
    assert x.shape == (101, 2)
    assert np.bincount(y).tolist() == [51, 50]
    centres = np.where(y[:, None] == 0, [0, 0], [1, 0.5])
    assert np.hypot(*(x - centres).T) == pytest.approx(1)
    assert (x[y == 0, 1] >= 0).all()
    assert (x[y == 1, 1] <= 0.5).all()
    noisy = dl.data.two_moons(20_000, noise=0.3, rng=dl.rng(1))
    clean = dl.data.two_moons(20_000, noise=0, rng=dl.rng(1))
    assert (noisy[0] - clean[0]).std() == pytest.approx(0.3, rel=0.03)
    assert (np.diff(y[:20]) != 0).any(), "the classes come in random order"


def test_spirals_wind_as_often_as_asked():
    x, y = dl.data.spirals(900, classes=3, turns=1.5, noise=0, rng=dl.rng(0))
    assert np.bincount(y).tolist() == [300, 300, 300]
    r = np.hypot(*x.T)
    assert 0.99 < r.max() <= 1
    assert np.mean(r**2) == pytest.approx(0.5, abs=0.03)
    angle = 2 * np.pi * (1.5 * r + y / 3)
    assert x == pytest.approx(np.stack([r * np.cos(angle), r * np.sin(angle)], 1))


@pytest.mark.parametrize("kappa", [1, 10, 1e6])
def test_a_regression_has_the_condition_number_asked_for(kappa):
    x, y = dl.data.ill_conditioned_regression(80, 6, kappa, noise=0, rng=dl.rng(0))
    eigenvalues = np.linalg.eigvalsh(x.T @ x / 80)
    assert eigenvalues == pytest.approx(np.geomspace(1 / kappa, 1, 6), rel=1e-6)
    w, *_ = np.linalg.lstsq(x, y, rcond=None)
    assert x @ w == pytest.approx(y, abs=1e-8)
    noisy = dl.data.ill_conditioned_regression(80, 6, kappa, noise=2, rng=dl.rng(0))[1]
    assert (noisy - y).std() == pytest.approx(2, rel=0.3)


def test_a_random_hessian_has_the_chosen_ends():
    h = dl.data.random_hessian(6, kappa=50, top=3.0, rng=dl.rng(0))
    values = np.linalg.eigvalsh(h)
    assert values[[0, -1]] == pytest.approx([3.0 / 50, 3.0])
    assert (h == h.T).all()


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_exactly_the_share_of_labels_is_wrong(share):
    y = np.arange(1000) % 4
    kept = y.copy()
    noisy = dl.data.noisy_labels(y, share, dl.rng(0))
    assert (noisy != y).sum() == 1000 * share
    assert (y == kept).all()
    if share:
        shifts = (noisy - y)[noisy != y] % 4
        assert np.bincount(shifts)[1:] / len(shifts) == pytest.approx([1 / 3] * 3, abs=0.07)


def test_a_seed_gives_the_same_data():
    for make in (
        lambda: dl.data.two_moons(10, rng=dl.rng(0)),
        lambda: dl.data.spirals(10, rng=dl.rng(0)),
        lambda: dl.data.ill_conditioned_regression(10, 2, 5, rng=dl.rng(0)),
    ):
        first, second = make(), make()
        assert (first[0] == second[0]).all()
        assert (first[1] == second[1]).all()


split, grouped, scale, white, noisy = (
    dl.data.random_split,
    dl.data.grouped_split,
    dl.data.standardise,
    dl.data.whiten,
    dl.data.noisy_labels,
)


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: split(np.ones(3), np.ones(2)), ShapeError, "3 inputs but 2"),
        (lambda: split(np.ones(3), np.ones(3), 1.0), ValueError, "empty"),
        (lambda: split(np.ones(3), np.ones(3), 2), ValueError, "test is a share.*got 2"),
        (lambda: split(np.ones(3), np.ones(3), "a"), ValueError, "test must be.*got 'a'"),
        (lambda: split(np.ones((0, 2)), []), ValueError, "of 0 examples"),
        (lambda: split(1.0, 2), ShapeError, r"one example each row, got shapes \(\) and \(\)"),
        (lambda: grouped(np.ones(3), np.ones(3), [1, 2]), ShapeError, "3 inputs but groups of"),
        (lambda: grouped(np.ones(3), np.ones(2), [1, 2, 3]), ShapeError, "3 inputs but 2"),
        (lambda: grouped(np.ones(3), np.ones(3), ["a"] * 3), ValueError, "all 3 .*group .*'a'"),
        (lambda: grouped(np.ones(2), np.ones(2), [1, 2], -1), ValueError, "test must be"),
        (lambda: scale(np.ones((2, 3)), np.ones((2, 4))), ShapeError, r"\(2, 3\).*\(2, 4\)"),
        (lambda: scale(np.ones((0, 3)), np.ones((2, 3))), ValueError, "training part is empty"),
        (lambda: scale([[1.0, np.nan]], [[1, 2]]), ValueError, r"training.* nan at \[0, 1\]"),
        (lambda: scale([[1.0]], [[np.inf]]), ValueError, r"test part has inf at \[0, 0\]"),
        (lambda: white(np.ones((2, 3)), np.ones((2, 4))), ShapeError, r"whiten: .*\(2, 3\).*2, 4"),
        (lambda: white(np.ones((2, 3, 3)), np.ones((1, 3, 3))), ShapeError, r"reshape\(len\(x\)"),
        (lambda: white(mixed(4), mixed(4)), ValueError, "in 2 of 5 directions.*give eps > 0"),
        (lambda: white(np.ones((4, 2)), np.ones((4, 2))), ValueError, "in 2 of 2 directions"),
        (lambda: white([[1.0, np.inf]], [[1, 2]]), ValueError, r"whiten: .*inf at \[0, 1\]"),
        (lambda: white(mixed(), mixed(), -1), ValueError, "eps must be.*>= 0, got -1"),
        (lambda: noisy(np.eye(3, dtype=int), 0.1), ShapeError, r"labels \(N,\), got.*\(3, 3\)"),
        (lambda: noisy([0.0, 1.0], 0.1), ValueError, r"class numbers.*float64 \[0.0, 1.0\]"),
        (lambda: noisy([-1, 1], 0.1), ValueError, r"class numbers.*\[-1, 1\]"),
        (lambda: noisy(np.zeros(0, int), 0.1), ValueError, "class numbers"),
        (lambda: noisy([0, 0], 0.1), ValueError, "only class 0"),
        (lambda: noisy([0, 1], 1.5), ValueError, "share is a share, from 0 to 1, got 1.5"),
        (lambda: dl.data.two_moons(1), ValueError, "n must be an integer >= 2, got 1"),
        (lambda: dl.data.two_moons(9, noise=-1), ValueError, "noise must be.*>= 0, got -1"),
        (lambda: dl.data.spirals(9, classes=1), ValueError, "classes must be.*>= 2, got 1"),
        (lambda: dl.data.spirals(2, classes=3), ValueError, "n must be an integer >= 3, got 2"),
        (lambda: dl.data.spirals(9, turns=0), ValueError, "turns must be.*> 0, got 0"),
        (lambda: dl.data.ill_conditioned_regression(5, 1, 2), ValueError, "d must.*>= 2, got 1"),
        (lambda: dl.data.ill_conditioned_regression(3, 5, 2), ValueError, "n must.*>= 5, got 3"),
        (lambda: dl.data.ill_conditioned_regression(5, 3, 0.5), ValueError, "at least 1, got 0.5"),
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


# --- files: the tests make small ones and serve them from this machine ----------------------------


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype("u1").tobytes()


def small_mnist():
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": rng.integers(0, 256, (6, 28, 28)),
        "train-labels-idx1-ubyte.gz": rng.integers(0, 10, 6),
        "t10k-images-idx3-ubyte.gz": rng.integers(0, 256, (3, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": rng.integers(0, 10, 3),
    }
    return arrays, {name: gzip.compress(idx(a), mtime=0) for name, a in arrays.items()}


def small_cifar(names=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4",
                       "data_batch_5", "test_batch")):  # fmt: skip
    rng = np.random.default_rng(0)
    records = {name: rng.integers(0, 256, (2, 3073), dtype=np.uint8) for name in names}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, rows in records.items():
            rows[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = rows.nbytes
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    return records, {"cifar-10-binary.tar.gz": packed.getvalue()}


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves files over HTTP on this machine, as what the loaders expect (or not, if `lie`)."""
    pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(name, files, lie=()):
        for file, content in files.items():
            (folder / file).write_bytes(content)
        sums = {
            file: hashlib.sha256(content + (b"!" if file in lie else b"")).hexdigest()
            for file, content in files.items()
        }
        url = f"http://127.0.0.1:{server.server_port}/"
        # The first source has nothing, the second has all.
        monkeypatch.setattr(dl.data, f"{name}_URLS", (url + "absent/", url))
        monkeypatch.setattr(dl.data, f"{name}_SHA256", sums)
        return folder

    yield start
    server.shutdown()
    server.server_close()


def test_mnist_is_downloaded_once_and_read(serve, tmp_path):
    arrays, files = small_mnist()
    served = serve("MNIST", files)
    cache = tmp_path / "cache"
    first = dl.data.mnist(cache)
    assert first.x_train.shape == (6, 1, 28, 28)
    assert first.x_train.dtype == "float32"
    assert first.x_train[:, 0] * 255 == pytest.approx(arrays["train-images-idx3-ubyte.gz"])
    assert (first.y_train == arrays["train-labels-idx1-ubyte.gz"]).all()
    assert (first.y_test == arrays["t10k-labels-idx1-ubyte.gz"]).all()
    assert first.y_train.dtype == "int64"
    for file in served.iterdir():
        file.unlink()
    assert (dl.data.mnist(cache).x_test == first.x_test).all()


def test_cifar10_is_downloaded_once_and_read(serve, tmp_path):
    records, files = small_cifar()
    serve("CIFAR10", files)
    split = dl.data.cifar10(tmp_path / "cache")
    assert split.x_train.shape == (10, 3, 32, 32)
    assert split.x_test.shape == (2, 3, 32, 32)
    last = records["data_batch_5"][1]
    assert split.y_train[9] == last[0]
    # red, green, blue planes; rows of 32
    assert split.x_train[9, 1, 2, 3] * 255 == pytest.approx(last[1 + 1024 + 2 * 32 + 3])
    assert split.x_test.reshape(2, -1) * 255 == pytest.approx(records["test_batch"][:, 1:])


def test_a_damaged_copy_is_fetched_again(serve, tmp_path):
    _, files = small_mnist()
    serve("MNIST", files)
    cache = tmp_path / "cache"
    dl.data.mnist(cache)
    path = cache / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    dl.data.mnist(cache)
    assert path.read_bytes() == files[path.name]


def test_a_damaged_copy_without_a_network_is_named(serve, tmp_path):
    _, files = small_mnist()
    served = serve("MNIST", files)
    cache = tmp_path / "cache"
    dl.data.mnist(cache)
    path = cache / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    (served / path.name).unlink()
    words = r"t10k-images-idx3-ubyte\.gz has 100 bytes and a wrong checksum .*SHA-256.*network"
    with pytest.raises(DataFileError, match=words):
        dl.data.mnist(cache)


def test_a_wrong_checksum_is_refused(serve, tmp_path):
    _, files = small_mnist()
    name = "train-labels-idx1-ubyte.gz"
    serve("MNIST", files, lie=[name])
    words = r"train-labels-idx1-ubyte\.gz is missing \(expected SHA-256 \w{64}\).*does not match"
    with pytest.raises(DataFileError, match=words):
        dl.data.mnist(tmp_path / "cache")
    assert not (tmp_path / "cache" / name).exists()


def test_absent_pooch_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    for load in (dl.data.mnist, dl.data.cifar10):
        with pytest.raises(ImportError, match=r"pooch.*pip install 'dlmini\[notebooks\]'"):
            load()


def test_labels_that_do_not_fit_their_images_are_refused(serve, tmp_path):
    _, files = small_mnist()
    files["t10k-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(2)), mtime=0)
    serve("MNIST", files)
    words = r"t10k-images.* \(3, 28, 28\), its labels are \(2,\)"
    with pytest.raises(DataFileError, match=words):
        dl.data.mnist(tmp_path / "cache")


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch"])
def test_an_archive_with_a_missing_part_is_refused(missing, serve, tmp_path):
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    _, files = small_cifar([name for name in names if name != missing])
    serve("CIFAR10", files)
    with pytest.raises(DataFileError, match=rf"cifar-10-binary.*not the archive.*{missing}"):
        dl.data.cifar10(tmp_path / "cache")


@pytest.mark.parametrize("size", [0, 10, 500, 20_000])
def test_a_truncated_archive_is_refused(size, serve, tmp_path):
    _, files = small_cifar()
    files = {name: content[:size] for name, content in files.items()}
    serve("CIFAR10", files)
    with pytest.raises(DataFileError, match=r"cifar-10-binary\.tar\.gz is not the archive"):
        dl.data.cifar10(tmp_path / "cache")


GOOD = idx(np.arange(24).reshape(2, 3, 4))


def test_idx_files_are_read_packed_or_not(tmp_path):
    for content in (GOOD, gzip.compress(GOOD, mtime=0)):
        (tmp_path / "a").write_bytes(content)
        assert (dl.data.read_idx(tmp_path / "a") == np.arange(24).reshape(2, 3, 4)).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a is no idx file of bytes: it begins with nothing, expected 00 00 08"),
        (b"\x00\x00\x0d\x01", "begins with 00 00 0d 01"),
        (b"PK\x03\x04", "begins with 50 4b 03 04"),
        (GOOD[:-1], r"a has 39 bytes unpacked, but its header says \(2, 3, 4\), that is 40 bytes"),
        (GOOD + b"x", "a has 41 bytes unpacked"),
        (GOOD[:9], "a has 9 bytes unpacked"),
        (gzip.compress(GOOD, mtime=0)[:-9], r"a \(\d+ bytes\) cannot be read"),
        (gzip.compress(GOOD, mtime=0)[:20] + b"garbage" * 9, r"a \(83 bytes\) cannot be read"),
    ],
)
def test_damaged_idx_files_are_refused(content, words, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataFileError, match=words):
        dl.data.read_idx(tmp_path / "a")


def test_cifar_files_are_read(tmp_path):
    rows = np.random.default_rng(0).integers(0, 10, (3, 3073), dtype=np.uint8)
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    x, y = dl.data.read_cifar(tmp_path / "a.bin")
    assert (y == rows[:, 0]).all()
    assert (x.reshape(3, -1) == rows[:, 1:]).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.bin has 0 bytes, no multiple of the 3,073 of a record"),
        (b"\x01" * 6145, "a.bin has 6,145 bytes"),
        (b"\x01" * 3073 + b"\x0b" + b"\x01" * 3072, "a.bin has label 11 in record 1: labels are 0"),
    ],
)
def test_damaged_cifar_files_are_refused(content, words, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataFileError, match=words):
        dl.data.read_cifar(tmp_path / "a.bin")


def test_missing_files_are_named(tmp_path):
    for read in (dl.data.read_idx, dl.data.read_cifar):
        with pytest.raises(DataFileError, match=r"nothing\.bin.*missing"):
            read(tmp_path / "nothing.bin")
