"""Claims as they are shown: a record as one line, and the records of all chapters as the ledger."""

import json
import re
import tomllib
from html import escape
from pathlib import Path

from .report import LINE_STYLE, inline_html, inline_text, num, show_line

__all__ = ["KINDS", "as_html", "as_text", "owed", "records", "show", "stored"]

#: What a claim can be, and what that means.
KINDS = {
    "identity": "follows by algebra and checks the code",
    "theory": "a formula predicts a number on a real run",
    "empirical": "expected from the literature and might have been otherwise",
}


# --- one claim --------------------------------------------------------------------------------


def as_text(record: dict) -> str:
    """One line, as a terminal shows it and as nbval compares it.

    Args:
        record: of one claim, as `claim` stores it.
    """
    sign, _ = _sign(record)
    name, asked = _asked(record)
    parts = [f"{sign} {record['id']}", record["kind"], inline_text(record["statement"])]
    parts += [f"{record['compared']} {record['shown']}{_count(record)}", f"{name} {asked}"]
    for control in record["controls"]:
        label, seen = _parts(control)
        parts.append(f"control {inline_text(label)}{seen and f': {seen}'}, {_fate(control)}")
    return " · ".join(parts)


def as_html(record: dict) -> str:
    """The same as HTML, with the anchor to which the ledger links.

    Args:
        record: of one claim, as `claim` stores it.
    """
    sign, word = _sign(record)
    hue = "#009e73" if record["holds"] else "#d55e00"
    name, asked = _asked(record)
    facts = [f"{_quiet(record['compared'])} {_measured(record['shown'])}{_count(record)}"]
    facts += [f"{_quiet(name)} {inline_html(_keep_together(asked))}"]
    facts += [f"{_quiet('control')} {_control(control)}" for control in record["controls"]]
    return (
        f'<div class="dl-claim" id="claim-{record["id"]}" style="{LINE_STYLE.format(hue=hue)}">'
        f'<span role="img" aria-label="{word}">{sign}</span> <strong>{record["id"]}</strong> '
        f"<small>{record['kind']}</small> · {inline_html(record['statement'])}"
        '<div style="display:flex;flex-wrap:wrap;gap:0 1.4em;margin-top:.1em;font-size:.92em">'
        f"{' '.join(f'<span>{fact}</span>' for fact in facts)}</div></div>"
    )


def _sign(record):
    return ("✓", "holds") if record["holds"] else ("✗", "does not hold")


def _count(record):
    return f" (n = {record['n']})" if (record["n"] or 1) > 1 else ""


def _asked(record):
    one = record["predicted"] is not None and record["compared"] == "measured"
    return "predicted" if one else "asked", record["asked"]


def _parts(control):
    """What was changed, and what was seen then; a verdict has both in its label."""
    if control["shown"]:
        return control["label"], control["shown"]
    label, _, seen = control["label"].rpartition(": ")
    return (label, seen) if label else (seen, "")


def _fate(control):
    return "would fail" if control["fails"] else "passes too"


def _control(control):
    label, seen = _parts(control)
    return f"{inline_html(label)}{seen and f': {_measured(seen)}'}, {_fate(control)}"


def _quiet(word):
    return f'<span style="opacity:.75">{escape(word)}</span>'


def _measured(text):
    """What may differ between machines, marked for nbval."""
    return f'<span class="dl-measured">{escape(_keep_together(text))}</span>'


def _keep_together(text):
    """No line break between a number, its tolerance and its unit."""
    return re.sub(r"(?<=[±≤<>]) | (?=[±%])", "\N{NO-BREAK SPACE}", text)


# --- where claims are -------------------------------------------------------------------------


