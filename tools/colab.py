"""Copies of the notebooks for Colab, where a notebook stands alone and starts empty.

    GITHUB_REPOSITORY=owner/name GITHUB_SHA=... python tools/colab.py TARGET

Each copy begins with a cell that installs this commit's dlmini; links lead to the published site;
code that the site folds or leaves out is a form; and a chapter has no outputs, for they answer its
predictions. The ledger keeps its table: it is gathered from the outputs of all chapters, which are
not there.

Colab has NumPy, matplotlib, scikit-learn, tqdm and ipywidgets already: nothing else is installed,
and nothing it has is changed.
"""

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import urljoin

ROOT = Path(__file__).resolve().parent.parent

LINK = re.compile(r"(\]\()([^()\s]+)(\))")
HREF = re.compile(r'(<a href=")([^"]+)(")')
FENCED = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.M | re.S)
FIGURE = re.compile(r"\*\*(Figure [\d.]+\d)\.\*\*")


def for_colab(notebook: dict, name: str, repository: str, commit: str) -> dict:
    """The notebook as it can be read and run without the files around it.

    Args:
        notebook: as JSON.
        name: of its file, such as "gradient_descent".
        repository: owner/name on GitHub.
        commit: whose dlmini is installed.
    """
    owner, _, project = repository.partition("/")
    page = f"https://{owner}.github.io/{project}/chapters/{name}.html"
    source = [
        "# Colab starts empty: this cell installs the book's package (some seconds).\n",
        f'%pip install --quiet "dlmini @ git+https://github.com/{repository}@{commit}"',
    ]
    cells = [code_cell("colab-install", source)]
    following = [*notebook["cells"][1:], {"source": []}]
    for cell, after in zip(notebook["cells"], following, strict=True):
        if cell["cell_type"] == "markdown":
            text = outward("".join(cell["source"]), page)
            cells.append(cell | {"source": text.splitlines(keepends=True)})
        elif name == "ledger":
            cells.append(cell | {"outputs": [linked(o, page) for o in cell["outputs"]]})
        else:
            cells.append(folded(cell, "".join(after["source"])))
    return notebook | {"cells": cells}


def code_cell(id: str, source: list[str]) -> dict:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": id,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


def folded(cell: dict, after: str) -> dict:
    """Without its outputs, and as a form where the site folds it.

    Args:
        cell: of code.
        after: the source of the next one, whose caption names the form.
    """
    source, metadata = cell["source"], cell["metadata"]
    if {"hide-input", "hide-cell", "remove-input"} & set(metadata.get("tags", [])):
        caption = FIGURE.match(after)
        title = caption[1] if caption else cell["id"].replace("-", " ").capitalize()
        source = [f"#@title {title}\n", *source]
        metadata = metadata | {"cellView": "form"}
    return cell | code_cell(cell["id"], source) | {"metadata": metadata}


def outward(markdown: str, page: str) -> str:
    """Every link relative to the notebook becomes one to the page of the site."""
    parts = FENCED.split(markdown)
    parts[::2] = [redirected(LINK, part, page) for part in parts[::2]]
    return "".join(parts)


def linked(output: dict, page: str) -> dict:
    """The same for the HTML that a cell shows."""
    data = output.get("data", {})
    if "text/html" not in data:
        return output
    html = redirected(HREF, "".join(data["text/html"]), page)
    return output | {"data": data | {"text/html": html.splitlines(keepends=True)}}


def redirected(link: re.Pattern, text: str, page: str) -> str:
    return link.sub(lambda m: m[1] + absolute(m[2], page) + m[3], text)


def absolute(target: str, page: str) -> str:
    file, hash, place = target.partition("#")
    return urljoin(page, re.sub(r"\.(md|ipynb)$", ".html", file) + hash + place)


def main(target: Path, repository: str, commit: str) -> None:
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        notebook = for_colab(notebook, path.stem, repository, commit)
        text = json.dumps(notebook, ensure_ascii=False, indent=1)
        copy.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_SHA"])
