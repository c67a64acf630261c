"""The training loop: batches in, steps out, everything worth seeing recorded and kept safe."""

import contextlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp
from .nn import Module, evaluating
from .optim import Optimizer
from .tensor import ShapeError, Tensor, no_grad

Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Any]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; says at which step, and where it began."""


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, of another run, or in the way; says what was expected and found."""


@dataclass
class History:
    """What a training run went through, one entry per step.

    Attributes:
        loss: the mini-batch loss before each step.
        lr: the learning rate of each step.
        metrics: by name, the values on the validation data, one per entry of `metric_steps`.
        metric_steps: after how many steps the metrics were taken.
        diverged: the step at which the loss stopped being finite, or None.
        stopped: the step after which `on_step` ended the run, or None.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    metric_steps: list[int] = field(default_factory=list)
    diverged: int | None = None
    stopped: int | None = None

    def plot(self, ax: Any = None, name: str = "loss") -> Any:
        """Draw one curve against the number of steps done.

        Args:
            ax: matplotlib axes; a new figure's if None.
            name: "loss", "lr" or the name of a metric.

        Returns:
            The axes.

        Raises:
            ValueError: the history holds nothing of that name.
        """
        curves = {"loss": self.loss, "lr": self.lr, **self.metrics}
        if not curves.get(name):
            there = ", ".join(repr(n) for n, values in curves.items() if values) or "nothing"
            raise ValueError(f"this history has no values of {name!r}; it has {there}")
        import dlmini

        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots()[1]
        colour = dlmini.plot.COLORS["test" if name in self.metrics else "train"]
        if name in self.metrics:
            ax.plot(self.metric_steps, self.metrics[name], "o-", color=colour, label=name)
        else:
            ax.plot(range(len(curves[name])), curves[name], color=colour, lw=1.2, label=name)
        labels = {"loss": "mini-batch loss", "lr": "learning rate η"}
        ax.set(xlabel="steps done", ylabel=labels.get(name, name))
        return ax


# --- the loop -------------------------------------------------------------------------------------


def fit(
    net: Module,
    loss: Loss,
    x: Any,
    y: Any,
    optimizer: Optimizer,
    steps: int,
    batch_size: int | None = None,
    schedule: Callable[[int], float] | None = None,
    rng: np.random.Generator | None = None,
    on_step: Callable[[int], Any] | None = None,
    stop_at_divergence: bool = False,
    progress: bool = False,
    *,
    on_gradient: Callable[[int], Any] | None = None,
    metric: Mapping[str, Metric] | None = None,
    validation: tuple[Any, Any] | None = None,
    metric_every: int = 100,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
) -> History:
    """Train `net` for a number of steps.

    The examples are shuffled anew in each epoch and dealt out in batches; a last, smaller
    batch of an epoch is used like the others.

    With `checkpoint` the whole state of the run is kept in a file: parameters and running
    statistics, optimizer, history, random streams, place in the epoch. The file is replaced in
    one move, so a run killed at any moment leaves a whole one; started again by the same program
    with `resume=True`, it ends with the same numbers to the last bit. What `on_step` itself
    remembers is not in the file.

    Args:
        net: what to train; called as net(batch of x).
        loss: (output, batch of y) ↦ scalar Tensor.
        x, y: training examples, the first axis counts them.
        optimizer: over the parameters of `net`; with `SAM` around it, each step takes two
            gradients.
        steps: number of optimizer steps, those before a resume included.
        batch_size: examples per step; all of them if None.
        schedule: step t = 0, 1, … ↦ learning rate; the optimizer's own if None.
        rng: for the shuffling; default the stream that `dl.seed` started.
        on_step: called with t after each step, with 0-based t; returning True ends the run.
        stop_at_divergence: note a loss that is not finite in the history and stop, instead of
            raising.
        progress: show a bar with loss, metrics and time left (needs tqdm).
        on_gradient: called with t when the gradients are there, before the step: the place to
            clip them or to average them over processes.
        metric: name ↦ function (output, targets) ↦ number, such as {"accuracy": dl.accuracy}.
        validation: (x, y) on which the metrics are taken, in evaluation mode.
        metric_every: steps between two measurements; there is always one after the last step.
        checkpoint: path of the file; each process needs one of its own.
        checkpoint_every: steps between two writes; the last step is always written. A state that
            is not finite never is.
        resume: go on from the file where there is one. Without it, a file in the way is an error.

    Raises:
        NonFiniteLoss: with the step and the first layer whose output is not finite.
        CheckpointError: the file is there and `resume` is not set; it is truncated, no
            checkpoint, of another architecture, or of a run with other settings or data.
        ValueError: an empty data set, a batch size or a number of steps below 1, metrics without
            validation data.
        ShapeError: x and y differ in length.
    """
    backend.count("steps", steps)
    backend.count("metric_every", metric_every)
    backend.count("checkpoint_every", checkpoint_every)
    if batch_size is not None:
        backend.count("batch_size", batch_size)
    x, y = _examples("training", x, y)
    history = History()
    batches = _Batches(len(x), batch_size or len(x), rng or backend.stream())
    ascend = getattr(optimizer, "ascend", None)
    measure = _measurement(net, metric, validation, history)
    keeper = None
    if checkpoint is not None:
        keeper = _Keeper(Path(checkpoint), net, optimizer, batches, history, schedule, (x, y))
        keeper.start(resume, steps)
    elif resume:
        raise ValueError("resume=True needs checkpoint=PATH, the file to go on from")
    if history.stopped is not None:
        return history
    with _bar(len(history.lr), steps, progress) as show:
        for t in range(len(history.lr), steps):
            rows = batches.next()
            xb, yb = (x, y) if rows is None else (_take(x, rows), _take(y, rows))
            if schedule is not None:
                optimizer.lr = schedule(t)
            with np.errstate(over="ignore", invalid="ignore"):
                value = loss(net(xb), yb)
            history.loss.append(value.item())
            if not math.isfinite(history.loss[-1]):
                history.diverged = t
                if stop_at_divergence:
                    break
                raise NonFiniteLoss(_blame(net, xb, yb, t, optimizer.lr))
            optimizer.zero_grad()
            with np.errstate(over="ignore", invalid="ignore"):
                value.backward()
                if ascend is not None:
                    ascend()
                    loss(net(xb), yb).backward()
                if on_gradient is not None:
                    on_gradient(t)
                optimizer.step()
            history.lr.append(optimizer.lr)
            if on_step is not None and on_step(t) is True:
                history.stopped = t
            last = t + 1 == steps or history.stopped is not None
            if measure is not None and (last or (t + 1) % metric_every == 0):
                measure()
            if keeper is not None and (last or (t + 1) % checkpoint_every == 0):
                keeper.save()
            if show is not None:
                show(history)
            if last:
                break
    return history


def evaluate(net: Module, loss: Loss, x: Any, y: Any) -> float:
    """The loss of `net` on all of (x, y), in evaluation mode, without recording anything.

    Raises:
        ValueError: no examples.
        ShapeError: x and y differ in length.
    """
    x, y = _examples("given", x, y)
    with evaluating(net), no_grad(), np.errstate(over="ignore", invalid="ignore"):
        return loss(net(x), y).item()


class _Batches:
    """The rows of each batch, epoch after epoch, and the place in the present epoch."""

    def __init__(self, n: int, size: int, rng: np.random.Generator):
        self.n, self.size, self.rng = n, size, rng
        self.order = np.empty(0, np.int64)
        self.position = 0

    def next(self) -> np.ndarray | None:
        """Rows; None for the whole set, whose order does not matter."""
        if self.size >= self.n:
            return None
        if self.position >= len(self.order):
            self.order, self.position = self.rng.permutation(self.n), 0
        rows = self.order[self.position : self.position + self.size]
        self.position += self.size
        return rows


def _examples(which: str, x: Any, y: Any) -> tuple[Array, Array]:
    x, y = backend.asarray(x), backend.asarray(y)
    for name, array in (("x", x), ("y", y)):
        if array.ndim == 0:
            raise ShapeError(f"{name} of the {which} examples is one number, not a list of them")
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} inputs but {len(y)} targets")
    if len(x) == 0:
        raise ValueError(f"there are no {which} examples: x is empty")
    return x, y


def _take(x: Array, rows: np.ndarray) -> Array:
    return x[rows] if xp(x) is np else x[xp(x).as_tensor(rows, device=x.device)]


def _measurement(net, metric, validation, history) -> Callable[[], None] | None:
    """The function that takes the metrics and writes them into the history."""
    if metric is None and validation is None:
        return None
    if not metric or validation is None:
        raise ValueError(
            "metrics need data that was not trained on: give both "
            "metric={'accuracy': dl.accuracy} and validation=(x, y)"
        )
    if not isinstance(metric, Mapping) or not all(callable(f) for f in metric.values()):
        raise TypeError(f"metric is name ↦ function, {{'accuracy': dl.accuracy}}, got {metric!r}")
    if {"loss", "lr"} & metric.keys():
        raise ValueError("a metric cannot be named 'loss' or 'lr': the history has these already")
    x, y = _examples("validation", *validation)
    history.metrics = {name: [] for name in metric}

    def measure() -> None:
        with evaluating(net), no_grad(), np.errstate(over="ignore", invalid="ignore"):
            output = net(x)
            for name, function in metric.items():
                history.metrics[name].append(backend.number(function(output, y)))
        history.metric_steps.append(len(history.lr))

    return measure


@contextlib.contextmanager
def _bar(done: int, steps: int, progress: bool) -> Iterator[Callable[[History], None] | None]:
    if not progress:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or leave progress off"
        ) from error
    with tqdm(initial=done, total=steps, unit="step") as bar:

        def show(history: History) -> None:
            latest = {
                name: f"{values[-1]:.4g}" for name, values in history.metrics.items() if values
            }
            bar.set_postfix({"loss": f"{history.loss[-1]:.4g}", **latest}, refresh=False)
            bar.update()

        yield show


# --- where a loss went wrong ----------------------------------------------------------------------


def _blame(net: Module, x: Array, y: Array, t: int, lr: float) -> str:
    """Run the batch once more and note the first module that did not give finite numbers."""
    head = f"the loss is not finite at step {t}: "
    for name, given in (("inputs", x), ("targets", y)):
        if not np.isfinite(backend.to_numpy(given)).all():
            return f"{head}the {name} of this batch hold NaN or infinity: clean the training data"
    found: list[str] = []

    def watch(name: str, module: Module) -> None:
        forward = module.forward

        def watched(*args):
            own = [p for p in vars(module).values() if isinstance(p, Tensor)]
            if any(not np.isfinite(p.numpy()).all() for p in own):
                found.append(f"the parameters of {name} ({module})")
            z = forward(*args)
            if not np.isfinite(backend.to_numpy(z)).all():
                found.append(f"the output of {name} ({module})")
            return z

        module.forward = watched  # type: ignore[method-assign]

    modules = {
        id(m): (f"layer {name}" if name else "the network", m) for name, m in net.named_modules()
    }
    try:
        for name, module in modules.values():
            watch(name, module)
        with no_grad(), np.errstate(over="ignore", invalid="ignore"):
            net(x)
    finally:
        for _, module in modules.values():
            vars(module).pop("forward", None)
    first = found[0] if found else "the loss itself"
    return f"{head}{first} overflowed first; the learning rate was {lr:g}, try a tenth of it"


# --- checkpoints ----------------------------------------------------------------------------------

_FORMAT = {"format": "dlmini checkpoint", "version": 1}


class _Keeper:
    """Writes the whole state of a run into one file, and takes it up again from there."""

    def __init__(self, path, net, optimizer, batches, history, schedule, examples):
        self.path, self.net, self.optimizer = path, net, optimizer
        self.batches, self.history = batches, history
        # What has to be the same for a resumed run to be the same run.
        self.settings = {
            **_hyperparameters(optimizer),
            "lr": optimizer.lr if schedule is None else "set by a schedule",
            "batch_size": batches.size,
            "metrics": sorted(history.metrics),
            **{
                f"training {name}": _imprint(part)
                for name, part in zip("xy", examples, strict=True)
            },
        }

    def start(self, resume: bool, steps: int) -> None:
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
        network, state = self.net.state_dict(), _optimizer_state(self.optimizer)
        vectors = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
        if not all(np.isfinite(a).all() for a in (*network.values(), *vectors.values())):
            return  # the file keeps the last good state
        history = self.history
        header = _FORMAT | {
            "step": len(history.lr),
            "architecture": _architecture(network),
            "settings": self.settings,
            "optimizer": {k: v for k, v in state.items() if k not in vectors},
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
        shapes, own = _shapes(state), _shapes(_optimizer_state(self.optimizer))
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
        self.net.load_state_dict(_below("network/", arrays))
        self.optimizer.load_state_dict(state)
        for name, g in generators.items():
            g.bit_generator.state = header["generators"][name]
        self.batches.order, self.batches.position = arrays["order"], header["position"]
        vars(self.history).update(vars(_history(header, arrays)))


def load(path: str | os.PathLike, net: Module) -> History:
    """Put the parameters and running statistics of a checkpoint into `net`.

    Args:
        path: a file that `fit(..., checkpoint=path)` has written.
        net: a network of the same architecture.

    Returns:
        The history of the run up to the checkpoint.

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
    return {k: v.shape if isinstance(v, np.ndarray) else None for k, v in sorted(state.items())}


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _history(header: dict, arrays: Mapping[str, np.ndarray]) -> History:
    return History(
        loss=arrays["history/loss"].tolist(),
        lr=arrays["history/lr"].tolist(),
        metrics={k: v.tolist() for k, v in _below("history/metrics/", arrays).items()},
        metric_steps=arrays["history/metric_steps"].tolist(),
        stopped=header["stopped"],
    )


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
    """Its kind and public settings; whole numbers are counters and belong to the state."""
    inner = getattr(optimizer, "optimizer", None)  # that which SAM takes its step with
    found: dict[str, Any] = {} if inner is None else _hyperparameters(inner)
    found["optimizer" if inner is None else "around it"] = type(optimizer).__name__
    for name, value in vars(optimizer).items():
        if isinstance(value, (float, bool, str, tuple)) and not name.startswith("_"):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """What the optimizer remembers: vectors as NumPy arrays, and numbers."""
    state = optimizer.state_dict()
    return {k: backend.to_numpy(v) if hasattr(v, "shape") else v for k, v in state.items()}
