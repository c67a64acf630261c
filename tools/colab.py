"""Copies of the notebooks for Colab: each starts with a cell that installs this commit's dlmini.

    GITHUB_REPOSITORY=owner/name GITHUB_SHA=... python tools/colab.py TARGET

Colab has NumPy, matplotlib, scikit-learn, tqdm and ipywidgets already: nothing else is installed,
and nothing it has is changed.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def for_colab(notebook: dict, repository: str, commit: str) -> dict:
    """The notebook with an installing cell before all others."""
    source = [
        "# Colab starts empty: this cell installs the book's package (some seconds).\n",
        f'%pip install --quiet "dlmini @ git+https://github.com/{repository}@{commit}"',
    ]
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "colab-install",
        "metadata": {},
        "outputs": [],
        "source": source,
    }
    return notebook | {"cells": [cell, *notebook["cells"]]}


def main(target: Path, repository: str, commit: str) -> None:
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(for_colab(notebook, repository, commit), ensure_ascii=False, indent=1)
        copy.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_SHA"])
