"""The tape and the walk back: memory, order, versions, second order, and errors in words."""

import copy
import gc
import inspect
import itertools
import pickle

import numpy as np
import pytest

import dlmini as dl
from dlmini import GradientError, ShapeError, Tensor, functional
from dlmini.flat import pack
from dlmini.tensor import Leaf, Op


def parameter(*values):
    return Tensor(np.array(values, dtype="float64"), requires_grad=True)


@pytest.fixture(autouse=True)
def double():
    dl.use("numpy", "float64")
    yield
    dl.use("numpy")


# --- accumulation and aliasing --------------------------------------------------------------------


def test_a_diamond_adds_both_paths():
    x = parameter(3.0)
    y = x * x
    (y * x + y).sum().backward()
    assert x.grad.tolist() == [3 * 9 + 2 * 3]


def test_one_array_handed_to_two_parents_is_not_shared():
    x, y = parameter(1.0, 2.0), parameter(3.0, 4.0)
    (x + y).sum().backward()
    x.grad += 100
    assert y.grad.tolist() == [1.0, 1.0]
    (x + y).sum().backward()
    assert x.grad.tolist() == [102.0, 102.0]
    assert y.grad.tolist() == [2.0, 2.0]


def test_a_tensor_used_twice_in_one_operation_counts_twice():
    x = parameter(2.0, 5.0)
    (x * x).sum().backward()
    assert x.grad.tolist() == [4.0, 10.0]
    z = parameter(1.0, 1.0)
    dl.matmul(z, z).backward()
    assert z.grad.tolist() == [2.0, 2.0]


def test_gradients_accumulate_until_zeroed_into_the_same_memory():
    x = parameter(1.0)
    (2 * x).sum().backward()
    memory = x.grad
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5.0]
    x.zero_grad()
    assert x.grad.tolist() == [0.0]
    x.zero_grad()
    (7 * x).sum().backward()
    assert x.grad.tolist() == [7.0]
    assert x.grad is memory


def test_a_broadcast_view_is_copied_before_it_is_added_to():
    x = parameter(1.0, 2.0, 3.0)
    x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_a_reused_parameter_of_a_linear_layer_adds_up():
    w = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x = dl.asarray([[1.0, -1.0]])
    dl.flat.pack([w])
    w.zero_grad()
    dl.linear(dl.linear(x, w), w).sum().backward()
    h = x @ w.data.T
    assert np.allclose(w.grad, np.ones((2, 1)) @ h + (w.data.T @ np.ones((2, 1))) @ x)


# --- depth, order, memory -------------------------------------------------------------------------


def test_a_hundred_thousand_nodes_deep():
    x = y = parameter(1.0)
    for _ in range(100_000):
        y = y + 1.0
    y.sum().backward()
    assert x.grad.tolist() == [1.0]


def test_a_deep_graph_that_is_never_walked_is_let_go_without_recursion():
    y = parameter(1.0)
    for _ in range(100_000):
        y = y + 1.0
    del y


def test_no_reference_cycles():
    net, x = dl.nn.mlp(4, 8, 3), np.ones((5, 4))
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            dl.cross_entropy(net(x), [0, 1, 2, 0, 1]).backward()
        loss = dl.cross_entropy(net(x), [0, 1, 2, 0, 1])
        dl.grad(loss, net.parameters(), create_graph=True)
        del loss
        assert gc.collect() == 0
    finally:
        gc.enable()


def held(tensor):
    """Arrays that the tape keeps under a Tensor, by identity."""
    arrays, stack = {}, [tensor.node]
    while stack:
        node = stack.pop()
        if node is not None and node.op is not None:
            for a in [*node.args, node.z]:
                if isinstance(a, np.ndarray) and a.size > 1:
                    arrays[id(a)] = a
            stack.extend(node.parents)
    return list(arrays.values())


def test_what_no_rule_reads_is_not_kept():
    x = parameter(1.0, 2.0)
    assert held(dl.exp(x + 1.0))[0].tolist() == np.exp([2.0, 3.0]).tolist()
    assert held((x + 1.0).sum()) == []
    assert len(held(dl.relu(dl.tanh(x)))) == 2


def test_each_dense_layer_keeps_one_activation():
    net = dl.nn.mlp(*[16] * 11)
    kept = sum(a.size for a in held(net(np.ones((64, 16)))) if a.shape == (64, 16))
    assert kept == 10 * 64 * 16 + 0 * 16  # the input and nine hidden outputs


