"""The rules that a chapter keeps, each a function from a chapter to one sentence per breach.

    python tools/rules.py                                 all chapters of the contents
    python tools/rules.py chapters/gradient_descent.ipynb

Each sentence begins with the id of the cell, or with "chapter" where the whole is meant. What the
rules are for is in CONTRIBUTING.md; tests/test_notebooks.py holds every chapter to them.
"""

import ast
import functools
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from docutils.nodes import make_id
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pybtex.database import parse_file
from pybtex.richtext import Text

from dlmini.book import exercises, ledger, predict

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"

COLUMNS, LESSON, FOLDED, VISIBLE = 66, 12, 40, 200
OPENING = 6
WORDS, FIGURES, EXERCISES = (3000, 5500), (10, 18), (6, 9)
CLAIMS = (1, 16)  # fifteen, and that PyTorch does the same
CLAIMS_OF_A_SECTION, CLAIMS_OF_THE_SUMMARY = 3, 4
SIGNS_OF_A_FORMULA = 26  # about what stands beside its number on a screen of 390 pixels
PARTS = (
    "In PyTorch",
    "Where this came from",
    "The story is subtler",
    "Exercises",
    "Summary",
    "Further reading",
)
HIDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
HEADS = {"Notice", "You will be able to"}  # bold at the start of a paragraph without a stop

CAPTION = re.compile(r"\*\*Figure (\d+)\.(\d+)\.\*\* +(\S.*)")
TAG = re.compile(r"\\tag\{([^}]*)\}")
DETAILS = re.compile(
    r"<details>\s*<summary>(Hint|Solution)[^<]*</summary>\n\n(.*?)</details>", re.S
)
ROLE = re.compile(r"\{[\w:+-]+\}`|^ *(?:`{3,}|:{3,}|~{3,}) ?\{|^ *\([\w-]+\)= *$|^ *\{[.#]\w", re.M)
MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)


# --- what a rule sees ----------------------------------------------------------------------------


class Link(NamedTuple):
    text: str
    target: str


class Bold(NamedTuple):
    text: str
    target: str  # of the link around or inside, or ""
    leads: bool  # at the start of its paragraph


@dataclass
class Page:
    """What a Markdown cell holds."""

    links: list[Link] = field(default_factory=list)
    bold: list[Bold] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)  # text outside of links and bold
    headings: list[tuple[int, str]] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)  # the displayed ones
    words: int = 0


@dataclass(frozen=True, eq=False)
class Chapter:
    """A notebook, its place in the book, and the claims that it owes: id → kind."""

    cells: list
    name: str
    number: int = 1
    owed: dict = field(default_factory=dict)

    @functools.cached_property
    def pages(self) -> list[tuple[str, Page]]:
        return [(c.id, read(c.source)) for c in self.cells if c.cell_type == "markdown"]

    @property
    def code(self) -> list:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @functools.cached_property
    def records(self) -> list[tuple[str, dict]]:
        """The claims that were measured, each with its cell."""
        return ledger.stored(self.cells)

    @functools.cached_property
    def places(self) -> set[str]:
        """All that a link within the site can name."""
        tags = {tag for _, page in self.pages for f in page.formulas for tag in TAG.findall(f)}
        captions = [CAPTION.match(c.source) for c in self.cells if c.cell_type == "markdown"]
        shown = [o.get("data", {}).get("text/html", "") for c in self.code for o in c.outputs]
        return {
            *(f"eq-{tag.replace('.', '-')}" for tag in tags),
            *(f"fig-{m[1]}-{m[2]}" for m in captions if m),
            *(slug(text) for _, page in self.pages for _, text in page.headings),
            *(id for html in shown for id in re.findall(r'\sid="([^"]+)"', html)),
        }


def read(source: str) -> Page:
    page = Page()
    tokens = MARKDOWN.parse(source)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type.startswith("math_block"):
            page.formulas.append(token.content)
        elif token.type == "inline":
            _inline(page, token.children)
            if before.type == "heading_open":
                page.headings.append((int(before.tag[1]), _text(token.children)))
    return page


