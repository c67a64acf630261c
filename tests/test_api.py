"""The reference is complete and true: every name, as the source and the running Python have it."""

import ast
import dataclasses
import dis
import importlib
import importlib.util
import inspect
import operator
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import pytest

import dlmini

ROOT = Path(__file__).resolve().parent.parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "_ext" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dlsource = _load("dlsource")
PACKAGE = dlsource.Package(ROOT / "dlmini")
ENTRIES = [entry for module in PACKAGE.modules.values() for entry in module.entries]
EVERY = [e for entry in ENTRIES for e in (entry, *entry.members)]
DOCUMENTED = [e for e in EVERY if e.kind not in ("op", "data")]
by_name = pytest.mark.parametrize(
    "entry", DOCUMENTED, ids=[e.full_name.removeprefix("dlmini.") for e in DOCUMENTED]
)


def live(full_name):
    """The object itself, from the imported package."""
    module, rest = full_name, []
    while not (module == "dlmini" or module in PACKAGE.modules):
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    found = importlib.import_module(module)
    return operator.attrgetter(".".join(rest))(found) if rest else found


def defined_in(module):
    """Names that a module's bytecode stores and has not imported."""
    code = compile(Path(module.__file__).read_text(encoding="utf-8"), module.__file__, "exec")
    names, imported = set(), False
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME" and not imported and not step.argval.startswith("_"):
            names.add(step.argval)
        imported = step.opname in ("IMPORT_NAME", "IMPORT_FROM")
    return names - {"annotations"}


# What is listed


def test_every_public_name_is_found_and_nothing_else():
    names = ["dlmini", *(m.name for m in pkgutil.walk_packages(dlmini.__path__, "dlmini."))]
    assert sorted(names) == sorted(PACKAGE.modules)
    for name in names:
        found = {entry.name for entry in PACKAGE.modules[name].entries}
        assert found == defined_in(importlib.import_module(name)), name


def test_every_module_is_on_one_page_and_in_the_table():
    wanted = sorted(m.name for m in PACKAGE.modules.values() if m.entries)
    pages = [p.read_text(encoding="utf-8") for p in (ROOT / "chapters/api").glob("*.md")]
    shown = re.findall(r"```\{reference\} (\S+)", "\n".join(pages))
    assert sorted(PACKAGE.module(m).name for m in shown) == wanted
    table = (ROOT / "chapters/api.md").read_text(encoding="utf-8")
    listed = re.findall(r"```\{reference-index\} (\S+)", table)
    assert sorted(PACKAGE.module(m).name for m in listed) == wanted


@pytest.mark.parametrize("entry", EVERY, ids=[e.full_name for e in EVERY])
def test_kind_signature_and_code_are_those_of_the_object(entry):
    obj = live(entry.full_name)
    kinds = {
        "op": isinstance(obj, dlmini.tensor.Op),
        "exception": inspect.isclass(obj) and issubclass(obj, BaseException),
        "class": inspect.isclass(obj) and not issubclass(obj, BaseException),
        "function": inspect.isfunction(obj),
        "method": inspect.isfunction(obj),
        "classmethod": inspect.ismethod(obj),
        "property": isinstance(obj, property),
        "data": not (inspect.isroutine(obj) or isinstance(obj, dlmini.tensor.Op)),
    }
    assert kinds[entry.kind]
    if entry.kind in ("function", "class", "method", "classmethod"):
        expected = list(inspect.signature(obj).parameters)
        if entry.kind == "method" and expected[:1] == ["self"]:
            expected = expected[1:]
        shown = ast.parse(f"def f{entry.signature or '()'}: 0").body[0].args
        every = [*shown.args, shown.vararg, *shown.kwonlyargs, shown.kwarg]
        assert [a.arg for a in every if a] == expected
    if entry.kind in ("function", "class", "exception"):
        written = inspect.getsource(inspect.unwrap(obj))
        assert textwrap.dedent(written).strip() in entry.code


