"""The flat vectors, the optimizer that acts on them, and schedules."""

import math

import numpy as np
import pytest

import dlmini as dl
from dlmini import GradientError, ShapeError, Tensor


def parameter(*values):
    return Tensor(np.array(values, dtype="float32"), requires_grad=True)


# --- flat -----------------------------------------------------------------------------------------


def test_packing_keeps_values_and_gradients():
    a, b = parameter(1.0, 2.0), Tensor([[3.0], [4.0]], requires_grad=True)
    (a.sum() + (2 * b).sum()).backward()
    flat = dl.flat.pack([a, b])
    assert flat.theta.tolist() == [1, 2, 3, 4]
    assert flat.g.tolist() == [1, 1, 2, 2]
    assert b.shape == (2, 1)


def test_parameters_are_views_of_theta_and_g():
    a = parameter(1.0, 2.0)
    flat = dl.flat.pack([a])
    flat.assign([5, 6])
    assert a.numpy().tolist() == [5, 6]
    (a * a).sum().backward()
    assert flat.g.tolist() == [10, 12]


def test_a_snapshot_does_not_follow_the_parameters():
    a = parameter(1.0, 2.0)
    flat = dl.flat.pack([a])
    kept = flat.snapshot()
    flat.assign([5, 6])
    assert kept.tolist() == [1, 2]


def test_shared_weights_are_packed_once():
    a = parameter(1.0, 2.0)
    assert dl.flat.pack([a, a]).size == 2


def test_packing_again_gives_the_same_vector_and_other_sets_retire_it():
    a, b = parameter(1.0), parameter(2.0)
    flat = dl.flat.pack([a, b])
    assert dl.flat.pack([a, b]) is flat
    opt = dl.optim.SGD([a, b], lr=0.1)
    dl.optim.SGD([a], lr=0.1)
    opt.zero_grad()
    (a + b).sum().backward()
    with pytest.raises(GradientError, match=r"packed again.*one optimizer over all"):
        opt.step()


def test_unused_parameters_have_zero_gradient_after_zero_grad():
    a, b = parameter(1.0), parameter(2.0)
    flat = dl.flat.pack([a, b])
    (a * b).sum().backward()
    flat.zero_grad()
    (3 * a).sum().backward()
    assert flat.g.tolist() == [3, 0]


def test_the_gradient_written_in_place_equals_the_rule():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3)).astype("float32")
    net = dl.nn.mlp(3, 4, 2)
    dl.cross_entropy(net(x), [0, 1, 0, 1, 1]).backward()  # not packed: the rules
    by_rule = [p.grad.copy() for p in net.parameters()]
    flat = dl.flat.pack(net.parameters())
    in_place = flat.gradient(lambda: dl.cross_entropy(net(x), [0, 1, 0, 1, 1]))
    assert np.allclose(in_place, np.concatenate([g.ravel() for g in by_rule]), rtol=1e-6)


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: dl.flat.pack([]), GradientError, "no parameters to pack"),
        (
            lambda: dl.flat.pack([Tensor([1.0])]),
            GradientError,
            "entry 0 is Tensor, not a parameter",
        ),
        (lambda: dl.flat.pack([np.ones(2)]), GradientError, "entry 0 is ndarray"),
        (lambda: dl.flat.pack([parameter(1.0)]).assign([1, 2]), ShapeError, r"expected 1 .*\(2,\)"),
        (lambda: dl.optim.SGD([parameter(1.0)], lr=0), ValueError, "learning rate lr.*> 0, got 0"),
        (lambda: dl.optim.SGD([parameter(1.0)], lr=-1.0), ValueError, "got -1.0"),
        (lambda: dl.optim.SGD([parameter(1.0)], lr=math.nan), ValueError, "got nan"),
        (lambda: dl.optim.SGD([parameter(1.0)], lr="big"), ValueError, "got 'big'"),
        (lambda: dl.optim.SGD([parameter(1.0)], 0.1, momentum=1.0), ValueError, "below 1"),
        (lambda: dl.optim.SGD([parameter(1.0)], 0.1, momentum=-0.1), ValueError, "momentum.*>= 0"),
        (lambda: dl.optim.SGD([parameter(1.0)], 0.1, nesterov=True), ValueError, "momentum > 0"),
        (lambda: dl.optim.cosine(0.1, 0), ValueError, "steps must be an integer >= 1"),
        (lambda: dl.optim.cosine(0.1, 5, final=-1), ValueError, "final"),
        (lambda: dl.optim.step_decay(0.1, every=1.5), ValueError, "every must be an integer"),
        (lambda: dl.optim.inverse_decay(0.1, 0), ValueError, "half_after"),
        (lambda: dl.optim.constant(-3), ValueError, "lr must be"),
        (lambda: dl.optim.warmup(dl.optim.constant(1), True), ValueError, "steps must be"),
    ],
)
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_parameters_of_two_precisions_are_refused():
    a = parameter(1.0)
    dl.use("numpy", "float64")
    b = Tensor([1.0], requires_grad=True)
    dl.use("numpy")
    with pytest.raises(TypeError, match=r"float32 on cpu.*float64 on cpu"):
        dl.flat.pack([a, b])


# --- SGD ------------------------------------------------------------------------------------------


def steps_of(n=3, **options):
    """θ along n steps on L = ½ θ², g = θ."""
    p = parameter(1.0)
    opt, path = dl.optim.SGD([p], **options), []
    for _ in range(n):
        opt.zero_grad()
        (0.5 * p * p).sum().backward()
        opt.step()
        path.append(float(p.numpy()[0]))
    return path


def test_sgd_is_theta_minus_lr_g():
    assert steps_of(lr=0.1) == pytest.approx([0.9, 0.81, 0.729])


def test_momentum_adds_the_full_gradient_to_the_faded_velocity():
    assert steps_of(lr=0.1, momentum=0.5) == pytest.approx([0.9, 0.76, 0.614])


def test_nesterov_looks_ahead():
    assert steps_of(n=1, lr=0.1, momentum=0.5, nesterov=True) == pytest.approx([1 - 0.1 * 1.5])


def test_blocks_make_no_difference(monkeypatch):
    whole = steps_of(lr=0.1, momentum=0.9)
    p = Tensor(np.ones(10), requires_grad=True)
    monkeypatch.setattr(dl.optim, "BLOCK", 3)
    opt = dl.optim.SGD([p], lr=0.1, momentum=0.9)
    for _ in range(3):
        opt.zero_grad()
        (0.5 * p * p).sum().backward()
        opt.step()
    assert p.numpy() == pytest.approx(np.full(10, whole[-1]), rel=1e-6)


# --- schedules ------------------------------------------------------------------------------------


def test_schedules():
    assert dl.optim.constant(0.3)(7) == 0.3
    assert [dl.optim.step_decay(1.0, 10, 0.5)(t) for t in (0, 9, 10, 25)] == [1, 1, 0.5, 0.25]
    assert dl.optim.inverse_decay(1.0, 100)(100) == 0.5
    half = dl.optim.cosine(1.0, 100)
    assert [half(0), half(50)] == pytest.approx([1.0, 0.5])
    assert 0 < half(99) < 0.001
    assert dl.optim.cosine(1.0, 10, final=0.1)(999) == pytest.approx(0.1)
    warm = dl.optim.warmup(dl.optim.constant(1.0), 4)
    assert [warm(t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
