"""What autodoc has to be told about dlmini: its operations, and the names that readers type.

```{eval-rst}
.. derivatives:: dlmini.ops    a table: operation, what it computes, one rule per argument
.. index-of:: dlmini.optim     a table: name, first sentence
```
"""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.ext.autodoc import FunctionDocumenter
from sphinx.ext.autosummary import Autosummary
from sphinx.util.docutils import SphinxDirective

import dlmini
from dlmini.tensor import Op

FIELDS = re.compile("(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)
SHIELD = [".."]  # napoleon takes words before a colon on the first line of a property for its type
SECTION = re.compile(r"# --- (.+?) -+$")
# Which array library computes it says nothing about the function: xp(x).exp(x) is read exp(x).
LIBRARY = re.compile(r"\b(xp|_library)\((?:[^()]|\([^()]*\))*\)\.")


# --- the derivative table -------------------------------------------------------------------------


@functools.cache
def rules_of(module: str) -> dict[str, list[tuple[str, str]]]:
    """For each op that a module makes: ("z", what it computes), then ("∂x", rule) per argument."""
    live, found = importlib.import_module(module), {}
    tree = ast.parse(inspect.getsource(live))
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name(name)], ast.Call(_, [forward, *rules])) if isinstance(
                made := getattr(live, name), Op
            ):
                arguments = inspect.signature(made.forward).parameters
                every = zip(["z", *(f"∂{a}" for a in arguments)], [forward, *rules], strict=False)
                found[name] = [(n, text) for n, rule in every if (text := read(rule, functions))]
    return found


def read(rule: ast.expr, functions: dict[str, ast.FunctionDef]) -> str:
    """A rule as RST: the body of a lambda or of a short function, and what its docstring says."""
    said, expression = "", rule
    function = functions.get(rule.id) if isinstance(rule, ast.Name) else None
    if isinstance(rule, ast.Lambda):
        expression = rule.body
    elif function:
        said = (ast.get_docstring(function) or "").partition("\n")[0].replace("|", r"\|")
        if isinstance(function.body[-1], ast.Return) and len(function.body) < 2 + bool(said):
            expression = function.body[-1].value
        elif said:
            return said
    code = LIBRARY.sub("", ast.unparse(expression))
    return "" if code == "None" else " – ".join(filter(None, [f"``{code}``", said]))


class Derivatives(SphinxDirective):
    """The ops of a module as a table."""

    required_arguments = 1

    def run(self):
        [module] = self.arguments
        lines = [".. list-table::", "   :class: dl-rules", "   :header-rows: 1", ""]
        lines += ["   * - operation", "     - z", "     - derivatives"]
        for name, [(_, z), *rules] in rules_of(module).items():
            said = getattr(sys.modules[module], name).name
            if not rules:
                continue
            lines += [f"   * - `{said} <{module}.{said}>`", f"     - {z}", "     -"]
            lines += [f"       | ``{argument}`` {rule}" for argument, rule in rules]
        return self.parse_text_to_nodes("\n".join(lines))


class OpDocumenter(FunctionDocumenter):
    """An op is documented as a function, by its line of the table."""

    objtype, directivetype, priority = "op", "function", 20

    @classmethod
    def can_document_member(cls, member, membername, isattr, parent):
        return isinstance(member, Op)

    def check_module(self):
        return self.object.forward.__module__ == self.modname

    def format_args(self, **options):
        return str(inspect.signature(self.object.forward))

    def get_doc(self):
        rules = rules_of(self.modname).get(self.objpath[-1], [])
        return [[*(f"| ``{name}`` {rule}" for name, rule in rules), ""]]


def choose(app, what, name, obj, skip, options):
    """Ops, whose docstring is their class's; not the fields of a tuple, which its class names."""
    if isinstance(obj, Op) and not name.startswith("_"):
        return False
    return True if (obj.__doc__ or "").startswith("Alias for field") else None


# --- docstrings -----------------------------------------------------------------------------------


def as_rst(app, what, name, obj, options, lines):
    """Docstrings are written for a terminal: |x|, *args, code indented, formulas on their own."""
    if isinstance(obj, Op):
        return
    blocks, fields = re.split(r"\n\s*\n", "\n".join(lines)), False
    for i, block in enumerate(blocks):
        fields = fields or bool(FIELDS.match(block))
        code = not fields and block.startswith("    ")
        open_ended = i and not fields and not re.search(r"[.,:;?]\s*$", block)
        formula = open_ended and re.search("[=←≈]", block)
        if code and is_python(textwrap.dedent(block)):
            blocks[i] = f".. code-block:: python\n\n{block}"
        elif code or formula:
            parts = [part.strip() for part in re.split(r"\n| {3,}", block.strip())]
            body = textwrap.indent("\n".join(parts), "    ")
            blocks[i] = f".. code-block:: text\n    :class: dl-formula\n\n{body}"
        else:
            words = re.split(r"(`[^`]*`)", block)
            words[::2] = [re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for part in words[::2]]
            words[1::2] = [f"`{part}`" if part.startswith("`.") else part for part in words[1::2]]
            blocks[i] = "".join(words)
    lines[:] = "\n\n".join([*SHIELD, *blocks, ""]).split("\n")


