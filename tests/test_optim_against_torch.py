"""Every optimizer against torch.optim, over the grid of its options, in float64."""

import inspect
import itertools

import numpy as np
import pytest

import dlmini as dl
from dlmini import optim

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

SHAPES = [(3, 4), (4,), (2, 3, 2), (5, 1), ()]
STEPS = 60


def grid(**options):
    """All combinations of the options' values."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


GRID = {
    "SGD": [
        *grid(lr=[0.05], weight_decay=[0, 0.1]),
        *grid(lr=[0.05], momentum=[0.5, 0.9], nesterov=[False, True], weight_decay=[0, 0.1]),
    ],
    "AdaGrad": grid(lr=[0.01, 0.3], eps=[1e-10, 1e-3], weight_decay=[0, 0.1]),
    "RMSprop": grid(
        lr=[0.01], alpha=[0.99, 0.5], eps=[1e-8, 1e-2], weight_decay=[0, 0.1],
        momentum=[0, 0.9], centered=[False, True],
    ),
    "Adam": grid(
        lr=[0.05], betas=[(0.9, 0.999), (0.0, 0.5), (0.5, 0.9)], eps=[1e-8, 1e-2],
        weight_decay=[0, 0.1], amsgrad=[False, True],
    ),
    "AdamW": grid(
        lr=[0.05], betas=[(0.9, 0.999), (0.8, 0.9)], eps=[1e-8, 1e-2],
        weight_decay=[0, 0.01, 0.5], amsgrad=[False, True],
    ),
}  # fmt: skip
TORCHS = {"AdaGrad": "Adagrad"}
CASES = [(name, options) for name, grids in GRID.items() for options in grids]


pytestmark = pytest.mark.usefixtures("library")


def pair(shapes, seed=0):
    """The same random parameters twice, for dlmini and for torch."""
    r = np.random.default_rng(seed)
    values = [r.standard_normal(shape) for shape in shapes]
    return (
        [dl.Tensor(v.copy(), requires_grad=True) for v in values],
        [torch.tensor(v, requires_grad=True) for v in values],
    )


def race(ours, theirs, mine, other, steps=STEPS):
    """Both take `steps` steps by noisy gradients that depend on where they are.

    Returns the largest difference on the way, relative to the parameter.
    """
    r, worst = np.random.default_rng(1), 0.0
    for t in range(steps):
        if t == steps // 2:  # as a schedule would
            mine.lr *= 0.3
            for group in other.param_groups:
                group["lr"] *= 0.3
        for p, q in zip(ours, theirs, strict=True):
            curvature, noise = r.uniform(0.1, 1, p.shape), r.standard_normal(p.shape)
            p.grad = curvature * p.numpy() + noise
            q.grad = torch.tensor(curvature) * q.detach() + torch.tensor(noise)
        mine.step()
        other.step()
        for p, q in zip(ours, theirs, strict=True):
            q = q.detach().numpy()
            worst = max(worst, (np.abs(p.numpy() - q) / (1 + np.abs(q))).max())
    return worst


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v).replace("'", ""))
def test_each_optimizer_follows_torchs_for_60_steps(name, options):
    ours, theirs = pair(SHAPES)
    mine = getattr(optim, name)(ours, **options)
    other = getattr(torch.optim, TORCHS.get(name, name))(theirs, **options)
    assert race(ours, theirs, mine, other) < 1e-10


@pytest.mark.parametrize("name", GRID)
def test_the_defaults_are_torchs(name):
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, TORCHS.get(name, name))).parameters
    for option in set(ours) & set(theirs) - {"params", "lr"}:
        assert ours[option].default == theirs[option].default, option
    if name != "SGD":  # has no learning rate that suits most
        assert ours["lr"].default == theirs["lr"].default


def test_a_rule_for_what_decays_equals_torchs_parameter_groups():
    ours, theirs = pair(SHAPES)
    mine = optim.AdamW(ours, lr=0.05, weight_decay=0.2, weight_decay_on=lambda p: p.ndim >= 2)
    other = torch.optim.AdamW(
        [
            {"params": [q for q in theirs if q.ndim >= 2], "weight_decay": 0.2},
            {"params": [q for q in theirs if q.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.05,
    )
    assert race(ours, theirs, mine, other) < 1e-10


# --- Muon -----------------------------------------------------------------------------------------

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
MATRICES = [(3, 4), (6, 2), (4, 4), (1, 5)]


@pytest.fixture
def torchs_muon_in_float64(monkeypatch):
    """torch's own source with its rounding to bfloat16 taken out."""
    module = torch.optim._muon
    source = inspect.getsource(module._zeropower_via_newtonschulz)
    assert source.count("grad.bfloat16()") == 1
    namespace = dict(vars(module))
    exec(source.replace("grad.bfloat16()", "grad.clone()"), namespace)
    monkeypatch.setattr(
        module, "_zeropower_via_newtonschulz", namespace["_zeropower_via_newtonschulz"]
    )


