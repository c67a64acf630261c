"""The choice of array library, seeds, and what importing costs."""

import os
import subprocess
import sys

import numpy as np
import pytest

import dlmini as dl
from dlmini.backend import BackendError, positive, xp


@pytest.fixture(autouse=True)
def restore():
    yield
    dl.use("numpy")


def test_use_says_what_was_chosen():
    assert dl.use("numpy") == "NumPy on the CPU, float32"
    assert dl.use("numpy", "float64") == dl.describe() == "NumPy on the CPU, float64"
    assert dl.asarray([1.0]).dtype == np.float64


def test_auto_takes_the_environments_word(monkeypatch):
    monkeypatch.setenv("DLMINI_BACKEND", "numpy")
    monkeypatch.setattr(dl.backend, "_sees_gpu", lambda: True)
    assert dl.use("auto") == dl.use("auto", gpu=False) == "NumPy on the CPU, float32"
    monkeypatch.setenv("DLMINI_BACKEND", "nimpy")
    with pytest.raises(ValueError, match=r"'nimpy' \(from DLMINI_BACKEND\).*'torch:cuda'"):
        dl.use("auto")


class OneGPU:
    """What `use` asks of torch, on a machine with a GPU."""

    float32, float64 = "float32", "float64"

    class cuda:
        is_available = staticmethod(lambda: True)
        get_device_name = staticmethod(lambda device: "NVIDIA H100")


def test_auto_takes_a_gpu_where_there_is_one_unless_there_is_nothing_to_gain(monkeypatch):
    monkeypatch.delenv("DLMINI_BACKEND", raising=False)
    monkeypatch.setattr(dl.backend, "_torch", OneGPU)
    monkeypatch.setattr(dl.backend.ctypes, "CDLL", lambda name: None)  # there is a driver
    monkeypatch.setattr(dl.backend.importlib.util, "find_spec", lambda name: name)
    assert dl.use("auto") == "torch on NVIDIA H100, float32"
    assert dl.backend._State.device == "cuda"
    assert dl.use("auto", "float64", gpu=False) == (
        "NumPy on the CPU, float64 (networks here are too small for a GPU; "
        "DLMINI_BACKEND=torch:cuda to try)"
    )
    monkeypatch.setenv("DLMINI_BACKEND", "torch:cuda")
    assert dl.use("auto", gpu=False) == "torch on NVIDIA H100, float32"
    monkeypatch.delenv("DLMINI_BACKEND")
    monkeypatch.setattr(dl.backend.importlib.util, "find_spec", lambda name: None)
    assert dl.use("auto") == "NumPy on the CPU, float32"  # a GPU, but no torch


def test_auto_does_not_import_torch_where_there_is_no_driver(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.delenv("DLMINI_BACKEND", raising=False)
    monkeypatch.setattr(dl.backend.ctypes, "CDLL", absent)
    monkeypatch.setattr(dl.backend, "_torch", lambda: pytest.fail("torch was imported"))
    assert dl.use("auto") == "NumPy on the CPU, float32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("jax",), "unknown backend 'jax'.*'numpy'"),
        (("numpy:cuda",), "unknown backend 'numpy:cuda'"),
        (("numpy", "float16"), "unknown dtype 'float16'.*'float64'"),
    ],
)
def test_unknown_names_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        dl.use(*arguments)


def test_torch_where_it_is_and_where_it_is_not():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert "torch" in dl.use("torch")
    assert isinstance(dl.asarray([1.0]), torch.Tensor)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        dl.use("torch:tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match=r"no CUDA device.*dl\.use\('torch'\)"):
            dl.use("torch:cuda")


def test_absent_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(dl.backend, "_torch_namespace", None)
    with pytest.raises(BackendError, match="pip install torch"):
        dl.use("torch")


def test_asarray_keeps_integers_and_takes_the_precision_in_use():
    assert dl.asarray([1, 2]).dtype.kind == "i"
    assert dl.asarray([True]).dtype.kind == "b"
    assert dl.asarray(np.array([1.0])).dtype == np.float32
    with pytest.raises(TypeError, match="expected numbers, got str"):
        dl.asarray(["x"])


def test_plain_numbers_belong_to_numpy():
    assert xp(1.5) is np
    assert xp(np.float32(2)) is np


# --- random numbers -------------------------------------------------------------------------------


def drawn(shift, code="import dlmini as dl; print(dl.rng(3).random(), dl.rng(4).random())"):
    env = {**os.environ, "DLMINI_SEED": shift}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return run.stdout.split() or run.stderr


def test_the_environment_redraws_every_stream_and_no_two_are_alike():
    seen = [x for shift in ("0", "1", "2") for x in drawn(shift)]
    assert len(set(seen)) == 6
    assert drawn("1") == drawn("1")


def test_a_senseless_shift_is_refused():
    assert "DLMINI_SEED is 'many'" in drawn("many")
    assert "DLMINI_SEED is '-1'" in drawn("-1")


def test_seed_restarts_the_stream_and_seeded_leaves_it_alone():
    dl.seed(5)
    first = dl.backend.stream().random(3)
    dl.seed(5)
    again = [dl.backend.stream().random()]
    with dl.seeded(9):
        inner = dl.backend.stream().random()
    again += list(dl.backend.stream().random(2))
    assert list(first) == again
    assert inner == dl.rng(9).random()


@pytest.mark.parametrize("bad", [-1, 1.5, "a", True, None])
def test_seeds_are_non_negative_integers(bad):
    with pytest.raises(ValueError, match="a seed is an integer >= 0"):
        dl.seed(bad)


def test_positive_names_the_argument():
    assert positive("x", np.float32(2)) == 2.0
    for bad in (0, -1, float("inf"), None, "a"):
        with pytest.raises(ValueError, match="x must be a finite number > 0"):
            positive("x", bad)


def test_importing_loads_neither_matplotlib_nor_torch():
    code = "import sys, dlmini; print({'matplotlib', 'torch', 'IPython'} & set(sys.modules))"
    assert drawn("0", code) == ["set()"]


def test_an_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="no attribute 'lerning_rate'"):
        _ = dl.lerning_rate


def test_show_gives_the_source(capsys):
    shown = dl.show(dl.optim.SGD.update)  # shown in a notebook, printed elsewhere
    assert "theta -= scratch" in capsys.readouterr().out + getattr(shown, "data", "")
    with pytest.raises(TypeError, match="class, function or module, got 3"):
        dl.show(3)