def test_derivatives_are_those_of_the_operation():
    ops = {e.full_name: e for e in ENTRIES if e.kind == "op"}
    assert len(ops) > 15
    for name, entry in ops.items():
        rules = [rule for rule in live(name).rules if rule is not None]
        assert len(entry.rules) == (1 + len(rules) if rules else 0), name
    assert ops["dlmini.ops.div"].rules == [("z", "x / y"), ("∂x", "g / y"), ("∂y", "-g * z / y")]
    assert ops["dlmini.ops.where"].rules[1:] == [
        ("∂x", "where(mask, g, 0.0)"),
        ("∂y", "where(mask, 0.0, g)"),
    ]
    assert ("∂x", "g * sign(raw(x))") in ops["dlmini.ops.abs"].rules  # without the array library
    assert "_sigmoid" in ops["dlmini.ops.sigmoid"].code.split("def ")[1]


def test_what_is_attached_to_a_tensor_elsewhere_is_on_its_page():
    page = (ROOT / "chapters/api/tensors.md").read_text(encoding="utf-8")
    said = re.search(r"and the methods(.+?)call", page, re.DOTALL)[1]
    listed = set(re.findall(r"`(\w+)`", said))
    documented = {e.name.partition(".")[2] for e in EVERY if e.name.startswith("Tensor.")}
    public = {name for name in vars(dlmini.Tensor) if not name.startswith("_")} - {"node"}
    assert listed == public - documented


def test_functions_show_the_rules_of_the_operations_inside_them():
    entries = {e.full_name: e for e in ENTRIES}
    assert ("∂x", "_matmul(g, _swap(y))") in entries["dlmini.ops.matmul"].rules
    assert "def _conv_forward(" in entries["dlmini.functional.conv2d"].code


SHOWN = [e for e in ENTRIES if e.kind != "data"]


@pytest.mark.parametrize("entry", SHOWN, ids=[e.full_name for e in SHOWN])
def test_show_displays_the_code_of_every_name(entry, capsys):
    shown = dlmini.show(live(entry.full_name))
    text = capsys.readouterr().out if shown is None else shown.data
    first = rf"(?m)^(def |class )?{re.escape(entry.name)}\b"
    assert re.search(first, text), text[:200]
    body = text.removeprefix("```python").removesuffix("```").strip("\n")
    assert body in entry.code or entry.code in body or "@" in entry.code


# What the docstrings say


@by_name
def test_docstring_begins_with_one_sentence(entry):
    assert entry.doc, "no docstring"
    first = entry.doc.strip().splitlines()[0]
    assert re.search(r"[.…]$", first), f"not a whole sentence on the first line: {first}"
    assert not re.search(r"\. [A-Z]", first), f"more than one sentence: {first}"


@by_name
def test_docstring_speaks_of_every_parameter(entry):
    signature = ast.parse(f"def f{entry.signature or '()'}: 0").body[0].args
    every = [*signature.args, *signature.kwonlyargs, signature.vararg, signature.kwarg]
    missing = [a.arg for a in every if a and not mentions(entry.doc, a.arg)]
    assert not missing, f"nothing is said about {', '.join(missing)}"


def mentions(text, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)


@by_name
def test_docstring_names_what_is_raised(entry):
    if entry.kind == "exception":
        return
    obj = live(entry.full_name)
    if entry.kind == "class":
        obj = vars(obj).get("__init__")
        if obj is None or dataclasses.is_dataclass(live(entry.full_name)):
            return
    elif entry.kind == "property":
        obj = obj.fget
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
    missing = {e for e in raised_in(ast.parse(source)) if not mentions(entry.doc, e)}
    assert not missing, f"Raises: should name {', '.join(sorted(missing))}"


def raised_in(tree):
    """Errors that a function makes and raises itself; not implemented is not an error."""
    todo, found = list(tree.body[0].body if hasattr(tree.body[0], "body") else []), set()
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        todo += ast.iter_child_nodes(node)
    return found - {"NotImplementedError"}


