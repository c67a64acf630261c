"""How numbers and verdicts are put before a reader, in a notebook and elsewhere."""

import re
import unicodedata
from html import escape

import numpy as np

#: The look of one line of verdict; readable on light and dark pages.
LINE_STYLE = (
    "margin:.35em 0;padding:.45em .75em;border-left:4px solid {hue};border-radius:0 6px 6px 0;"
    "background:rgba(127,127,127,.1);font-family:inherit;font-size:.95em;line-height:1.45;"
    "overflow-wrap:anywhere"
)


def plain(value) -> np.ndarray:
    """NumPy from whatever holds numbers: torch on any device, dlmini tensors, nested lists.

    Args:
        value: that which holds them.
    """
    if isinstance(value, list | tuple):
        value = [plain(v) for v in value]
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "cpu"):
        value = value.cpu()
    if "bfloat16" in str(getattr(value, "dtype", "")):
        value = value.double()
    if not hasattr(value, "__array__") and hasattr(value, "data") and hasattr(value, "shape"):
        return plain(value.data)
    return np.asarray(value)


def brief(value) -> str:
    """A value as an error message quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}... ({type(value).__name__})"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def num(x, digits: int = 4) -> str:
    """A number for reading: 4 significant digits, a true minus, powers of ten raised.

    Args:
        x: a number.
        digits: how many of them are significant.
    """
    mantissa, _, exponent = f"{float(x):.{digits}g}".partition("e")
    if exponent:
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
        mantissa = power if mantissa == "1" else f"{mantissa}×{power}"
    return mantissa.replace("-", "−").replace("inf", "∞").replace("nan", "NaN")


_FORMULA = re.compile(r"\$([^$]+)\$")


def inline_html(text: str) -> str:
    """A sentence as HTML: escaped, its $formulas$ as MathJax and JupyterLab typeset them.

    Args:
        text: the sentence.
    """
    span = '<span class="math notranslate nohighlight">\\({}\\)</span>'
    parts = [escape(part) for part in _FORMULA.split(text)]  # words and formulas in turn
    return "".join(span.format(part) if i % 2 else part for i, part in enumerate(parts))


def inline_text(text: str) -> str:
    r"""The same sentence for a terminal: `$2/\lambda_{\max}$` becomes 2/λmax.

    Args:
        text: the sentence.
    """
    return _FORMULA.sub(lambda formula: _readable(formula[1]), text)


_SIGNS = {
    "left": "", "right": "", "text": "", "mathrm": "", "mathbf": "", "boldsymbol": "",
    "operatorname": "", "mathcal": "", "tfrac": r"\frac", "dfrac": r"\frac", "frac": r"\frac",
    "sqrt": "√", "cdot": "⋅", "times": "×", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥",
    "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "∼", "propto": "∝", "ll": "≪",
    "gg": "≫", "to": "→", "in": "∈", "infty": "∞", "nabla": "∇", "partial": "∂", "sum": "∑",
    "ell": "ℓ", "odot": "⊙", "top": "ᵀ", "dots": "…", "ldots": "…", "lVert": "‖", "rVert": "‖",
    "varepsilon": "ε", "hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "quad": " ",
}  # fmt: skip
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
# Innermost braces first; a fraction waits until its own contain none.
_GROUPS = {
    r"√\{([^{}]*)\}": lambda m: f"√{_together(m[1])}",
    r"\^\{([^{}]*)\}": lambda m: _raised(m[1]),
    r"_\{([^{}]*)\}": lambda m: _lowered(m[1]),
    r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}": lambda m: f"{_together(m[1])}/{_together(m[2])}",
    r"\{([^{}]*)\}": lambda m: m[1],
}


def _readable(tex):
    """A formula in the signs of a terminal; a command that has none keeps its name."""
    tex = tex.replace(r"\|", "‖").replace("-", "−")
    tex = re.sub(r"\\[,;:! ]|~", " ", tex)
    tex = re.sub(r"\\([A-Za-z]+)( ?)", lambda m: _sign(*m.groups()), tex)
    tex = re.sub(r"([\u0302-\u0304])(?:\{(\w+)\}|(\w))", r"\2\3\1", tex)
    tex = re.sub(r"\^([^{])", lambda m: _raised(m[1]), tex)
    tex = re.sub(r"_([^{])", lambda m: _lowered(m[1]), tex)
    while group := next((g for g in _GROUPS if re.search(g, tex)), None):
        tex = re.sub(group, _GROUPS[group], tex)
    return re.sub(r"[\\{}]", "", re.sub(r" +", " ", tex)).strip()


def _sign(name, space):
    if name in _SIGNS:
        sign = _SIGNS[name]
        return sign if sign in "√∇∂\u0302\u0303\u0304" else sign + space
    size = "CAPITAL" if name[0].isupper() else "SMALL"
    try:
        letter = name.upper().replace("LAMBDA", "LAMDA")  # Unicode's spelling
        return unicodedata.lookup(f"GREEK {size} LETTER {letter}") + space
    except KeyError:
        return name + space


def _together(text):
    return text if re.fullmatch(r"√*[\w\u0302-\u0304]*|‖[^‖]*‖", text) else f"({text})"


def _raised(text):
    high = text.replace("−", "-").translate(_SUPERSCRIPT)
    return high if re.fullmatch("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹ᵀ]*", high) else f"^{_together(text)}"


def _lowered(text):
    return text.translate(_SUBSCRIPT) if text.isalnum() else f"_({text})"


def show_line(text: str, html: str, metadata: dict | None = None) -> None:
    """Show HTML with its plain-text twin in a running notebook; elsewhere print the text.

    Args:
        text, html: the twins.
        metadata: of the output, where a notebook keeps it.
    """
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return print(text)
    if get_ipython() is None:
        return print(text)
    return display({"text/plain": text, "text/html": html}, raw=True, metadata=metadata or {})
