"""What a reader sees is what was tested: the stored form of the chapters, and how it is kept.

nbval compares outputs with the code; here is all that it does not look at.
"""

import ast
import base64
import binascii
import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import nbformat
import pytest

from dlmini.book import exercises
from dlmini.book.ledger import records

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as runner  # noqa: E402

OWED = tomllib.loads((ROOT / "chapters/claims.toml").read_text(encoding="utf-8"))
ALL = {path.stem: path for path in sorted((ROOT / "chapters").glob("*.ipynb"))}
CHAPTERS = {name: ALL[name] for name in OWED if name in ALL}
DETAILS = re.compile(
    r"<details>\s*<summary>(Hint|Solution)[^<]*</summary>\n\n(.*?)</details>", re.S
)

every_notebook = pytest.mark.parametrize("name", ALL)
every_chapter = pytest.mark.parametrize("name", CHAPTERS)


def read(name):
    return nbformat.read(ALL[name], as_version=4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def outputs(name):
    return [(cell, output) for cell in code_cells(name) for output in cell.outputs]


# --- stored form ---------------------------------------------------------------------------------


@every_notebook
def test_every_cell_was_run_in_order(name):
    counts = [cell.execution_count for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"


@every_notebook
def test_no_output_is_an_error_or_a_warning(name):
    for cell, output in outputs(name):
        assert output.output_type != "error", cell.id
        assert output.get("name") != "stderr", f"{cell.id}: {output.get('text')}"


@every_notebook
def test_nothing_of_the_machine_or_the_clock_is_stored(name):
    text = ALL[name].read_text(encoding="utf-8")
    for path in (str(ROOT), str(Path.home()) + os.sep, "/tmp/", "ipykernel_", "site-packages"):
        assert path not in text, path
    assert not re.search(r"0x[0-9a-f]{8,}", text), "an address of an object"
    notebook = read(name)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "dlmini"}
    assert "version" not in notebook.metadata.language_info
    for cell in notebook.cells:
        assert "execution" not in cell.metadata, cell.id
    for cell, output in outputs(name):
        assert not any("widget" in kind for kind in output.get("data", {})), cell.id


@every_notebook
def test_notebooks_are_stored_as_the_runner_stores_them(name):
    notebook = read(name)
    runner.normalise(notebook)
    assert nbformat.writes(notebook).rstrip("\n") + "\n" == ALL[name].read_text(encoding="utf-8")


@every_notebook
def test_cells_are_short(name):
    for cell in code_cells(name):
        lines = [line for line in cell.source.split("\n") if line.strip()]
        assert len(lines) <= 15, f"{cell.id}: {len(lines)} lines"
        assert max(map(len, lines)) <= 80, f"{cell.id}: {max(lines, key=len)}"


@every_notebook
def test_cells_have_names_of_their_own(name):
    ids = [cell.id for cell in read(name).cells]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_every_figure_has_caption_name_and_alternative_text(name):
    names = []
    for cell, output in outputs(name):
        data = output.get("data", {})
        picture = "image/png" in data or "image/svg+xml" in data
        if not picture and "dl-explore" not in data.get("text/html", ""):
            continue
        kept = cell.metadata.get("mystnb", {})
        assert len(kept.get("figure", {}).get("caption", "")) > 20, f"{cell.id} has no caption"
        assert kept["figure"].get("name"), f"{cell.id} has no name"
        if picture:
            assert len(kept.get("image", {}).get("alt", "")) > 20, f"{cell.id} has no alt text"
        names.append(kept["figure"]["name"])
    assert len(set(names)) == len(names)


@every_notebook
def test_pictures_are_small(name):
    for cell, output in outputs(name):
        picture = output.get("data", {}).get("image/png")
        if picture:
            assert len(base64.b64decode(picture)) <= 150_000, cell.id


@every_chapter
def test_the_facts_line_says_what_was_measured(name):
    notebook = read(name)
    facts = notebook.metadata.get("dlmini")
    assert facts, "run `make notebooks`"
    lines = [m[0] for c in notebook.cells for m in runner.FACTS.finditer(c.source)]
    assert [line.strip("*") for line in lines] == [runner.facts_line(facts)]
    assert runner.FACTS.search(notebook.cells[0].source)
    assert facts["runtime_s"] <= 60


# --- claims --------------------------------------------------------------------------------------


@every_chapter
def test_every_claim_of_the_chapter_is_measured_once_and_holds(name):
    found = records(ALL[name])
    assert all(record["holds"] for record in found)
    ids = [record["id"] for record in found]
    assert len(ids) == len(set(ids)), "the same claim twice: their anchors would collide"
    assert set(ids) == set(OWED[name]["claims"]), "chapters/claims.toml and the chapter differ"


def test_claims_are_owed_once():
    ids = [id for chapter in OWED.values() for id in chapter["claims"]]
    assert len(ids) == len(set(ids))
    assert set(OWED) <= set(exercises.CHAPTERS.values())


def test_missing_chapters_are_reported(record_property):
    missing = {c: list(OWED[c]["claims"]) for c in OWED if c not in CHAPTERS}
    record_property("claims still owed", json.dumps(missing))
    if missing:
        pytest.skip(f"{sum(map(len, missing.values()))} claims await: {', '.join(missing)}")


# --- exercises -----------------------------------------------------------------------------------


def stubs(name):
    """The cells that end in dl.check: (id, code before the check, expression that is checked)."""
    found = []
    for cell in code_cells(name):
        match = re.search(r"^dl\.check\(.*\)\s*\Z", cell.source, re.M | re.S)
        if match:
            call = ast.parse(match[0]).body[0].value
            id, answer = call.args
            found.append((id.value, cell.source[: match.start()], ast.unparse(answer)))
    return found


def details(name):
    text = "\n\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    return DETAILS.findall(text)


def prefix(name):
    return next(p for p, module in exercises.CHAPTERS.items() if module == name)


@every_chapter
def test_five_exercises_or_more_and_each_has_a_checker_a_hint_and_a_solution(name):
    ids = [id for id, _, _ in stubs(name)]
    assert len(ids) >= 5
    assert ids == exercises.ids(prefix(name))
    kinds = "".join(kind[0] for kind, _ in details(name))
    assert re.fullmatch(f"(H+S){{{len(ids)}}}", kinds), "hint, hint …, solution for each exercise"


@every_chapter
def test_untouched_stubs_say_so(name):
    texts = [o["data"]["text/plain"] for _, o in outputs(name) if "dl-check" in str(o.get("data"))]
    assert len(texts) == len(stubs(name))
    assert all(text.startswith("○") and "not attempted yet" in text for text in texts)


SOLVE = """
import json, sys
setup, tasks = json.load(sys.stdin)
import matplotlib
matplotlib.use("Agg")
from dlmini.book.exercises import grade
for id, stub, solution, answer in tasks:
    space = {}
    for code in (setup, stub, solution):
        exec(compile(code, f"<{id}>", "exec"), space)
    result = grade(id, eval(answer, space))
    print(json.dumps(["verdict", id, result.status, result.message]))
"""


@every_chapter
@pytest.mark.slow
def test_every_solution_passes_its_check(name):
    solutions = [text for kind, text in details(name) if kind == "Solution"]
    codes = [re.search(r"```python\n(.*?)```", text, re.S) for text in solutions]
    assert all(codes), "a solution without a python block"
    tasks = [
        (id, stub, code[1], answer)
        for (id, stub, answer), code in zip(stubs(name), codes, strict=True)
    ]
    run = subprocess.run(
        [sys.executable, "-c", SOLVE],
        input=json.dumps([code_cells(name)[0].source, tasks]),
        capture_output=True,
        text=True,
        cwd=ROOT / "chapters",
        env={**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"},
    )
    assert run.returncode == 0, run.stderr
    verdicts = [json.loads(s) for s in run.stdout.splitlines() if s.startswith('["verdict"')]
    assert [id for _, id, _, _ in verdicts] == [id for id, _, _ in stubs(name)]
    for _, id, status, message in verdicts:
        assert status == "correct", f"{id}: {message}"


# --- the runner ----------------------------------------------------------------------------------


def png_with_comment():
    """A picture that names its maker, and the same picture without the name."""

    def chunk(kind, data):
        length, check = len(data), zlib.crc32(kind + data)
        return struct.pack(">I", length) + kind + data + struct.pack(">I", check)

    head = b"\x89PNG\r\n\x1a\n"
    head += chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return head + chunk(b"tEXt", b"Software\0me") + rest, head + rest


def messy():
    """A notebook as a front end leaves it."""
    commented, _ = png_with_comment()
    data = {
        "text/plain": f"{ROOT}{os.sep}chapters",
        "image/png": binascii.b2a_base64(commented).decode(),
        "application/vnd.jupyter.widget-view+json": {"model_id": "123"},
    }
    streams = [nbformat.v4.new_output("stream", name="stdout", text=t) for t in ("a\n", "b\n")]
    cell = nbformat.v4.new_code_cell(
        "print('a')", id="a", execution_count=1,
        metadata={"execution": {"iopub.status.idle": "2026"}, "tags": ["hide-input"]},
        outputs=[*streams, nbformat.v4.new_output("display_data", data)],
    )  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T", id="t"), cell])
    notebook.metadata = nbformat.from_dict(
        {"widgets": {}, "language_info": {"name": "python", "version": "3.99"}, "dlmini": {"x": 1}}
    )
    return notebook


def test_normalising_keeps_what_the_code_determines_and_nothing_else():
    notebook = messy()
    runner.normalise(notebook)
    cell = notebook.cells[1]
    assert cell.metadata == {"tags": ["hide-input"]}
    assert [o.get("text") for o in cell.outputs] == ["a\nb\n", None]
    assert cell.outputs[1].data["text/plain"] == "chapters"
    assert base64.b64decode(cell.outputs[1].data["image/png"]) == png_with_comment()[1]
    assert set(cell.outputs[1].data) == {"text/plain", "image/png"}
    assert notebook.metadata.dlmini == {"x": 1}
    assert "3.99" not in nbformat.writes(notebook)
    once = nbformat.writes(notebook)
    runner.normalise(notebook)
    assert nbformat.writes(notebook) == once


def test_facts_change_only_when_the_measurement_leaves_their_step():
    steps = runner.SECONDS
    assert runner.bucket(14, steps, None) == 20
    assert runner.bucket(17, steps, None) == 30
    for measured in (14, 18.9, 10):
        assert runner.bucket(measured, steps, 20) == 20
    assert runner.bucket(19.5, steps, 20) == 30
    assert runner.bucket(9, steps, 20) == 20
    assert runner.bucket(2, steps, 20) == 10
    assert runner.bucket(39, steps, 90) == 60


@pytest.mark.parametrize("star", ["", "*"])
def test_the_facts_line_is_replaced_where_it_stands(star):
    notebook = messy()
    notebook.metadata["dlmini"] = {"before": "Backpropagation"}
    old = f"{star}Runs in under 5 s on two CPU cores · old{star}"
    notebook.cells[0].source = f"# T\n\n{old}\n\nmore"
    runner.state_facts(notebook, 14, 250)
    line = (
        "Runs in under 20 s on two CPU cores · under 400 MB · a GPU does not help · "
        "read before: Backpropagation"
    )
    assert notebook.cells[0].source == f"# T\n\n{star}{line}{star}\n\nmore"
    assert notebook.metadata.dlmini.runtime_s == 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A book of one small notebook, which the runner takes for the real one."""
    (tmp_path / "claims.toml").write_text('[small]\ntitle = "Small"\n[small.claims]\n')
    monkeypatch.setattr(runner, "CHAPTERS", tmp_path)

    def write(code):
        cells = [nbformat.v4.new_markdown_cell("# Small", id="t")]
        cells.append(nbformat.v4.new_code_cell(code, id="c"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "small.ipynb")
        return tmp_path / "small.ipynb"

    return write


CLAIM = """
import os
from dlmini import claim
claim("gd-x", "seed is small", int(os.environ.get("DLMINI_SEED", "0")), below=3)
"""


@pytest.mark.slow
def test_running_twice_changes_no_byte(folder, capsys):
    path = folder(CLAIM)
    assert runner.main(["--check", str(path)]) == 1
    assert "would change" in capsys.readouterr().out
    assert runner.main([str(path)]) == 0
    stored = path.read_bytes()
    assert records(path)[0]["holds"] is True
    assert b"Runs in under" in stored
    assert runner.main([str(path)]) == 0
    assert path.read_bytes() == stored
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.slow
def test_claims_are_verified_on_other_seeds_without_writing(folder, capsys):
    path = folder(CLAIM)
    before = path.read_bytes()
    assert runner.main(["--seed", "1", "2", "--", str(path)]) == 0
    assert runner.main(["--seed", "7", "--", str(path)]) == 1
    report = capsys.readouterr().out
    assert "seed 1: 1 of 1 claims hold" in report
    assert "seed 7: 0 of 1 claims hold" in report
    assert "ClaimFailed" in report
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_notebook_that_fails_or_is_edited_meanwhile_is_not_overwritten(folder, capsys):
    path = folder("1 / 0")
    before = path.read_bytes()
    assert runner.main([str(path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before
    path = folder("file = open('small.ipynb', 'a'); file.write(' '); file.close()")
    before = path.read_bytes()
    assert runner.main([str(path)]) == 1
    assert "edited while it ran" in capsys.readouterr().err
    assert path.read_bytes() == before + b" "


def test_a_notebook_that_is_not_there_is_an_error(capsys):
    with pytest.raises(SystemExit):
        runner.main(["chapters/nothing.ipynb"])
    assert "there is no notebook chapters/nothing.ipynb" in capsys.readouterr().err