@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.kind == "data"], ids=lambda e: e.full_name
)
def test_constants_have_a_comment(entry):
    assert entry.doc


def test_sections_are_in_one_order_and_every_entry_has_words():
    for entry in DOCUMENTED:
        heads = [h for h in re.findall(r"^(\w+):", entry.doc, re.M) if h in dlsource.FIELDS]
        assert heads == sorted(heads, key=dlsource.FIELDS.index), f"{entry.full_name}: {heads}"
        doc = dlsource.parse_doc(entry.doc)
        for name, words in (*doc.args, *doc.attributes, *doc.raises):
            assert name, entry.full_name
            assert words, f"{entry.full_name}: {name}"


def test_arguments_in_a_docstring_exist():
    for entry in DOCUMENTED:
        listed = [n.strip(" *") for names, _ in docs(entry).args for n in names.split(",")]
        strangers = [n for n in listed if not mentions(entry.signature, n)]
        assert not strangers, f"{entry.full_name} has no {', '.join(strangers)}"


def docs(entry):
    return dlsource.parse_doc(entry.doc)


def test_examples_are_python():
    """An indented block that does not parse is set as a formula: it must look like one."""
    shown = [(e, b) for e in DOCUMENTED for b in docs(e).blocks if b[0] == "code"]
    assert len(shown) > 2
    for entry in DOCUMENTED:
        for kind, lines in docs(entry).blocks:
            if kind == "formula":
                assert not re.search(r"\b(def|import|with|for .* in)\b", " ".join(lines)), (
                    f"{entry.full_name}: code that does not parse: {lines}"
                )


def test_names_in_docstrings_exist():
    """`dl.use`, `optim.AdamW`: each resolves to an entry, and Python finds the same thing."""
    modules = {name.rpartition(".")[2] for name in PACKAGE.modules} | {"dl"}
    count = 0
    for entry in EVERY:
        module = PACKAGE.modules[entry.module]
        for words in re.findall(r"`([^`\n]+)`", entry.doc):
            target = PACKAGE.resolve(words, module, entry.name.partition(".")[0])
            if target is None:
                name = re.match(r"(\w+)\.\w", words)
                known = name and name[1] in modules
                assert not known, f"{entry.full_name}: there is no {words}"
            else:
                count += 1
                assert live(target) is not None
    assert count > 50


def test_words_are_resolved_as_the_module_would():
    regularize, claims = PACKAGE.module("regularize"), PACKAGE.module("claims")
    assert PACKAGE.resolve("optim.AdamW", regularize) == "dlmini.optim.AdamW"
    assert PACKAGE.resolve("dl.seed", regularize) == "dlmini.backend.seed"
    assert PACKAGE.resolve("dropout", regularize) == "dlmini.regularize.dropout"
    assert PACKAGE.resolve("update()", regularize, "EarlyStopping") == (
        "dlmini.regularize.EarlyStopping.update"
    )
    assert PACKAGE.resolve("ledger()", claims) == "dlmini.book.ledger.ledger"
    assert PACKAGE.resolve("dl.plot.explore", claims) == "dlmini.book.sliders.explore"
    assert PACKAGE.resolve("x + y", claims) is None
    assert PACKAGE.resolve("nothing", claims) is None


def test_other_names_of_one_thing():
    entries = {e.full_name: e for e in EVERY}
    assert PACKAGE.aliases(entries["dlmini.ops.relu"]) == ["dlmini.relu", "dl.ops.relu", "dl.relu"]
    assert "dl.plot.explore" in PACKAGE.aliases(entries["dlmini.book.sliders.explore"])
    assert PACKAGE.aliases(entries["dlmini.optim.SGD"]) == ["dl.optim.SGD"]
    for entry in ENTRIES:
        for alias in PACKAGE.aliases(entry):
            assert live(re.sub("^dl\\.", "dlmini.", alias)) is live(entry.full_name), alias


