"""The reference is complete and true: every public name is in it, and its docstring tells all."""

import ast
import dataclasses
import dis
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dlmini
from dlmini.tensor import Op

pytest.importorskip("sphinx")
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parent.parent
BELOW = [m.name for m in pkgutil.walk_packages(dlmini.__path__, "dlmini.")]
# Public modules; the checkers of a chapter are not for reading.
MODULES = ["dlmini", *(n for n in BELOW if "._" not in n and ".exercises." not in n)]
FIELDS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "_ext" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dlautodoc = _load("dlautodoc")


def defined_in(module):
    """Public names that a module's bytecode stores and has not imported."""
    code = compile(Path(module.__file__).read_text(encoding="utf-8"), module.__file__, "exec")
    names, imported = set(), False
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME" and not imported and not step.argval.startswith("_"):
            names.add(step.argval)
        imported = step.opname in ("IMPORT_NAME", "IMPORT_FROM")
    return names - {"annotations"}


class Entry(NamedTuple):
    """A public name with its object; of a class also its methods and properties."""

    module: str
    name: str
    value: Any

    @property
    def doc(self):
        return inspect.cleandoc(self.value.__doc__ or "")

    @property
    def code(self):
        return self.value.fget if isinstance(self.value, property) else self.value

    @property
    def arguments(self):
        if isinstance(self.value, property) or is_error(self.value):
            return []
        names = list(inspect.signature(self.value).parameters)
        return names[1:] if names[:1] == ["self"] else names


def is_error(value):
    return inspect.isclass(value) and issubclass(value, BaseException)


def members(entry):
    """What a class adds; what overrides an inherited name is documented there."""
    above = {name for base in entry.value.__mro__[1:-1] for name in vars(base)}
    for name, value in vars(entry.value).items():
        own = name.startswith("_") or name in above or getattr(value, "__module__", "") is None
        if own or not isinstance(value, property | classmethod | type(is_error)):
            continue
        code = (
            value.fget
            if isinstance(value, property)
            else inspect.unwrap(getattr(entry.value, name))
        )
        if getattr(code, "__qualname__", "") == f"{entry.value.__name__}.{name}":
            bound = value if isinstance(value, property) else getattr(entry.value, name)
            yield Entry(entry.module, f"{entry.name}.{name}", bound)


TOP = [
    Entry(name, public, getattr(importlib.import_module(name), public))
    for name in MODULES
    for public in sorted(defined_in(importlib.import_module(name)))
]
CLASSES = [e for e in TOP if inspect.isclass(e.value) and e.value.__module__ == e.module]
FUNCTIONS = [e for e in TOP if inspect.isfunction(e.value)]
OPS = [e for e in TOP if isinstance(e.value, Op)]
CONSTANTS = [e for e in TOP if e not in (*CLASSES, *FUNCTIONS, *OPS)]
DOCUMENTED = [*FUNCTIONS, *CLASSES, *(m for e in CLASSES for m in members(e))]


def ids(entries):
    return [f"{e.module}.{e.name}".removeprefix("dlmini.") for e in entries]


by_name = pytest.mark.parametrize("entry", DOCUMENTED, ids=ids(DOCUMENTED))


# What is listed


def test_the_pages_list_what_a_module_defines_and_nothing_else():
    for name in MODULES:
        assert set(dlautodoc.layout(name)) == defined_in(importlib.import_module(name)), name


