"""What the site needs beyond configuration: places that plain links reach, nothing from outside.

The notebooks cite with plain Markdown links, which read well in JupyterLab and in Colab too. Here
the places that these links name come true on the site:

    $$ ... \\tag{1.2} $$                          eq-1-2
    **Figure 1.3.** What it shows and finds.      fig-1-3, the caption of the output above it
    a term of the glossary                        its words with hyphens: learning-rate
    an entry of the bibliography                  its key: cauchy1847
    an id in the HTML that a cell shows           that id: claim-gd-threshold

A link to anything else is a warning of the build. What a cell shows may link to a notebook, too.

Everything a page loads is served by the site itself, so that the built folder works without a
network, from any static server, and from the file system (all but the excerpts of the search).
"""

import ast
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.transforms import Transform
from sphinx.util.docutils import SphinxDirective

# The part of MathJax 3 that turns TeX into HTML: fonts, extensions loaded on demand, accessibility.
MATHJAX = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y", "sre", "ui"]
# 1.5 MB in the way of the first paint; the icons come from its web fonts anyway.
HEAVY_SCRIPT = re.compile(r'\s*<script src="[^"]*scripts/fontawesome\.js[^"]*"></script>')

TAG = re.compile(r"\\tag\{([\w.]+)\}")
FIGURE = re.compile(r"Figure (\d+(?:\.\d+)*)\.$")
NOTEBOOK = re.compile(r'(<a href="[^":]+)\.ipynb(?=["#])')
ID = re.compile(r"""<\w[^<>]*\sid=["']([^"'\s]+)["']""")


class dl_figure(nodes.General, nodes.Element):
    """What a cell shows, and below it the caption from the Markdown cell that follows."""


class dl_caption(nodes.General, nodes.Element):
    """The caption of a dl_figure."""


class Places(Transform):
    """Give ids to equations, figures and terms, and tell MyST about them."""

    default_priority = 878  # just before MyST resolves its links

    def apply(self):
        env = self.document.settings.env
        slugs = self.document.myst_slugs = getattr(self.document, "myst_slugs", {})
        env.metadata[env.docname]["myst_slugs"] = slugs
        for name in (*self.equations(), *self.figures(), *self.shown(env), *self.entries(env)):
            slugs.setdefault(name, (0, name, ""))
        for paragraph in self.document.findall(nodes.paragraph):
            if paragraph.astext().startswith("Runs in under "):  # the facts below a title
                paragraph["classes"].append("dl-facts")

    def equations(self):
        for block in self.document.findall(nodes.math_block):
            tags = TAG.findall(block.astext())
            if tags and not block["nowrap"]:  # Sphinx would put the tag into a split environment
                block["nowrap"] = True
                block[:] = [nodes.Text(f"\\[{block.astext()}\\]")]
            for tag in tags:
                yield place(block, f"eq-{tag}")

    def figures(self):
        for paragraph in list(self.document.findall(nodes.paragraph)):
            label = next((node for node in paragraph if node.astext()), None)
            match = isinstance(label, nodes.strong) and FIGURE.match(label.astext())
            if not match:
                continue
            shown = last_output(paragraph)
            if shown is None:
                paragraph["classes"].append("dl-caption")
                yield place(paragraph, f"fig-{match[1]}")
                continue
            outputs = shown.parent
            paragraph.parent.remove(paragraph)
            outputs.remove(shown)
            outputs += dl_figure("", shown, dl_caption("", paragraph))
            yield place(outputs[-1], f"fig-{match[1]}")

    def shown(self, env):
        for raw in self.document.findall(nodes.raw):
            if "html" in raw.get("format", ""):
                raw[:] = [nodes.Text(NOTEBOOK.sub(r"\1.html", raw.astext()))]
                if '<span class="math' in raw.astext():  # or Sphinx takes the page to have none
                    env.get_domain("math").data["has_equations"][env.docname] = True
                yield from ID.findall(raw.astext())

    def entries(self, env):
        if env.docname.endswith("glossary"):
            for term in self.document.findall(nodes.term):
                term.parent.parent["classes"].append("glossary")
                name = place(term, term.astext())
                env.get_domain("std").note_object("term", term.astext(), name, location=term)
                yield name
        if env.docname.endswith("bibliography"):
            yield from env.get_domain("cite").bibdata.data.entries


def place(node, name):
    """Give a node an id made of these words."""
    node["ids"].append(nodes.make_id(name.replace(".", "-")))
    return node["ids"][-1]


def last_output(paragraph):
    """What the code cell just before this paragraph shows last, or None."""
    at = paragraph.parent.index(paragraph)
    cell = paragraph.parent[at - 1] if at else None
    outputs = cell[-1] if isinstance(cell, nodes.container) and cell.children else None
    if getattr(outputs, "attributes", {}).get("nb_element") != "cell_code_output":
        return None
    return outputs[-1] if outputs.children else None


def open_figure(self, node):
    self.body.append(self.starttag(node, "figure"))


def close_figure(self, node):
    self.body.append("</figure>\n")


def open_caption(self, node):
    self.body.append(self.starttag(node, "figcaption"))


def close_caption(self, node):
    self.body.append("</figcaption>\n")


class PlayFigure(SphinxDirective):
    """```{play} valley: `dl.plot.play` on a page that is no notebook; options are its arguments."""

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(
        ("name", "alt", "lr", "momentum", "kappa", "curvature", "start", "steps"), str
    )

    def run(self):
        from dlmini.book.play import play

        words = {"name", "alt"}
        given = {k: v if k in words else ast.literal_eval(v) for k, v in self.options.items()}
        return [nodes.raw("", play(self.arguments[0], **given).html, format="html")]


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
    app.add_node(dl_figure, html=(open_figure, close_figure))
    app.add_node(dl_caption, html=(open_caption, close_caption))
    app.add_transform(Places)
    app.add_directive("play", PlayFigure)
    app.connect("config-inited", repository_links, priority=100)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
