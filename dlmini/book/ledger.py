"""Claims as they are shown: a record as one line, and the records of all chapters as the ledger."""

import json
import tomllib
from html import escape
from pathlib import Path

from .report import LINE_STYLE, num, show_line

__all__ = ["as_html", "as_text", "ledger", "owed", "records"]


def _count(record):
    n = record["n"]
    return f" (n = {n})" if n and n > 1 else ""


def _asked(record):
    if not record["asked"]:
        return ""
    one = record["predicted"] is not None and record["compared"] == "measured"
    return f" · {'predicted' if one else 'asked'} {record['asked']}"


def as_text(record: dict) -> str:
    """One line, as a terminal shows it and as nbval compares it.

    Args:
        record: of one claim, as `claim` stores it.
    """
    return (
        f"{'✓' if record['holds'] else '✗'} {record['id']} · {record['statement']} · "
        f"{record['compared']} {record['shown']}{_count(record)}{_asked(record)}"
    )


def as_html(record: dict) -> str:
    """One line, with the anchor to which the ledger links.

    Args:
        record: of one claim, as `claim` stores it.
    """
    good = record["holds"]
    sign, word = ("✓", "holds") if good else ("✗", "does not hold")
    return (
        f'<div class="dl-claim" id="claim-{record["id"]}" style="'
        f'{LINE_STYLE.format(hue="#009e73" if good else "#d55e00")}">'
        f'<span role="img" aria-label="{word}">{sign}</span> <strong>{record["id"]}</strong> · '
        f"{escape(record['statement'])} · "
        f'<span style="opacity:.85">{escape(record["compared"])} '
        f'<span class="dl-measured">{escape(record["shown"])}</span>'
        f"{_count(record)}{_keep_together(escape(_asked(record)))}</span></div>"
    )


def owed(folder=".") -> dict:
    """What the book owes: chapter → {"title": …, "claims": {id: statement}}, from claims.toml.

    Args:
        folder: where claims.toml is.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder) / "claims.toml"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no claims.toml in {Path(folder).name or 'this folder'!r}; the ledger is "
            "gathered in the book's chapters folder, beside its notebooks"
        )
    return tomllib.loads(path.read_text(encoding="utf-8"))


def records(notebook) -> list[dict]:
    """The records of all claims stored in a notebook, in its order.

    Args:
        notebook: its path.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    found = (output.get("metadata", {}).get("dlmini", {}) for output in outputs)
    return [record for record in found if "statement" in record]


def ledger(folder=".") -> None:
    """Show every claim of the stored notebooks in one searchable table, and what is still owed.

    Args:
        folder: of the notebooks and claims.toml.
    """
    book = owed(folder)
    notebooks = {chapter: Path(folder) / f"{chapter}.ipynb" for chapter in book}
    measured = {c: records(path) for c, path in notebooks.items() if path.is_file()}
    done = {record["id"] for found in measured.values() for record in found}
    open_ = {c: [i for i in book[c]["claims"] if i not in done] for c in book}
    total = sum(len(book[c]["claims"]) for c in book)
    count = len(done & {i for c in book for i in book[c]["claims"]})
    failing = sum(not record["holds"] for found in measured.values() for record in found)
    verdict = "all of them hold" if not failing else f"{failing} of them do not hold"
    summary = f"{count} of {total} claims measured; {verdict}."
    lines = [as_text(record) for found in measured.values() for record in found]
    lines += [f"○ {book[c]['title']}: {len(open_[c])} to come" for c in book if open_[c]]
    show_line("\n".join([summary, *lines]), _table(book, measured, open_, summary))


_STYLE = """
#dl-ledger{font:inherit;color:inherit;line-height:1.45}
#dl-ledger .dl-find{display:flex;flex-wrap:wrap;gap:.3em .8em;align-items:center;margin:.8em 0}
#dl-ledger input{font:inherit;color:inherit;flex:1 1 12em;max-width:24em;min-height:44px;
box-sizing:border-box;padding:0 .7em;border:1px solid rgba(127,127,127,.8);border-radius:6px;
background:transparent}
#dl-ledger input:focus-visible{outline:2px solid #2b8cc4;outline-offset:1px}
#dl-ledger table{display:table;width:100%;border-collapse:collapse;font-size:.92em;margin:0;
background:transparent;color:inherit;text-align:left;table-layout:auto}
#dl-ledger :is(th,td){padding:.5em .6em;vertical-align:top;text-align:left;border:0;
border-bottom:1px solid rgba(127,127,127,.25);background:transparent;color:inherit;
white-space:normal}
#dl-ledger th[scope=rowgroup]{padding-top:1.2em;font-size:1.1em}
#dl-ledger td:not(:first-child){font-variant-numeric:tabular-nums}
#dl-ledger small{display:block;opacity:.8;font-size:.9em}
#dl-ledger li{margin:.2em 0}
#dl-ledger summary{cursor:pointer;min-height:44px;display:flex;align-items:center;font-weight:600}
@media (max-width:40rem){#dl-ledger thead{position:absolute;clip-path:inset(50%)}
#dl-ledger :is(table,tbody,tr,td,th[scope=rowgroup]){display:block}
#dl-ledger td:empty{display:none}
#dl-ledger :is(td,th[scope=rowgroup]){border:0;padding:.15em .2em}#dl-ledger tr{padding:.4em 0;
border-bottom:1px solid rgba(127,127,127,.25)}
#dl-ledger td[data-name]::before{content:attr(data-name) " ";opacity:.8}}
"""

