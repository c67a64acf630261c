"""What a reader sees is what was tested: the stored form of the chapters, and how it is kept.

nbval compares outputs with the code; here is all that it does not look at. The rules of a chapter
are in tools/rules.py, and tried on small notebooks in test_rules.py.
"""

import base64
import binascii
import configparser
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nbformat
import pytest

import colab
import notebooks as runner
import rules
from dlmini.book import exercises, predict
from dlmini.book.ledger import owed, records

ROOT = Path(__file__).parent.parent
OWED = owed(ROOT / "chapters")
ALL = {path.stem: path for path in sorted((ROOT / "chapters").glob("*.ipynb"))}
CHAPTERS = [name for name in rules.contents() if name in OWED]

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
    broken = list(rules.every_cell_was_run_in_order(rules.Chapter(read(name).cells, name)))
    assert not broken, "\n".join([name, *broken])


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


# --- chapters ------------------------------------------------------------------------------------


def test_every_notebook_is_in_the_contents_and_owes_its_claims():
    listed = set(re.findall(r"file: chapters/(\w+)$", (ROOT / "_toc.yml").read_text(), re.M))
    assert set(ALL) <= listed, "a notebook that _toc.yml does not list is read by no one"
    for name in rules.contents():
        rules.chapter(name)  # or an error that says what to do
    assert set(rules.contents()) <= set(ALL), "_toc.yml lists a chapter that is not there"


@every_chapter
def test_a_chapter_keeps_the_rules(name):
    broken = rules.breaches(rules.chapter(name))
    assert not broken, "\n".join([f"{name}: {len(broken)} breaches", *broken])


def test_claims_are_owed_once():
    ids = [id for chapter in OWED.values() for id in chapter["claims"]]
    assert len(ids) == len(set(ids))
    assert set(OWED) <= set(exercises.CHAPTERS.values())


def test_the_map_of_the_landing_page_shows_every_chapter():
    intro = (ROOT / "intro.md").read_text(encoding="utf-8")
    for name, chapter in OWED.items():
        title = chapter["title"]
        if name in CHAPTERS:
            assert f"[{title}](chapters/{name}.ipynb)" in intro
            assert f'href="chapters/{name}.html"' in intro
        else:
            assert f"*{title}*, to come" in intro
        assert f" {title}</text>" in intro


def test_missing_chapters_are_reported(record_property):
    missing = {c: list(OWED[c]["claims"]) for c in OWED if c not in CHAPTERS}
    record_property("claims still owed", json.dumps(missing))
    if missing:
        pytest.skip(f"{sum(map(len, missing.values()))} claims await: {', '.join(missing)}")


# --- exercises -----------------------------------------------------------------------------------


@every_chapter
def test_untouched_stubs_say_so(name):
    texts = [o["data"]["text/plain"] for _, o in outputs(name) if "dl-check" in str(o.get("data"))]
    stubs = [check for each in rules.exercises_of(rules.chapter(name)) for check in each.checks]
    assert len(texts) == len(stubs)
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


def setup(name):
    """The code down to the cell that chooses the backend."""
    sources = [cell.source for cell in code_cells(name)]
    last = next(i for i, source in enumerate(sources) if "dl.use(" in source)
    return "\n".join(sources[: last + 1])


