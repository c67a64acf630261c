"""Predictions: a question before the experiment, the answer worked out from it, and a score.

    predict("gd-best", "How steep is the best of 100 directions?", {"half": 0.5, "a tenth": 0.1})
    reveal("gd-best", measured, "Slopes are nearly normal with spread ‖g‖/√P.")
    score()

The reader's choice is kept in the browser; Python never sees it. `breaches` says where a notebook
asks without answering, answers above the question, or types an answer that it should compute.
"""

import ast
import builtins
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from .claims import IDENTIFIER
from .report import LINE_STYLE, brief, inline_html, inline_text, num, plain, show_line

__all__ = ["breaches", "predict", "reveal", "score"]


@dataclass
class _Question:
    text: str
    values: dict  # label → number, (low, high) or None
    answer: dict = field(default_factory=dict)  # why, right and shown, once revealed


# What the running notebook has asked, in its order.
_questions: dict[str, _Question] = {}


def predict(id: str, question: str, choices: Mapping | Sequence[str]) -> None:
    """Ask the reader for a prediction before the experiment, with two to four choices.

    How `reveal` finds the right choice depends on what the labels stand for:

    - numbers, {"half": 0.5, "a tenth": 0.1}: the one nearest to the measurement m, by
      |log m − log v| where all are positive and span more than a factor of 3, otherwise by |m − v|;
      of two that are equally near, the smaller;
    - intervals, {"none": (-0.5, 0.5), "some": (0.5, 6)}: the one with low ≤ m ≤ high; where two
      meet, the upper;
    - nothing, ["the round one", "the long one"]: the cell that reveals says which.

    Args:
        id: the identifier, such as "gd-best".
        question: one line; formulas between dollar signs.
        choices: label → number, label → (low, high), or a list of labels, in the order shown.

    Raises:
        TypeError, ValueError: the question is not stated properly, or the id asks another one.
    """
    if not isinstance(id, str) or not IDENTIFIER.fullmatch(id):
        raise ValueError(
            f"prediction id {id!r} is not of the form 'chapter-name' (lower-case letters, digits "
            "and hyphens, such as 'gd-best')"
        )
    _one_line(id, "question", question)
    asked = _Question(question, _choices(id, choices))
    known = _questions.setdefault(id, asked)
    if (known.text, list(known.values.items())) != (question, list(asked.values.items())):
        raise ValueError(
            f"prediction {id!r} already asks {known.text!r} of {_listed(known.values)}; "
            "choose another id, or restart the kernel after editing a question"
        )
    lines = [f"? {id} · {inline_text(question)}", *(f"  ○ {inline_text(v)}" for v in known.values)]
    show_line("\n".join(lines), _asked_html(id, known), {"dlmini": {"question": id}})


def reveal(
    id: str,
    measured=None,
    why: str | None = None,
    *,
    choice: str | None = None,
    shown: str | None = None,
) -> None:
    """Answer a question: the measurement decides which choice was right.

    Args:
        id: of the question.
        measured: the number that decides; where the labels stand for nothing, give `choice`.
        why: the reason, in a sentence; formulas between dollar signs.
        choice: one of the labels, worked out by the cell.
        shown: the measurement as it is shown; the default has four digits.

    Raises:
        ValueError: no such question, a second answer to it, a measurement that is not finite or
            lies in no interval, a choice that is no label.
        TypeError: `measured` where `choice` is needed, or the reverse.
    """
    if id not in _questions:
        raise ValueError(
            f"prediction {id!r} was never asked; call dl.predict({id!r}, …) in a cell above"
        )
    asked = _questions[id]
    _one_line(id, "why", why)
    if shown is not None:
        _one_line(id, "shown", shown)
    if asked.answer and asked.answer["why"] != why:
        raise ValueError(
            f"prediction {id!r} is revealed already ({asked.answer['why']!r}); "
            "a question has one answer"
        )
    right, number = _right(id, asked.values, measured, choice)
    shown = shown or ("" if number is None else num(number))
    asked.answer = {"why": why, "right": right, "shown": shown}
    record = {"prediction": id, "choices": list(asked.values), "right": right, "shown": shown}
    text = f"{id} · {inline_text(f'measured {_finding(asked.answer)} · {why}')}"
    show_line(text, _revealed_html(id, asked), {"dlmini": record})