def test_inference_keeps_nothing():
    with dl.no_grad():
        out = dl.nn.mlp(4, 8, 3)(np.ones((5, 4)))
    assert out.node is None
    assert not out.requires_grad


def test_the_second_backward_through_a_freed_graph_is_refused():
    x = parameter(2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GradientError, match=r"already walked.*retain_graph=True"):
        y.backward()


def test_retain_graph_allows_a_second_walk():
    x = parameter(2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]


def test_a_graph_shared_by_a_freed_one_is_refused():
    x = parameter(2.0)
    shared = x * x
    shared.sum().backward()
    with pytest.raises(GradientError, match="already walked"):
        (shared * 2.0).sum().backward()


# --- versions -------------------------------------------------------------------------------------


def test_backward_after_a_parameter_changed_is_refused():
    x = parameter(2.0)
    y = (x * x).sum()
    x.data = [3.0]
    with pytest.raises(GradientError, match=r"shape \(1,\) changed after the forward pass"):
        y.backward()


def test_backward_after_an_optimizer_step_is_refused():
    net = dl.nn.mlp(2, 3, 2)
    opt = dl.optim.SGD(net.parameters(), lr=0.1)
    loss = dl.cross_entropy(net(np.ones((1, 2))), [0])
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(GradientError, match="run the forward pass again after a step"):
        loss.backward()


def test_setting_data_copies_into_the_view():
    w = parameter(1.0, 2.0)
    flat = dl.flat.pack([w])
    w.data = [5.0, 6.0]
    assert flat.theta.tolist() == [5.0, 6.0]


# --- grad and second order ------------------------------------------------------------------------


def test_grad_leaves_the_stored_gradients_alone():
    x = parameter(3.0)
    [g] = dl.grad((x**3).sum(), [x])
    assert g.numpy().tolist() == [27.0]
    assert x.grad is None


def test_grad_by_a_computed_tensor():
    x = parameter(3.0)
    h = x * x
    [g] = dl.grad((h * h).sum(), [h])
    assert g.numpy().tolist() == [18.0]


def test_grad_by_something_unused_is_zero():
    x, y = parameter(1.0), parameter(2.0, 3.0)
    assert dl.grad(x.sum(), [y])[0].numpy().tolist() == [0.0, 0.0]


def test_derivatives_up_to_the_fifth():
    x = parameter(0.7)
    y = dl.tanh(x)
    expected = [np.tanh(0.7)]
    t = expected[0]
    expected = [1 - t**2, -2 * t * (1 - t**2), (1 - t**2) * (6 * t**2 - 2),
                8 * t * (1 - t**2) * (2 - 3 * t**2),
                (1 - t**2) * (120 * t**4 - 120 * t**2 + 16)]  # fmt: skip
    for value in expected:
        [y] = dl.grad(y.sum(), [x], create_graph=True)
        assert y.item() == pytest.approx(value, rel=1e-12)


def test_the_hessian_of_cross_entropy_is_the_closed_form():
    rng = np.random.default_rng(0)
    z = parameter(*rng.standard_normal(4))
    [g] = dl.grad(dl.cross_entropy(dl.reshape(z, (1, 4)), [2]), [z], create_graph=True)
    rows = [dl.grad(g[i], [z], retain_graph=True)[0].numpy() for i in range(4)]
    p = np.exp(z.numpy()) / np.exp(z.numpy()).sum()
    assert np.allclose(rows, np.diag(p) - np.outer(p, p), atol=1e-14)


def test_a_cotangent_of_ones_and_a_random_one_differ():
    rng = np.random.default_rng(1)
    x, c = parameter(1.0, 2.0), rng.standard_normal(2)
    (x * x).backward(c)
    assert np.allclose(x.grad, 2 * x.data * c)


# --- dtype ----------------------------------------------------------------------------------------


def test_float32_stays_float32():
    dl.use("numpy", "float32")
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = dl.tanh(x * np.float64(0.5) + np.float64(1.0)) / 3.0
    z = (y * y).mean() + np.sqrt(2.0)
    assert z.dtype == np.float32
    z.backward()
    assert x.grad.dtype == np.float32