def owed(folder=".") -> dict:
    """What the book owes, from claims.toml.

    Args:
        folder: where claims.toml is.

    Returns:
        chapter → {"title": …, "claims": {id: {"kind": …, "says": …}}}.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder) / "claims.toml"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no claims.toml in {Path(folder).name or 'this folder'!r}; what the book "
            "owes is listed in its chapters folder, beside the notebooks"
        )
    return tomllib.loads(path.read_text(encoding="utf-8"))


def records(notebook) -> list[dict]:
    """The records of all claims stored in a notebook, in its order.

    Args:
        notebook: its path.
    """
    return [record for _, record in stored(_cells(notebook))]


def stored(cells) -> list[tuple[str, dict]]:
    """The records of all claims in the outputs of cells, each with the id of its cell.

    Args:
        cells: of a notebook, as nbformat or json reads them.
    """
    outputs = ((cell.get("id", ""), o) for cell in cells for o in cell.get("outputs", []))
    found = ((id, output.get("metadata", {}).get("dlmini", {})) for id, output in outputs)
    return [(id, record) for id, record in found if "statement" in record]


def _cells(notebook):
    return json.loads(Path(notebook).read_text(encoding="utf-8")).get("cells", [])


def _heading(notebook):
    """What the notebook calls itself in its first heading, or its file's name."""
    texts = ("".join(c["source"]) for c in _cells(notebook) if c["cell_type"] == "markdown")
    heading = re.search(r"(?m)^# +(.+)$", "\n".join(texts))
    return heading[1].strip() if heading else Path(notebook).stem


# --- all claims -------------------------------------------------------------------------------


def show(folder=".") -> None:
    """Show every claim of the stored notebooks in one table that can be searched.

    With claims.toml, the list of what the book owes, also what is still to be measured; without
    it, as in a reader's copy, the notebooks that there are.

    Args:
        folder: of the notebooks.
    """
    folder = Path(folder)
    complete = (folder / "claims.toml").is_file()
    book = owed(folder) if complete else _found(folder)
    paths = {chapter: folder / f"{chapter}.ipynb" for chapter in book}
    measured = {chapter: records(path) for chapter, path in paths.items() if path.is_file()}
    every = [record for found in measured.values() for record in found]
    done = {record["id"] for record in every}
    open_ = {c: [i for i in book[c]["claims"] if i not in done] for c in book}
    summary = _summary(every, sum(map(len, open_.values())) if complete else None)
    lines = [summary, *map(as_text, every)]
    lines += [f"○ {book[c]['title']}: {len(ids)} to come" for c, ids in open_.items() if ids]
    lines += [f"○ {title}: stores no claim" for title in _silent(book, measured)]
    show_line("\n".join(lines), _page(book, measured, open_, summary))


def _found(folder):
    """The notebooks of a folder that has no claims.toml, in its form."""
    paths = [path for path in sorted(folder.glob("*.ipynb")) if path.stem != "ledger"]
    return {path.stem: {"title": _heading(path), "claims": {}} for path in paths}


def _silent(book, measured):
    """Titles of notebooks that owe nothing known and store nothing."""
    return [
        book[c]["title"] for c, found in measured.items() if not found and not book[c]["claims"]
    ]


def _summary(every, to_come):
    """How many claims are measured, of which kinds, and how many hold."""
    n, failing = len(every), sum(not record["holds"] for record in every)
    kinds = [f"{sum(r['kind'] == kind for r in every)} {kind}" for kind in KINDS]
    of = f"{n} claims" if to_come is None else f"{n} of {n + to_come} claims"
    verdict = f"{failing} of them do not hold" if failing else "all of them hold"
    counted = f"{of} measured: {', '.join(kinds)}; {verdict}." if n else f"{of} measured."
    if to_come is not None:
        return counted
    return (
        f"{counted} There is no claims.toml in this folder, so it cannot be told what is still "
        "owed; the whole ledger is gathered in the book's chapters folder."
    )