def score() -> None:
    """Count how many of the questions above the reader foresaw, and list the answers.

    Raises:
        ValueError: a question was not revealed, or there is none.
    """
    if not _questions:
        raise ValueError("there is nothing to score; ask with dl.predict first")
    unrevealed = [id for id, asked in _questions.items() if not asked.answer]
    if unrevealed:
        raise ValueError(
            f"score: {', '.join(unrevealed)} not revealed yet; call dl.reveal for each in the cell "
            "of its experiment"
        )
    lines = [f"{_counted(_questions)}, and what was measured"]
    for id, asked in _questions.items():
        lines.append(f"  {id} · {inline_text(f'{asked.text} {_finding(asked.answer)}')}")
    show_line("\n".join(lines), _score_html(_questions), {"dlmini": {"score": list(_questions)}})


# --- which choice is right --------------------------------------------------------------------


def _choices(id, given):
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        raise TypeError(
            f"prediction {id!r}: choices must be labels with numbers or (low, high), or a list of "
            f"labels, not {brief(given)}"
        )
    if not 2 <= len(given) <= 4:
        raise ValueError(f"prediction {id!r} has {len(given)} choices; give two to four")
    for label in given:
        _one_line(id, "a choice", label)
    twice = len({inline_text(label) for label in given}) < len(given)
    if twice:
        raise ValueError(f"prediction {id!r} has the same choice twice: {_listed(given)}")
    if not isinstance(given, Mapping):
        return dict.fromkeys(given)
    pairs = {isinstance(value, tuple | list) for value in given.values()}
    if len(pairs) > 1:
        raise TypeError(
            f"prediction {id!r} mixes numbers and intervals; give a number for each choice, or "
            "(low, high) for each"
        )
    return _intervals(id, given) if pairs == {True} else _numbers(id, given)


def _numbers(id, given):
    values = {label: _number(id, f"choice {label!r}", value) for label, value in given.items()}
    if len(set(values.values())) < len(values):
        raise ValueError(f"prediction {id!r}: two choices stand for the same number: {given}")
    return values


def _intervals(id, given):
    values = {}
    for label, ends in given.items():
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high:
            raise ValueError(
                f"prediction {id!r}: choice {label!r} is {ends}; give (low, high), the smaller "
                "first"
            )
        values[label] = low, high
    ordered = sorted(values, key=values.__getitem__)
    for lower, upper in zip(ordered, ordered[1:], strict=False):
        if values[lower][1] > values[upper][0]:
            raise ValueError(
                f"prediction {id!r}: {lower!r} {given[lower]} and {upper!r} {given[upper]} "
                "overlap; a measurement in both would have two answers"
            )
    return values


def _right(id, values, measured, choice):
    """The right label, and the number that decided where one did."""
    if None in values.values():
        if measured is not None or choice is None:
            raise TypeError(
                f"reveal {id!r}: its choices are words, so the cell works out which is right; "
                "give choice= and not measured"
            )
        if choice not in values:
            raise ValueError(
                f"reveal {id!r}: {brief(choice)} is no choice; there are {_listed(values)}"
            )
        return choice, None
    if choice is not None or measured is None:
        raise TypeError(
            f"reveal {id!r}: the measurement decides which choice is right; give measured and "
            "not choice="
        )
    number = _number(id, "measured", measured)
    if isinstance(next(iter(values.values())), tuple):
        held = [label for label, (low, high) in values.items() if low <= number <= high]
        if not held:
            ranges = ", ".join(f"{label!r} {ends}" for label, ends in values.items())
            raise ValueError(f"reveal {id!r}: {num(number)} lies in no interval of {ranges}")
        return max(held, key=values.__getitem__), number
    return _nearest(values, number), number


def _nearest(values, number):
    low, high = min(values.values()), max(values.values())
    logarithmic = low > 0 and high > 3 * low
    if logarithmic and number <= 0:
        return min(values, key=values.__getitem__)
    scale = math.log if logarithmic else float
    unit = 1e-9 * (scale(high) - scale(low))  # a tie stays one when the last digits differ
    distance = {label: abs(scale(number) - scale(value)) for label, value in values.items()}
    near = [label for label in values if distance[label] <= min(distance.values()) + unit]
    return min(near, key=values.__getitem__)