def _inline(page, tokens):
    target, link, bold, leads = "", None, None, True
    for token in tokens:
        if token.type == "link_open":
            target, link = token.attrs["href"], []
        elif token.type == "strong_open":
            bold, inside = [], target
        if link is not None and token.content:
            link.append(token.content)
        if bold is not None:
            inside = inside or target
            bold += [token.content] if token.content else []
        if token.type == "link_close":
            page.links.append(Link("".join(link), target))
            target, link = "", None
        elif token.type == "strong_close":
            page.bold.append(Bold("".join(bold), inside, leads))
            bold, leads = None, False
        elif token.type == "text":
            page.words += len(token.content.split())
            if link is None and bold is None:
                page.loose.append(token.content)
        elif token.type == "math_inline":
            page.words += 1
        if token.content and bold is None:
            leads = False


def _text(tokens):
    return "".join(token.content for token in tokens if token.content)


def slug(heading: str) -> str:
    """The anchor that the site gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def hidden(cell) -> bool:
    return bool(HIDING & set(cell.metadata.get("tags", [])))


def lines(cell) -> list[str]:
    return [line for line in cell.source.split("\n") if line.strip()]


def pictures(cell) -> list[bool]:
    """One entry for each picture that a cell shows: whether its text stands in the metadata."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data or "image/svg+xml" in data:
            found.append(True)
        elif re.search(r'class="dl-(explore|play)\b', data.get("text/html", "")):
            found.append(False)  # such a figure brings its own
    return found


def syntax(source: str) -> list[ast.AST]:
    """All that a cell of Python consists of; nothing where it is a magic."""
    try:
        return list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return []


# --- code ----------------------------------------------------------------------------------------


def every_cell_was_run_in_order(chapter):
    idle = [cell.id for cell in chapter.code if cell.execution_count is None]
    if idle:
        yield f"chapter: not run, run `make notebooks`: {', '.join(idle)}"
        return
    for expected, cell in enumerate(chapter.code, 1):
        if cell.execution_count != expected:
            yield f"{cell.id}: ran as number {cell.execution_count}, not {expected}"


def cells_have_names(chapter):
    ids = [cell.id for cell in chapter.cells]
    for id in dict.fromkeys(ids):
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", id) or re.match(
            r"[0-9a-f]{8}(-|$)", id
        ):
            yield f"{id}: a cell's id says what it does, such as fig-sweep"
        if ids.count(id) > 1:
            yield f"{id}: {ids.count(id)} cells have this id"


def code_fits_a_phone(chapter):
    for cell in chapter.code:
        limit = FOLDED if hidden(cell) else LESSON
        if len(lines(cell)) > limit:
            how = "folded" if hidden(cell) else "visible"
            yield f"{cell.id}: {len(lines(cell))} lines; a {how} cell has at most {limit}"
        for line in lines(cell):
            if len(line) > COLUMNS:
                yield f"{cell.id}: {len(line)} columns, at most {COLUMNS}: {line.strip()}"
    total = sum(len(lines(cell)) for cell in chapter.code if not hidden(cell))
    if total > VISIBLE:
        yield f"chapter: {total} visible lines of code, at most {VISIBLE}; fold what only measures"


def it_opens_with_the_thing_itself(chapter):
    first = chapter.cells[:OPENING]
    if not any(pictures(cell) for cell in first):
        yield f"chapter: no picture in the first {OPENING} cells"
    if not any(_is_bare(cell) for cell in first if cell.cell_type == "code" and not hidden(cell)):
        yield (
            f"chapter: no bare algorithm in the first {OPENING} cells: a visible cell of "
            "arithmetic that calls neither dlmini nor matplotlib"
        )


def _is_bare(cell):
    tree = syntax(cell.source)
    names = {node.id for node in tree if isinstance(node, ast.Name)}
    counts = any(isinstance(node, ast.BinOp | ast.AugAssign) for node in tree)
    return counts and not names & {"dl", "claim", "plt"}


