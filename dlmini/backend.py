"""Which array library holds the numbers, and where random numbers come from.

Everything above this file calls one namespace, `xp(x)`, in the words of the Python array API
standard. For a NumPy array that is NumPy itself; for a torch tensor it is torch under the
standard's names. Torch's own automatic differentiation is never used.
"""

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any  #: numpy.ndarray or torch.Tensor (autograd never used)

DTYPES = ("float32", "float64")  #: what `use` takes
SCALARS = (float, int, bool, np.generic)  #: numbers that are no arrays


# Freed activations make glibc give memory back to the system at every training step, and ask for
# it again page by page. Freeing one large array first raises the limit above which it does so.
np.empty(33_000_000, np.uint8)  # freed at once


class BackendError(RuntimeError):
    """The array library or device asked for is not there, or its array cannot be used here."""


# --- torch under the names of the array API standard ---------------------------------------------


class _TorchNamespace:
    """torch, with the functions that it lacks or spells differently."""

    def __init__(self, torch: types.ModuleType):
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._torch, name)
        setattr(self, name, value)  # the next look-up does not come here
        return value

    def _pair(self, function, x, y):
        """torch's `maximum` and `minimum` refuse Python numbers."""
        if not isinstance(y, self._torch.Tensor):
            y = self._torch.as_tensor(y, dtype=x.dtype, device=x.device)
        elif not isinstance(x, self._torch.Tensor):
            x = self._torch.as_tensor(x, dtype=y.dtype, device=y.device)
        return function(x, y)

    def maximum(self, x, y):
        if y.__class__ is float:
            return x.clamp(min=y)
        return self._pair(self._torch.maximum, x, y)

    def minimum(self, x, y):
        return self._pair(self._torch.minimum, x, y)

    def max(self, x, axis=None, keepdims=False):
        return self._torch.amax(x, () if axis is None else axis, keepdims)

    def min(self, x, axis=None, keepdims=False):
        return self._torch.amin(x, () if axis is None else axis, keepdims)

    def sum(self, x, axis=None, keepdims=False):
        return self._torch.sum(x, axis, keepdims)

    def permute_dims(self, x, axes):
        return x.permute(axes)

    def astype(self, x, dtype):
        return x.to(dtype)


class _Libraries(dict):
    """Namespace by array type: 0.02 µs a look-up once a type has been seen."""

    def __missing__(self, kind: type) -> Any:
        namespace: Any
        if kind.__module__.split(".")[0] == "torch":
            namespace = _torch()
        elif issubclass(kind, np.ndarray):
            namespace = np
        elif hasattr(kind, "__array_namespace__"):
            # Standard-conforming arrays say themselves which library they belong to.
            namespace = sys.modules[kind.__module__.split(".")[0]]
        else:
            namespace = np  # numbers, lists, NumPy scalars
        self[kind] = namespace
        return namespace


_LIBRARIES = _Libraries({np.ndarray: np})


def xp(x: Array) -> Any:
    """The array namespace that `x` belongs to (NumPy's for plain numbers)."""
    return _LIBRARIES[x.__class__]


_torch_namespace: _TorchNamespace | None = None


def _torch() -> _TorchNamespace:
    global _torch_namespace
    if _torch_namespace is None:
        try:
            import torch
        except ImportError as error:
            raise BackendError(
                "the torch backend was asked for, but torch is not installed: "
                "pip install torch, or call dl.use('numpy')"
            ) from error
        _torch_namespace = _TorchNamespace(torch)
    return _torch_namespace


# --- the choice -----------------------------------------------------------------------------------


class _State:
    library: Any = np
    name = "numpy"
    device: str | None = None
    dtype = "float32"


