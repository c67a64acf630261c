"""The training loop: batches in, steps out, everything worth seeing recorded and kept safe."""

import contextlib
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .backend import Array, xp
from .nn import Module, evaluating
from .optim import Optimizer
from .saving import CheckpointError as CheckpointError  # readers catch it from here
from .saving import Keeper, load_network
from .tensor import ShapeError, Tensor, no_grad, repeated

Loss = Callable[[Any, Any], Tensor]  #: (output, targets) ↦ a scalar to make small
Metric = Callable[[Any, Any], Any]  #: (output, targets) ↦ a number to watch


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; says at which step, and where it began."""


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
    on_step: Callable[[int, History], Any] | None = None,
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
    keep: Mapping[str, Any] | None = None,
) -> History:
    """Train `net` for a number of steps.

    The examples are shuffled anew in each epoch and dealt out in batches; a last, smaller
    batch of an epoch is used like the others.

    With `checkpoint` the whole state of the run is kept in a file: parameters and running
    statistics, optimizer, history, random streams, place in the epoch. The file is replaced in
    one move, so a run killed at any moment leaves a whole one; started again by the same program
    with `resume=True`, it ends with the same numbers to the last bit. What `on_step` remembers
    goes into the file too if it is in `keep`:

        stop, average = EarlyStopping(net, patience=5), WeightAverage(optimizer.flat)
        keep = {"stop": stop, "average": average}
        fit(..., checkpoint=path, resume=True, keep=keep)

    Args:
        net: what to train; called as net(batch of x).
        loss: (output, batch of y) ↦ scalar Tensor.
        x, y: training examples, the first axis counts them.
        optimizer: over the parameters of `net`; with `regularize.SAM` around it, each step takes
            two gradients.
        steps: number of optimizer steps, those before a resume included.
        batch_size: examples per step; all of them if None.
        schedule: step t = 0, 1, … ↦ learning rate; the optimizer's own if None.
        rng: for the shuffling; default the stream that `dl.seed` started.
        on_step: called with (t, history) after each step, t = 0, 1, …; `history.loss[-1]` is the
            loss before that step. Returning True ends the run.
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
        keep: name ↦ object with `state_dict` and `load_state_dict` whose state belongs to the run.

    Raises:
        NonFiniteLoss: with the step and the first layer whose output is not finite.
        CheckpointError: the file is there and `resume` is not set; it is truncated, no
            checkpoint, of another architecture, or of a run with other settings or data.
        ValueError: an empty data set, a batch size or a number of steps below 1, metrics without
            validation data.
        TypeError: something to keep that has no state, or an `on_step` that does not take two
            arguments.
        ShapeError: x and y differ in length.
    """
    backend.count("steps", steps)
    backend.count("metric_every", metric_every)
    backend.count("checkpoint_every", checkpoint_every)
    if batch_size is not None:
        backend.count("batch_size", batch_size)
    x, y = _examples("training", x, y)
    history = History()
    if on_step is not None:
        _takes_two(on_step)
    batches = _Batches(len(x), batch_size or len(x), rng or backend.stream())
    ascend = getattr(optimizer, "ascend", None)
    measure = _measurement(net, metric, validation, history)
    keeper = None
    if checkpoint is not None:
        keeper = Keeper(
            Path(checkpoint), net, optimizer, batches, history, schedule, (x, y), _kept(keep)
        )
        keeper.start(resume, steps)
    elif resume or keep:
        what = "resume=True" if resume else "keep"
        raise ValueError(f"{what} needs checkpoint=PATH, the file that the state is in")
    if history.stopped is not None:
        return history
    with _bar(len(history.lr), steps, progress) as show:
        for t in range(len(history.lr), steps):
            rows = batches.next()
            xb, yb = (x, y) if rows is None else (_take(x, rows), _take(y, rows))
            if schedule is not None:
                optimizer.lr = schedule(t)
            randomness = None if ascend is None else backend.stream().bit_generator.state
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
                    with repeated(randomness):  # the same masks
                        loss(net(xb), yb).backward()
                if on_gradient is not None:
                    on_gradient(t)
                optimizer.step()
            history.lr.append(optimizer.lr)
            if on_step is not None and on_step(t, history) is True:
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


def _takes_two(on_step: Any) -> None:
    try:
        inspect.signature(on_step).bind(0, History())
    except ValueError:  # built into Python, without a signature
        pass
    except TypeError:
        raise TypeError(
            f"on_step is called as on_step(t, history), got {on_step!r}: "
            "write on_step=lambda t, history: …"
        ) from None


def _kept(keep: Mapping[str, Any] | None) -> dict[str, Any]:
    keep = dict(keep or {})
    for name, thing in keep.items():
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise TypeError(
                f"keep[{name!r}] is {thing!r}: expected an object with state_dict() and "
                "load_state_dict(state), such as EarlyStopping or WeightAverage"
            )
    return keep


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


# --- the same search for every arm ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a search over a grid has found, and what it has cost (see `tune`).

    Attributes:
        grid: name ↦ the values tried.
        seeds: the seeds that each setting ran with.
        scores: (settings, seeds), the loss of each run; inf where it was not finite.
    """

    grid: dict[str, list]
    seeds: list[int]
    scores: np.ndarray

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the values, the last name's the fastest to change."""
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]

    @property
    def runs(self) -> int:
        """The budget: how many runs it took, settings × seeds."""
        return self.scores.size

    @property
    def table(self) -> np.ndarray:
        """(settings, 3): lower quartile, median and upper quartile over the seeds."""
        ordered = np.sort(self.scores, axis=1)
        at = np.array([0.25, 0.5, 0.75]) * (ordered.shape[1] - 1)
        below, share = ordered[:, np.floor(at).astype(int)], at % 1
        with np.errstate(invalid="ignore"):  # 0 · inf
            between = (1 - share) * below + share * ordered[:, np.ceil(at).astype(int)]
        return np.where(share == 0, below, between)

    @property
    def _best(self) -> int | None:
        """Row of the best setting, if one has a finite median."""
        median, settings = self.table[:, 1], self.settings
        if not np.isfinite(median.min()):
            return None
        ties = np.flatnonzero(median == median.min()).tolist()
        return min(ties, key=lambda i: settings[i].get("lr", 0.0))

    @property
    def best(self) -> dict[str, Any]:
        """The setting of lowest median loss: of equals the smallest lr, then the first.

        Raises:
            ValueError: half of the runs or more were not finite, whatever the setting.
        """
        if self._best is None:
            raise ValueError(
                f"none of the {len(self.scores)} settings gave a finite loss in more than half of "
                "its runs: try smaller learning rates, or more steps"
            )
        return self.settings[self._best]

    @property
    def at_edge(self) -> list[str]:
        """Names whose best value is the smallest or largest tried: there the grid was too short."""
        if self._best is None:
            return []
        numeric = {
            name: values
            for name, values in self.grid.items()
            if len(values) > 1 and all(type(v) in (int, float) for v in values)
        }
        return [n for n, v in numeric.items() if self.best[n] in (min(v), max(v))]

    def __repr__(self) -> str:
        def short(value: Any) -> str:
            return f"{value:.3g}" if isinstance(value, float) else str(value)

        rows = [[*self.grid, "median", "quartiles", ""]]
        for i, (low, median, high) in enumerate(self.table):
            values = [short(v) for v in self.settings[i].values()]
            best = "<- best" if i == self._best else ""
            rows.append([*values, short(median), f"{short(low)} to {short(high)}", best])
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        lines = [
            "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        head = f"{len(self.scores)} settings × {len(self.seeds)} seeds = {self.runs} runs"
        notes = [f"the best {name} is at the end of the grid: widen it" for name in self.at_edge]
        return "\n".join([head, *lines, *notes])


def tune(
    run: Callable[..., Any], grid: Mapping[str, Iterable[Any]], seeds: Iterable[int]
) -> Tuning:
    """Try every setting of a grid with the same seeds; the lowest median loss wins.

    Two methods are compared fairly when both are searched like this, with grids of equal size,
    and then run at their best with seeds that the search has not seen: the best of many noisy
    medians flatters itself.

        def run(seed, lr):
            dl.seed(seed)
            net = dl.nn.mlp(64, 32, 10)
            optimizer = dl.optim.Adam(net.parameters(), lr)
            dl.train.fit(net, dl.cross_entropy, x, y, optimizer, 200, 64)
            return dl.train.evaluate(net, dl.cross_entropy, x_validation, y_validation)

        tuned = dl.train.tune(run, {"lr": np.geomspace(1e-4, 1, 9)}, seeds=range(5))
        tuned.best, tuned.runs, tuned.at_edge

    Args:
        run: called as run(seed=…, lr=…), with one value of each name in `grid`; returns the loss
            to make small. A loss that is NaN or infinite, or a `NonFiniteLoss`, is the worst.
        grid: name ↦ values; all combinations are tried. {} tries the one setting there is.
        seeds: of the runs of each setting.

    Returns:
        A `Tuning`; printed, it is a table.

    Raises:
        ValueError: no values or no seeds, a seed given twice, a name in the grid that is "seed".
        TypeError: the grid is not name ↦ values, the seeds are not integers, or a run returns
            nothing.
    """
    if not isinstance(grid, Mapping) or any(
        isinstance(v, str) or not isinstance(v, Iterable) for v in grid.values()
    ):
        raise TypeError(f"grid is name ↦ values, such as {{'lr': [0.01, 0.1, 1]}}, got {grid!r}")
    lists = {name: [_plain(v) for v in values] for name, values in grid.items()}
    if not isinstance(seeds, Iterable):
        raise TypeError(f"seeds are integers such as range(5), got {seeds!r}")
    seeds = [_plain(seed) for seed in seeds]
    if any(type(seed) is not int for seed in seeds):
        raise TypeError(f"seeds are integers such as range(5), got {seeds!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be there and differ, such as range(5), got {seeds!r}")
    if "seed" in lists or not all(lists.values()):
        raise ValueError(f"every name in the grid needs values, and none is 'seed', got {lists!r}")
    empty = Tuning(lists, seeds, np.empty((0, len(seeds))))
    scores = [[_score(run, seed, setting) for seed in seeds] for setting in empty.settings]
    return Tuning(lists, seeds, np.array(scores))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _score(run: Callable[..., Any], seed: int, setting: dict[str, Any]) -> float:
    try:
        loss = run(seed=seed, **setting)
    except NonFiniteLoss:
        return math.inf
    if loss is None:
        raise TypeError("run returned None: let it return the loss to make small")
    value = backend.number(loss)
    return value if math.isfinite(value) else math.inf


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


# --- what a checkpoint holds ----------------------------------------------------------------------


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
    return History(**load_network(path, net))
