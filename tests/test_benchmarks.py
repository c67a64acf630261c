"""Everybody in the benchmarks does the same task: same losses, same parameters. No timing here."""

from dataclasses import replace

import numpy as np
import pytest

import dlmini as dl
from benchmarks import report, results, scaling
from benchmarks.contenders import CONTENDERS, entrants, products
from benchmarks.workloads import WORKLOADS, count, data, initial

LR = 1e-3
# The same code on less: fewer blocks, narrower layers.
SMALL = WORKLOADS | {
    "d": replace(WORKLOADS["d"], widths=(64,) * 6 + (10,)),
    "f": replace(WORKLOADS["f"], widths=(256,) * 4, batch=32),
}
PAIRS = [(name, key) for name in WORKLOADS for key in entrants(name)]


@pytest.fixture(autouse=True)
def _leave_the_backend_alone():
    yield
    dl.use("numpy")


def build(name, key):
    contender = CONTENDERS[key]
    if key == "torch-compile":  # all but writing C++, which takes half a minute
        contender = replace(
            contender, options={"fused": True, "compiled": "aot_eager"}, compiler=(), headers=False
        )
    reason = contender.missing()
    if reason:
        pytest.skip(f"{contender.label}: {reason}")
    return contender.build(SMALL[name], LR)


def number(loss):
    return loss.item() if hasattr(loss, "item") else float(loss)


_oracle: dict = {}


def oracle(name):
    """Five losses, the first gradients and the parameters after one step, by torch in float64."""
    if name not in _oracle:
        torch = pytest.importorskip("torch")
        with_torch = pytest.importorskip("benchmarks.contenders.with_torch")
        w = SMALL[name]
        if w.kind == "quadratic":
            h, theta = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double(), torch.ones(1, 2).double()
            parameters = [theta.requires_grad_()]
            optimizer = torch.optim.SGD(parameters, LR)
            loss = lambda: 0.5 * (theta @ h @ theta.T).sum()  # noqa: E731
        else:
            net = with_torch.network(w).double()
            parameters = list(net.parameters())
            with torch.no_grad():
                for p, a in zip(parameters, initial(w), strict=True):
                    p.copy_(torch.as_tensor(a))
            x, y = (torch.as_tensor(a) for a in data(w))
            functional = torch.nn.functional
            criterion = functional.mse_loss if w.regression else functional.cross_entropy
            y = y.double() if w.regression else y
            loss = lambda: criterion(net(x.double()), y)  # noqa: E731
            optimizer = torch.optim.Adam(parameters, LR)
        losses = []
        for t in range(5):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            losses.append(value.item())
            if t == 0:
                grads = [p.grad.numpy().copy() for p in parameters]
                after = [p.detach().numpy().copy() for p in parameters]
        _oracle[name] = losses, grads, after
    return _oracle[name]


@pytest.mark.parametrize(("name", "key"), [p for p in PAIRS if CONTENDERS[p[1]].same_task])
def test_contenders_take_the_same_step(name, key):
    step = build(name, key)
    losses, grads, after = oracle(name)
    before = step.parameters()
    for mine, drawn in zip(before, initial(SMALL[name]), strict=True):
        assert np.array_equal(mine.astype(np.float32), drawn)
    assert number(step.take()) == pytest.approx(losses[0], rel=2e-5)
    for i, (mine, theirs, g) in enumerate(zip(step.parameters(), after, grads, strict=True)):
        # Where the derivative is rounding noise, so is its sign, which is all of Adam's first step.
        clear = np.abs(g) > max(1e-3 * np.abs(g).max(), 1e-7)
        error = np.abs(mine - theirs)
        assert error[clear].max(initial=0) < 0.02 * LR, i
        assert error.max() < 2.01 * LR, i
    for later in losses[1:]:
        assert number(step.take()) == pytest.approx(later, rel=1e-4)


@pytest.mark.parametrize("key", ["products-numpy", "products-torch"])
def test_bare_products_run(key):
    for name in "abcdef":
        assert np.isnan(build(name, key).take())


def test_bare_products_are_those_of_a_step():
    # 2-16-16-1, 32 rows: three layers forward, three weights' and two inputs' derivatives back.
    forward = 32 * 2 * (2 * 16 + 16 * 16 + 16 * 1)
    assert products.operations(WORKLOADS["a"]) == 3 * forward - 32 * 2 * (2 * 16)
    first = 2 * 64 * 8 * 8 * 9 * 16
    rest = 2 * 64 * (4 * 4 * 9 * 16 * 32 + 128 * 10)
    assert products.operations(WORKLOADS["e"]) == 2 * first + 3 * rest


def test_parameters_are_drawn_once_and_for_all():
    assert count(WORKLOADS["a"]) == 2 * 16 + 16 + 16 * 16 + 16 + 16 + 1
    first, second = initial(WORKLOADS["d"]), initial(WORKLOADS["d"])
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
        assert a.dtype == np.float32


def test_a_missing_library_is_named():
    absent = replace(CONTENDERS["jax"], needs=("no_such_library",))
    assert absent.missing() == "no_such_library is not installed"
    absent = replace(CONTENDERS["torch-compile"], needs=(), compiler=("no-such-compiler",))
    assert absent.missing() == "no no-such-compiler to compile with"


# --- the report -----------------------------------------------------------------------------------


def line(ratio, us=100.0):
    return {
        "us": us * ratio, "ratio": ratio, "quartiles": [0.98 * ratio, 1.02 * ratio], "turns": 12,
        "first_s": 0.1, "threads": 1.0,
    }  # fmt: skip


