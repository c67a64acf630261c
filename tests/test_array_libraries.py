"""NumPy, torch and the strict reading of the array API standard give the same numbers.

`array_api_strict` has nothing that the standard does not have: an operation that runs there uses
no library's private words. Where that would cost speed, LIMITS says so.
"""

import numpy as np
import pytest

import dlmini as dl
from dlmini import Tensor, ops, regularize
from dlmini import functional as F
from dlmini.tensor import Leaf, Op, checkpoint
from dlmini.testing import gradcheck, gradgradcheck

RNG = np.random.default_rng(11)


def normal(*shape):
    """Random numbers off 0, where some of the derivatives jump."""
    x = RNG.standard_normal(shape)
    return x + 0.1 * np.sign(x)


def positive(*shape):
    return np.abs(normal(*shape)) + 0.5


X, Y, M = normal(3, 4), normal(3, 4), normal(4, 2)
IMAGES, FILTERS = normal(2, 2, 5, 4), normal(3, 2, 3, 2)
LABELS = [1, 0, 3]
ROWS = np.array([0, 2])


def computed_again(x, y):
    inner = lambda a, b: ops.tanh(a) * b  # noqa: E731
    return (checkpoint(inner, x, y) if x.__class__ is Tensor else inner(x, y)) * x


# name: (function of Tensors, its arguments)
CASES = {
    "add": (ops.add, X, normal(4)),
    "sub": (ops.sub, X, normal(3, 1)),
    "mul": (ops.mul, X, normal(2, 3, 4)),
    "div": (ops.div, X, positive(3, 4)),
    "neg": (ops.neg, X),
    "power": (ops.power, positive(3, 4), Y),
    "power by a number": (lambda x: ops.power(x, 2.5), positive(3, 4)),
    "a number to the power": (lambda x: 2.0**x, X),
    "numbers beside": (lambda x: (3.0 - x) / 2.0 + 1.0 / (x * x + 1.0), X),
    "exp": (ops.exp, X),
    "log": (ops.log, positive(3, 4)),
    "sqrt": (ops.sqrt, positive(3, 4)),
    "sin": (ops.sin, X),
    "cos": (ops.cos, X),
    "tanh": (ops.tanh, X),
    "abs": (ops.abs, X),
    "relu": (ops.relu, X),
    "sigmoid": (ops.sigmoid, X),
    "softplus": (ops.softplus, X),
    "maximum": (ops.maximum, X, Y),
    "maximum with a number": (lambda x: ops.maximum(x, 0.2), X),
    "minimum": (ops.minimum, X, Y),
    "where": (lambda x, y: ops.where(ops.raw(x) > 0.3, x * x, y), X, Y),
    "clip": (lambda x: ops.clip(x, -0.7, 0.9), X),
    "sum": (lambda x: ops.sum(x, 0), X),
    "mean": (lambda x: ops.mean(x, (0, 2), keepdims=True), normal(2, 3, 2)),
    "var": (lambda x: ops.var(x, 1), X),
    "max": (lambda x: ops.max(x, 1), X),
    "min": (lambda x: ops.min(x, 0, keepdims=True), X),
    "logsumexp": (lambda x: ops.logsumexp(x, 0), X),
    "reshape": (lambda x: ops.reshape(x, (2, -1)), X),
    "transpose": (lambda x: ops.transpose(x, (2, 0, 1)), normal(2, 3, 4)),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (2, 3, 4)), normal(3, 1)),
    "unbroadcast": (lambda x: ops.unbroadcast(x, (1, 4)), X),
    "concatenate": (lambda x, y: ops.concatenate([x, y, x], 1), X, Y),
    "stack": (lambda x, y: ops.stack([x, y], -1), X, Y),
    "getitem": (lambda x: x[1:, ::2], X),
    "getitem of a row": (lambda x: x[-1], X),
    "getitem by integers": (lambda x: x[np.array([0, 2, 2]), np.array([1, 3, 3])], X),
    "some of the rows": (
        lambda x: F._place_rows(F._take_rows(x, rows=ROWS, n=3) * 2.0, rows=ROWS, n=3),
        X,
    ),
    "matmul": (ops.matmul, X, M),
    "matmul in batches": (ops.matmul, normal(2, 1, 3, 4), normal(3, 4, 2)),
    "matmul of vectors": (ops.matmul, normal(4), normal(4)),
    "astype": (lambda x: ops.astype(x * 2.0, x.dtype), X),
    "linear": (F.linear, X, normal(2, 4), normal(2)),
    "linear and relu": (lambda *a: F.linear(*a, relu=True), X, normal(2, 4), normal(2)),
    "linear without bias": (F.linear, normal(2, 3, 4), normal(2, 4)),
    "leaky_relu": (F.leaky_relu, X),
    "elu": (F.elu, X),
    "gelu": (F.gelu, X),
    "softmax": (F.softmax, X),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), X),
    "smoothed cross_entropy": (
        lambda x: regularize.cross_entropy_smoothed(x, LABELS, 0.1),
        X,
    ),
    "mse_loss": (F.mse_loss, X, Y),
    "batch_norm": (lambda *a: F.batch_norm(*a)[0], X, normal(4), normal(4)),
    "batch_norm and relu": (lambda *a: F.batch_norm(*a, relu=True)[0], X, normal(4), normal(4)),
    "batch_norm of images": (lambda *a: F.batch_norm(*a)[0], IMAGES, normal(2), normal(2)),
    "layer_norm": (F.layer_norm, X, normal(4), normal(4)),
    "dropout": (lambda x: F.dropout(x, 0.5, mask=X > 0), X),
    "conv2d": (
        lambda *a: F.conv2d(*a, stride=(2, 1), padding=1),
        IMAGES,
        FILTERS,
        normal(3),
    ),
    "conv2d and relu": (
        lambda *a: F.conv2d(*a, stride=1, padding=(0, 1), relu=True),
        IMAGES,
        FILTERS,
        normal(3),
    ),
    "conv2d without bias": (F.conv2d, IMAGES, FILTERS),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), IMAGES),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, 1), IMAGES),
    "checkpoint": (computed_again, X, Y),
}