def _number(id, name, value):
    array = plain(value)
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise TypeError(f"prediction {id!r}: {name} must be one number, not {brief(value)}")
    number = float(array.flat[0])
    if not math.isfinite(number):
        raise ValueError(f"prediction {id!r}: {name} is {num(number)}; it must be finite")
    return number


def _one_line(id, name, text):
    if not isinstance(text, str) or not text.strip() or "\n" in text:
        raise TypeError(f"prediction {id!r}: {name} must be one line of text, not {brief(text)}")


def _listed(labels):
    return ", ".join(repr(label) for label in labels)


def _counted(questions):
    return "1 prediction" if len(questions) == 1 else f"{len(questions)} predictions"


def _finding(answer):
    """'4.9 % (about 5 %)', or the label alone."""
    shown, right = answer["shown"], answer["right"]
    return f"{shown} ({right})" if shown else right


# --- what the reader sees ---------------------------------------------------------------------


def _together(text):
    """A sentence as HTML, with no line break before a percent sign."""
    return inline_html(text).replace(" %", "\u00a0%")


# Until the script runs. JupyterLab takes scripts, <style> and the attribute `hidden` from outputs
# of a notebook that was not run yet; inline styles stay.
_HIDDEN = 'style="display:none"'

# Begins each script: `root`, the element that it serves, and the choice kept for an id. `memory`
# serves where the browser refuses storage. The event "dlmini" tells all outputs of the page.
_KEEP = """
var me=document.currentScript,root=me&&me.closest('.CLASS')||document.getElementById('ID');
var memory=window.dlminiKept=window.dlminiKept||{};
function kept(id){try{return localStorage.getItem('dlmini:'+id);}catch(e){return memory[id];}}
function keep(id,choice){memory[id]=choice;
try{choice?localStorage.setItem('dlmini:'+id,choice):localStorage.removeItem('dlmini:'+id);}
catch(e){}}
function see(e,yes){e.style.display=yes?'':'none';}
function tell(){document.dispatchEvent(new Event('dlmini'));}
"""

# The look of these, too, is inline. Of a <legend>, the browser lays the border through the text.
_BOX = (
    "margin:1em 0;padding:.7em .9em;border:1px solid rgba(127,127,127,.5);border-radius:8px;"
    "font:inherit;color:inherit;line-height:1.45"
)
_GROUP = "border:0;margin:0;padding:0;min-width:0"
_TITLE = "float:none;width:auto;padding:0;margin:0 0 .5em;font:inherit;font-weight:600"

_ASK_STYLE = """
.dl-predict label{display:flex;align-items:center;gap:.5em;margin:0;overflow-wrap:anywhere}
.dl-predict input{flex:none;width:1.1em;height:1.1em;margin:0;accent-color:#2b8cc4}
.dl-predict small{display:block;margin-top:.5em;font-size:.85em;opacity:.85}
@media screen{.dl-predict.dl-on .dl-choices{display:flex;flex-wrap:wrap;gap:.5em}
.dl-on label{box-sizing:border-box;min-height:44px;padding:.3em .9em;cursor:pointer;
border:1px solid rgba(127,127,127,.8);border-radius:6px}
.dl-on label:hover{background:rgba(127,127,127,.12)}
.dl-on label:has(:checked){border-color:#2b8cc4;box-shadow:inset 0 0 0 1px #2b8cc4;
background:rgba(43,140,196,.15)}
.dl-on label:has(:focus-visible){outline:2px solid #2b8cc4;outline-offset:2px}}
@media print{.dl-predict{padding:0!important;border:0!important}
.dl-predict :is(input,small){display:none!important}
.dl-predict label{display:list-item;margin-left:1.5em;list-style:circle}}
"""

_ASK_SCRIPT = """
var inputs=[].slice.call(root.querySelectorAll('input')),id=root.dataset.id;
var small=root.querySelector('small'),ask=small.textContent;
function show(){var v=kept(id);inputs.forEach(function(i){i.checked=i.value===v;});
small.textContent=root.querySelector(':checked')
?'Kept in this browser. Read on to the measurement.':ask;}
root.addEventListener('change',function(e){keep(id,e.target.value);tell();});
document.addEventListener('dlmini',show);
root.classList.add('dl-on');see(small,true);show();
if(kept(id)&&!root.querySelector(':checked'))keep(id);
"""


