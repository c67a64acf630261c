"""Data parallel training: two processes that talk over this machine, and one that is alone."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import dlmini as dl
from dlmini import ShapeError, distributed

PROGRAM = """
import sys
import numpy as np
import dlmini as dl
from dlmini import distributed

library, dtype, out = sys.argv[1:]
rank, world = distributed.init()
dl.use(library, dtype)
dl.seed(rank)  # another network on each process, until the broadcast
net = dl.nn.mlp(5, 7, 3)
optimizer = dl.optim.SGD(net.parameters(), 0.1, momentum=0.9)
start = optimizer.flat.snapshot()
distributed.broadcast_parameters(optimizer)
first = optimizer.flat.snapshot()

rng = dl.rng(9)
everything = rng.standard_normal((12, 5)), rng.integers(0, 3, 12)
x, y = distributed.shard(*everything)
dl.cross_entropy(net(x), y).backward()
own = dl.backend.to_numpy(optimizer.flat.g).copy()
distributed.average_gradients(optimizer)
averaged = dl.backend.to_numpy(optimizer.flat.g).copy()
optimizer.zero_grad()
dl.train.fit(net, dl.cross_entropy, x, y, optimizer, 10, 2, rng=dl.rng(rank),
             on_gradient=lambda t: distributed.average_gradients(optimizer))
np.savez(f"{out}/{rank}.npz", world=world, start=start, first=first, own=own, averaged=averaged,
         end=optimizer.flat.snapshot(), rows=dl.backend.to_numpy(x))
distributed.finish()
"""


def launch(*arguments, world=2):
    """The program in `world` processes, with what torchrun would put into their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    common |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        for process in started:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module", params=[("numpy", "float32"), ("torch", "float64")], ids=" ".join)
def two(request, tmp_path_factory):
    pytest.importorskip("torch", reason="torch is not installed: processes talk through it")
    out = tmp_path_factory.mktemp("ranks")
    launch(*request.param, str(out))
    return [np.load(out / f"{rank}.npz") for rank in range(2)]


def whole_batch(theta):
    """The gradient of all twelve examples at θ, in double precision."""
    dl.use("numpy", "float64")
    try:
        net = dl.nn.mlp(5, 7, 3)
        flat = dl.flat.pack(net.parameters())
        flat.assign(theta)
        rng = dl.rng(9)
        x, y = rng.standard_normal((12, 5)), rng.integers(0, 3, 12)
        return flat.gradient(lambda: dl.cross_entropy(net(x), y))
    finally:
        dl.use("numpy")


def test_all_begin_where_process_0_begins(two):
    assert [int(r["world"]) for r in two] == [2, 2]
    assert not np.array_equal(two[0]["start"], two[1]["start"])
    assert np.array_equal(two[0]["first"], two[0]["start"])
    assert np.array_equal(two[1]["first"], two[0]["start"])


def test_shares_are_disjoint_and_complete(two):
    rows = np.concatenate([r["rows"] for r in two])
    assert len(two[0]["rows"]) == len(two[1]["rows"]) == 6
    assert len(np.unique(rows, axis=0)) == 12


def test_the_average_is_the_gradient_of_the_whole_batch(two):
    expected = whole_batch(two[0]["first"])
    for r in two:
        assert r["averaged"] == pytest.approx(expected, abs=1e-6)
        assert not np.allclose(r["own"], expected, atol=1e-3)


def test_all_end_at_the_same_bits(two):
    assert two[0]["end"].tobytes() == two[1]["end"].tobytes()
    assert not np.array_equal(two[0]["end"], two[0]["first"])


# --- alone ----------------------------------------------------------------------------------------


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.init() == (0, 1)
    assert (distributed.rank(), distributed.world()) == (0, 1)
    net = dl.nn.mlp(2, 2)
    flat = dl.flat.pack(net.parameters())
    net(np.ones((1, 2))).sum().backward()
    g, theta = flat.g.copy(), flat.snapshot()
    distributed.average_gradients(flat)
    distributed.broadcast_parameters(flat)
    assert (flat.g == g).all()
    assert (flat.theta == theta).all()
    x, y = distributed.shard(np.arange(6.0).reshape(3, 2), [0, 1, 2])
    assert x.shape == (3, 2)
    assert y.tolist() == [0, 1, 2]
    distributed.finish()


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: distributed.average_gradients([1, 2]), TypeError, r"optimizer or .*got \[1, 2\]"),
        (lambda: distributed.broadcast_parameters(None), TypeError, "optimizer or .*got None"),
        (lambda: distributed.shard(np.ones((2, 1)), [1]), ShapeError, "2 inputs but 1 targets"),
        (lambda: distributed.shard(np.ones((0, 1)), []), ValueError, "0 examples cannot be"),
    ],
)
def test_bad_input_is_named(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_unequal_shares_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    words = "10 examples cannot be shared equally by 3 processes: .*multiple of 3, .* first 9"
    with pytest.raises(ValueError, match=words):
        distributed.shard(np.ones((10, 2)), np.ones(10))


def test_absent_torch_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(dl.backend.BackendError, match=r"WORLD_SIZE=2.*pip install torch"):
        distributed.init()