def test_every_module_is_on_one_page_and_in_the_table():
    wanted = sorted({e.module for e in TOP})
    pages = [p.read_text(encoding="utf-8") for p in (ROOT / "chapters/api").glob("*.md")]
    shown = re.findall(r"automodule:: (\S+)", "\n".join(pages))
    assert sorted(shown) == wanted
    table = (ROOT / "chapters/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"index-of:: (\S+)", table)) == wanted


@pytest.mark.parametrize("entry", CONSTANTS, ids=ids(CONSTANTS))
def test_constants_have_a_comment_that_the_reference_reads(entry):
    """#: behind the value or above it."""
    analyzer = ModuleAnalyzer.for_module(entry.module)
    assert analyzer.find_attr_docs().get(("", entry.name)), f"{entry.name} = …  #: what it is"


def test_derivatives_are_those_of_the_operation():
    count = 0
    for name in MODULES:
        for op, [*read] in dlautodoc.rules_of(name).items():
            live = getattr(importlib.import_module(name), op)
            given = [rule for rule in live.rules if rule is not None]
            assert len(read) in (1 + len(given), 1, 0), op  # 1, 0: made of another operation's
            count += max(len(read) - 1, 0)
    assert count > 50
    ops = dlautodoc.rules_of("dlmini.ops")
    assert {e.name for e in OPS if e.module == "dlmini.ops"} <= set(ops)
    assert ops["div"] == [("z", "``x / y``"), ("∂x", "``g / y``"), ("∂y", "``-g * z / y``")]
    assert ops["where"][1:] == [
        ("∂x", "``where(mask, g, 0.0)``"),
        ("∂y", "``where(mask, 0.0, g)``"),
    ]
    assert ops["_matmul"][1] == ("∂x", "``_matmul(g, _swap(y))``")
    assert ops["abs"][1] == ("∂x", "``g * sign(raw(x))``"), "without the array library"
    assert ops["sigmoid"][0][1].startswith("``0.5 * tanh(0.5 * x) + 0.5`` – 1/(1+e⁻ˣ) as"), (
        "a short function is read, and what it says"
    )


def test_what_is_attached_to_a_tensor_elsewhere_is_on_its_page():
    page = (ROOT / "chapters/api/tensors.md").read_text(encoding="utf-8")
    said = re.search(r"and the methods(.+?)call", page, re.DOTALL)[1]
    documented = {e.name.partition(".")[2] for e in DOCUMENTED if e.name.startswith("Tensor.")}
    public = {name for name in vars(dlmini.Tensor) if not name.startswith("_")} - {"node"}
    assert set(re.findall(r"`(\w+)`", said)) == public - documented


def test_names_are_found_where_readers_have_them():
    names = dlautodoc.other_names()
    assert "dlmini.relu" in names[id(dlmini.ops.relu)]
    assert "dlmini.book.plot.explore" in names[id(dlmini.plot.explore)]
    assert dlautodoc.short("dlmini.nn.Linear") == "dl.nn.Linear"
    assert dlautodoc.short("dlmini.book.plot.explore") == "dl.plot.explore"
    assert dlautodoc.short("dlmini.book.claims") == "dl.book.claims"


def test_no_module_takes_the_place_of_a_name():
    """Importing dlmini.x sets dlmini.x: a function of that name would be gone."""
    code = compile(Path(dlmini.__file__).read_text(encoding="utf-8"), "dlmini", "exec")
    steps = list(dis.get_instructions(code))
    exported = {
        (a.argval, b.argval)
        for a, b in zip(steps, steps[1:], strict=False)
        if a.opname == "IMPORT_FROM" and b.opname == "STORE_NAME"
    }
    below = {m.name for m in pkgutil.iter_modules(dlmini.__path__)}
    for _, name in exported:
        value = getattr(dlmini, name)
        assert name not in below or inspect.ismodule(value), name
        assert name in below or not inspect.ismodule(value) or name == "backend", name


SHOWN = [*FUNCTIONS, *CLASSES, *OPS]


@pytest.mark.parametrize("entry", SHOWN, ids=ids(SHOWN))
def test_show_displays_the_code_of_every_name(entry, capsys):
    shown = dlmini.show(entry.value)
    text = capsys.readouterr().out if shown is None else shown.data
    assert re.search(rf"(?m)^(def |class )?{re.escape(entry.name)}\b", text), text[:200]
    body = text.removeprefix("```python").removesuffix("```").strip("\n")
    assert body in Path(importlib.import_module(entry.module).__file__).read_text(encoding="utf-8")


# How a docstring is read


def as_html_source(text, what="function"):
    """What napoleon hands to docutils."""
    lines = inspect.cleandoc(text).split("\n")
    dlautodoc.as_rst(None, what, "name", None, None, lines)
    config = Config(napoleon_use_param=False, napoleon_use_rtype=False)
    lines = str(GoogleDocstring(lines, config, what=what, name="name")).split("\n")
    dlautodoc.drop_shield(None, what, "name", None, None, lines)
    return "\n".join(lines).strip("\n") + "\n"


def test_a_docstring_needs_no_markup():
    read = as_html_source(
        """One sentence about |x| and *args.

        v ← μ v + g,   θ ← θ − η v

        A paragraph with `x = |y|`
        and x_ that ends with a full stop.

            y = f(x)

            θ ← not Python

        Args:
            x, y: shapes (n,)
                with |x| = 1 and no more
            **rest: others.

        Source: Kim (1999).
        """
    )
    formula = ".. code-block:: text\n    :class: dl-formula\n\n"
    assert read.startswith("One sentence about \\|x\\| and \\*args.\n")
    assert f"{formula}    v ← μ v + g,\n    θ ← θ − η v\n" in read
    assert "`x = |y|`\nand x\\_ that" in read
    assert ".. code-block:: python\n\n    y = f(x)\n" in read
    assert f"{formula}    θ ← not Python\n" in read
    assert "* **x, y** -- shapes (n,)\n" in read
    assert "with \\|x\\| = 1 and no more" in read
    assert "* **\\*\\*rest** -- others." in read
    assert read.endswith("Source: Kim (1999).\n")


def test_a_property_has_no_type_before_its_colon():
    assert as_html_source("Where it is: here.", "property").strip() == "Where it is: here."


# What the docstrings say


@by_name
def test_docstring_begins_with_one_sentence(entry):
    assert entry.doc, "no docstring"
    first = entry.doc.splitlines()[0]
    assert re.search(r"[.…]$", first), f"not a whole sentence on the first line: {first}"
    assert not re.search(r"\. [A-Z]", first), f"more than one sentence: {first}"


@by_name
def test_docstring_speaks_of_every_parameter(entry):
    missing = [name for name in entry.arguments if not mentions(entry.doc, name)]
    assert not missing, f"nothing is said about {', '.join(missing)}"


def mentions(text, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)


@by_name
def test_docstring_names_what_is_raised(entry):
    code = entry.code
    if inspect.isclass(code):
        code = vars(code).get("__init__")
        if code is None or dataclasses.is_dataclass(entry.value) or is_error(entry.value):
            return
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(code)))
    except (OSError, TypeError):
        return  # made by NamedTuple
    missing = {e for e in raised_in(ast.parse(source)) if not mentions(entry.doc, e)}
    assert not missing, f"Raises: should name {', '.join(sorted(missing))}"