def _script(name, id, body):
    code = _KEEP.replace("CLASS", name).replace("ID", id) + body
    return f"<script>\n(function(){{{code}}})();\n</script>"


def _asked_html(id, asked):
    choices = "".join(
        f'<label><input type="radio" name="{id}" value="{escape(inline_text(label))}" '
        'autocomplete="off" data-lm-suppress-shortcuts="true">'
        f"<span>{_together(label)}</span></label>"
        for label in asked.values
    )
    return (  # a form of its own: in a second view of the output, radios are a second group
        f'<form class="dl-predict" id="predict-{id}" data-id="{id}" method="dialog" '
        f'style="{_BOX}"><style>{_ASK_STYLE}</style><fieldset style="{_GROUP}">'
        f'<legend style="{_TITLE}">{_together(asked.text)}</legend>'
        f'<div class="dl-choices">{choices}</div></fieldset>'
        f"<small {_HIDDEN}>Choose before you read on; your choice is kept in this browser only."
        "</small>"
        f"{_script('dl-predict', f'predict-{id}', _ASK_SCRIPT)}</form>"
    )


_REVEAL_SCRIPT = """
function show(){
var v=kept(root.dataset.id),known=false;
root.querySelectorAll('[data-choice]').forEach(function(b){
var same=b.dataset.choice===v;see(b,same);known=known||same;});
var right=known&&v===root.dataset.right,mark=root.querySelector('[role=img]');
mark.textContent=right?'✓':'✗';mark.setAttribute('aria-label',right?'foreseen':'not foreseen');
see(root.querySelector('.dl-said'),known);see(root.querySelector('small'),!known);
root.querySelector('.dl-word').textContent=known?'measured':'Measured';
root.querySelectorAll('.dl-right').forEach(function(r){see(r,!right);});
}
document.addEventListener('dlmini',show);show();
"""


def _revealed_html(id, asked):
    shown, right = asked.answer["shown"], asked.answer["right"]
    said = "".join(
        f'<strong data-choice="{escape(inline_text(label))}">{_together(label)}</strong>'
        for label in asked.values
    )
    if shown:
        answer = (
            f'<strong class="dl-measured">{_together(shown)}</strong>'
            f'<span class="dl-right"> ({_together(right)})</span>'
        )
    else:
        answer = f"<strong>{_together(right)}</strong>"
    return (
        f'<div class="dl-reveal" id="reveal-{id}" data-id="{id}" '
        f'data-right="{escape(inline_text(right))}" '
        f'style="{LINE_STYLE.format(hue="#2b8cc4")};border-left:6px double #2b8cc4">'
        "<style>.dl-reveal small{opacity:.85}"
        "@media print{.dl-reveal small{display:none!important}}</style>"
        f'<span class="dl-said" {_HIDDEN}><span role="img"></span> You said '
        f"{said}; </span>"
        f'<span class="dl-word">Measured</span> {answer}. {_together(asked.answer["why"])} '
        f"<small {_HIDDEN}>You made no choice here.</small>"
        f"{_script('dl-reveal', f'reveal-{id}', _REVEAL_SCRIPT)}</div>"
    )


_SCORE_STYLE = """
.dl-score p{margin:0;font-weight:600}
.dl-score :is(summary,button){min-height:44px;font:inherit;color:inherit;cursor:pointer}
.dl-score summary{display:list-item;padding:.5em 0;box-sizing:border-box}
.dl-score ol{margin:0;padding-left:1.5em}
.dl-score button{margin-top:.5em;padding:0 .9em;background:transparent;
border:1px solid rgba(127,127,127,.8);border-radius:6px}
.dl-score :is(button,summary):focus-visible{outline:2px solid #2b8cc4;outline-offset:2px}
@media print{.dl-score button{display:none!important}}
"""

