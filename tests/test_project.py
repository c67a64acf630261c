"""The house holds together: one set of dependencies, pinned actions, imports that run downwards."""

import ast
import re
import shutil
import socket
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# A file may import only from files of its wing listed before it; the book's wing, from all of the
# engine as well. testing.py stands at the side.
ENGINE = """
    backend tensor counting meanfield ops functional flat nn optim regularize curvature descent
    saving train distributed data
""".split()
BOOK = "report ledger claims predict sliders play plot exercises".split()
TESTING_MAY_IMPORT = {"backend", "tensor", "ops"}


def requirements(*extras: str) -> dict[str, Requirement]:
    """The core dependencies and those of the extras, by name; references to extras are followed."""
    lines = list(PROJECT["dependencies"])
    todo = list(extras)
    while todo:
        for line in EXTRAS[todo.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                todo += requirement.extras
            else:
                lines.append(line)
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), f"{pin} is not an exact version"
    return {canonicalize_name(pin.name): Version(str(pin.specifier)[2:]) for pin in pins}


def tracked_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_conda_users_get_the_same_set_as_pip_users():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = {
        canonicalize_name(r.name).replace("pytorch", "torch"): r.specifier
        for r in (
            Requirement(line) for line in environment["dependencies"] if isinstance(line, str)
        )
    }
    assert conda.pop("python") == Requirement("python" + PROJECT["requires-python"]).specifier
    assert "pip" in conda
    del conda["pip"]
    assert conda == {name: r.specifier for name, r in requirements("lab", "torch").items()}
    assert environment["dependencies"][-1] == {"pip": ["--editable ."]}


def test_core_dependencies_are_numpy_and_matplotlib_only():
    assert set(requirements()) == {"numpy", "matplotlib"}


def test_the_site_needs_neither_torch_nor_scikit_learn():
    names = {canonicalize_name(Requirement(line).name) for line in EXTRAS["book"]}
    assert not names & {"torch", "scikit-learn", "jupyterlab"}


def test_exact_versions_lie_within_the_ranges():
    pins = constraints()
    for name, requirement in requirements(*EXTRAS).items():
        assert name in pins, f"constraints.txt has no exact version of {name}"
        assert pins[name] in requirement.specifier, f"{name} {pins[name]} is not in {requirement}"


def test_exact_versions_cover_everything_that_comes_along():
    pins = constraints()
    direct = requirements(*(extra for extra in EXTRAS if extra != "torch"))
    todo, seen = list(direct.values()), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, tuple(requirement.extras)) in seen:
            continue
        seen.add((name, tuple(requirement.extras)))
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in direct and Version(installed.version) != pins[name]:
            pytest.skip(
                f"this environment has {name} {installed.version}, not the pinned {pins[name]}"
            )
        for line in installed.requires or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                todo.append(needed)
    missing = {name for name, _ in seen} - pins.keys()
    assert not missing, f"constraints.txt has no exact version of {sorted(missing)}"


@pytest.mark.parametrize(
    "target", ["book", "serve", "test", "notebooks", "seeds", "bench", "clean"]
)
def test_makefile_has(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", makefile, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make on this machine")
def test_a_taken_port_is_told_in_one_line_with_another_to_try():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = ["make", "--no-print-directory", "port", f"PORT={port}"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr.splitlines()[0] == f"Port {port} is taken: make serve PORT={port + 1}"
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make on this machine")
@pytest.mark.parametrize("target", ["book", "site"])
def test_no_page_of_a_removed_chapter_stays(target):
    command = ["make", "--dry-run", target]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"rm -rf _build/html && \S*jupyter-book build", plan)


def test_the_types_that_are_promised_come_along():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = packed["tool"]["setuptools"]["package-data"]["dlmini"]
    assert "py.typed" in patterns
    for pattern in patterns:
        assert list((ROOT / "dlmini").glob(pattern)), f"pyproject.toml promises dlmini/{pattern}"


def test_no_file_mentions_a_machine_or_a_package_index():
    hosts = [
        "pypi" + ".org",
        "python" + "hosted.org",
        "download." + "pytorch.org",
        "anaconda" + ".org",
        "npmjs" + ".org",
    ]
    paths = ["/" + folder + "/" for folder in ("home", "Users", "root", "work")]
    forbidden = re.compile(
        "|".join([*map(re.escape, hosts), *(rf"(?<![\w.}}])/?{p}\w" for p in paths)])
    )
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in forbidden.finditer(text)]
    assert not found, "\n".join(found)


def test_actions_are_pinned_by_commit_with_the_version_beside():
    workflows = list((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line:
                assert re.search(r"uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), (
                    f"{path.name}: {line}"
                )


def test_workflows_cover_the_python_versions_that_are_promised():
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    tested = ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    promised = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tested == promised


def imports_of(path: Path) -> set[str]:
    """The files of dlmini that a file imports from: "nn", "book.report"."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    inside = [names[1:] for names in found if names[0] == "dlmini" and len(names) > 1]
    return {".".join(n[: 2 if n[0] == "book" else 1]) for n in inside}


def test_imports_run_downwards():
    files = {path.stem for path in (ROOT / "dlmini").glob("*.py")} - {"__init__"}
    assert files == {*ENGINE, "testing"}, "a new file needs its place in ENGINE"
    wing = [path for path in (ROOT / "dlmini/book").iterdir() if path.stem[0] != "_"]
    assert {path.stem for path in wing} <= set(BOOK), "a new file needs its place in BOOK"
    known, wrong = files | {f"book.{name}" for name in BOOK} | {"book"}, []
    for path in sorted((ROOT / "dlmini").rglob("*.py")):
        parts = path.relative_to(ROOT / "dlmini").with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) < 3:
            continue
        if parts[0] == "book":
            name = parts[1]
            allowed = {*ENGINE, *(f"book.{b}" for b in BOOK[: BOOK.index(name)])}
            allowed |= {f"book.{name}"} if len(parts) > 2 else set()
        else:
            name = parts[0]
            allowed = TESTING_MAY_IMPORT if name == "testing" else {*ENGINE[: ENGINE.index(name)]}
        wrong += [f"{name} imports {other}" for other in sorted(imports_of(path) & known - allowed)]
    assert not wrong, "\n".join(wrong)