def raised_in(tree):
    """Errors that a function makes and raises itself; not implemented is not an error."""
    todo, found = list(getattr(tree.body[0], "body", [])), set()
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        todo += ast.iter_child_nodes(node)
    return found - {"NotImplementedError"}


def items(doc, *heads):
    """(names, words) of the entries of these sections."""
    found = []
    for head in heads:
        section = re.search(rf"^{head}:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
        body = textwrap.dedent(section[1]) if section else ""
        found += re.findall(r"^(\S[^:]*):((?:.*\n(?:[ \t]+.*\n|\n)*))", body, re.MULTILINE)
    return found


@by_name
def test_sections_are_in_one_order_and_every_entry_has_words(entry):
    heads = [h for h in re.findall(r"^(\w+):", entry.doc, re.MULTILINE) if h in FIELDS]
    assert heads == sorted(heads, key=FIELDS.index)
    for name, words in items(entry.doc, "Args", "Attributes", "Raises"):
        assert words.strip(), f"nothing is said about {name}"


@by_name
def test_arguments_in_a_docstring_exist(entry):
    listed = [n.strip(" *") for names, _ in items(entry.doc, "Args") for n in names.split(",")]
    strangers = [n for n in listed if n not in entry.arguments]
    assert not strangers, f"there is no {', '.join(strangers)}"


@by_name
def test_examples_are_python(entry):
    """An indented block that does not parse is set as a formula: it must look like one."""
    for block in re.findall(r"(?m)^\.\. code-block:: text\n.*\n\n((?:    .*\n?)+)", rst(entry)):
        assert not re.search(r"\b(def|import|with|for .* in)\b", block), block


def rst(entry):
    lines = entry.doc.split("\n")
    dlautodoc.as_rst(None, "function", entry.name, None, None, lines)
    return "\n".join(lines)


@by_name
def test_names_in_a_docstring_exist(entry):
    """`dl.use`, `optim.AdamW`: what begins with a module of ours is in it."""
    for words in re.findall(r"`((?:dl|dlmini)\.[\w.]+|[a-z]\w*\.\w+)(?:\(.*?\))?`", entry.doc):
        first, *rest = words.split(".")
        own = first in ("dl", "dlmini")
        if not own and f"dlmini.{first}" not in MODULES and f"dlmini.book.{first}" not in MODULES:
            continue
        found: Any = dlmini
        for part in rest if own else (first, *rest):
            if inspect.ismodule(found) and f"{found.__name__}.{part}" in MODULES:
                found = importlib.import_module(f"{found.__name__}.{part}")
            elif found is dlmini and f"dlmini.book.{part}" in MODULES:
                found = importlib.import_module(f"dlmini.book.{part}")
            else:
                assert hasattr(found, part), f"there is no {words}"
                found = getattr(found, part)
