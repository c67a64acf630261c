"""What the site needs beyond configuration: it loads nothing from outside, knows its repository.

Everything a page loads is served by the site itself, so that the built folder works without a
network, from any static server, and from the file system (all but the excerpts of the search).
"""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

# The part of MathJax 3 that turns TeX into HTML: fonts, extensions loaded on demand, accessibility.
MATHJAX = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y", "sre", "ui"]
# 1.5 MB in the way of the first paint; the icons come from its web fonts anyway.
HEAVY_SCRIPT = re.compile(r'\s*<script src="[^"]*scripts/fontawesome\.js[^"]*"></script>')


def repository_links(app, config):
    """Where the repository is known, as it is in CI, link to it; elsewhere show no such button."""
    repository = os.environ.get("GITHUB_REPOSITORY")
    if not repository:
        return
    owner, name = repository.split("/")
    config.html_baseurl = config.ogp_site_url = f"https://{owner}.github.io/{name}/"
    config.html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": "colab",
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def forget_thebe(app):
    """Jupyter Book always loads thebe, which fetches itself from a CDN; nothing here uses it."""
    for listeners in app.events.listeners.values():
        listeners[:] = [x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [x for x in app.registry.css_files if "thebe" not in x[0]]


def copy_mathjax(app):
    source = Path(
        find_spec("sphinx-mathjax-offline").submodule_search_locations[0], "static/mathjax"
    )
    target = Path(app.outdir, "_static", "mathjax")
    for part in MATHJAX:
        if (target / part).exists():
            continue
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part, target / part)


def finish(app, exception):
    if exception or app.builder.format != "html":
        return
    copy_mathjax(app)
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        lighter = HEAVY_SCRIPT.sub("", text)
        if lighter != text:
            page.write_text(lighter, encoding="utf-8")
    Path(app.outdir, "_static/scripts/fontawesome.js").unlink(missing_ok=True)
    Path(app.outdir, ".nojekyll").touch()


def setup(app):
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    forget_thebe(app)
    app.connect("config-inited", repository_links, priority=100)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