@every_chapter
@pytest.mark.slow
def test_every_solution_passes_its_check(name):
    tasks = []
    for heading, details, checks in rules.exercises_of(rules.chapter(name)):
        for id, stub, answer in checks:
            solution = re.search(r"```python\n(.*?)```", details[-1][1], re.S)
            assert solution, f"{heading}: a solution without a python block"
            tasks.append((id, stub, solution[1], answer))
    assert tasks
    run = subprocess.run(
        [sys.executable, "-c", SOLVE],
        input=json.dumps([setup(name), tasks]),
        capture_output=True,
        text=True,
        cwd=ROOT / "chapters",
        env={**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"},
    )
    assert run.returncode == 0, run.stderr
    verdicts = [json.loads(s) for s in run.stdout.splitlines() if s.startswith('["verdict"')]
    assert [id for _, id, _, _ in verdicts] == [id for id, _, _, _ in tasks]
    for _, id, status, message in verdicts:
        assert status == "correct", f"{id}: {message}"


# --- what nbval lets differ ----------------------------------------------------------------------


def compared(measured, monkeypatch):
    """A prediction, its answer and the score, text and HTML, as nbval compares them."""
    config = configparser.RawConfigParser()
    config.read(ROOT / "tests/nbval.cfg", encoding="utf-8")
    shown = []
    monkeypatch.setattr(
        predict, "show_line", lambda text, html, record=None: shown.extend((text, html))
    )
    monkeypatch.setattr(predict, "_questions", {})
    predict.predict("gd-best", "How steep?", {"half": 0.5, "a tenth": 0.1})
    predict.reveal("gd-best", measured, "Slopes are nearly normal.")
    predict.score()
    text = "\n".join(shown)
    for section in config.sections():
        text = re.sub(config[section]["regex"], config[section]["replace"], text)
    return text


def test_nbval_lets_the_measurement_of_a_prediction_differ_and_not_its_answer(monkeypatch):
    one = compared(0.1234, monkeypatch)
    assert "0.123" not in one
    assert one == compared(0.1187, monkeypatch)
    assert one != compared(0.4187, monkeypatch)


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
    assert cell.metadata == {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    assert [o.get("text") for o in cell.outputs] == ["a\nb\n", None]
    assert cell.outputs[1].data["text/plain"] == "chapters"
    assert base64.b64decode(cell.outputs[1].data["image/png"]) == png_with_comment()[1]
    assert set(cell.outputs[1].data) == {"text/plain", "image/png"}
    assert notebook.metadata.dlmini == {"x": 1}
    assert "3.99" not in nbformat.writes(notebook)
    once = nbformat.writes(notebook)
    runner.normalise(notebook)
    assert nbformat.writes(notebook) == once


@pytest.mark.parametrize("tag", ["hide-input", "hide-cell", "remove-input"])
def test_code_that_the_site_does_not_show_is_folded_in_jupyterlab(tag):
    notebook = messy()
    notebook.cells[1].metadata["tags"] = [tag]
    runner.normalise(notebook)
    assert notebook.cells[1].metadata.jupyter.source_hidden


def test_a_cell_that_is_folded_no_more_is_shown_in_jupyterlab_too():
    notebook = messy()
    runner.normalise(notebook)
    cell = notebook.cells[1]
    cell.metadata["tags"] = []
    runner.normalise(notebook)
    assert cell.metadata == {"tags": []}


def test_facts_change_only_when_the_measurement_leaves_their_step():
    steps = runner.SECONDS
    assert runner.bucket(14, steps, None) == 20
    assert runner.bucket(17, steps, None) == 30
    for measured in (14, 18.9, 5):
        assert runner.bucket(measured, steps, 20) == 20
    assert runner.bucket(19.5, steps, 20) == 30
    assert runner.bucket(2, steps, 20) == 10
    assert runner.bucket(22, steps, 90) == 30


def test_a_busy_machine_and_an_idle_one_store_the_same_facts():
    stored = None
    for measured in (40, 25, 16, 50, 22):
        stored = runner.bucket(measured, runner.SECONDS, stored)
        assert stored == 60


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
claim("gd-x", "seed is small", int(os.environ.get("DLMINI_SEED", "0")), below=3, kind="identity")
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


# --- the copies for Colab ------------------------------------------------------------------------


def in_colab(*cells, name="small"):
    notebook = json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=list(cells))))
    copy = colab.for_colab(notebook, name, "owner/book", "abc123")
    return nbformat.reads(json.dumps(copy), as_version=4).cells


def test_a_copy_for_colab_installs_dlmini_first():
    install, title = in_colab(nbformat.v4.new_markdown_cell("# T", id="t"))
    assert install.source.endswith('"dlmini @ git+https://github.com/owner/book@abc123"')
    assert title.source == "# T"


def test_links_of_a_copy_for_colab_lead_to_the_site():
    source = (
        "[(1.1)](#eq-1-1), [loss](glossary.md#loss), [next](other.ipynb)\nand "
        "[web](https://example.org/#x) `[i](j)`\n\n```python\na[0](b)\n```"
    )
    site = "https://owner.github.io/book/chapters"
    assert in_colab(nbformat.v4.new_markdown_cell(source))[1].source == (
        f"[(1.1)]({site}/small.html#eq-1-1), [loss]({site}/glossary.html#loss), "
        f"[next]({site}/other.html)\nand "
        "[web](https://example.org/#x) `[i](j)`\n\n```python\na[0](b)\n```"
    )


def test_a_copy_for_colab_gives_no_answer_away_and_folds_what_the_site_folds():
    shown = nbformat.v4.new_code_cell(
        "x", id="lesson", execution_count=1, outputs=messy().cells[1].outputs
    )
    drawn, other, asked = (
        nbformat.v4.new_code_cell("y", id=id, metadata={"tags": [tag]})
        for id, tag in {
            "fig-sweep": "hide-input", "long-run": "hide-cell", "predict-end": "remove-input"
        }.items()
    )  # fmt: skip
    caption = nbformat.v4.new_markdown_cell("**Figure 1.2.** What is seen.")
    _, lesson, figure, _, run, question = in_colab(shown, drawn, caption, other, asked)
    assert (lesson.source, lesson.outputs, lesson.execution_count) == ("x", [], None)
    assert figure.source == "#@title Figure 1.2\ny"
    assert figure.metadata.cellView == "form"
    assert run.source == "#@title Long run\ny"
    assert question.source == "#@title Predict end\ny"


def test_the_ledger_for_colab_keeps_the_table_that_it_cannot_gather_there():
    cell = messy().cells[1]
    cell.outputs[-1].data["text/html"] = (
        '<a href="small.ipynb#claim-x">x</a> <a href="#end">end</a>'
    )
    table = in_colab(cell, name="ledger")[1].outputs[-1].data["text/html"]
    site = "https://owner.github.io/book/chapters"
    assert table == (
        f'<a href="{site}/small.html#claim-x">x</a> <a href="{site}/ledger.html#end">end</a>'
    )


def test_copies_of_all_notebooks_are_made(tmp_path):
    colab.main(tmp_path, "owner/book", "abc123")
    for name in ALL:
        copy = nbformat.read(tmp_path / f"chapters/{name}.ipynb", as_version=4)
        nbformat.validate(copy)
        for cell in copy.cells:
            relative = re.findall(r"\]\((?!https?:)[^)\s]+\)", re.sub(r"`[^`]*`", "", cell.source))
            assert cell.cell_type == "code" or not relative, f"{cell.id}: {relative}"
