"""The reference: directives that write out a module of dlmini, and the table of all of them.

```{reference} optim          every public name of dlmini.optim
```{reference-index} optim    a table of them: name and first sentence
"""

import re
from pathlib import Path

from dlsource import Entry, Module, Package, parse_doc
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.domains.python import (
    PyClasslike,
    PyClassMethod,
    PyFunction,
    PyMethod,
    PyProperty,
    PyVariable,
)
from sphinx.util.docutils import SphinxDirective

CODE = re.compile(r"(`[^`]+`)")


class source(nodes.Element):
    """The code of a name, folded away. As an attribute, so that the search does not read it."""


def show_source(writer, node):
    code = writer.highlighter.highlight_block(node["code"], "python", location=node)
    writer.body.append(
        f'<details class="hide dl-source"><summary>Source<span class="dl-file"> '
        f"{node['file']}</span></summary>{code}</details>"
    )
    raise nodes.SkipNode


# --- words ----------------------------------------------------------------------------------------


class Words:
    """Docstring text as nodes: `code`, and links where the code is a name of the package."""

    def __init__(self, package: Package, module: Module, entry: Entry | None = None):
        self.package, self.module = package, module
        name = entry.name if entry else ""
        self.owner = name.split(".")[0] if "." in name or (entry and entry.members) else ""
        signature = entry.signature if entry else ""
        self.own = set(re.findall(r"\w+", signature)) | {name}

    def inline(self, text: str) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for part in CODE.split(text):
            if part.startswith("`"):
                found.append(self.code(part.strip("`")))
            elif part:
                found.append(nodes.Text(part))
        return found

    def code(self, words: str) -> nodes.Node:
        literal = nodes.literal(words, words)
        target = None if words in self.own else self.reference(words)
        return self.link(target, literal) if target else literal

    def reference(self, words: str) -> str | None:
        return self.package.resolve(words, self.module, self.owner)

    @staticmethod
    def link(target: str, content: nodes.Node) -> nodes.Node:
        return addnodes.pending_xref(
            "", content, refdomain="py", reftype="obj", reftarget=target, refexplicit=True,
            refwarn=True,
        )  # fmt: skip

    def paragraph(self, text: str) -> nodes.paragraph:
        return nodes.paragraph("", "", *self.inline(text))


def verbatim(text: str, *classes: str) -> nodes.Element:
    """Preformatted, and no code to highlight."""
    return nodes.literal_block(text, text, language="text", classes=list(classes))


# --- one name -------------------------------------------------------------------------------------


class Described:
    """One entry as a directive of Sphinx's Python domain, whose content comes from the source."""

    package: Package
    entry: Entry

    def handle_signature(self, sig, signode):
        names = super().handle_signature(sig, signode)
        for prefix in signode.findall(addnodes.desc_addname):
            short = self.entry.module.removeprefix(self.package.name).lstrip(".")
            prefix[:] = [nodes.Text("dl." if self.entry.shared or not short else f"dl.{short}.")]
        return names

    def add_target_and_index(self, name_cls, sig, signode):
        super().add_target_and_index(name_cls, sig, signode)
        domain = self.env.domains["py"]
        for alias in self.package.aliases(self.entry):
            domain.note_object(alias, self.objtype, signode["ids"][0], True, location=signode)
        # The list beside the page marks where the reader is, and finds no id with a dot.
        signode["ids"].insert(0, signode["ids"][0].replace(".", "-"))

    def transform_content(self, content):
        content += body(self.package, self.entry)
        for member in self.entry.members:
            content += describe(self, self.package, member)


KINDS = {
    "function": ("function", PyFunction),
    "op": ("function", PyFunction),
    "class": ("class", PyClasslike),
    "exception": ("exception", PyClasslike),
    "method": ("method", PyMethod),
    "classmethod": ("classmethod", PyClassMethod),
    "property": ("property", PyProperty),
    "data": ("data", PyVariable),
}
DIRECTIVES = {kind: type(base.__name__, (Described, base), {}) for kind, (_, base) in KINDS.items()}


def describe(parent: SphinxDirective, package: Package, entry: Entry) -> list[nodes.Node]:
    objtype, _ = KINDS[entry.kind]
    options = {"module": entry.module}
    signature = entry.name.rpartition(".")[2] + entry.signature
    if entry.kind == "data":
        signature = entry.name
        if entry.signature:
            options["annotation"] = entry.signature
    if "." in entry.name:
        options["no-contents-entry"] = None
    directive = DIRECTIVES[entry.kind](
        f"py:{objtype}", [signature], options, StringList(), parent.lineno, parent.content_offset,
        parent.block_text, parent.state, parent.state_machine,
    )  # fmt: skip
    directive.package, directive.entry = package, entry
    found = directive.run()
    found[-1]["classes"].append(f"dl-{entry.kind}")
    return found