def steps_of(**ratios):
    """A workload on which each contender takes this share of PyTorch eager's time."""
    lines = {key.replace("_", "-"): line(ratio) for key, ratio in ratios.items()}
    return {"contenders": {"torch": line(1.0)} | lines, "left_out": {}, "rounds": 12,
            "processes": 2, "threads": 1}  # fmt: skip


def test_conclusions_follow_the_numbers():
    fast = {
        "a": steps_of(dlmini_numpy=0.1, dlmini_torch=0.2, jax=0.5, torch_fused=0.7),
        "c": steps_of(dlmini_numpy=0.9, dlmini_torch=0.6, jax=0.8, torch_fused=0.75),
    }
    said = " ".join(report.conclusions(fast))
    assert "faster than on PyTorch's eager CPU path in every workload" in said
    assert "0.10 to 0.60 of the time" in said
    assert "faster on all (0.14 to 0.80 of its time)" in said
    assert "faster than JAX jit wherever" in said
    assert "loses" not in said

    mixed = {
        "a": steps_of(dlmini_numpy=0.1, jax=0.05, torch_fused=0.7),
        "b": steps_of(dlmini_numpy=1.01, jax=2.0, torch_fused=0.5),
        "c": steps_of(dlmini_numpy=1.5, jax=2.0, torch_fused=0.75),
    }
    said = " ".join(report.conclusions(mixed))
    assert "in every workload" not in said
    assert "faster on a (0.10 of its time); level on b (1.01 of its time); slower on c" in said
    assert "slower on b and c (2.00 to 2.02 of its time)" in said
    assert "dlmini loses to JAX jit on a (2.00 times as long)" in said
    assert "wherever" not in said


def test_level_means_that_the_middle_halves_overlap():
    lines = {"x": line(1.0), "y": line(1.03), "z": line(1.05)}
    assert report.verdict(lines, "x", "y") == "level"
    assert report.verdict(lines, "x", "z") == "faster"
    assert report.verdict(lines, "z", "x") == "slower"


def test_the_fastest_whole_step_is_bold_and_a_floor_never_is():
    steps = {"a": steps_of(dlmini_numpy=0.3, jax=0.2, products_numpy=0.01)}
    text = report.ratio_table(steps)
    assert "**0.20**" in text
    assert text.count("**") == 2
    assert "0.010" in text


def test_growth_is_described_as_measured():
    def exponents(**slopes):
        return report.growth_words(
            {name: {"slope_upper": {"dlmini-numpy": s}} for name, s in slopes.items()}
        )

    said = exponents(depth=0.99, width=1.2, batch=0.97, parameters=1.4)
    assert "0.99 with depth, 1.20 with width, 0.97 with batch and 1.40 with parameters" in said
    assert "within 0.15 of that for depth and batch" in said
    assert "lower for width" in said
    assert "higher for parameters" in said


def test_a_slope_is_the_exponent_of_a_power_law():
    x = [1, 10, 100]
    assert scaling.slope(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)


def test_results_of_two_machines_are_not_mixed(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.save({"steps": {"a": {"value": 1.23456}}}, path)
    results.save({"steps": {"b": {"value": 2}}, "scaling": {"quick": True}}, path)
    kept = results.load(path)
    assert kept["steps"] == {"a": {"value": 1.235}, "b": {"value": 2}}
    assert kept["scaling"] == {"quick": True}
    monkeypatch.setattr(results, "cpu", lambda: "another processor")
    results.save({"steps": {"c": {"value": 3}}}, path)
    other = results.load(path)
    assert other["steps"] == {"c": {"value": 3}}
    assert "scaling" not in other


def test_a_gpu_may_be_in_another_machine(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.save({"steps": {"a": {"value": 1}}}, path)
    monkeypatch.setattr(results, "cpu", lambda: "the processor beside the GPU")
    gpu = steps_of(dlmini_torch=0.8) | {"gpu": "a card"}
    results.save({"cuda": {"c": gpu}}, path)
    results.save({"cuda": {"e": gpu}}, path)
    monkeypatch.undo()
    results.save({"steps": {"b": {"value": 2}}}, path)
    kept = results.load(path)
    assert kept["steps"] == {"a": {"value": 1}, "b": {"value": 2}}
    assert set(kept["cuda"]["steps"]) == {"c", "e"}
    kept["cuda"]["versions"]["torch"] = "2"
    said = report.cuda_words(kept)
    assert "(a card, torch 2)" in said
    assert "| dlmini, torch arrays | **0.80** | **0.80** |" in said
    assert "not been measured" in report.cuda_words({})


def test_a_report_says_when_its_numbers_are_not_fit_to_be_quoted():
    steps = {name: steps_of(dlmini_numpy=0.5) for name in WORKLOADS}
    assert report.trial({"steps": steps, "scaling": {"quick": False}}) == ""
    assert "too few turns" in report.trial({"steps": steps, "scaling": {"quick": True}})
    steps["b"]["contenders"]["torch"]["threads"] = 0.6
    steps["c"]["rounds"] = 3
    del steps["a"]
    said = report.trial({"steps": steps, "scaling": {"quick": False}})
    for problem in ("too few turns", "not all workloads", "a machine with other work to do"):
        assert problem in said


def test_the_published_texts_are_what_the_report_writes():
    measured = results.load()
    if "steps" not in measured or "scaling" not in measured:
        pytest.skip("nothing was measured yet")
    assert report.README.read_text(encoding="utf-8") == report.readme(measured)
    assert report.PAGE.read_text(encoding="utf-8") == report.page(measured)
    for name in ("steps", "growth", "memory"):
        picture = report.STATIC / f"benchmark-{name}.svg"
        assert 5_000 < picture.stat().st_size <= 150_000, picture
