"""The flat vectors, the optimizers that act on them, clipping, and schedules."""

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest

import dlmini as dl
from dlmini import GradientError, ShapeError, Tensor, optim


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


def test_a_retired_vector_refuses_before_it_changes_anything():
    a, b = parameter(1.0), parameter(2.0)
    flat = dl.flat.pack([a, b])
    dl.flat.pack([b])
    for act in (flat.snapshot, lambda: flat.assign([5, 6]), lambda: flat.g):
        with pytest.raises(GradientError, match="packed again"):
            act()
    assert [a.item(), b.item()] == [1.0, 2.0]


def test_packing_between_forward_and_backward_changes_nothing():
    a = parameter(1.0, 2.0)
    loss = (a * a).sum()
    dl.optim.SGD([a], lr=0.1)
    loss.backward()
    assert a.grad.tolist() == [2.0, 4.0]


def test_packing_after_zero_grad_starts_from_zero():
    a = parameter(1.0, 2.0)
    (a * a).sum().backward()
    a.zero_grad()
    assert dl.flat.pack([a]).g.tolist() == [0.0, 0.0]


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


def test_a_mask_takes_a_layer_parameters_a_predicate_or_a_mask():
    net = dl.nn.mlp(2, 3, 1)
    flat = dl.flat.pack(net.parameters())
    first = [True] * 9 + [False] * 4
    weights = [True] * 6 + [False] * 3 + [True] * 3 + [False]
    assert flat.mask(net[0]).tolist() == first
    assert flat.mask(net[0].parameters()).tolist() == first
    assert flat.mask(net[0].weight).sum() == 6
    assert flat.mask(np.array(first)).tolist() == first
    assert flat.mask(lambda p: p.ndim == 2).tolist() == weights
    assert optim.decay_mask(net).tolist() == weights
    assert not flat.mask([]).any()


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
        (lambda: optim.AdaGrad([parameter(1.0)], eps=0), ValueError, "eps.*> 0, got 0"),
        (lambda: optim.RMSprop([parameter(1.0)], alpha=1), ValueError, "alpha must be below 1"),
        (lambda: optim.RMSprop([parameter(1.0)], eps=-1), ValueError, "eps.*> 0, got -1"),
        (lambda: optim.RMSprop([parameter(1.0)], momentum=2), ValueError, "momentum must be below"),
        (lambda: optim.Adam([parameter(1.0)], lr=0), ValueError, "learning rate lr.*got 0"),
        (lambda: optim.Adam([parameter(1.0)], betas=(1, 0.9)), ValueError, r"betas\[0\].*below 1"),
        (lambda: optim.Adam([parameter(1.0)], betas=(0, -1)), ValueError, r"betas\[1\].*got -1"),
        (lambda: optim.Adam([parameter(1.0)], betas=0.9), ValueError, "a pair such as"),
        (lambda: optim.Adam([parameter(1.0)], eps=0), ValueError, "eps must be"),
        (lambda: optim.Adam([parameter(1.0)], decay_on=[]), TypeError, "decay_on"),
        (lambda: optim.AdamW([parameter(1.0)], weight_decay=-1), ValueError, "weight_decay.*>= 0"),
        (lambda: optim.SGD([parameter(1.0)], 1, weight_decay=-1), ValueError, "weight_decay.*>= 0"),
        (lambda: optim.Muon([parameter(1.0)], lr=0), ValueError, "learning rate lr"),
        (lambda: optim.Muon([parameter(1.0)], rest_lr=0), ValueError, "rest_lr must be"),
        (lambda: optim.Muon([parameter(1.0)], momentum=1), ValueError, "momentum must be below"),
        (
            lambda: optim.newton_schulz(np.ones((3, 2))),
            ShapeError,
            r"n <= m, got \(3, 2\): use x\.T",
        ),
        (
            lambda: optim.SGD([parameter(1.0)], 1, 0, weight_decay_on=[parameter(1.0)]),
            GradientError,
            r"1 of 1 parameters, of shape \(1,\), are not among those packed here",
        ),
        (
            lambda: optim.SGD([parameter(1.0)], 1, 0, weight_decay_on=np.ones(2, bool)),
            ShapeError,
            r"mask of shape \(1,\), got \(2,\)",
        ),
        (lambda: dl.flat.pack([parameter(1.0)]).mask(np.ones(1)), TypeError, "booleans.*float64"),
        (lambda: optim.clip_grad_norm([parameter(1.0)], 0), ValueError, "max_norm must be"),
        (lambda: optim.clip_grad_value([parameter(1.0)], -1), ValueError, "max_value must be"),
        (lambda: optim.one_cycle(0.1, 1), ValueError, "steps >= 2"),
        (lambda: optim.one_cycle(0.1, 10, rise=1.0), ValueError, "rise < 1"),
        (lambda: optim.one_cycle(0, 10), ValueError, "max_lr"),
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
    monkeypatch.setattr(dl.optim, "_BLOCK", 3)
    opt = dl.optim.SGD([p], lr=0.1, momentum=0.9)
    for _ in range(3):
        opt.zero_grad()
        (0.5 * p * p).sum().backward()
        opt.step()
    assert p.numpy() == pytest.approx(np.full(10, whole[-1]), rel=1e-6)