def test_a_gradient_has_its_inputs_dtype():
    narrow = Tensor.wrap(np.ones(2, "float32"), dl.tensor.Leaf(np.ones(2, "float32")))
    wide = parameter(1.0, 2.0)
    (narrow * wide).sum().backward()
    assert narrow.grad.dtype == np.float32
    assert wide.grad.dtype == np.float64


def test_second_derivatives_pass_through_a_change_of_precision():
    x = parameter(3.0)
    [g] = dl.grad((dl.ops.astype(x * x, np.dtype("float32")) ** 2).sum(), [x], create_graph=True)
    [h] = dl.grad(g.sum(), [x])
    assert h.numpy()[0] == pytest.approx(12 * 9, rel=1e-6)


# --- copying --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_independent(clone):
    net = dl.nn.mlp(2, 3, 2)
    opt = dl.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net2, opt2 = clone((net, opt))
    before = [p.numpy().copy() for p in net.parameters()]
    for p in net2.parameters():
        p.data = p.numpy() + 1.0
    assert all((p.numpy() == b).all() for p, b in zip(net.parameters(), before, strict=True))
    opt2.zero_grad()
    dl.cross_entropy(net2(np.ones((1, 2))), [0]).backward()
    expected = opt2.flat.theta - 0.1 * opt2.flat.g
    opt2.step()
    assert np.allclose(np.concatenate([p.numpy().ravel() for p in net2.parameters()]), expected)


# --- what a PyTorch user expects ------------------------------------------------------------------


def test_comparisons_look_at_the_numbers():
    x = parameter(1.0, 0.0)
    assert (x == 0).tolist() == [False, True]
    assert (x > 0.5).tolist() == [True, False]
    assert (x != x.detach()).tolist() == [False, False]
    assert dl.where(x == 0, 5.0, x).numpy().tolist() == [1.0, 5.0]
    assert len({x, x}) == 1


def test_tensors_can_be_unpacked_and_formatted():
    a, b = parameter(1.0, 2.0)
    dl.stack([a * 3, b]).sum().backward()
    assert f"{a:.2f} {int(b)} {abs(-b).item()}" == "1.00 2 2.0"


def test_a_parameter_owns_its_memory():
    values = np.ones(2)
    p, q = Tensor(values, requires_grad=True), Tensor(values, requires_grad=True)
    kept = p.detach()
    p.data = [5.0, 5.0]
    assert q.numpy().tolist() == values.tolist() == kept.numpy().tolist() == [1.0, 1.0]


def test_constants_take_the_tensors_precision():
    dl.use("numpy", "float32")
    x = Tensor([1.0, 2.0], requires_grad=True)
    for made in (
        x ** np.float64(2),
        x * np.array(2.0),
        x * np.ones(2),
        x * [1, 2],
        x * np.arange(2),
    ):
        assert made.dtype == np.float32
    assert dl.nn.mlp(2, 3)(np.ones((4, 2))).dtype == np.float32


def test_gradients_can_be_set_and_the_setting_lasts():
    x = parameter(1.0, 2.0)
    (x * x).sum().backward()
    x.grad = [7.0, 8.0]
    assert x.grad.tolist() == [7.0, 8.0]
    x.zero_grad()
    x.grad += 1.0  # reading filled in zeros; what is written then stays
    (x * 1.0).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_grad_frees_the_graph_unless_told_otherwise():
    x = parameter(2.0)
    y = (x * x).sum()
    dl.grad(y, x)
    with pytest.raises(GradientError, match="already walked"):
        dl.grad(y, x)


def test_reductions_over_no_axis_and_numpy_axes():
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert dl.sum(x, axis=()) is x
    assert dl.max(x, axis=np.int64(1)).numpy().tolist() == [2.0, 5.0]
    assert x.permute(1, 0).shape == x.transpose(0, 1).shape == (3, 2)
    assert x[:, np.int64(0)].numpy().tolist() == [0.0, 3.0]


