"""dlmini as its source has it: names, signatures, docstrings, derivative rules. Imports nothing.

The book is built where NumPy is absent, so the reference reads the files instead of running them.
"""

import ast
import copy
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

SECTION = re.compile(r"# --- (.+?) -+$")
FIELDS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")


@dataclass
class Entry:
    """One public name. `rules` is the derivative table of what it computes: (label, code)."""

    module: str
    name: str
    kind: str  # function, class, exception, op, data; of a class: method, classmethod, property
    doc: str
    line: int
    signature: str = ""
    code: str = ""
    section: str = ""
    shared: bool = False  # is it dl.name as well?
    members: list["Entry"] = field(default_factory=list)
    rules: list[tuple[str, str]] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Module:
    """One file: its docstring, its public names in order, what it imports from the package."""

    name: str
    path: Path
    doc: str
    entries: list[Entry]
    imports: dict[str, str]
    exported: set[str]


def read_package(folder: Path) -> dict[str, Module]:
    """Every module below `folder`, by dotted name."""
    paths = sorted(folder.rglob("*.py"))
    files = {_dotted(folder, path): _File(folder, path) for path in paths}
    modules = {name: _read(file, files) for name, file in files.items()}
    top = modules[folder.name]
    for origin in top.imports.values():
        module, _, name = origin.rpartition(".")
        for entry in modules[module].entries if module in modules else ():
            if entry.name == name and f"{top.name}.{name}" not in modules:
                entry.shared = True
    return modules


