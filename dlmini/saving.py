"""The whole state of a training run in one file: replaced in one move, compared before it is used.

A checkpoint is an `.npz` without pickle: arrays, and a header in JSON with everything that is not
an array.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .nn import Module
from .optim import Optimizer


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, of another run, or in the way; says what was expected and found."""


_FORMAT = {"format": "dlmini checkpoint", "version": 1}


class Keeper:
    """Writes the whole state of a run into one file, and takes it up again from there.

    Args:
        path: the file.
        net, optimizer: what is trained, and by what.
        batches: the place in the data: `order`, `position`, `size` and the stream `rng`.
        history: what the run went through: `loss`, `lr`, `metrics`, `metric_steps`, `stopped`.
        schedule: the learning rate's, or None.
        examples: x and y.
        keep: by name, what else the run remembers, with `state_dict` and `load_state_dict`.
    """

    def __init__(self, path, net, optimizer, batches, history, schedule, examples, keep):
        self.path, self.net, self.optimizer = path, net, optimizer
        self.batches, self.history, self.keep = batches, history, keep
        # What has to be the same for a resumed run to be the same run.
        self.settings = {
            **_hyperparameters(optimizer),
            "lr": optimizer.lr if schedule is None else "set by a schedule",
            "batch_size": batches.size,
            "metrics": sorted(history.metrics),
            **{f"keep {name}": _settings(thing) for name, thing in keep.items()},
            **{
                f"training {name}": _imprint(part)
                for name, part in zip("xy", examples, strict=True)
            },
        }

    def start(self, resume: bool, steps: int) -> None:
        """Go on from the file if it is there and `resume` is set; `steps` is where the run ends.

        Raises:
            CheckpointError: the file is in the way, damaged or of another run; there is no folder.
        """
        if not self.path.parent.is_dir():
            raise CheckpointError(
                f"the folder {str(self.path.parent)!r} for the checkpoint does not exist: make it"
            )
        if self.path.exists():
            header, arrays = _read(self.path)
            if not resume:
                raise CheckpointError(
                    f"{self.path} is there already, from step {header['step']} of a run: pass "
                    "resume=True to go on from it, or choose another name for a new run"
                )
            if header["step"] > steps:
                raise CheckpointError(
                    f"{self.path} has {header['step']} steps behind it, more than steps={steps}: "
                    "`steps` counts from the beginning of the run"
                )
            self._restore(header, arrays)

    def save(self) -> None:
        """Replace the file by the present state, if that is finite."""
        network = self.net.state_dict()
        vectors, numbers = _parted(self.optimizer.state_dict())
        if not all(np.isfinite(a).all() for a in (*network.values(), *vectors.values())):
            return  # the file keeps the last good state
        kept = {name: _parted(thing.state_dict()) for name, thing in self.keep.items()}
        history = self.history
        header = _FORMAT | {
            "step": len(history.lr),
            "architecture": _architecture(network),
            "settings": self.settings,
            "optimizer": numbers,
            "keep": {name: numbers for name, (_, numbers) in kept.items()},
            "generators": {
                name: g.bit_generator.state
                for name, g in _generators(self.net, self.batches.rng).items()
            },
            "position": self.batches.position,
            "stopped": history.stopped,
        }
        arrays = {
            **{f"network/{k}": v for k, v in network.items()},
            **{f"optimizer/{k}": v for k, v in vectors.items()},
            **{f"keep/{n}/{k}": v for n, (vs, _) in kept.items() for k, v in vs.items()},
            "order": self.batches.order,
            "history/loss": np.array(history.loss),
            "history/lr": np.array(history.lr),
            "history/metric_steps": np.array(history.metric_steps, np.int64),
            **{f"history/metrics/{k}": np.array(v) for k, v in history.metrics.items()},
        }
        _write(self.path, header, arrays)

    def _restore(self, header: dict, arrays: dict[str, np.ndarray]) -> None:
        """Everything is compared before anything is changed."""
        _check_architecture(self.path, header, self.net)
        there, here = header["settings"], self.settings
        wrong = [
            f"{name}: {there.get(name)!r} in the file, {here.get(name)!r} here"
            for name in {**here, **there}
            if there.get(name) != here.get(name)
        ]
        state = header["optimizer"] | _below("optimizer/", arrays)
        shapes, own = _shapes(state), _shapes(self.optimizer.state_dict())
        if not wrong and shapes != own:
            wrong = [f"optimizer state: {shapes} in the file, {own} here"]
        generators = _generators(self.net, self.batches.rng)
        kinds = {name: g.bit_generator.state["bit_generator"] for name, g in generators.items()}
        saved = {name: s["bit_generator"] for name, s in header["generators"].items()}
        if kinds != saved:
            wrong.append(f"random streams: {saved} in the file, {kinds} here")
        if wrong:
            raise CheckpointError(
                f"{self.path} is of a run with other settings ({'; '.join(wrong)}): set them as "
                "they were, or choose another name for a new run; dlmini.train.load takes only "
                "the network from the file"
            )
        self._restore_kept(header, arrays)
        self.net.load_state_dict(_below("network/", arrays))
        self.optimizer.load_state_dict(state)
        for name, g in generators.items():
            g.bit_generator.state = header["generators"][name]
        self.batches.order, self.batches.position = arrays["order"], header["position"]
        vars(self.history).update(_history(header, arrays))

    def _restore_kept(self, header: dict, arrays: dict[str, np.ndarray]) -> None:
        """All of them, or none where one refuses."""
        before = {name: thing.state_dict() for name, thing in self.keep.items()}
        try:
            for name, thing in self.keep.items():
                thing.load_state_dict(header["keep"][name] | _below(f"keep/{name}/", arrays))
        except Exception as error:
            for other, state in before.items():
                self.keep[other].load_state_dict(state)
            raise CheckpointError(
                f"{self.path} has a state of {name!r} that {_settings(self.keep[name])} does not "
                f"take: {error}"
            ) from error


