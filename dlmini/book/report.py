"""How numbers and verdicts are put before a reader, in a notebook and elsewhere."""

import numpy as np

# The look of one line of verdict; readable on light and dark pages.
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
