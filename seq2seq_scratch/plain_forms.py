"""Switches between the plain and the fast form of a model's computations.

The model files have the equations of the papers in plain form: a few lines that can be followed in a debugger. Files
beside them have faster forms of some of these, and tests compare the results. The fast forms run by default.

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

# Number of `plain_forms()` blocks that are active, in all threads together. A Boolean that each block restores would
# not do, because the blocks of several threads may overlap.
_open_blocks = 0
_lock = threading.Lock()


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs models in their plain forms: forward, backward and `generate()`.

    The results are those of the fast forms up to rounding, except that dropout draws other random numbers. The setting
    is not saved in a config. It holds for all threads of the process, because backward on GPUs and sometimes
    `generate()` run in another thread, and ends when the last thread leaves its block. A compiled model is compiled
    again.
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
    """Returns True inside `plain_forms()`."""
    return _open_blocks > 0


def has_fast_form(fast: Callable) -> Callable[[Callable], Callable]:
    """Decorates a function in plain form so that calls outside `plain_forms()` run `fast` with the same arguments."""

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def wrapper(*args, **kwargs):
            return plain(*args, **kwargs) if plain_forms_are_on() else fast(*args, **kwargs)

        return wrapper

    return decorate