# --- every optimizer -----------------------------------------------------------------------------

EVERY = {
    "SGD": lambda ps, **o: optim.SGD(ps, lr=0.05, **o),
    "momentum": lambda ps, **o: optim.SGD(ps, lr=0.05, momentum=0.9, **o),
    "Nesterov": lambda ps, **o: optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True, **o),
    "AdaGrad": optim.AdaGrad,
    "RMSprop": optim.RMSprop,
    "RMSprop, centred": lambda ps, **o: optim.RMSprop(ps, centered=True, momentum=0.5, **o),
    "Adam": optim.Adam,
    "AMSGrad": lambda ps, **o: optim.Adam(ps, amsgrad=True, **o),
    "AdamW": optim.AdamW,
    "Muon": optim.Muon,
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
SHAPES = [(3, 4), (4,), (6, 2), (2, 3, 2)]


def parameters(seed=0, shapes=SHAPES):
    r = np.random.default_rng(seed)
    return [Tensor(r.standard_normal(shape), requires_grad=True) for shape in shapes]


def set_gradients(ps, t):
    """Noise around a pull towards zero, the same for every seed of t."""
    for i, p in enumerate(ps):
        p.grad = 0.5 * p.numpy() + np.random.default_rng([t, i]).standard_normal(p.shape)


def walk(ps, *optimizers, start=0, steps=20):
    for t in range(start, start + steps):
        set_gradients(ps, t)
        for opt in optimizers:
            opt.step()
    return np.concatenate([p.numpy().ravel() for p in ps])


@every
def test_one_vector_gives_the_numbers_of_one_optimizer_per_parameter(make):
    together, apart = parameters(), parameters()
    one = walk(together, make(together, weight_decay=0.1))
    many = walk(apart, *[make([p], weight_decay=0.1) for p in apart])
    assert np.allclose(one, many, rtol=1e-5, atol=1e-6)


@every
def test_blocks_of_any_size_give_the_same_bits(make, monkeypatch):
    whole = parameters()
    end = walk(whole, make(whole, weight_decay=0.1))
    monkeypatch.setattr(optim, "_BLOCK", 5)
    cut = parameters()
    assert (walk(cut, make(cut, weight_decay=0.1)) == end).all()


@every
def test_a_step_allocates_nothing(make):
    ps = parameters(shapes=[(300, 200), (300,), (100, 300)])
    net_mask = optim.decay_mask(type("net", (), {"parameters": lambda: ps}))
    opt = make(ps, weight_decay=0.1, weight_decay_on=net_mask)
    opt.freeze(ps[1])
    set_gradients(ps, 0)
    for _ in range(3):
        opt.step()
    tracemalloc.start()
    for _ in range(optim._FLUSH_EVERY):
        opt.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000  # bytes; θ has 361,200