_SCORE_SCRIPT = """
var items=[].slice.call(root.querySelectorAll('li')),says=root.querySelector('p');
var button=root.querySelector('button');
function show(){
var said=0,right=0,n=items.length;
items.forEach(function(item){
var v=kept(item.dataset.id),good=v===item.dataset.right,mark=item.querySelector('span');
said+=!!v;right+=good;mark.innerHTML=v?'<span role="img" aria-label="'+
(good?'foreseen">✓':'not foreseen">✗')+'</span> ':'';});
says.textContent=said?'You foresaw '+right+' of '+n+(said<n?'; '+(n-said)+' without a choice':'')+
'.':'You have chosen in none of the '+n+' questions above.';
see(button,said);
}
button.addEventListener('click',function(){
items.forEach(function(item){keep(item.dataset.id);});tell();root.querySelector('summary').focus();});
document.addEventListener('dlmini',show);show();
"""


def _score_html(questions):
    items = "".join(
        f'<li data-id="{id}" data-right="{escape(inline_text(asked.answer["right"]))}">'
        f'<span></span><a href="#reveal-{id}">'
        f"{_together(asked.text)}</a> {_together(_finding(asked.answer))}</li>"
        for id, asked in questions.items()
    )
    return (
        f'<div class="dl-score" id="dl-score" style="{_BOX}"><style>{_SCORE_STYLE}</style>'
        f'<p aria-live="polite">{_counted(questions)} in this chapter</p>'
        f"<details><summary>The answers</summary><ol>{items}</ol></details>"
        f'<button type="button" {_HIDDEN}>Forget my choices</button>'
        f"{_script('dl-score', 'dl-score', _SCORE_SCRIPT)}</div>"
    )


# --- what a notebook must keep to -------------------------------------------------------------


def breaches(cells: Iterable) -> list[str]:
    """What a notebook does wrong with its predictions, judged by its source.

    Every question is revealed, once, below it; the right choice is computed, not typed; `score`
    comes after the last answer.

    Args:
        cells: of one notebook, as nbformat or json reads them.

    Returns:
        One sentence for each breach, with the id of the cell.
    """
    trees = [(str(cell.get("id", i)), _tree(cell)) for i, cell in enumerate(cells)]
    typed = _typed_names(trees)
    found: list[str] = []
    asked: dict[str, str] = {}  # id → cell
    told: dict[str, str] = {}
    scored = True
    for cell, name, given in ((cell, *call) for cell, tree in trees for call in _calls(tree)):
        if name == "score":
            scored = True
            continue
        id = getattr(given.get("id"), "value", None)
        if not isinstance(id, str):
            found.append(f"{cell}: dl.{name} needs its id as a literal text")
            continue
        seen, word = (asked, "asked") if name == "predict" else (told, "revealed")
        if id in seen:
            found.append(f"{cell}: {id} is {word} twice")
        seen[id] = cell
        if name == "predict":
            if id in told:
                found.append(f"{told[id]}: {id} is revealed above its question in {cell}")
            continue
        scored = False
        decides = given.get("measured", given.get("choice"))
        if decides is not None and _is_typed(decides, typed):
            found.append(
                f"{cell}: the answer to {id} is typed ({ast.unparse(decides)}); "
                "work it out from the measurement"
            )
    found += [f"{asked[id]}: {id} is never revealed" for id in asked if id not in told]
    found += [f"{told[id]}: {id} has no question" for id in told if id not in asked]
    if not scored:
        found.append("no dl.score() below the last dl.reveal")
    return found


def _tree(cell):
    if cell["cell_type"] != "code":
        return ast.Module([], [])
    source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
    lines = source.split("\n")
    return ast.parse("\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in lines))


def _calls(tree):
    """dl.predict, dl.reveal and dl.score in reading order, with their arguments by name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            where, name = ast.unparse(node.func.value), node.func.attr
            if where in ("dl", "dlmini") and name in ("predict", "reveal", "score"):
                given = dict(zip(("id", "measured", "why"), node.args, strict=False))
                given |= {k.arg: k.value for k in node.keywords if k.arg}
                found.append((node.lineno, node.col_offset, name, given))
    return [call[2:] for call in sorted(found, key=lambda call: call[:2])]


def _typed_names(trees):
    """Names that are bound once in the whole notebook, to a literal."""
    nodes = [node for _, tree in trees for node in ast.walk(tree)]
    bound = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    literal = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and _is_typed(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {name for name in literal if bound.count(name) == 1}


def _is_typed(expression, typed):
    """Whether nothing enters an expression but literals (and Python's own functions of them)."""
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    return not names - typed - set(dir(builtins))