# --- figures and formulas ------------------------------------------------------------------------


def figures_have_captions_and_alternative_text(chapter):
    count = 0
    for cell, after in zip(chapter.cells, [*chapter.cells[1:], None], strict=True):
        shown = pictures(cell)
        if len(shown) > 1:
            yield f"{cell.id}: shows {len(shown)} pictures; one for each cell and caption"
        about = cell.metadata.get("mystnb", {})
        if "figure" in about:
            yield f"{cell.id}: the caption belongs into a Markdown cell below, not into metadata"
        if any(shown) and len(about.get("image", {}).get("alt", "")) < 20:
            yield f"{cell.id}: no alternative text in its metadata, mystnb.image.alt"
        if not shown:
            continue
        count += 1
        label = f"**Figure {chapter.number}.{count}.**"
        match = CAPTION.match(after.source) if after and after.cell_type == "markdown" else None
        if not match:
            yield f"{cell.id}: no caption; the next cell begins with {label} and what is found"
        elif (int(match[1]), int(match[2])) != (chapter.number, count):
            yield f"{after.id}: Figure {match[1]}.{match[2]} should be {label.strip('*.')}"
        elif len(match[3]) < 20:
            yield f"{after.id}: the caption of {label} does not say what the figure shows"
    captions = [c for c in chapter.cells if c.cell_type == "markdown" and CAPTION.search(c.source)]
    places = {c.id: chapter.cells[i - 1] for i, c in enumerate(chapter.cells)}
    for cell in captions:
        if not CAPTION.match(cell.source) or len(CAPTION.findall(cell.source)) > 1:
            yield f"{cell.id}: a caption stands at the head of a cell of its own"
        elif not pictures(places[cell.id]):
            yield f"{cell.id}: this caption has no picture in the cell above it"


def equations_are_numbered_in_order(chapter):
    count = 0
    for cell, page in chapter.pages:
        for tag in (tag for formula in page.formulas for tag in TAG.findall(formula)):
            count += 1
            if tag != f"{chapter.number}.{count}":
                yield f"{cell}: equation ({tag}) should be ({chapter.number}.{count})"


def formulas_fit_a_phone(chapter):
    for cell, page in chapter.pages:
        for formula in page.formulas:
            formula = re.sub(r"\\(?:tag|begin|end)\{[^}]*\}", "", formula)
            for row in re.split(r"\\\\(?:\[[^\]]*\])?", formula):
                if signs(row) > SIGNS_OF_A_FORMULA:
                    wide = row.strip()
                    yield f"{cell}: break this with aligned, it is too wide for a phone: {wide}"


def signs(formula: str) -> int:
    """About how many signs stand side by side; a fraction is as wide as its longer half."""
    formula = re.sub(
        r"\\(?:[^A-Za-z]|(?:left|right|[bB]igg?[lr]?|text|operatorname|math[a-z]+)\b)", "", formula
    )
    formula = re.sub(r"\\qquad|\\quad", "xx", formula)
    formula = re.sub(r"\\(?![dt]?frac(?![A-Za-z]))[A-Za-z]+", "x", formula)
    before = None
    while formula != before:  # from the inside out
        before = formula
        formula = re.sub(r"[_^] *\{([^{}]*)\}", r"\1", formula)
        formula = re.sub(r"\\[dt]?frac *\{([^{}]*)\} *\{([^{}]*)\}", _longer, formula)
    formula = re.sub(r"\\[dt]?frac *(\w)|[{}&\s_^~]", "", formula)
    return len(formula) + len(re.findall(r"[=<>+-]", formula))  # these stand apart


def _longer(halves):
    return max(halves[1], halves[2], key=signs)


# --- prose ---------------------------------------------------------------------------------------


