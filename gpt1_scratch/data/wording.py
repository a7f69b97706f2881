"""Words for numbers in messages.

The packages do not import each other, and each has this file, as the recipes' settings do; a test compares them.
"""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
