"""Data parallel training: each process has a share of the batch, one all-reduce averages g."""

import os
import sys
from typing import Any

from . import backend
from .backend import Array, BackendError
from .flat import Flat
from .optim import Optimizer
from .tensor import ShapeError


def init() -> tuple[int, int]:
    """Join the processes that `torchrun` has started.

        torchrun --nproc-per-node 2 program.py

    Where nothing was launched (no WORLD_SIZE in the environment) there is one process and nothing
    to join: the same program runs alone. Call it before `dl.use`: where there are GPUs it selects
    one for this process, which `dl.use("torch:cuda")` then takes. Arrays on the CPU, NumPy's
    included, are averaged over gloo, those on a GPU over nccl.

    Returns:
        (rank, world): the number of this process, from 0, and how many there are.

    Raises:
        BackendError: launched as one of several, but torch is absent.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        raise BackendError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: several processes need torch to talk to "
            "each other, and it is not installed: pip install torch"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group()
    return rank(), world()


def finish() -> None:
    """Leave the group: the last line of a program that called `init`."""
    group = _group()
    if group is not None:
        group.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0; 0 where there is no group."""
    group = _group()
    return 0 if group is None else group.get_rank()


def world() -> int:
    """How many processes there are; 1 where there is no group."""
    group = _group()
    return 1 if group is None else group.get_world_size()


def average_gradients(packed: Flat | Optimizer) -> None:
    """g ← (1/K) Σₖ gₖ over the K processes, in place, by one all-reduce.

    Between `backward` and the step. When each process has the mean gradient of an equally large
    share of a batch, the result is the gradient of the whole batch, the same bits on each. With
    one process, or no group, g is that average already and stays as it is.

    Args:
        packed: an optimizer, or the Flat of its parameters; g is (P,).

    Raises:
        TypeError: neither of them.

    Source: Goyal et al. (2017), Accurate, Large Minibatch SGD.
    """
    flat = _flat(packed)
    if world() > 1:
        g = _shared(flat.g)
        _group().all_reduce(g)
        g /= world()


def broadcast_parameters(packed: Flat | Optimizer) -> None:
    """θ ← θ of process 0, on every process: where all of them begin.

    Args:
        packed: an optimizer, or the Flat of its parameters; θ is (P,).

    Raises:
        TypeError: neither of them.
    """
    flat = _flat(packed)
    if world() > 1:
        _group().broadcast(_shared(flat.theta), src=0)
        flat.touch()


def shard(x: Any, y: Any) -> tuple[Array, Array]:
    """This process's share of the examples: rows rank, rank + K, rank + 2K, …

    Args:
        x, y: all examples, the same on each process; the first axis counts them.

    Returns:
        x and y with N/K rows.

    Raises:
        ShapeError: x and y differ in length.
        ValueError: N is no multiple of K: an average over unequal shares is not the mean.
    """
    x, y = backend.asarray(x), backend.asarray(y)
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} inputs but {len(y)} targets")
    n, k = len(x), world()
    if n == 0 or n % k:
        raise ValueError(
            f"{n} examples cannot be shared equally by {k} processes: "
            f"use a multiple of {k}, such as the first {n - n % k or k}"
        )
    return x[rank() :: k], y[rank() :: k]


def _group() -> Any:
    """torch.distributed where a group exists; a group cannot exist before torch is imported."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    return dist


def _flat(packed: Any) -> Flat:
    flat = getattr(packed, "flat", packed)
    if not isinstance(flat, Flat):
        raise TypeError(f"expected an optimizer or dl.flat.pack(parameters), got {packed!r}")
    return flat


def _shared(vector: Array) -> Any:
    """`vector` as a torch tensor on the same memory."""
    return sys.modules["torch"].as_tensor(vector)
