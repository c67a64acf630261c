"""The theory of wide networks against closed forms, quadrature by SciPy, and networks."""

import math

import numpy as np
import pytest

import dlmini as dl
from dlmini import functional, nn
from dlmini.meanfield import MeanField, second_moment, squared_slope

integrate = pytest.importorskip("scipy.integrate")


def test_relu_halves_both_moments():
    for q in (1e-6, 1.0, 1e6):
        assert second_moment(dl.relu, q) == pytest.approx(q / 2, rel=1e-13)
        assert squared_slope(dl.relu, q) == pytest.approx(0.5, rel=1e-13)


@pytest.mark.parametrize("q", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("phi", [dl.tanh, dl.sigmoid, functional.gelu, functional.elu])
def test_moments_are_scipys_integrals(phi, q):
    """Gauss–Hermite nodes would miss the slope of tanh at q = 30 by a factor."""

    def mean(f):
        def density(z):
            return f(math.sqrt(q) * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        near = 10 / math.sqrt(q)
        ends = [-12.0, -min(near, 11), 0.0, min(near, 11), 12.0]
        pieces = zip(ends, ends[1:], strict=False)
        return sum(integrate.quad(density, a, b, epsabs=0, limit=200)[0] for a, b in pieces)

    def square(x):
        return phi(np.array(x)).item() ** 2

    def slope(x):
        return dl.jvp(phi, [np.array([x])], [np.ones(1)])[1].item() ** 2

    dl.use("numpy", "float64")
    try:
        assert second_moment(phi, q) == pytest.approx(mean(square), rel=1e-9)
        assert squared_slope(phi, q) == pytest.approx(mean(slope), rel=1e-9)
    finally:
        dl.use("numpy")


@pytest.mark.parametrize("c", [-1.0, -0.5, 0.0, 0.3, 0.9, 1 - 1e-9, 1.0])
def test_the_correlation_map_of_relu_is_the_arc_cosine_kernel(c):
    theory = MeanField(dl.relu, weight=math.sqrt(2))
    expected = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    assert theory.correlation(c, q=1.7) == pytest.approx(expected, abs=1e-9)


def test_the_slope_of_the_correlation_map_at_1_is_chi():
    theory, e = MeanField(dl.tanh, weight=2.0, bias=0.1), 1e-6
    slope = (theory.correlation(1.0) - theory.correlation(1 - e)) / e
    assert slope == pytest.approx(theory.chi(), rel=1e-4)
    assert theory.correlation(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("phi", "weight", "bias"), [(dl.sigmoid, 2, 0), (dl.tanh, 1, 0.3), (dl.tanh, 2, 0)]
)
def test_the_fixed_point_is_where_the_map_ends(phi, weight, bias):
    theory, q = MeanField(phi, weight, bias), 1.0
    for _ in range(300):
        q = theory.variance(q)
    assert theory.fixed_point() == pytest.approx(q, rel=1e-10)


def test_an_ordered_tanh_net_dies_out_and_is_critical_at_1():
    assert MeanField(dl.tanh, 0.5).fixed_point() == 0.0
    assert MeanField(dl.tanh, 0.5).chi() == pytest.approx(0.25)
    assert MeanField(dl.tanh, 1.0).chi() == pytest.approx(1.0)
    assert MeanField(dl.tanh, 0.5).depth_scale() == pytest.approx(1 / math.log(4))
    assert MeanField(dl.tanh, 1.0).depth_scale() == math.inf


def test_a_relu_net_that_dies_out_halves_its_gradients():
    """At q* = 0 φ′ is its limit on both sides, not its value in the kink."""
    theory = MeanField(dl.relu, weight=1.0)
    assert theory.fixed_point() == 0.0
    assert theory.chi() == pytest.approx(0.5, rel=1e-13)
    assert theory.depth_scale() == pytest.approx(1 / math.log(2))


def test_a_constant_lets_no_gradient_through():
    theory = MeanField(lambda x: 0 * x + 1)
    assert theory.chi() == 0.0
    assert theory.depth_scale() == 0.0


def test_relu_at_its_gain_keeps_every_variance_and_says_so():
    theory = MeanField(dl.relu, weight=functional.gain("relu"))
    assert theory.variance(3.0) == pytest.approx(3.0)
    assert theory.chi(q=3.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"settles nowhere below 1e\+08.*weight ≥ √2.*chi\(q\)"):
        theory.fixed_point()


def test_any_function_will_do():
    assert second_moment(lambda x: x * x) == pytest.approx(3.0)  # E z⁴
    assert squared_slope(lambda x: x * x) == pytest.approx(4.0)
    assert MeanField(nn.Tanh()).variance(1.0) == MeanField(dl.tanh).variance(1.0)


def test_a_wide_network_does_as_the_theory_says():
    dl.use("numpy", "float64")
    dl.seed(0)
    try:
        theory = MeanField(dl.sigmoid, weight=2.0, bias=0.5)
        net = nn.normal_(nn.mlp(*[400] * 12, activation=nn.Sigmoid), weight=2.0, bias=0.5)
        x = dl.rng(1).standard_normal((4, 400))
        found = nn.trace(net, x, lambda z: dl.cross_entropy(z, [0, 1, 2, 3]))
        linear = [a for a in found.values() if isinstance(a.layer, nn.Linear)]
        assert linear[-1].value.var() == pytest.approx(theory.fixed_point(), rel=0.2)
        norms = [np.linalg.norm(a.grad) for a in linear]
        per_layer = (norms[2] / norms[-2]) ** (2 / (len(norms) - 4))
        assert per_layer == pytest.approx(theory.chi(), rel=0.1)
    finally:
        dl.use("numpy")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: MeanField(dl.tanh, weight=0), "weight must be a finite number > 0"),
        (lambda: MeanField(dl.tanh, bias=-1), "bias must be"),
        (lambda: second_moment(dl.tanh, -1), "q must be"),
        (lambda: MeanField(dl.tanh).correlation(1.5, 1.0), "between −1 and 1, got 1.5"),
    ],
)
def test_errors_name_the_input(act, words):
    with pytest.raises(ValueError, match=words):
        act()