MASK = "a mask times floats: many times faster than `where`, in NumPy and torch alike"
MEMORY = "writes into memory that is there: the standard has no out="
SHORT = "x[i] is short for x[i, ...]"
SCATTER = "the standard cannot scatter: no x[i] += g"

# What needs more than the standard has: (where it fails, the words, why).
LIMITS = {
    "relu": ("gradient", "numeric dtypes", MASK),
    "linear and relu": ("gradient", "numeric dtypes", MASK),
    "batch_norm and relu": ("gradient", "numeric dtypes", MASK),
    "max_pool2d": ("gradient", "numeric dtypes|'out'", MASK),
    "conv2d": ("value", "only specifies", SHORT),
    "conv2d and relu": ("value", "only specifies", SHORT),
    "conv2d without bias": ("value", "as_strided|reshape", "patches are views by strides"),
    "batch_norm": ("gradient", "out", MEMORY),
    "batch_norm of images": ("gradient", "out", MEMORY),
    "cross_entropy": ("gradient", "Fancy indexing", SCATTER),
    "smoothed cross_entropy": ("gradient", "Fancy indexing", SCATTER),
    "getitem by integers": ("value", "Index arrays", SCATTER),
    "some of the rows": ("value", "Index arrays", SCATTER),
    "getitem of a row": ("value", "only specifies 1 dim", SHORT),
}


def leaf(array):
    return Tensor.wrap(array, Leaf(array))


def results(name, wrap, reached):
    """Tensors: value, gradient, and the gradient of the gradient by arguments and cotangent.

    Args:
        name: of the case.
        wrap: NumPy array ↦ array of the library.
        reached: a list that takes the stages as they begin.
    """
    f, *arguments = CASES[name]
    directions = np.random.default_rng(5)
    leaves = [leaf(wrap(a.copy())) for a in arguments]
    reached.append("value")
    z = f(*leaves)
    reached.append("gradient")
    cotangent = leaf(wrap(directions.standard_normal(z.shape)))
    plain = dl.grad(z, leaves, cotangent, retain_graph=True)
    first = dl.grad(z, leaves, cotangent, create_graph=True)
    total = 0.0
    for g in first:
        total = total + ops.sum(g * Tensor.wrap(wrap(directions.standard_normal(g.shape)), None))
    reached.append("gradient of the gradient")
    return [z, *plain, *first, *dl.grad(total, [*leaves, cotangent], retain_graph=True)]


def numbers(name, wrap, reached):
    found = results(name, wrap, reached)
    n = len(CASES[name]) - 1
    for fast, rule in zip(found[1 : n + 1], found[n + 1 : 2 * n + 1], strict=True):
        assert np.allclose(dl.to_numpy(fast.data), dl.to_numpy(rule.data), rtol=1e-11, atol=1e-12)
    assert {type(t.data) for t in found} == {type(wrap(np.zeros(1)))}, "all in the one library"
    return [dl.to_numpy(t.data) for t in found]