_STYLE = """
#dl-ledger{font:inherit;color:inherit;line-height:1.45;container-type:inline-size}
#dl-ledger [hidden]{display:none}
#dl-ledger .dl-find{display:flex;flex-wrap:wrap;gap:.5em 1em;align-items:end;margin:.8em 0}
#dl-ledger .dl-find label{flex:1 1 8em;max-width:16em;margin:0;font-size:.88em}
#dl-ledger output{flex:1 0 7em;font-size:.88em;line-height:44px}
#dl-ledger :is(input,select){font:inherit;color:inherit;display:block;height:44px;width:100%;
box-sizing:border-box;margin:0;padding:0 .6em;border:1px solid rgba(127,127,127,.8);
border-radius:6px;background:transparent}
#dl-ledger option{color:CanvasText;background:Canvas}
#dl-ledger :is(input,select):focus-visible{outline:2px solid #2b8cc4;outline-offset:2px}
#dl-ledger table{display:table;width:100%;border-collapse:collapse;font-size:.85em;margin:0;
background:transparent;color:inherit;text-align:left;table-layout:auto}
#dl-ledger :is(th,td){padding:.5em .35em;vertical-align:top;text-align:left;border:0;
border-bottom:1px solid rgba(127,127,127,.25);background:transparent;color:inherit;
white-space:normal;overflow-wrap:break-word;font-variant-numeric:tabular-nums}
#dl-ledger th[scope=rowgroup]{padding-top:1.2em;font-size:1.1em}
#dl-ledger tr{break-inside:avoid}
#dl-ledger :is(td:first-child,td:last-child:not(:first-child)){min-width:8em}
#dl-ledger td[data-name=asked]{min-width:6em}
#dl-ledger td:last-child{overflow-wrap:anywhere}
#dl-ledger small{display:block;opacity:.8;font-size:.92em}
#dl-ledger li{margin:.2em 0}#dl-ledger li small{display:inline}
#dl-ledger summary{cursor:pointer;min-height:44px;display:flex;align-items:center;font-weight:600}
@container (max-width:42rem){#dl-ledger thead{display:block;position:absolute;
width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
#dl-ledger :is(table,tbody,tr,td,th[scope=rowgroup]){display:block}
#dl-ledger :is(td,th[scope=rowgroup]){border:0;padding:.15em .2em}
#dl-ledger tr{padding:.4em 0;border-bottom:1px solid rgba(127,127,127,.25)}
#dl-ledger tr td{min-width:0}
#dl-ledger td[data-name]{display:grid;grid-template-columns:6em 1fr}
#dl-ledger td[data-name]::before{content:attr(data-name);opacity:.8}
#dl-ledger td[data-name]>*{grid-column:2}}
@media print{#dl-ledger .dl-find>:not(output){display:none}
#dl-ledger details::details-content{content-visibility:visible;block-size:auto}}
"""

_SCRIPT = """
(function(){
var root=document.getElementById('dl-ledger'),find=root.querySelector('.dl-find');
var box=find.querySelector('input'),picks=[].slice.call(find.querySelectorAll('select'));
var out=find.querySelector('output'),rows=[].slice.call(root.querySelectorAll('tr[data-claim]'));
function sift(){
var words=box.value.toLowerCase().split(/\\s+/),n=0;
rows.forEach(function(row){
row.hidden=!words.every(function(w){return row.dataset.find.indexOf(w)>=0;})||
!picks.every(function(p){return !p.value||p.value===row.dataset[p.name];});
n+=!row.hidden;});
root.querySelectorAll('tbody').forEach(function(body){
body.hidden=!body.querySelector('tr[data-claim]:not([hidden])');});
out.textContent=n+' of '+rows.length+' shown';
}
find.style.display='';find.addEventListener('input',sift);sift();
})();
"""


def _page(book, measured, open_, summary):
    found = {chapter: rows for chapter, rows in measured.items() if rows}
    titles = {chapter: book[chapter]["title"] for chapter in found}
    return (
        f'<div id="dl-ledger"><style>{_STYLE}</style><p><strong>{escape(summary)}</strong></p>'
        f"{_finder(titles, found) + _table(titles, found) if found else ''}"
        f"{_to_come(book, open_)}{_without(_silent(book, measured))}"
        f"{f'<script>{_SCRIPT}</script>' if found else ''}</div>"
    )