def markdown_is_plain(chapter):
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"^```\w*\n.*?^```", "", cell.source, flags=re.M | re.S)
            source = re.sub(r"\$[^$]+\$|(?<![}`])`[^`\n]+`", "", source)
            for match in ROLE.finditer(source):
                near = source[match.start() : match.start() + 40].strip().split("\n")[0]
                yield f"{cell.id}: plain Markdown only, no role, directive or label: {near}"


def terms_are_in_the_glossary(chapter):
    new, linked = {}, {}
    for cell, page in chapter.pages:
        for text, target, leads in page.bold:
            if target.startswith("glossary.md#"):
                if target in new:
                    yield f"{cell}: {text} is bold already in {new[target]}; once, where it is new"
                elif target in linked:
                    yield f"{linked[target]}: links to {target} before {cell} introduces it in bold"
                new.setdefault(target, cell)
            elif not (leads and is_head(text)):
                link = f"**[{text}](glossary.md#{make_id(text)})**"
                yield (
                    f"{cell}: **{text}** is neither a term, {link}, nor the head of a paragraph, "
                    "which ends with a stop; emphasis is *italic*"
                )
        for link in page.links:
            linked.setdefault(link.target, cell)


def is_head(text):
    return text in HEADS or text.rstrip("”\"')").endswith((".", ":", "?", "!"))


def links_lead_somewhere(chapter):
    for cell, page in chapter.pages:
        for text, target in page.links:
            problem = _problem(chapter, text, target)
            if problem:
                yield f"{cell}: [{text}]({target}): {problem}"
        for text in page.loose:
            for match in re.finditer(r"\((\d+\.\d+)\)|Figure (\d+\.\d+)", text):
                kind, number = ("eq", match[1]) if match[1] else ("fig", match[2])
                place = f"{kind}-{number.replace('.', '-')}"
                if kind == "fig" or place in chapter.places:
                    yield f"{cell}: cite by a link: [{match[0]}](#{place})"


def _problem(chapter, text, target):
    """What is wrong with a link, or None."""
    if re.match(r"(https?|mailto):", target):
        return None
    file, _, place = target.partition("#")
    if file == "glossary.md" and place:
        return None if place in terms() else "no such term in chapters/glossary.md"
    if file == "bibliography.md" and place:
        if place not in papers():
            return "no such entry in references.bib"
        names, year = papers()[place]
        asked = f"{names}, {year}"
        return None if text in (asked, f"{names} ({year})") else f"references.bib says {asked}"
    if file and not (CHAPTERS / file).is_file():
        return f"there is no file chapters/{file}"
    if not place:
        return None
    if place not in (places_of(CHAPTERS / file) if file else chapter.places):
        return "no such equation, figure, claim or heading"
    kind, _, name = place.partition("-")
    number = name.replace("-", ".")
    wanted = {"eq": [f"({number})"], "fig": [f"Figure {number}", number], "claim": [name]}.get(kind)
    return f"the text of this link should be {wanted[0]}" if wanted and text not in wanted else None


@functools.cache
def places_of(path: Path) -> set[str]:
    if path.suffix == ".ipynb":
        return Chapter(nbformat.read(path, as_version=4).cells, path.stem).places
    return {slug(text) for _, text in read(path.read_text(encoding="utf-8")).headings}


@functools.cache
def terms() -> set[str]:
    """The anchors of the glossary."""
    text = (CHAPTERS / "glossary.md").read_text(encoding="utf-8")
    return {make_id(term) for term in re.findall(r"^(\S.*)\n: ", text, re.M)}


@functools.cache
def papers() -> dict[str, tuple[str, str]]:
    """The key of each paper → how its authors are cited, and its year."""
    found = {}
    for key, entry in parse_file(ROOT / "references.bib").entries.items():
        people = entry.persons.get("author") or entry.persons["editor"]
        names = [" ".join([*p.prelast_names, *p.last_names]) for p in people]
        names = [str(Text.from_latex(name)) for name in names]
        cited = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        found[key] = cited, entry.fields["year"]
    return found


# --- the whole -----------------------------------------------------------------------------------