def _dotted(folder: Path, path: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _File:
    """A parsed file with its module-level statements by the names that they define."""

    def __init__(self, folder: Path, path: Path):
        self.name, self.path = _dotted(folder, path), path
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
        self.defined: dict[str, ast.stmt] = {}
        for statement in self.tree.body:
            for name in _targets(statement):
                self.defined[name] = statement
        package = self.name if path.stem == "__init__" else self.name.rpartition(".")[0]
        self.imports = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                base = package.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(filter(None, [base, node.module]))
                self.imports |= {a.asname or a.name: f"{source}.{a.name}" for a in node.names}

    def source(self, statement: ast.stmt) -> str:
        first = min([statement, *getattr(statement, "decorator_list", [])], key=lambda n: n.lineno)
        return "\n".join(self.lines[first.lineno - 1 : statement.end_lineno])

    def written(self, node: ast.expr) -> str:
        """An expression as it stands in the file: 1e-3, not 0.001."""
        lines = [line.encode() for line in self.lines[node.lineno - 1 : node.end_lineno]]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return " ".join(line.decode().strip() for line in lines)

    def comment(self, statement: ast.stmt) -> str:
        """What stands behind a constant, or directly above it."""
        last = self.lines[statement.end_lineno - 1].encode()
        trailing = last[statement.end_col_offset :].decode().strip()
        if trailing.startswith("# ") and "noqa" not in trailing:
            return trailing[2:]
        above, n = [], statement.lineno - 2
        while n >= 0 and self.lines[n].startswith("# ") and not SECTION.match(self.lines[n]):
            above.insert(0, self.lines[n][2:])
            n -= 1
        return "\n".join(above)

    def section(self, statement: ast.stmt) -> str:
        found = [m[1] for line in self.lines[: statement.lineno] if (m := SECTION.match(line))]
        return found[-1] if found else ""


def _targets(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    if isinstance(statement, ast.Assign):
        found = []
        for target in statement.targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            found += [part.id for part in parts if isinstance(part, ast.Name)]
        return found
    return []


def _read(file: _File, files: dict[str, _File]) -> Module:
    entries = [
        _entry(file, files, name, statement)
        for name, statement in file.defined.items()
        if not name.startswith("_")
    ]
    listed = file.defined.get("__all__")
    exported = set(ast.literal_eval(listed.value)) if listed else set()
    doc = ast.get_docstring(file.tree) or ""
    return Module(file.name, file.path, doc, entries, file.imports, exported)


def _entry(file: _File, files: dict[str, _File], name: str, statement: ast.stmt) -> Entry:
    entry = Entry(file.name, name, "data", file.comment(statement), statement.lineno)
    entry.section = file.section(statement)
    entry.code = file.source(statement)
    if isinstance(statement, ast.ClassDef):
        line = _ancestors(file, files, statement)
        bases = {base for _, c in line for base in _names(c.bases)}
        error = any(base.endswith(("Error", "Exception")) for base in bases)
        entry.kind = "exception" if error else "class"
        entry.doc = ast.get_docstring(statement) or ""
        entry.signature = "" if error else _constructor(line)
        inherited = {f.name for _, c in line[1:] for f in c.body if isinstance(f, ast.FunctionDef)}
        entry.members = _members(file, statement, inherited)
    elif isinstance(statement, ast.FunctionDef):
        entry.kind = "function"
        entry.doc = ast.get_docstring(statement) or ""
        entry.signature = _signature(file, statement.args)
        ops = _ops_of(file, statement)
        rules = [rule for op in filter(_is_op, ops) for rule in _rules(file, op)]
        entry.rules = [r for r in rules if not re.fullmatch(r"_\w+\([\w, ]*\)", r[1])]  # no news
        entry.code = _with_ops(file, [statement, *ops])
    elif _is_op(statement):
        entry.kind = "op"
        entry.signature = _signature(file, _arguments(file, statement.value.args[0]))
        entry.rules = _rules(file, statement)
        entry.code = _with_ops(file, [statement])
    else:
        value = file.written(statement.value)
        entry.signature = f"= {value}" if len(value) <= 60 else ""
    return entry


def _names(expressions: list[ast.expr]) -> list[str]:
    return [ast.unparse(e).rpartition(".")[2] for e in expressions]


# --- classes --------------------------------------------------------------------------------------


def _ancestors(file, files, statement) -> list[tuple[_File, ast.ClassDef]]:
    """The class and those of the package that it inherits from, nearest first."""
    found = [(file, statement)]
    for base in _names(statement.bases):
        origin, name = file, base
        if base in file.imports:
            module, _, name = file.imports[base].rpartition(".")
            origin = files.get(module)
        parent = origin.defined.get(name) if origin else None
        if isinstance(parent, ast.ClassDef):
            found += _ancestors(origin, files, parent)
    return found


def _constructor(line) -> str:
    for file, statement in line:
        marks = [ast.unparse(mark) for mark in (*statement.decorator_list, *statement.bases)]
        if any(re.match("(dataclass|NamedTuple)", mark) for mark in marks):
            fields = [f for f in statement.body if isinstance(f, ast.AnnAssign)]
            return f"({', '.join(f.target.id + _default(file, f.value) for f in fields)})"
        for f in statement.body:
            if isinstance(f, ast.FunctionDef) and f.name == "__init__":
                return _signature(file, f.args, skip=1)
    return "()"


def _default(file: _File, value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call):  # field(default_factory=list)
        return f"={ast.unparse(value.keywords[0].value)}()"
    return f"={file.written(value)}"


def _members(file, statement, inherited: set[str]) -> list[Entry]:
    """Public methods and properties; what overrides an inherited one is documented there."""
    found = []
    for f in statement.body:
        if not isinstance(f, ast.FunctionDef) or f.name.startswith("_") or f.name in inherited:
            continue
        marks = [ast.unparse(d) for d in f.decorator_list]
        if any(mark.endswith(".setter") for mark in marks):
            continue
        kind = ({"property", "classmethod"} & {*marks} or {"method"}).pop()
        member = Entry(file.name, f"{statement.name}.{f.name}", kind, "", f.lineno)
        member.doc = ast.get_docstring(f) or ""
        if kind != "property":
            member.signature = _signature(file, f.args, skip=1)
        found.append(member)
    return found


def _signature(file: _File, arguments: ast.arguments, skip: int = 0) -> str:
    """Names and defaults; types and shapes are in the text, and in the code."""
    bare = copy.deepcopy(arguments)
    every = [*bare.posonlyargs, *bare.args, *bare.kwonlyargs, bare.vararg, bare.kwarg]
    for argument in filter(None, every):
        argument.annotation = None
    bare.args = bare.args[skip:]
    bare.defaults = [ast.Name(file.written(d)) for d in bare.defaults]
    bare.kw_defaults = [d and ast.Name(file.written(d)) for d in bare.kw_defaults]
    return f"({ast.unparse(bare)})"


# --- the derivative table -------------------------------------------------------------------------


def _is_op(statement: ast.stmt) -> bool:
    """exp = op(forward, rule, name="exp"), by whatever function makes it."""
    value = getattr(statement, "value", None)
    return (
        isinstance(statement, ast.Assign)
        and isinstance(value, ast.Call)
        and bool(value.args)
        and any(k.arg == "name" and isinstance(k.value, ast.Constant) for k in value.keywords)
    )


def _makes_op(file: _File, statement: ast.stmt) -> bool:
    """An op, or something that a private function of the file has made: _max = _extremum("max")."""
    if not isinstance(statement, ast.Assign):
        return False
    value = statement.value
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    calls = [p.func.id for p in parts if isinstance(p, ast.Call) and isinstance(p.func, ast.Name)]
    return _is_op(statement) or any(
        isinstance(file.defined.get(name), ast.FunctionDef) for name in calls
    )


def _ops_of(file: _File, function: ast.FunctionDef) -> list[ast.Assign]:
    """The private ops that a function calls, itself or through private functions of its file."""
    ops, seen, todo = [], set(), [function]
    while todo:
        for node in ast.walk(todo.pop(0)):
            name = node.id if isinstance(node, ast.Name) else ""
            statement = file.defined.get(name)
            if not name.startswith("_") or name in seen or statement is None:
                continue
            seen.add(name)
            if _makes_op(file, statement):
                ops.append(statement)
            elif isinstance(statement, ast.FunctionDef):
                todo.append(statement)
    return ops


def _with_ops(file: _File, statements: list[ast.stmt]) -> str:
    """The code of some statements, and of the private functions that ops among them are made of."""
    wanted = {s.lineno: s for s in statements}
    for op in statements:
        if not isinstance(op, ast.Assign):
            continue
        for node in ast.walk(op):
            used = file.defined.get(node.id) if isinstance(node, ast.Name) else None
            if isinstance(used, ast.FunctionDef) and used.name.startswith("_"):
                wanted[used.lineno] = used
    blocks = [file.source(wanted[n]) for n in sorted(wanted)]
    joined = blocks[0]
    for before, block in zip(blocks, blocks[1:], strict=False):
        plain = not ("def " in before or "def " in block)
        joined += ("\n" if plain else "\n\n\n") + block
    return joined


def _rules(file: _File, statement: ast.Assign) -> list[tuple[str, str]]:
    """("z", forward) and one (∂argument, rule) for each argument, as expressions."""
    forward, *rules = [a for a in statement.value.args if not isinstance(a, ast.Starred)]
    names = [a.arg for a in _arguments(file, forward).args]
    computed = _expression(file, forward)
    table = [] if computed == "None" else [("z", computed)]
    for name, rule in zip(names, rules, strict=False):
        if not (isinstance(rule, ast.Constant) and rule.value is None):
            table.append((f"∂{name}", _expression(file, rule)))
    return table


def _function(file: _File, node: ast.expr) -> ast.FunctionDef | ast.Lambda | None:
    found = file.defined.get(node.id) if isinstance(node, ast.Name) else node
    return found if isinstance(found, ast.FunctionDef | ast.Lambda) else None


def _arguments(file: _File, node: ast.expr) -> ast.arguments:
    function = _function(file, node)
    return function.args if function else ast.parse("lambda *args: 0", mode="eval").body.args


def _expression(file: _File, node: ast.expr) -> str:
    """A lambda's body, a function's only expression, or the call with what its docstring says."""
    function = _function(file, node)
    if isinstance(function, ast.Lambda):
        return _plain(function.body)
    if function is None:
        return ast.unparse(node)
    doc, body = ast.get_docstring(function), function.body
    if len(body) == 1 and isinstance(body[0], ast.Return):
        return _plain(body[0].value)
    called = f"{function.name}({', '.join(a.arg for a in function.args.args)})"
    return f"{called}  # {doc.splitlines()[0].rstrip('.')}" if doc else called


class _WithoutLibrary(ast.NodeTransformer):
    """xp(x).exp(x) as exp(x): which library computes it says nothing about the function."""

    def visit_Attribute(self, node):
        self.generic_visit(node)
        value = node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("xp", "_library"):
            return ast.Name(node.attr)
        return node


def _plain(node: ast.expr) -> str:
    return ast.unparse(_WithoutLibrary().visit(copy.deepcopy(node)))


# --- what a name means where it is used -----------------------------------------------------------


class Package:
    """The package, and what its names mean where they are used."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.modules = read_package(folder)
        self.names = set(self.modules)
        for module in self.modules.values():
            for entry in module.entries:
                self.names |= {e.full_name for e in (entry, *entry.members)}

    def module(self, short: str) -> Module:
        top = self.name
        return self.modules[top if short == top else f"{top}.{short}"]

    def aliases(self, entry: Entry) -> list[str]:
        """Other names of dlmini.ops.relu: dlmini.relu, and as the chapters have it, dl.relu."""
        found = [f"{self.name}.{entry.name}"] if entry.shared else []
        for m in self.modules.values():
            if entry.name in m.exported and m.imports.get(entry.name) == entry.full_name:
                found.append(f"{m.name}.{entry.name}")
        return found + [re.sub(r"^\w+", "dl", name) for name in (entry.full_name, *found)]

    def resolve(self, words: str, module: Module, owner: str = "") -> str | None:
        """The full name of what a docstring in `module` calls `words`, if it is a public name."""
        name = re.sub(r"\(.*\)$", "", words.strip())
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            return None
        top = self.name
        name = re.sub(r"^dl\.", f"{top}.", name)
        own = [f"{module.name}.{owner}.{name}"] if owner else []
        for full in (*own, f"{module.name}.{name}", name, f"{top}.{name}"):
            if full in self.names:
                return full
            parent, _, last = full.rpartition(".")
            if parent in self.modules and last in self.modules[parent].imports:
                origin = self.modules[parent].imports[last]
                if origin in self.names:
                    return origin
        return None


# --- docstrings -----------------------------------------------------------------------------------


@dataclass
class Doc:
    """A docstring in parts. Blocks are ("text" | "formula" | "code" | "list", lines)."""

    summary: str = ""
    blocks: list[tuple[str, list[str]]] = field(default_factory=list)
    args: list[tuple[str, str]] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    returns: str = ""
    yields: str = ""
    raises: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""


def parse_doc(text: str) -> Doc:
    """Google style: a sentence, paragraphs, then the sections in FIELDS."""
    doc, paragraph = Doc(), []
    lines = [*inspect.cleandoc(text).splitlines(), ""] if text else []
    while lines:
        line = lines.pop(0)
        head = re.match(rf"({'|'.join(FIELDS)}):\s*(.*)$", line)
        if head and not paragraph:
            below = []
            while lines and (lines[0].startswith(" ") or bool(lines[0]) == bool(head[2])):
                below.append(lines.pop(0))
            body = "\n".join(below)
            key = head[1].lower()
            if key in ("args", "attributes", "raises"):
                setattr(doc, key, _items(textwrap.dedent(body)))
            else:
                setattr(doc, key, " ".join([head[2], *body.split()]).strip())
        elif line.strip():
            paragraph.append(line)
        elif paragraph:
            _add_block(doc, paragraph)
            paragraph = []
    return doc


def _items(body: str) -> list[tuple[str, str]]:
    found = []
    for line in body.splitlines():
        if line and not line.startswith(" "):
            name, _, text = line.partition(":")
            found.append((name.strip(), text.strip()))
        elif line.strip():
            name, text = found[-1]
            found[-1] = (name, f"{text} {line.strip()}")
    return found


def _is_code(lines: list[str]) -> bool:
    if lines[0].startswith("$ "):  # to be typed in a terminal
        return True
    try:
        ast.parse("\n".join(lines))
    except SyntaxError:
        return False
    return True


def _add_block(doc: Doc, lines: list[str]) -> None:
    text = " ".join(line.strip() for line in lines)
    if not doc.summary and not doc.blocks:
        doc.summary = text
    elif all(line.startswith("    ") for line in lines):
        block = textwrap.dedent("\n".join(lines)).splitlines()
        doc.blocks.append(("code" if _is_code(block) else "formula", block))
    elif lines[0].startswith("- "):
        items: list[str] = []
        for line in lines:
            if line.startswith("- "):
                items.append(line[2:])
            else:
                items[-1] += " " + line.strip()
        doc.blocks.append(("list", items))
    elif re.search("[=←≈]", text) and not re.search(r"[.,:;?]$", text):
        doc.blocks.append(("formula", [line.strip() for line in lines]))
    else:
        doc.blocks.append(("text", [text]))