def body(package: Package, entry: Entry) -> list[nodes.Node]:
    """What stands below a signature: sentence, formulas, fields, derivatives, code."""
    module = package.modules[entry.module]
    words, doc = Words(package, module, entry), parse_doc(entry.doc)
    found: list[nodes.Node] = [words.paragraph(doc.summary)] if doc.summary else []
    for kind, lines in doc.blocks:
        if kind == "text":
            found.append(words.paragraph(lines[0]))
        elif kind == "list":
            items = [nodes.list_item("", words.paragraph(line)) for line in lines]
            found.append(nodes.bullet_list("", *items))
        elif kind == "formula":
            formula = "\n".join(part for line in lines for part in re.split(r" {3,}", line))
            found.append(verbatim(formula, "dl-formula"))
        else:
            text = "\n".join(lines)
            language = "text" if text.startswith("$ ") else "python"
            found.append(nodes.literal_block(text, text, language=language))
    fields = [
        ("Arguments", definitions(words, doc.args)),
        ("Attributes", definitions(words, doc.attributes)),
        ("Returns", [words.paragraph(doc.returns)] if doc.returns else []),
        ("Yields", [words.paragraph(doc.yields)] if doc.yields else []),
        ("Raises", definitions(words, doc.raises, link=True)),
        ("From", [words.paragraph(doc.source)] if doc.source else []),
        ("Derivatives" if entry.kind != "op" else "", rules(entry)),
    ]
    kept = [
        nodes.field("", nodes.field_name("", name), nodes.field_body("", *content))
        for name, content in fields
        if content and name
    ]
    if entry.kind == "op":
        found += rules(entry)
    if kept:
        found.append(nodes.field_list("", *kept, classes=["dl-fields"]))
    if entry.code and not (entry.kind == "data" and entry.signature):  # whole as it is
        file = module.path.relative_to(package.folder.parent).as_posix()
        found.append(source(code=entry.code, file=f"{file}:{entry.line}"))
    return found


def definitions(words: Words, items: list[tuple[str, str]], link: bool = False) -> list[nodes.Node]:
    if not items:
        return []
    listed = nodes.definition_list(classes=["dl-args"])
    for names, text in items:
        term = nodes.term()
        for i, name in enumerate(re.split(r",\s*", names)):
            literal = nodes.literal(name, name)
            target = words.reference(name) if link else None
            term += nodes.Text(", ") if i else nodes.Text("")
            term += words.link(target, literal) if target else literal
        listed += nodes.definition_list_item("", term, nodes.definition("", words.paragraph(text)))
    return [listed]


def rules(entry: Entry) -> list[nodes.Node]:
    if not entry.rules:
        return []
    listed = nodes.definition_list(classes=["dl-rules"])
    for label, expression in entry.rules:
        code, _, said = expression.partition("  # ")
        paragraph = nodes.paragraph("", "", nodes.literal(code, code))
        if said:
            paragraph += nodes.Text(f" {said}")
        listed += nodes.definition_list_item(
            "", nodes.term("", "", nodes.literal(label, label)), nodes.definition("", paragraph)
        )
    return [listed]


# --- directives -----------------------------------------------------------------------------------


class Reference(SphinxDirective):
    """Every public name of one module, under the headings that its file has."""

    required_arguments = 1

    def run(self):
        package = package_of(self.env)
        module = package.module(self.arguments[0])
        self.env.note_dependency(str(module.path))
        self.env.note_dependency(__file__)
        target = nodes.target("", "", ids=[module.name])
        self.state.document.note_explicit_target(target)
        synopsis = module.doc.splitlines()[0]
        domain = self.env.domains["py"]
        for name in (module.name, module.name.replace(package.name, "dl", 1)):
            domain.note_module(name, module.name, synopsis, "", False)
            aliased = name != module.name
            domain.note_object(name, "module", module.name, aliased, location=target)
        words, doc = Words(package, module), parse_doc(module.doc)
        found: list[nodes.Node] = [target, words.paragraph(doc.summary)]
        found += body(package, Entry(module.name, "", "module", module.doc, 0))[1:]
        section = ""
        for entry in module.entries:
            if entry.section != section:
                section = entry.section
                found.append(nodes.rubric(section, section[0].upper() + section[1:]))
            found += describe(self, package, entry)
        return found


class ReferenceIndex(SphinxDirective):
    """One table per module: name and first sentence."""

    required_arguments = 1

    def run(self):
        package = package_of(self.env)
        module = package.module(self.arguments[0])
        self.env.note_dependency(str(module.path))
        self.env.note_dependency(__file__)
        columns = nodes.colspec(colwidth=35, stub=1), nodes.colspec(colwidth=65)
        rows = nodes.tbody()
        table = nodes.table("", nodes.tgroup("", *columns, rows, cols=2), classes=["dl-index"])
        for entry in module.entries:
            words = Words(package, module, entry)
            link = words.link(entry.full_name, nodes.literal(entry.name, entry.name))
            sentence = parse_doc(entry.doc).summary
            if entry.kind == "op" and not sentence:
                sentence = f"`{entry.rules[0][1].partition('  # ')[0]}`"
            rows += nodes.row(
                "",
                nodes.entry("", nodes.paragraph("", "", link)),
                nodes.entry("", words.paragraph(sentence)),
            )
        return [table]


def package_of(env) -> Package:
    if not hasattr(env, "dl_package"):
        env.dl_package = Package(Path(env.srcdir, "dlmini"))
    return env.dl_package


def forget_package(app, env, *rest):
    """The files may have changed since the last build."""
    vars(env).pop("dl_package", None)


def setup(app):
    app.add_node(source, html=(show_source, None))
    app.add_directive("reference", Reference)
    app.add_directive("reference-index", ReferenceIndex)
    app.connect("env-before-read-docs", forget_package)
    app.connect("env-updated", forget_package)
    app.config.html_domain_indices = False  # the table of all modules is a page of its own
    app.config.toc_object_entries_show_parents = "hide"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