def drop_shield(app, what, name, obj, options, lines):
    if lines[:1] == SHIELD:
        del lines[0]


def is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text))
    except SyntaxError:
        return False


# --- names ----------------------------------------------------------------------------------------


@functools.cache
def layout(module: str) -> dict[str, str]:
    """The public names that a module defines, in order, each with the section it stands in."""
    source = inspect.getsource(importlib.import_module(module))
    heads = [(n, m[1]) for n, line in enumerate(source.split("\n")) if (m := SECTION.match(line))]
    found = {}
    for statement in ast.parse(source).body:
        made = getattr(statement, "targets", [getattr(statement, "target", statement)])
        for target in (part for m in made for part in getattr(m, "elts", [m])):
            name = getattr(target, "id", getattr(target, "name", "_"))
            if not name.startswith("_"):
                above = [head for n, head in heads if n < statement.lineno]
                found[name] = above[-1] if above else ""
    return found


@functools.cache
def other_names() -> dict[int, list[str]]:
    """Under which names a public object is to be had: dlmini.ops.relu is dl.relu as well."""
    found: dict[int, list[str]] = {}
    below = pkgutil.walk_packages(dlmini.__path__, "dlmini.")
    for module in (dlmini, *(importlib.import_module(m.name) for m in below)):
        for name, value in vars(module).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, dict)):
                found.setdefault(id(value), []).append(f"{module.__name__}.{name}")
    return found


def find(name: str):
    """The object of a dotted name, or None."""
    module, _, last = name.rpartition(".")
    return getattr(sys.modules.get(module), last, None)


def full_name(signature) -> str:
    return ".".join(signature.get(part) or "" for part in ("module", "fullname"))


def short(name: str) -> str:
    """dlmini.nn.Linear as a reader writes it: dl.nn.Linear."""
    return re.sub(r"^dlmini(\.book(?=\.plot\b))?", "dl", name)


def note_other_names(app, env):
    objects, modules = env.domains["py"].objects, env.domains["py"].modules
    for name, entry in list(objects.items()):
        for other in (name, *other_names().get(id(find(name)), ())):
            for alias in {other, short(other)} - {name}:
                objects.setdefault(alias, entry._replace(aliased=True))
    for name, entry in list(modules.items()):
        modules.setdefault(short(name), entry)


def as_typed(app, domain, objtype, content):
    """Signatures with the name that readers type, and ids that the list beside the page finds."""
    for signature in content.parent.findall(addnodes.desc_signature):
        own = full_name(signature)
        names = other_names().get(id(find(own)), [])
        last = own.rpartition(".")[2]
        typed = next((n for n in (f"dlmini.{last}", f"dlmini.book.plot.{last}") if n in names), own)
        for prefix in signature.findall(addnodes.desc_addname):
            prefix[:] = [nodes.Text(short(typed).removesuffix(last))]
        for value in list(signature.findall(addnodes.desc_annotation)):
            if len(value.astext()) > 400:  # a style sheet
                signature.remove(value)
        for place in signature["ids"][:1]:
            signature["ids"].insert(0, place.replace(".", "-"))
        if "." in (signature.get("fullname") or ""):
            signature["_toc_name"] = ""  # the list beside the page has no methods


def write_sections(app, doctree):
    """The headings that a file has between its names."""
    before = None
    for entry in doctree.findall(addnodes.desc):
        module, _, name = full_name(entry[0]).rpartition(".")
        head = layout(module).get(name) if module in sys.modules else ""
        if head and head != before:
            at = entry.parent.index(entry)
            entry.parent.insert(at, nodes.rubric(head, head[0].upper() + head[1:]))
        before = head or before


class IndexOf(Autosummary):
    """The names of a module with their first sentences."""

    required_arguments, has_content, option_spec = 1, False, {}

    def run(self):
        [module] = self.arguments
        self.options["nosignatures"] = True
        self.content = StringList([f"~{module}.{name}" for name in layout(module)])
        return super().run()


def setup(app):
    app.add_directive("derivatives", Derivatives)
    app.add_directive("index-of", IndexOf)
    app.add_autodocumenter(OpDocumenter)
    app.connect("autodoc-skip-member", choose)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", drop_shield, priority=600)  # behind it
    app.connect("object-description-transform", as_typed)
    app.connect("doctree-read", write_sections)
    app.connect("env-updated", note_other_names, priority=400)  # before the names are looked up
    return {"parallel_read_safe": True, "parallel_write_safe": True}
