"""dlmini: how deep networks are trained, small enough to read.

Backpropagation, optimizers and regularizers from scratch, on NumPy arrays or on torch tensors
used as plain arrays. The notebooks of the book run on it.
"""

import importlib
from typing import Any

from . import backend, functional, ops, tensor
from .backend import asarray, describe, rng, seed, seeded, to_numpy, use
from .book.claims import ClaimFailed, claim
from .book.exercises import check
from .book.predict import predict, reveal, score
from .counting import cost
from .functional import accuracy, cross_entropy, linear, mse_loss, softmax
from .ops import (
    abs,
    clip,
    concatenate,
    cos,
    exp,
    log,
    logsumexp,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    pad,
    relu,
    reshape,
    sigmoid,
    sin,
    softplus,
    sqrt,
    stack,
    sum,
    tanh,
    transpose,
    var,
    where,
)
from .tensor import GradientError, ShapeError, Tensor, checkpoint, grad, jvp, no_grad, op

__version__ = "0.1.0"

# Loaded when first used, so that `import dlmini` takes a tenth of a second.
_LAZY = {"book", "curvature", "data", "descent", "distributed", "flat", "meanfield", "nn", "optim",
         "plot", "regularize", "testing", "train"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        wing = ".book" if name == "plot" else ""
        return importlib.import_module(f"{__name__}{wing}.{name}")
    raise AttributeError(f"module 'dlmini' has no attribute {name!r}")


def show(obj: Any) -> Any:
    """Show the source of a class, function or operation of dlmini in a notebook.

    Args:
        obj: it, or a module.

    Raises:
        TypeError: something that has no source of its own, such as a number.
    """
    import inspect
    import textwrap

    try:
        found = _definition(obj) if isinstance(obj, tensor.Op) else inspect.getsource(obj)
    except TypeError as error:
        raise TypeError(f"dl.show takes a class, function or module, got {obj!r}") from error
    source = textwrap.dedent(found)
    try:
        from IPython.display import Markdown
    except ImportError:
        return print(source)
    return Markdown(f"```python\n{source}```")


def _definition(made: tensor.Op) -> str:
    """The line of the derivative table that makes this operation."""
    import ast
    import inspect

    module: Any = inspect.getmodule(made.forward)
    source = inspect.getsource(module)
    for line in ast.parse(source).body:
        name = ast.unparse(line.targets[0]) if isinstance(line, ast.Assign) else ""
        if getattr(module, name, None) is made:
            return ast.get_source_segment(source, line) or ""
    return inspect.getsource(made.forward)