@pytest.fixture(autouse=True)
def double():
    yield
    dl.use("numpy")


def numpy_numbers(name):
    dl.use("numpy", "float64")
    return numbers(name, np.asarray, [])


def equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_central_differences(name):
    dl.use("numpy", "float64")
    f, *arguments = CASES[name]
    gradcheck(f, arguments)
    gradgradcheck(f, arguments)


@pytest.mark.parametrize("name", CASES)
def test_forward_mode_is_the_adjoint_of_reverse_mode(name):
    """c · (J v) = (Jᵀ c) · v, with all arguments moving and with each one alone."""
    dl.use("numpy", "float64")
    f, *arguments = CASES[name]
    rng = np.random.default_rng(8)
    leaves = [Tensor(a, requires_grad=True) for a in arguments]
    z = f(*leaves)
    c = rng.standard_normal(z.shape)
    g = [t.numpy() for t in dl.grad(z, leaves, c)]
    v = [rng.standard_normal(a.shape) for a in arguments]

    def product(moving):
        def moved(*xs):
            given = list(arguments)
            for i, x in zip(moving, xs, strict=True):
                given[i] = x
            return f(*(Tensor(a) if isinstance(a, np.ndarray) else a for a in given))

        primals = [arguments[i] for i in moving]
        return dl.jvp(moved, primals, [v[i] for i in moving])[1].numpy()

    n = len(arguments)
    for moving in [list(range(n)), *([i] for i in range(n))]:
        expected = sum((g[i] * v[i]).sum() for i in moving)
        assert (c * product(moving)).sum() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_backward_writes_the_same_into_packed_memory(name, backend):
    """First over what stands there, then on top of it, then over it again."""
    if backend == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(backend, "float64")
    f, *arguments = CASES[name]
    parameters = [Tensor(a, requires_grad=True) for a in arguments]
    flat = dl.flat.pack(parameters)
    flat.g[...] = np.nan
    z = f(*parameters)
    c = np.random.default_rng(6).standard_normal(z.shape)
    flat.zero_grad()  # the memory waits to be written, but not by grad
    expected = [dl.to_numpy(g.data) for g in dl.grad(z, parameters, c, retain_graph=True)]
    assert not dl.to_numpy(flat.g).any()
    for times in (1, 2, 1):
        if times == 1:
            flat.zero_grad()
        z.backward(c, retain_graph=True)
        parts = flat.split(flat.g)
        for p, part, e in zip(parameters, parts, expected, strict=True):
            assert np.allclose(dl.to_numpy(p.grad), times * e, rtol=1e-12, atol=1e-13)
            assert np.allclose(dl.to_numpy(part), times * e, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_torch_gives_what_numpy_gives(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = numpy_numbers(name)
    dl.use("torch", "float64")
    equal(numbers(name, torch.tensor, []), expected)


@pytest.mark.parametrize("name", [name for name in CASES if name not in LIMITS])
def test_the_standard_alone_gives_what_numpy_gives(name):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    equal(numbers(name, strict.asarray, []), numpy_numbers(name))


@pytest.mark.parametrize("name", LIMITS)
def test_what_needs_more_than_the_standard_says_so(name):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    dl.use("numpy", "float64")
    stage, words, _ = LIMITS[name]
    reached = []
    with pytest.raises((AttributeError, IndexError, TypeError, ValueError), match=words):
        numbers(name, strict.asarray, reached)
    assert reached[-1] == stage


@pytest.mark.parametrize("name", CASES)
def test_nothing_compared_is_zero(name):
    """Zeros are equal whatever the rule; that by the cotangent sees linear operations too."""
    z, *rest = numpy_numbers(name)
    n = len(CASES[name]) - 1
    assert all(a.any() for a in (z, *rest[: 2 * n], rest[-1]))


def test_every_op_is_compared():
    dl.use("numpy", "float64")
    used, nodes = set(), [t.node for name in CASES for t in results(name, np.asarray, [])]
    while nodes:
        node = nodes.pop()
        if node is not None and node.op is not None:
            used.add(node.op.name)
            nodes.extend(node.parents)
    made = {
        o.name for module in (ops, F, dl.tensor) for o in vars(module).values() if isinstance(o, Op)
    }
    assert made <= used, made - used