def it_has_all_parts(chapter):
    headings = [text for _, page in chapter.pages for _, text in page.headings]
    if len([1 for _, page in chapter.pages for level, _ in page.headings if level == 1]) != 1:
        yield "chapter: one heading of the first level, the title"
    for part in PARTS:
        if part not in headings:
            yield f"chapter: no section “{part}”"
    if not any(
        "You will be able to" in bold.text for _, page in chapter.pages for bold in page.bold
    ):
        yield "chapter: nothing says **You will be able to**"
    if not any(False in pictures(cell) for cell in chapter.cells):
        yield "chapter: no figure that the reader moves"
    summary = [link for _, page in section(chapter, "Summary") for link in page.links]
    cited = {link.target for link in summary if link.target.startswith("#claim-")}
    if len(cited) < CLAIMS_OF_THE_SUMMARY:
        yield f"chapter: the summary cites {len(cited)} claims, at least {CLAIMS_OF_THE_SUMMARY}"


def section(chapter, heading):
    """The Markdown cells of a section, from the one that holds its heading."""
    inside = False
    for cell, page in chapter.pages:
        tops = [text for level, text in page.headings if level <= 2]
        inside = heading in tops or (inside and not tops)
        if inside:
            yield cell, page


def it_has_its_size(chapter):
    figures = sum(bool(pictures(cell)) for cell in chapter.cells)
    counts = (
        (sum(page.words for _, page in chapter.pages), WORDS, "words"),
        (figures, FIGURES, "figures"),
        (len(chapter.records), CLAIMS, "claims"),
    )
    for count, (low, high), what in counts:
        if not low <= count <= high:
            yield f"chapter: {count} {what}; between {low} and {high}"


def claims_are_owed_and_have_controls(chapter):
    seen = {}
    for cell, record in chapter.records:
        id, kind = record["id"], record.get("kind")
        if not record["holds"]:
            yield f"{cell}: {id} does not hold"
        if id in seen:
            yield f"{cell}: {id} is measured in {seen[id]} already"
        seen[id] = cell
        if id not in chapter.owed:
            yield f"{cell}: {id} is not listed under [{chapter.name}] in chapters/claims.toml"
        elif chapter.owed[id] != kind:
            yield f"{cell}: {id} is {kind}; chapters/claims.toml says {chapter.owed[id]}"
        if kind not in ledger.KINDS:
            yield f"{cell}: {id} needs a kind: {', '.join(ledger.KINDS)}"
        elif kind != "identity" and not record.get("controls"):
            yield f"{cell}: {id} is {kind} and has no control that fails its criterion"
    for id in sorted(chapter.owed.keys() - seen.keys()):
        yield f"chapter: {id} is owed by chapters/claims.toml and not measured"
    heading, count, measured = "", Counter(), Counter(cell for cell, _ in chapter.records)
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            tops = [text for level, text in read(cell.source).headings if level <= 2]
            heading = tops[-1] if tops else heading
        count[heading] += measured[cell.id]
    for heading, n in count.items():
        if n > CLAIMS_OF_A_SECTION:
            yield f"chapter: {n} claims in “{heading}”, at most {CLAIMS_OF_A_SECTION} in a section"


def predictions_come_before_their_answers(chapter):
    yield from predict.breaches(chapter.cells)


class Exercise(NamedTuple):
    heading: str
    details: list[tuple[str, str]]  # ("Hint" or "Solution", its text)
    checks: list[tuple[str, str, str]]  # (id, code before dl.check, the expression it checks)


def exercises_of(chapter) -> list[Exercise]:
    """What stands under each heading of the section Exercises."""
    found, inside = [], False
    for cell in chapter.cells:
        if cell.cell_type == "code":
            if inside and found:
                found[-1].checks.extend(_checks(cell.source))
            continue
        for level, text in read(cell.source).headings:
            if level <= 2:
                inside = text == "Exercises"
            elif inside:
                found.append(Exercise(text, [], []))
        if inside and found:
            found[-1].details.extend(DETAILS.findall(cell.source))
    return found