_SCRIPT = """
(function(){
var root=document.getElementById('dl-ledger'),box=root.querySelector('input');
var out=root.querySelector('output'),rows=[].slice.call(root.querySelectorAll('tr[data-claim]'));
function find(){
var words=box.value.toLowerCase().split(/\\s+/),n=0;
rows.forEach(function(row){
var text=row.textContent.toLowerCase();
row.hidden=!words.every(function(w){return text.indexOf(w)>=0;});
row.style.display=row.hidden?'none':'';n+=!row.hidden;});
root.querySelectorAll('tbody').forEach(function(body){
body.style.display=body.querySelector('tr[data-claim]:not([hidden])')?'':'none';});
out.textContent=n+' of '+rows.length+' shown';
}
root.querySelector('.dl-find').hidden=false;box.addEventListener('input',find);find();
})();
"""


def _table(book, measured, open_, summary):
    groups = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="4">{escape(book[chapter]["title"])}</th></tr>'
        f"{''.join(_row(chapter, record) for record in found)}</tbody>"
        for chapter, found in measured.items()
        if found
    )
    table = (
        '<table><thead><tr><th scope="col">Claim</th><th scope="col">Measured</th>'
        f'<th scope="col">Predicted</th><th scope="col">Asked</th></tr></thead>{groups}</table>'
    )
    return (
        f'<div id="dl-ledger"><style>{_STYLE}</style><p><strong>{summary}</strong></p>'
        '<div class="dl-find" hidden><label for="dl-ledger-find">Find a claim</label>'
        '<input type="search" id="dl-ledger-find" autocomplete="off">'
        '<output for="dl-ledger-find" aria-live="polite"></output></div>'
        f"{table if groups else ''}{_to_come(book, open_)}<script>{_SCRIPT}</script></div>"
    )


def _to_come(book, open_):
    chapters = "".join(
        f"<li><strong>{escape(book[c]['title'])}</strong> ({len(ids)}): "
        f"{escape('; '.join(book[c]['claims'][id] for id in ids))}</li>"
        for c, ids in open_.items()
        if ids
    )
    heading = "<summary>Still to be measured</summary>"
    return f"<details>{heading}<ul>{chapters}</ul></details>" if chapters else ""


def _row(chapter, record):
    id, sign, word = record["id"], *(("✓", "holds") if record["holds"] else ("✗", "does not hold"))
    shown, asked = record["shown"], record["asked"] or ""
    notes = [f"n = {record['n']}"] if record["n"] and record["n"] > 1 else []
    if record["compared"] != "measured":  # pairs: the numbers, and below them how they compare
        how = record["compared"].replace("measured/predicted", "ratio")
        notes.append(f"{how} {shown}")
        shown, asked = _between(record["measured"]), f"{how} {asked}"
    elif record["predicted"] is not None:
        asked = asked[asked.index("±") :]  # the prediction has a column of its own
    below = f"<small>{_measured(', '.join(notes))}</small>" if notes else ""
    return (
        f'<tr data-claim="{id}"><td><span role="img" aria-label="{word}">{sign}</span> '
        f'<a href="{chapter}.html#claim-{id}">{id}</a>'
        f"<small>{escape(record['statement'])}</small></td>"
        f'<td data-name="measured">{_measured(shown)}{below}</td>'
        f'<td data-name="predicted">{escape(_between(record["predicted"]))}</td>'
        f'<td data-name="asked">{_keep_together(escape(asked))}</td></tr>'
    )


def _keep_together(text):
    """No line break between a number, its tolerance and its unit."""
    return text.replace(" ± ", "&nbsp;±&nbsp;").replace("± ", "±&nbsp;").replace(" %", "&nbsp;%")


def _measured(text):
    return f'<span class="dl-measured">{escape(text)}</span>'


def _between(summary):
    """A number, or the range of a summary of many."""
    if isinstance(summary, dict):
        return f"{num(summary['min'])} to {num(summary['max'])}"
    return "" if summary is None else num(summary)