def load_network(path: str | os.PathLike, net: Module) -> dict[str, Any]:
    """Put the parameters and running statistics of a checkpoint into `net` (see `train.load`).

    Args:
        path: of the checkpoint.
        net: a network of the same architecture.

    Returns:
        The fields of the run's history.

    Raises:
        CheckpointError: the file is damaged, no checkpoint, or of another architecture; `net` is
            then as it was.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    header, arrays = _read(path)
    _check_architecture(path, header, net)
    net.load_state_dict(_below("network/", arrays))
    return _history(header, arrays)


def _write(path: Path, header: dict, arrays: dict[str, np.ndarray]) -> None:
    """Into a neighbouring file, onto the disk, then renamed over the old one: all or nothing."""
    text = json.dumps(header, default=lambda a: a.tolist())
    neighbour = path.with_name(path.name + ".tmp")
    with open(neighbour, "wb") as file:
        np.savez(file, header=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(neighbour, path)
    if os.name == "posix":  # the new name has to reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    found = None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if "header" not in archive.files:
                found = f"arrays named {', '.join(archive.files[:5]) or 'nothing'}"
            else:
                arrays = {name: archive[name] for name in archive.files}
                header = json.loads(arrays.pop("header").tobytes())
                if header.items() >= _FORMAT.items():
                    return header, arrays
                found = f"format {header.get('format')!r}, version {header.get('version')!r}"
    except Exception as error:  # whatever a damaged archive makes its reader say
        found = f"{type(error).__name__}: {error}"
    size = path.stat().st_size if path.exists() else 0
    raise CheckpointError(
        f"{path} ({size:,} bytes) is truncated or no checkpoint: expected a file written by "
        f"dlmini.train.fit ({_FORMAT['format']}, version {_FORMAT['version']}), found {found}. "
        "It was left as it is; choose another name or remove it"
    )


def _check_architecture(path: Path, header: dict, net: Module) -> None:
    found, expected = header["architecture"], _architecture(net.state_dict())
    if found == expected:
        return
    count = max(len(found), len(expected))
    pairs = [
        (a, b)
        for a, b in zip(
            expected + [None] * (count - len(expected)),
            found + [None] * (count - len(found)),
            strict=True,
        )
        if a != b
    ]
    a, b = (f"{e[0]} {tuple(e[1])} {e[2]}" if e else "nothing more" for e in pairs[0])
    raise CheckpointError(
        f"{path} holds another network: expected {a}, found {b} ({len(pairs)} of {count} entries "
        "differ): build the network as it was, or choose another name for a new run"
    )


def _architecture(state: Mapping[str, np.ndarray]) -> list:
    return [[name, list(value.shape), str(value.dtype)] for name, value in state.items()]


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """What is an array, and of which shape."""
    return {k: tuple(v.shape) if _is_array(v) else None for k, v in sorted(state.items())}


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _history(header: dict, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "loss": arrays["history/loss"].tolist(),
        "lr": arrays["history/lr"].tolist(),
        "metrics": {k: v.tolist() for k, v in _below("history/metrics/", arrays).items()},
        "metric_steps": arrays["history/metric_steps"].tolist(),
        "stopped": header["stopped"],
    }


def _imprint(values: Array) -> str:
    values = np.ascontiguousarray(backend.to_numpy(values))
    return f"{values.shape} {values.dtype} {zlib.crc32(values.data):08x}"


def _generators(net: Module, rng: np.random.Generator) -> dict[str, np.random.Generator]:
    """Every random stream that a step may draw from."""
    found = {"shuffling": rng, "dl.seed": backend.stream()}
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, np.random.Generator):
                found[f"{path}.{name}"] = value
    return found


def _hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """Its kind and settings, and those of the one that SAM takes its step with."""
    inner = getattr(optimizer, "optimizer", None)
    found: dict[str, Any] = {} if inner is None else _hyperparameters(inner)
    found["optimizer" if inner is None else "around it"] = type(optimizer).__name__
    return found | _public(optimizer)


def _settings(thing: Any) -> str:
    """Its kind and settings in one line, such as 'EarlyStopping(patience=3)'."""
    inner = ", ".join(f"{name}={value!r}" for name, value in _public(thing).items())
    return f"{type(thing).__name__}({inner})"


def _public(thing: Any) -> dict[str, Any]:
    """Public attributes that are numbers, words or masks and do not belong to the state."""
    found: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if name.startswith("_") or name in thing.state_dict():
            continue
        if isinstance(value, np.ndarray) and value.dtype == bool:
            found[name] = _imprint(value)
        elif isinstance(value, (float, int, str, tuple)):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, in NumPy; everything else) of what a `state_dict` gave."""
    arrays = {k: backend.to_numpy(v) for k, v in state.items() if _is_array(v)}
    return arrays, {k: v for k, v in state.items() if k not in arrays}