def use(backend: str = "auto", dtype: str = "float32", gpu: bool = True) -> str:
    """Choose the array library, the device and the precision of everything made from now on.

    Args:
        backend: `"numpy"`; `"torch"` (torch tensors on the CPU, as plain arrays);
            `"torch:cuda"` (or `"torch:cuda:1"`); `"torch:meta"` (shapes without numbers, for
            tests); `"auto"`: what the environment variable DLMINI_BACKEND names, else
            `"torch:cuda"` where torch is installed and sees a GPU, else `"numpy"`. Where NVIDIA's
            driver is not installed, `"auto"` does not import torch to find out.
        dtype: `"float32"` or `"float64"`.
        gpu: False where there is nothing to gain from one: `"auto"` then stays on the CPU unless
            DLMINI_BACKEND says otherwise. Launching a kernel takes a GPU longer than a small
            network's arithmetic takes a CPU.

    Returns:
        One line that says what was chosen, for a notebook to show.

    Raises:
        BackendError: torch or CUDA was asked for and is absent.
        ValueError: an unknown name.
    """
    asked, why = backend, ""
    if backend == "auto":
        backend = os.environ.get("DLMINI_BACKEND", "")
        if not backend:
            backend = "torch:cuda" if gpu and _sees_gpu() else "numpy"
            if not gpu:
                why = " (networks here are too small for a GPU; DLMINI_BACKEND=torch:cuda to try)"
    library_name, _, device = str(backend).partition(":")
    if library_name not in ("numpy", "torch") or (library_name == "numpy" and device):
        source = " (from DLMINI_BACKEND)" if asked == "auto" else ""
        raise ValueError(
            f"unknown backend {backend!r}{source}: use 'auto', 'numpy', 'torch' or 'torch:cuda'"
        )
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: use 'float32' or 'float64'")
    library: Any = np
    if library_name == "torch":
        library = _torch()
        device = device or "cpu"
        if device.split(":")[0] not in ("cpu", "cuda", "meta"):
            raise ValueError(f"unknown device {device!r}: use 'torch' or 'torch:cuda'")
        if device.startswith("cuda") and not library.cuda.is_available():
            raise BackendError(
                f"{backend!r} was asked for, but torch sees no CUDA device here: "
                "call dl.use('torch') or dl.use('numpy')"
            )
    _State.library, _State.name, _State.dtype = library, library_name, dtype
    _State.device = device or None
    return describe() + why


def _sees_gpu() -> bool:
    """Whether torch could compute on a GPU here; torch is imported only if there is a driver."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return False
    return importlib.util.find_spec("torch") is not None and _torch().cuda.is_available()


def describe() -> str:
    """The library, device and dtype in use, in one line."""
    device = "the CPU"
    if _State.device not in (None, "cpu"):
        device = str(_State.device)
        if device.startswith("cuda"):
            device = _State.library.cuda.get_device_name(device)
    name = "NumPy" if _State.name == "numpy" else _State.name
    return f"{name} on {device}, {_State.dtype}"


def on_host(x: Array) -> bool:
    """Whether the array `x` is the CPU's; elsewhere errors come late and reading numbers waits."""
    return x.__class__ is np.ndarray or str(x.device) == "cpu"


def has_numbers(x: Array) -> bool:
    """Whether there are numbers in the array `x`: not on torch's device "meta"."""
    return x.__class__ is np.ndarray or str(x.device) != "meta"


def float_dtype() -> Any:
    """The dtype object, in the library in use, of newly made floating-point arrays."""
    return getattr(_State.library, _State.dtype)


def asarray(x: Any, dtype: Any = None) -> Array:
    """`x` as an array of the library, device and (for floating numbers) precision in use.

    Integers and booleans keep their kind. Shares memory where it can.

    Args:
        x: array of any library, Tensor, number or list.
        dtype: another precision, as a name or a dtype of either library.

    Raises:
        BackendError: `x` is a torch tensor that requires grad.
        TypeError: `x` holds no numbers.
    """
    refuse_autograd(x)
    if xp(x) is np:
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise TypeError(f"expected a regular array of numbers, got {str(x)[:60]}") from error
        if x.dtype.kind not in "fiub":
            raise TypeError(f"expected numbers, got {x.dtype.name} values: {str(x)[:60]}")
    if dtype is None:
        dtype = _State.dtype if is_float(x) else None
    name = dtype if isinstance(dtype, str) or dtype is None else dtype_name(dtype)
    if _State.library is np:
        return np.asarray(to_numpy(x), dtype=name)
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()  # torch warns about read-only memory
    torch = _State.library
    return torch.as_tensor(x, dtype=getattr(torch, name) if name else None, device=_State.device)