def _finder(titles, found):
    """What sifts the rows; shown by the script, without which it would be dead.

    A style and not `hidden`, which JupyterLab drops from a notebook that was not run yet.
    """
    kinds = [record["kind"] for rows in found.values() for record in rows]
    picks = _pick("kind", {kind: f"{kind} ({kinds.count(kind)})" for kind in KINDS})
    if len(titles) > 1:
        picks += _pick("chapter", titles)
    return (
        '<div class="dl-find" style="display:none"><label>Find '
        f'<input type="search" autocomplete="off" {_KEYS}></label>'
        f'{picks}<output aria-live="polite"></output></div>'
    )


_KEYS = 'data-lm-suppress-shortcuts="true"'  # JupyterLab leaves the keys to the control


def _pick(name, labels):
    options = "".join(f'<option value="{v}">{escape(text)}</option>' for v, text in labels.items())
    return (
        f'<label>{name.capitalize()} <select name="{name}" {_KEYS}><option value="">all</option>'
        f"{options}</select></label>"
    )


_COLUMNS = ("Claim", "Kind", "Measured", "Predicted", "Asked", "Control")


def _table(titles, found):
    heads = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    groups = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="{len(_COLUMNS)}">{escape(titles[chapter])}</th>'
        f"</tr>{''.join(_row(chapter, titles[chapter], record) for record in rows)}</tbody>"
        for chapter, rows in found.items()
    )
    return f"<table><thead><tr>{heads}</tr></thead>{groups}</table>"


def _row(chapter, title, record):
    id, (sign, word) = record["id"], _sign(record)
    shown, asked = _measured(record["shown"]), record["asked"]
    notes = [f"n = {record['n']}"] if _count(record) else []
    if record["compared"] != "measured":  # pairs: the numbers, and below them how they compare
        how = record["compared"].replace("measured/predicted", "ratio")
        how = how.replace("|measured − predicted|", "difference")
        notes.append(f"{how} {record['shown']}")
        shown, asked = _measured(_between(record["measured"])), f"{how} {asked}"
    elif record["predicted"] is not None:
        asked = asked[asked.index("±") :]  # the prediction has a column of its own
    if notes:
        shown += f"<br><small>{_measured(', '.join(notes))}</small>"
    if record["predicted"] is not None:
        predicted = _between(record["predicted"])
    else:
        predicted = "a bound" if record["measured"] is not None else "as stated"
    cells = {
        "kind": record["kind"],
        "measured": shown,
        "predicted": escape(_keep_together(predicted)),
        "asked": inline_html(_keep_together(asked)),
        "control": "<br>".join(map(_control, record["controls"])) or "none: it is algebra",
    }
    labels = [inline_text(_parts(control)[0]) for control in record["controls"]]
    words = " ".join([id, record["kind"], inline_text(record["statement"]), title, *labels])
    return (
        f'<tr data-claim="{id}" data-kind="{record["kind"]}" data-chapter="{chapter}" '
        f'data-find="{escape(words.lower())}"><td><span role="img" aria-label="{word}">{sign}'
        f'</span> <a href="{chapter}.ipynb#claim-{id}">{id}</a>'
        f"<br><small>{inline_html(record['statement'])}</small></td>"
        + "".join(f'<td data-name="{name}"><div>{cell}</div></td>' for name, cell in cells.items())
        + "</tr>"
    )


def _between(summary):
    """A number, or the range of a summary of many."""
    ends = [summary["min"], summary["max"]] if isinstance(summary, dict) else [summary]
    return " to ".join(dict.fromkeys(map(num, ends)))


def _to_come(book, open_):
    chapters = "".join(
        f"<li><strong>{escape(book[chapter]['title'])}</strong><ul>"
        + "".join(_owing(book[chapter]["claims"][id]) for id in ids)
        + "</ul></li>"
        for chapter, ids in open_.items()
        if ids
    )
    heading = f"<summary>Still to be measured ({sum(map(len, open_.values()))})</summary>"
    return f"<details>{heading}<ul>{chapters}</ul></details>" if chapters else ""


def _owing(claim):
    return f"<li>{inline_html(claim['says'])} <small>({claim['kind']})</small></li>"


def _without(titles):
    return f"<p>Notebooks that store no claim: {escape(', '.join(titles))}.</p>" if titles else ""