def test_no_module_takes_the_place_of_a_name():
    """Importing dlmini.x sets dlmini.x: a function of that name would be gone."""
    top = PACKAGE.modules["dlmini"]
    lost = [name for name in top.imports if f"dlmini.{name}" in PACKAGE.modules]
    modules = {f"dlmini.{n}" for n in lost if top.imports[n] == f"dlmini.{n}"}
    assert {f"dlmini.{n}" for n in lost} == modules, lost


# How a docstring is read


def test_a_docstring_in_parts():
    doc = dlsource.parse_doc(
        """One sentence. (Somebody 2020).

        v ← μ v + g,   θ ← θ − η v

        A paragraph with x = 1 in it
        that ends with a full stop.

            y = f(x)

            θ ← not Python

        - first: `a`
          goes on
        - second

        Args:
            x, y: shapes (n,)
                and more: colons.
            **rest: others.

        Returns:
            z: of shape (n,),
            as it was.

        Raises:
            ValueError: too small.

        Source: Kim (1999),
        A title.

        An afterword.
        """
    )
    assert doc.summary == "One sentence. (Somebody 2020)."
    assert doc.blocks == [
        ("formula", ["v ← μ v + g,   θ ← θ − η v"]),
        ("text", ["A paragraph with x = 1 in it that ends with a full stop."]),
        ("code", ["y = f(x)"]),
        ("formula", ["θ ← not Python"]),
        ("list", ["first: `a` goes on", "second"]),
        ("text", ["An afterword."]),
    ]
    assert doc.args == [("x, y", "shapes (n,) and more: colons."), ("**rest", "others.")]
    assert doc.returns == "z: of shape (n,), as it was."
    assert doc.raises == [("ValueError", "too small.")]
    assert doc.source == "Kim (1999), A title."


def test_a_file_in_parts(tmp_path):
    package = tmp_path / "toy"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Toy."""\nfrom .deep.inner import square\n')
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "inner.py").write_text(
        textwrap.dedent('''
        """Inner."""
        from dataclasses import dataclass, field
        from .. import other

        # Above θ,
        # two lines.
        ABOVE = {
            1: 2,
        }
        BESIDE = "θ"  # behind a Greek letter

        # --- a section ------------------------------------------------

        def _hidden(x):
            return x

        square = op(lambda x: xp(x).mul(x, x), _hidden, None, name="square")

        def f(a, b=1e-3, *rest, c: int = 1_000, **more) -> int:
            """F."""

        @dataclass
        class Base:
            """B."""
            x: int
            y: list = field(default_factory=list)

            def own(self, k=0):
                """Own."""

            def over(self):
                """Over."""

        class Child(Base):
            """C."""

            def over(self):
                return 1

            @classmethod
            def make(cls, n=2):
                """M."""

            @property
            def p(self):
                """P."""

            @p.setter
            def p(self, value): ...
        '''),
        encoding="utf-8",
    )
    modules = dlsource.read_package(package)
    assert list(modules) == ["toy", "toy.deep", "toy.deep.inner"]
    entries = {e.name: e for e in modules["toy.deep.inner"].entries}
    assert list(entries) == ["ABOVE", "BESIDE", "square", "f", "Base", "Child"]
    assert entries["ABOVE"].doc == "Above θ,\ntwo lines."
    assert entries["BESIDE"].doc == "behind a Greek letter"
    assert entries["BESIDE"].signature == '= "θ"'
    assert entries["square"].rules == [("z", "mul(x, x)"), ("∂x", "x")]
    assert entries["square"].shared
    assert entries["square"].section == "a section"
    assert not entries["f"].shared
    assert entries["f"].signature == "(a, b=1e-3, *rest, c=1_000, **more)"
    assert entries["Base"].signature == entries["Child"].signature == "(x, y=list())"
    assert [m.name for m in entries["Base"].members] == ["Base.own", "Base.over"]
    assert [(m.name, m.kind) for m in entries["Child"].members] == [
        ("Child.make", "classmethod"),
        ("Child.p", "property"),
    ]
    assert entries["Child"].members[0].signature == "(n=2)"
