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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_plain_forms_are_on = False


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs models in their plain forms: forward, backward and `generate()`.

    The results are those of the fast forms up to rounding, except that dropout draws other random numbers. No config
    saves the setting. It holds for all threads of the process. A compiled model is compiled again.
    """
    global _plain_forms_are_on
    before, _plain_forms_are_on = _plain_forms_are_on, True
    try:
        yield
    finally:
        _plain_forms_are_on = before


def plain_forms_are_on() -> bool:
    """True inside `plain_forms()`."""
    return _plain_forms_are_on


def has_fast_form(fast: Callable) -> Callable[[Callable], Callable]:
    """Decorates a function in plain form: outside `plain_forms()`, calls run `fast` with the same arguments."""

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def wrapper(*args, **kwargs):
            return plain(*args, **kwargs) if _plain_forms_are_on else fast(*args, **kwargs)

        return wrapper

    return decorate