@every
def test_a_dead_gradient_leaves_no_denormals(make):
    ps = parameters()
    opt = make(ps)
    walk(ps, opt, steps=3)
    for p in ps:
        p.grad = np.zeros(p.shape)
    for t in range(2_500):
        opt.step()
        if t > 1_000 and t % 50 == 0:
            for name in opt.state:
                vector = getattr(opt, name)
                stuck = (vector != 0) & (abs(vector) < np.finfo("float32").tiny)
                assert not stuck.any(), name


@every
def test_looking_for_denormals_changes_no_other_number(make):
    ps = parameters()
    opt = make(ps)
    walk(ps, opt)
    before = opt.state_dict()
    opt._flush()
    assert all(np.array_equal(before[k], v) for k, v in opt.state_dict().items())


@every
def test_a_saved_state_goes_on_with_the_same_bits(make, tmp_path):
    ps = parameters()
    opt = make(ps)
    half = walk(ps, opt, steps=10)
    opt.lr *= 0.5
    np.savez(tmp_path / "state.npz", **opt.state_dict())
    end = walk(ps, opt, start=10)
    again = parameters(seed=9)
    other = make(again)
    other.flat.assign(half)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as saved:
        other.load_state_dict(dict(saved))
    assert (walk(again, other, start=10) == end).all()
    assert other.lr == opt.lr


@every
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alone_with_the_same_bits(make, clone):
    ps = parameters()
    opt = make(ps, weight_decay=0.1, weight_decay_on=ps[:1])
    opt.freeze(ps[1])
    walk(ps, opt)
    qs, twin = clone((ps, opt))
    end = walk(ps, opt, start=20)
    assert not np.array_equal(end, [*twin.flat.snapshot()])
    assert (walk(qs, twin, start=20) == end).all()


@every
def test_a_frozen_part_stands_still_until_it_is_let_go(make):
    ps = parameters()
    opt = make(ps, weight_decay=0.1)
    opt.freeze([ps[0], ps[1]])
    before = [p.numpy().copy() for p in ps]
    walk(ps, opt, steps=3)
    moved = [not np.array_equal(p.numpy(), b) for p, b in zip(ps, before, strict=True)]
    assert moved == [False, False, True, True]
    opt.freeze(None)
    walk(ps, opt, steps=1)
    assert not np.array_equal(ps[0].numpy(), before[0])


@every
def test_a_mask_may_freeze_part_of_a_parameter(make):
    ps = parameters()
    opt = make(ps)
    mask = np.zeros(opt.flat.size, bool)
    mask[[1, 2, 20]] = True
    opt.freeze(mask)
    before = opt.flat.snapshot()
    walk(ps, opt, steps=3)
    assert ((opt.flat.snapshot() == before) == mask).all()


@every
def test_single_precision_stays_single(make):
    ps = parameters()
    opt = make(ps, weight_decay=0.1, weight_decay_on=lambda p: p.ndim > 1)
    walk(ps, opt, steps=2)
    assert {v.dtype for v in opt.state_dict().values() if hasattr(v, "shape")} <= {
        np.dtype("float32")
    }
    assert opt.flat.theta.dtype == np.float32