def test_where_takes_an_infinite_cotangent_in_the_untaken_branch():
    x = parameter(0.0, 4.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = dl.where(x.data > 0, x, 1.0)
        (dl.where(x.data > 0, 1.0 / x, z)).sum().backward()
    y = parameter(1.0, 1.0)
    picked = dl.where(np.array([True, False]), y, 0.0)
    picked.backward(np.array([1.0, np.inf]))
    assert y.grad.tolist() == [1.0, 0.0]


# A rule that forgets an entry.
CUT = Op(lambda x: x * 1.0, lambda g, z, x: g[:1], name="cut")


# --- errors in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: Tensor([1, 2], requires_grad=True), TypeError, r"int64 of shape \(2,\).*1\.0"),
        (lambda: Tensor(["a"]), TypeError, "expected numbers, got str"),
        (lambda: (parameter(1.0, 2.0) * 2).backward(), GradientError,
         r"needs a scalar.*\(2,\).*\.mean\(\)"),
        (lambda: Tensor([1.0]).sum().backward(), GradientError, "no parameter.*requires_grad=True"),
        (lambda: parameter(1.0, 2.0).sum().backward(np.ones(3)), ShapeError,
         r"cotangent of shape \(3,\).*\(\)"),
        (lambda: dl.grad(parameter(1.0).sum(), [Tensor([1.0])]), GradientError,
         "input 0 does not require grad"),
        (lambda: parameter(1.0, 2.0) + np.ones(3), ShapeError,
         r"add cannot take float64\(2,\), float64\(3,\)"),
        (lambda: dl.matmul(Tensor(np.ones((2, 3))), np.ones((2, 3))), ShapeError,
         r"\(2, 3\) and \(2, 3\).*3 and 2 differ; transpose"),
        (lambda: dl.matmul(parameter(1.0), 2.0 * Tensor(1.0)), ShapeError, "use \\* to scale"),
        (lambda: parameter(1.0).__setitem__(0, 2.0), GradientError, "dl.where.*p.data = values"),
        (lambda: setattr(parameter(1.0) * 2, "data", [1.0]), GradientError, "was computed"),
        (lambda: setattr(parameter(1.0), "data", [1.0, 2.0]), ShapeError, r"\(2,\).*\(1,\)"),
        (lambda: parameter(1.0, 2.0).item(), ShapeError, r"one entry.*\(2,\)"),
        (lambda: dl.sum(parameter(1.0), axis=1), ShapeError, "axis 1 of an array with 1 axes"),
        (lambda: dl.reshape(parameter(1.0, 2.0), (3,)), ShapeError, "reshape cannot take"),
        (lambda: dl.mean(Tensor(np.ones((0, 2)))), ShapeError, r"mean of an empty.*\(0, 2\)"),
        (lambda: dl.concatenate([]), ShapeError, "at least one"),
        (lambda: dl.stack([]), ShapeError, "at least one"),
        (lambda: parameter(1.0, 2.0)[5], ShapeError, "getitem cannot take.*out of bounds"),
        (lambda: Tensor(np.ones((3, 3)))[np.array([0]), :], ShapeError, "not with both"),
        (lambda: len(Tensor(1.0)), TypeError, "0-d"),
        (lambda: parameter(1.0).__isub__(0.1), GradientError, r"write p\.data -="),
        (lambda: np.where(True, parameter(1.0), 2.0), TypeError, "np.where would drop"),
        (lambda: Tensor([parameter(1.0), parameter(2.0)]), TypeError, "use dl.stack"),
        (lambda: Tensor(np.array(["a"])), TypeError, "expected numbers, got str"),
        (lambda: Tensor([[1.0], [1.0, 2.0]]), TypeError, "regular array"),
        (lambda: dl.logsumexp(parameter(1.0), axis=None), ShapeError, "one axis"),
        (lambda: dl.transpose(Tensor(np.ones((2, 3))), (0, 0)), ShapeError, "each of them once"),
        (lambda: dl.ops.mul(parameter(1.0), y=parameter(1.0)), TypeError, "'y' by position"),
        (lambda: dl.grad(3.0, [parameter(1.0)]), GradientError, "output is float, not a Tensor"),
        (lambda: copy.deepcopy(parameter(1.0) * 2), GradientError, r"copied.*t\.detach\(\)"),
        (lambda: pickle.dumps(parameter(1.0) * 2), GradientError, "pickled"),
        (lambda: setattr(parameter(1.0), "grad", [1.0, 2.0]), ShapeError, r"\(2,\).*\(1,\)"),
        (lambda: setattr(parameter(1.0) * 2, "grad", [1.0]), GradientError, "was computed"),
        (lambda: CUT(parameter(1.0, 2.0)).sum().backward(), GradientError,
         r"a rule of cut returned shape \(1,\).*\(2,\)"),
    ],
)  # fmt: skip
def test_errors_name_the_input_and_the_fix(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_numpy_functions_do_not_silently_drop_the_history():
    with pytest.raises(TypeError, match="__array_ufunc__"):
        np.exp(parameter(1.0))


def test_every_op_has_one_rule_per_argument():
    for module in (dl.ops, dl.functional, dl.tensor):
        for value in vars(module).values():
            if isinstance(value, Op):
                code = value.forward.__code__
                if code.co_flags & inspect.CO_VARARGS:
                    continue  # made of another op
                assert len(value.rules) <= code.co_argcount, value
                assert value.rules or value is dl.tensor.CHECKPOINT


@pytest.mark.parametrize("name", ["matmul", "linear", "conv2d", "batch_norm", "layer_norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_rules_fill_the_memory_of_gradients_as_the_rules_do(name, dtype):
    rng = np.random.default_rng(0)
    shapes, layer = {
        "matmul": ([(2, 3, 4), (4, 5)], dl.matmul),
        "linear": ([(3, 4), (5, 4), (5,)], functional.linear),
        "conv2d": ([(2, 3, 5, 5), (4, 3, 3, 3), (4,)], functional.conv2d),
        "batch_norm": ([(6, 3), (3,), (3,)], lambda *a: functional.batch_norm(*a)[0]),
        "layer_norm": ([(6, 3), (3,), (3,)], functional.layer_norm),
    }[name]
    inputs = [
        Tensor.wrap(a, Leaf(a)) for a in (rng.standard_normal(s).astype(dtype) for s in shapes)
    ]
    inputs[-1] = parameter(*rng.standard_normal(shapes[-1]))  # another precision
    pack(inputs[:-1])
    z = layer(*inputs)
    cotangent = Tensor(rng.standard_normal(z.shape))
    by_rules = dl.grad(z, inputs, cotangent, create_graph=True)
    z.backward(cotangent, retain_graph=True)  # into memory
    for t, g in zip(inputs, by_rules, strict=True):
        assert t.grad == pytest.approx(g.numpy(), rel=1e-4, abs=1e-5)
        assert t.grad.dtype == t.dtype
    z.backward(cotangent)  # added to it
    for t, g in zip(inputs, by_rules, strict=True):
        assert t.grad == pytest.approx(2 * g.numpy(), rel=1e-4, abs=1e-5)


def test_a_parameter_that_meets_itself_in_a_fused_operation():
    w = parameter([1.0, 2.0], [3.0, 4.0])
    pack([w])
    w.zero_grad()
    dl.matmul(w, w).sum().backward()
    expected = np.ones((2, 2)) @ w.data.T + w.data.T @ np.ones((2, 2))
    assert w.grad == pytest.approx(expected)
    w.zero_grad()
    functional.linear(w, w).sum().backward()
    assert w.grad == pytest.approx(np.ones((2, 2)) @ w.data + np.ones((2, 2)).T @ w.data)


@pytest.mark.parametrize("tracked", list(itertools.product([True, False], repeat=3))[:-1])
@pytest.mark.parametrize("name", ["linear", "conv2d", "batch_norm", "layer_norm"])
@pytest.mark.parametrize("relu", [True, False])
def test_fused_rules_do_with_what_was_kept_for_the_arguments_that_are_tracked(name, tracked, relu):
    rng = np.random.default_rng(0)
    shapes = {
        "linear": [(3, 4), (5, 4), (5,)],
        "conv2d": [(2, 3, 5, 5), (4, 3, 3, 3), (4,)],
        "batch_norm": [(6, 3), (3,), (3,)],
        "layer_norm": [(6, 3), (3,), (3,)],
    }[name]
    if relu and name == "layer_norm":
        pytest.skip("a layer norm does not take its relu along")
    arrays = [rng.standard_normal(s) for s in shapes]
    inputs = [Tensor.wrap(a, Leaf(a)) if t else a for a, t in zip(arrays, tracked, strict=True)]
    leaves = [t for t in inputs if isinstance(t, Tensor)]
    z = getattr(functional, name)(*inputs, **({"relu": True} if relu else {}))
    z = z[0] if isinstance(z, tuple) else z
    cotangent = Tensor(rng.standard_normal(z.shape))
    by_rules = dl.grad(z, leaves, cotangent, create_graph=True)
    z.backward(cotangent)
    for t, g in zip(leaves, by_rules, strict=True):
        assert t.grad == pytest.approx(g.numpy(), rel=1e-9, abs=1e-12)
