"""A switch from the fast forms of a model's computation to the plain ones of its modeling file.

    with plain_forms():
        model(**batch).loss.backward()    # a debugger steps through the paper's equations

The modeling file writes each computation as its paper does. Files beside it compute the same faster, with fused loops,
packed weights or kernels of their own. Inside `plain_forms()` the whole model runs in its plain forms, in training as
in `generate()`. The results are the same up to rounding, and dropout draws other random numbers.

Both packages hold this file, since neither imports the other; a test keeps the two equal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_PLAIN = ContextVar("plain_forms", default=False)


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs the models of this package in their plain forms until the block ends.

    The switch belongs to the thread that enters the block, so models in other threads keep their fast forms. No config
    and no checkpoint holds it. On a GPU, gradient checkpointing recomputes layers in a thread of autograd's own: turn
    it off inside the block.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def use_plain_forms() -> bool:
    """True inside `plain_forms()`; always False in code that `torch.compile` or `torch.export` traces."""
    return not torch.compiler.is_compiling() and _PLAIN.get()
