"""A switch between the plain and the fast form of what a model computes.

The model files write the papers' equations in plain form: a few lines that can be followed in a debugger. Files beside
them hold faster forms of some of these, and tests compare the results. The fast forms run by default.

    from gpt1_scratch import plain_forms  # seq2seq_scratch has its own

    with plain_forms():
        model(input_ids, labels=input_ids).loss.backward()
        model.generate(input_ids)

The packages do not import each other, and each has this file; a test compares them.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Blocks of `plain_forms()` that are entered and not left, in all threads together: blocks of several threads may
# overlap, so the value before a block says nothing about the value after it.
_open_blocks = 0
_lock = threading.Lock()


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs models in their plain forms: forward, backward and `generate()`.

    The results are those of the fast forms up to rounding, except that dropout draws other random numbers. No config
    saves the setting. It holds for all threads of the process, since `generate()` may run in a thread of its own, as
    backward does on GPUs, and ends when the last thread leaves its block. A compiled model is compiled again.
    """
    global _open_blocks
    with _lock:
        _open_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1


def plain_forms_are_on() -> bool:
    """True inside `plain_forms()`."""
    return _open_blocks > 0


def has_fast_form(fast: Callable) -> Callable[[Callable], Callable]:
    """Decorates a function in plain form: outside `plain_forms()`, calls run `fast` with the same arguments."""

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def wrapper(*args, **kwargs):
            return plain(*args, **kwargs) if plain_forms_are_on() else fast(*args, **kwargs)

        return wrapper

    return decorate