def like(x: Any, reference: Array) -> Array:
    """`x` as an array of the library, device and dtype of `reference`."""
    if xp(reference) is np:
        return np.asarray(to_numpy(x), dtype=reference.dtype)
    if xp(x) is np:  # a list, a number, a NumPy array or a Tensor
        x = np.array(to_numpy(x))
    return xp(reference).asarray(x, dtype=reference.dtype, device=reference.device)


def integers(x: np.ndarray, reference: Array) -> Array:
    """The NumPy integers `x`, for an index, where `reference` is."""
    return x if xp(reference) is np else xp(reference).as_tensor(x, device=reference.device)


def to_numpy(x: Any) -> np.ndarray:
    """`x` (array of any library, Tensor, number or list) as a NumPy array on the CPU."""
    if hasattr(x, "cpu"):  # torch
        return x.detach().cpu().numpy()
    return np.asarray(x)


def dtype_name(dtype: Any) -> str:
    """'float32' for numpy.float32, torch.float32 or np.dtype('float32')."""
    if isinstance(dtype, type):
        return np.dtype(dtype).name
    return str(dtype).removeprefix("torch.")


@functools.cache
def _is_float_dtype(dtype: Any) -> bool:
    return dtype_name(dtype).startswith(("float", "bfloat"))


def is_float(x: Array) -> bool:
    """Whether `x` holds floating-point numbers."""
    return _is_float_dtype(x.dtype)


def refuse_autograd(x: Any) -> None:
    """Raise if `x` is a torch tensor that torch is tracking: its gradient would be lost here.

    Raises:
        BackendError: it is.
    """
    if getattr(x, "requires_grad", False) and hasattr(x, "detach_"):
        raise BackendError(
            f"got a torch tensor of shape {tuple(x.shape)} with requires_grad=True: dlmini does "
            "its own differentiation and torch would lose the gradient; pass x.detach()"
        )


# --- random numbers -------------------------------------------------------------------------------


def _shift() -> int:
    text = os.environ.get("DLMINI_SEED", "0")
    try:
        shift = int(text)
    except ValueError:
        shift = -1
    if shift < 0:
        raise ValueError(f"the environment variable DLMINI_SEED is {text!r}: use an integer >= 0")
    return shift


def rng(seed: int) -> np.random.Generator:
    """A stream of random numbers of its own: `seed` mixed with the environment's DLMINI_SEED.

    Setting DLMINI_SEED (default 0) therefore redraws every experiment of the book at once.

    Raises:
        ValueError: a seed that is no integer ≥ 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"a seed is an integer >= 0, got {seed!r}")
    return np.random.default_rng([int(seed), _shift()])


_stream: np.random.Generator | None = None


def seed(k: int = 0) -> None:
    """Restart the stream that initialisation, shuffling and noise draw from, with seed `k`."""
    global _stream
    _stream = rng(k)


@contextlib.contextmanager
def seeded(k: int) -> Iterator[None]:
    """Within this block draw from the stream of seed `k`; afterwards go on where it was left."""
    global _stream
    before = stream()
    _stream = rng(k)
    try:
        yield
    finally:
        _stream = before


def stream() -> np.random.Generator:
    """The stream that `seed` started (with seed 0 where nothing was said)."""
    global _stream
    if _stream is None:
        _stream = rng(0)
    return _stream


def number(x: Any) -> float:
    """A Python float from `x`: a number, a 0-d array or a Tensor with one entry.

    Raises:
        ValueError: there are more entries, or none.
    """
    value = to_numpy(x)
    if value.size != 1:
        raise ValueError(f"expected one number, got an array of shape {value.shape}")
    return float(value.reshape(()))


def count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int >= `least`.

    Raises:
        ValueError: it is none; the message begins with `name`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def positive(name: str, value: Any, allow_zero: bool = False) -> float:
    """`value` as a finite float above 0, or equal to it if `allow_zero`.

    Raises:
        ValueError: it is none; the message begins with `name`.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result) or result < 0 or (result == 0 and not allow_zero):
        bound = ">= 0" if allow_zero else "> 0"
        raise ValueError(f"{name} must be a finite number {bound}, got {value!r}")
    return result