@needs_muon
@pytest.mark.parametrize(
    "options",
    grid(lr=[0.02], weight_decay=[0, 0.1], momentum=[0.0, 0.95], nesterov=[False, True]),
    ids=str,
)
def test_muon_follows_torchs_for_60_steps(torchs_muon_in_float64, options):
    ours, theirs = pair(MATRICES)
    mine, other = optim.Muon(ours, **options), torch.optim.Muon(theirs, **options)
    assert race(ours, theirs, mine, other) < 1e-10


@needs_muon
def test_muon_is_torchs_up_to_its_rounding_to_bfloat16():
    ours, theirs = pair(MATRICES)
    mine, other = optim.Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)
    assert 0 < race(ours, theirs, mine, other, steps=5) < 0.01


@needs_muon
def test_muon_leaves_the_rest_to_adamw(torchs_muon_in_float64):
    shapes = [(3, 4), (3,), (2, 6), (2,)]
    ours, theirs = pair(shapes)
    mine = optim.Muon(
        ours, lr=0.02, rest_lr=0.003, weight_decay=0.1, matrices=lambda p: p.shape != (2, 6)
    )

    class Both:
        parts = (
            torch.optim.Muon(theirs[:1], lr=0.02, weight_decay=0.1),
            torch.optim.AdamW(theirs[1:], lr=0.003, weight_decay=0.1),
        )
        param_groups = tuple(part.param_groups[0] for part in parts)

        def step(self):
            for part in self.parts:
                part.step()

    assert race(ours, theirs, mine, Both()) < 1e-10


# --- clipping and schedules -----------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_by_norm_and_value_equals_torchs(packed, limit):
    for clip, reference, tolerance in (
        (optim.clip_grad_norm, torch.nn.utils.clip_grad_norm_, 3e-6),  # torch: ‖g‖ + 1e-6
        (optim.clip_grad_value, torch.nn.utils.clip_grad_value_, 0),
    ):
        ours, theirs = pair(SHAPES)
        target = dl.flat.pack(ours) if packed else ours
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            g = np.random.default_rng(i).standard_normal(p.shape)
            p.grad, q.grad = g, torch.tensor(g)
        returned, expected = clip(target, limit), reference(theirs, limit)
        if clip is optim.clip_grad_norm:
            assert returned == pytest.approx(float(expected), rel=1e-12)
        for p, q in zip(ours, theirs, strict=True):
            assert np.allclose(dl.to_numpy(p.grad), q.grad.numpy(), rtol=tolerance, atol=0)


@pytest.mark.parametrize(("steps", "rise"), [(100, 0.3), (7, 0.5), (40, 0.05)])
def test_one_cycle_is_torchs(steps, rise):
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        other, max_lr=0.4, total_steps=steps, pct_start=rise
    )
    ours = optim.one_cycle(0.4, steps, rise=rise)
    for t in range(steps):
        assert ours(t) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        if t < steps - 1:
            other.step()
            schedule.step()
