"""Says what went wrong, in words for the person at the page."""

import logging

logger = logging.getLogger(__name__)


def describe_problem(error: Exception) -> str:
    """Returns the message about an error: its own if the user can mend it, otherwise where to read on.

    The terminal of the page gets the other errors, with their place at the level of debugging.
    """
    if isinstance(error, ValueError | OSError):
        return str(error)
    logger.error("%s: %s", type(error).__name__, error, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
    return f"The model gave no answer ({type(error).__name__}). The terminal of the page says more."