@every
def test_each_optimizer_descends(make):
    dl.seed(0)
    r = np.random.default_rng(0)
    x = r.standard_normal((64, 4)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    net = dl.nn.mlp(4, 16, 2)
    opt = make(net.parameters())
    losses = dl.train.fit(net, dl.cross_entropy, x, y, opt, 100).loss
    assert losses[-1] < 0.9 * losses[0]


def test_a_state_of_another_optimizer_or_network_is_refused():
    ps = parameters()
    opt = optim.Adam(ps)
    kept = opt.state_dict()
    with pytest.raises(
        ValueError, match=r"Adam expects.*'m', 't', 'v'.*got \['lr', 't'\].*another"
    ):
        opt.load_state_dict(optim.SGD(parameters(), 0.1).state_dict())
    with pytest.raises(ShapeError, match=r"m has shape \(2,\), but there are 40"):
        opt.load_state_dict({**kept, "m": np.ones(2)})
    with pytest.raises(ShapeError, match="v has shape"):
        opt.load_state_dict({**kept, "lr": 7.0, "m": kept["m"] + 1, "v": np.ones(2)})
    now = opt.state_dict()
    assert all(np.array_equal(kept[k], now[k]) for k in kept)


# --- what each formula says ----------------------------------------------------------------------


def one_step(make, g, theta=0.0):
    """θ after one step by the gradient g, in float64."""
    dl.use("numpy", "float64")
    p = Tensor(np.full(len(g), theta), requires_grad=True)
    opt = make([p])
    dl.use("numpy")
    p.grad = np.array(g)
    opt.step()
    return p.numpy()


def test_the_first_step_of_adagrad_and_adam_is_lr_times_the_sign_of_the_gradient():
    g = np.array([3.0, -0.01, 1e3])
    for kind in (optim.AdaGrad, optim.Adam):
        assert one_step(lambda ps, k=kind: k(ps, lr=0.1), g) == pytest.approx(-0.1 * np.sign(g))


def test_the_first_step_of_rmsprop_is_ten_times_that():
    g = np.array([3.0, -0.01, 1e3])
    step = one_step(lambda ps: optim.RMSprop(ps, lr=0.1, alpha=0.99), g)
    assert step == pytest.approx(-0.1 * np.sign(g) / math.sqrt(1 - 0.99), rel=1e-5)


def test_epsilon_is_outside_the_root():
    for kind in (optim.AdaGrad, optim.Adam):
        step = one_step(lambda ps, k=kind: k(ps, lr=0.1, eps=1.0), np.array([3.0]))
        assert step == pytest.approx([-0.1 * 3 / (3 + 1)])


def test_adagrad_steps_shrink_as_one_over_root_t():
    p = Tensor([0.0], requires_grad=True)
    opt, path = optim.AdaGrad([p], lr=1.0), [0.0]
    for _ in range(9):
        p.grad = [2.0]
        opt.step()
        path.append(float(p.numpy()[0]))
    assert -np.diff(path) == pytest.approx(1 / np.sqrt(np.arange(1, 10)), rel=1e-5)


def test_adam_does_not_see_the_scale_of_the_gradient():
    g = np.array([3.0, -0.01])
    steps = [one_step(optim.Adam, g * scale) for scale in (1.0, 1e4)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_without_gradient_decoupled_decay_is_a_factor_and_coupled_decay_a_sign():
    still = np.zeros(1)
    decoupled = one_step(lambda ps: optim.AdamW(ps, lr=0.1, weight_decay=0.5), still, theta=2.0)
    coupled = one_step(lambda ps: optim.Adam(ps, lr=0.1, weight_decay=0.5), still, theta=2.0)
    assert decoupled == pytest.approx([2 * (1 - 0.1 * 0.5)])
    assert coupled == pytest.approx([2 - 0.1])


def test_amsgrad_goes_on_dividing_by_the_largest_gradient():
    moves = {}
    for amsgrad in (False, True):
        p = Tensor([0.0], requires_grad=True)
        opt = optim.Adam([p], betas=(0.0, 0.5), amsgrad=amsgrad)
        for g in [100.0] + [1.0] * 50:
            p.grad, before = [g], float(p.numpy()[0])
            opt.step()
        moves[amsgrad] = before - float(p.numpy()[0])
    assert moves[False] == pytest.approx(1e-3, rel=1e-3)
    assert moves[True] < 1e-4


def test_centred_rmsprop_survives_a_gradient_that_becomes_constant():
    """v − ḡ² goes to zero then, and rounding puts it below."""
    p = Tensor(np.zeros(50), requires_grad=True)
    opt = optim.RMSprop([p], lr=1e-6, alpha=0.9, centered=True)
    g = np.random.default_rng(0).standard_normal(50)
    for t in range(500):
        p.grad = 1.7 * g if t < 20 else g
        opt.step()
    assert np.isfinite(p.numpy()).all()


# --- Muon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 8)])
def test_newton_schulz_pulls_singular_values_to_one_and_keeps_directions(shape):
    g = np.random.default_rng(0).standard_normal(shape)
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    assert (s / np.linalg.norm(g) > 0.003).all()
    x = optim.newton_schulz(g.copy())
    core = u.T @ x @ vt.T
    assert core == pytest.approx(np.diag(np.diag(core)), abs=1e-12)
    assert 0.68 < np.diag(core).min() <= np.diag(core).max() < 1.21


# Without momentum, decay and averages of the gradient a step is −effective_lr ⊙ g.
@pytest.mark.parametrize(
    "make",
    [
        lambda params: optim.SGD(params, 0.1),
        lambda params: optim.AdaGrad(params, 0.1, eps=0.3),
        lambda params: optim.RMSprop(params, 0.1, alpha=0.7, eps=0.3),
        lambda params: optim.RMSprop(params, 0.1, alpha=0.7, eps=0.3, centered=True),
        lambda params: optim.Adam(params, 0.1, (0.0, 0.7), eps=0.3),
        lambda params: optim.Adam(params, 0.1, (0.0, 0.7), eps=0.3, amsgrad=True),
        lambda params: optim.AdamW(params, 0.1, (0.0, 0.7), eps=0.3, weight_decay=0.0),
        lambda params: optim.Muon(params, 0.4, 0.0, betas=(0.0, 0.7), eps=0.3, rest_lr=0.1),
    ],
    ids="sgd adagrad rmsprop centred adam amsgrad adamw muon".split(),
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_effective_learning_rate_is_what_multiplies_the_gradient(make, library):
    if library == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(library, "float64")
    try:
        theta = Tensor(np.ones(6), requires_grad=True)
        opt, rng = make([theta]), dl.rng(0)
        for t in range(8):
            g, before = rng.standard_normal(6) * 10 ** rng.uniform(-1, 1), opt.flat.snapshot()
            opt.lr = opt.lr * 0.9
            opt.zero_grad()
            (theta * g).sum().backward()
            if t == 5:
                opt.freeze(np.arange(6) < 2)
            opt.step()
            rates = opt.effective_lr()
            assert opt.flat.snapshot() - before == pytest.approx(-rates * g, rel=1e-9, abs=1e-15)
            assert (rates == 0).tolist() == [t >= 5] * 2 + [False] * 4
    finally:
        dl.use("numpy")


def test_the_effective_learning_rate_multiplies_a_mean_where_there_is_one():
    theta = parameter(1.0, 2.0)
    adam = optim.Adam([theta], 0.1, (0.9, 0.99))
    for t in (1, 2, 3):
        before = adam.flat.snapshot()
        adam.zero_grad()
        (theta * np.array([1.0, -t])).sum().backward()
        adam.step()
        expected = -adam.effective_lr() * adam.m / (1 - 0.9**t)
        assert adam.flat.snapshot() - before == pytest.approx(expected, rel=1e-5)
    sgd = optim.SGD([parameter(1.0, 2.0)], 0.1, momentum=0.9)
    sgd.step()
    assert sgd.effective_lr().tolist() == [0.1, 0.1]


def test_muons_matrices_have_no_effective_learning_rate():
    net = dl.nn.mlp(3, 2)
    opt = optim.Muon(net.parameters())
    dl.cross_entropy(net(np.ones((2, 3))), [0, 1]).backward()
    opt.step()
    weight, bias = opt.flat.split(opt.effective_lr())
    assert np.isnan(weight).all()
    assert np.isfinite(bias).all()


def test_an_effective_learning_rate_needs_a_step_and_a_divisor():
    with pytest.raises(ValueError, match=r"effective_lr\(\) of Adam before the first step"):
        optim.Adam([parameter(1.0)]).effective_lr()

    class Mine(optim.Optimizer):
        def update(self, theta, g, scratch):
            theta -= self.lr * g

    mine = Mine([parameter(1.0)], 0.1)
    mine.step()
    with pytest.raises(NotImplementedError, match="Mine has no divisor: write one"):
        mine.effective_lr()


def test_newton_schulz_turns_with_its_matrix_and_ignores_its_scale():
    r = np.random.default_rng(1)
    g, q = r.standard_normal((4, 6)), np.linalg.qr(r.standard_normal((4, 4)))[0]
    x = optim.newton_schulz(g.copy())
    assert optim.newton_schulz(q @ g) == pytest.approx(q @ x, abs=1e-12)
    assert optim.newton_schulz(1e3 * g) == pytest.approx(x, abs=1e-12)
    assert not optim.newton_schulz(np.zeros((2, 3))).any()


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (6, 2, 2, 2)])
def test_a_muon_step_is_orthogonal_with_length_set_by_the_shape(shape):
    p = parameters(shapes=[shape])[0]
    before = p.numpy().copy()
    opt = optim.Muon([p], lr=0.1, weight_decay=0)
    set_gradients([p], 0)
    opt.step()
    step = (p.numpy() - before).reshape(shape[0], -1)
    s = np.linalg.svd(step, compute_uv=False) / 0.1
    s /= math.sqrt(max(1, step.shape[0] / step.shape[1]))
    assert 0.68 < s.min() <= s.max() < 1.21


# --- clipping -------------------------------------------------------------------------------------


def with_gradient(*g):
    p = parameter(*[0.0] * len(g))
    p.grad = np.array(g)
    return p


def test_clipping_keeps_the_direction_and_returns_the_length():
    a, b = with_gradient(3.0), with_gradient(0.0, 4.0)
    assert optim.clip_grad_norm([a, b], 1.0) == 5
    assert a.grad.tolist() + b.grad.tolist() == pytest.approx([0.6, 0, 0.8])
    assert optim.clip_grad_norm((p for p in (a, b)), 2.0) == pytest.approx(1.0)
    assert a.grad[0] == pytest.approx(0.6)


def test_clipping_parameters_does_not_pack_them_again():
    a, b = with_gradient(3.0), with_gradient(4.0)
    opt = optim.SGD([a, b], lr=1.0)
    assert optim.clip_grad_norm([a], 1.0) == 3
    opt.step()
    assert [*a.numpy(), *b.numpy()] == [-1, -4]
    assert optim.clip_grad_norm(opt.flat, 1.0) == pytest.approx(math.hypot(1, 4))
    assert optim.clip_grad_norm([parameter(1.0)], 1.0) == 0  # no gradient yet


def test_a_gradient_whose_square_overflows_is_clipped_and_one_that_is_not_finite_is_left():
    p = with_gradient(3e30, 4e30)
    with np.errstate(over="raise"):
        norm = optim.clip_grad_norm([p], 1.0)
    assert norm == pytest.approx(5e30)
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])
    for bad in (math.inf, math.nan):
        q = with_gradient(bad, 1.0)
        assert not math.isfinite(optim.clip_grad_norm([q], 0.5))
        assert q.grad[1] == 1


def test_clipping_by_value():
    p = with_gradient(-3.0, 0.5, 2.0)
    optim.clip_grad_value([p], 1.0)
    assert p.grad.tolist() == [-1, 0.5, 1]


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


def test_one_cycle_goes_up_and_down_once():
    lr = dl.optim.one_cycle(1.0, 100, rise=0.3)
    values = [lr(t) for t in range(100)]
    assert [values[0], max(values), values[99]] == pytest.approx([1 / 25, 1.0, 1 / 25e4])
    assert values.index(max(values)) == 29
    assert (np.diff(values[:30]) > 0).all()
    assert (np.diff(values[29:]) < 0).all()
    assert lr(1000) == values[99]