def _checks(source):
    calls = [node for node in syntax(source) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func).split(".")[-1]
        if name == "check" and isinstance(call.args[0], ast.Constant):
            before = "\n".join(source.split("\n")[: call.lineno - 1])
            yield call.args[0].value, before, ast.unparse(call.args[1]) if call.args[1:] else "..."


def exercises_have_checkers_hints_and_solutions(chapter):
    found = exercises_of(chapter)
    low, high = EXERCISES
    if not low <= len(found) <= high:
        yield (
            f"chapter: {len(found)} exercises, {low} to {high}; each has a heading ### of its own "
            "under ## Exercises"
        )
    for heading, details, checks in found:
        kinds = "".join(kind[0] for kind, _ in details)
        if not re.fullmatch("H+S", kinds):
            yield f"chapter: exercise “{heading}” needs a hint, then one solution, in <details>"
            continue
        prose = re.sub(r"```.*?```", "", details[-1][1], flags=re.S)
        if len(prose.split()) < 8:
            yield f"chapter: the solution of “{heading}” does not explain"
        if checks and not re.search(r"```python\n.*?```", details[-1][1], re.S):
            yield f"chapter: the solution of “{heading}” has no Python that its check accepts"
        if len(checks) > 1:
            yield f"chapter: exercise “{heading}” has {len(checks)} checks; one answer each"
    prefix = next((p for p, name in exercises.CHAPTERS.items() if name == chapter.name), None)
    if prefix is None:
        yield (
            f"chapter: no prefix for its exercises; add one for {chapter.name!r} to CHAPTERS in "
            "dlmini/book/exercises/__init__.py"
        )
        return
    try:
        checkers = exercises.ids(prefix)
    except ImportError:
        yield f"chapter: there is no dlmini/book/exercises/{chapter.name}.py with its checkers"
        return
    ids = [id for _, _, checks in found for id, _, _ in checks]
    if ids != checkers:
        yield f"chapter: it checks {', '.join(ids) or 'nothing'}; checkers: {', '.join(checkers)}"


RULES = (
    every_cell_was_run_in_order,
    cells_have_names,
    code_fits_a_phone,
    it_opens_with_the_thing_itself,
    figures_have_captions_and_alternative_text,
    equations_are_numbered_in_order,
    formulas_fit_a_phone,
    markdown_is_plain,
    terms_are_in_the_glossary,
    links_lead_somewhere,
    it_has_all_parts,
    it_has_its_size,
    claims_are_owed_and_have_controls,
    predictions_come_before_their_answers,
    exercises_have_checkers_hints_and_solutions,
)


def breaches(chapter: Chapter) -> list[str]:
    """All that a chapter does wrong."""
    return [breach for rule in RULES for breach in rule(chapter)]


# --- the book ------------------------------------------------------------------------------------


def contents() -> list[str]:
    """The notebooks of the parts that teach, in the order of the contents: their names."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [part for part in toc["parts"] if part["caption"].startswith("Part ")]
    return [Path(chapter["file"]).name for part in parts for chapter in part["chapters"]]


def chapter(name: str) -> Chapter:
    """A chapter of the contents, with what it owes.

    Raises:
        KeyError: claims.toml does not list it.
    """
    owed = ledger.owed(CHAPTERS)
    if name not in owed:
        raise KeyError(
            f"chapters/{name}.ipynb is in _toc.yml and not in chapters/claims.toml: its claims "
            f"would not be looked at. Add [{name}] with its title and claims"
        )
    kinds = {id: entry["kind"] for id, entry in owed[name]["claims"].items()}
    cells = nbformat.read(CHAPTERS / f"{name}.ipynb", as_version=4).cells
    return Chapter(cells, name, contents().index(name) + 1, kinds)


def main(arguments: list[str]) -> int:
    worst = 0
    for name in [Path(argument).stem for argument in arguments] or contents():
        found = breaches(chapter(name))
        print(f"{name}: {len(found)} breaches", *found, sep="\n  ")
        worst |= bool(found)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
