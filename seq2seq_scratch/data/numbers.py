"""The embedded data set: whole numbers in the words of one language, and the same numbers in those of another.

"three hundred and forty-two" becomes "dreihundertzweiundvierzig". As in real translation, the order of the words
changes. Any amount of data can be generated without a download, and every translation can be checked.
"""

import random
from collections.abc import Iterator

import datasets
from num2words import CONVERTER_CLASSES, num2words


def _check_language(setting: str, language: str) -> None:
    if language in CONVERTER_CLASSES:
        return
    languages = sorted(CONVERTER_CLASSES)
    nearest = [name for name in languages if name[:2] == language[:2].lower()]
    hint = f"Nearest: {', '.join(nearest)}. " if nearest else ""
    raise ValueError(f"{setting}: num2words has no language {language!r}. {hint}It has: {', '.join(languages)}.")


def _spell(number: int, language: str) -> str:
    try:
        text = num2words(number, lang=language)
    # For numbers that a language does not support, num2words raises a different exception in each language.
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"num2words cannot write {number} in the language {language!r} ({type(error).__name__}: {error}). "
            "Choose a smaller maximum or another language."
        ) from error
    # In a few languages num2words leaves two spaces between words.
    return " ".join(text.split())


def _draw_numbers(generator: random.Random, maximum: int) -> Iterator[int]:
    """Yields distinct numbers from 0 to `maximum` until none is left.

    The number of digits is drawn uniformly, and then a number with that many digits. If the numbers themselves were
    drawn uniformly, most of them would have the largest number of digits. When all numbers of some length have been
    drawn, that length is no longer drawn.
    """
    unfinished = []  # (first, last, drawn) for each number of digits
    for digits in range(1, len(str(maximum)) + 1):
        unfinished.append((10 ** (digits - 1) if digits > 1 else 0, min(10**digits - 1, maximum), set()))
    while unfinished:
        first, last, drawn = bounds = generator.choice(unfinished)
        number = generator.randint(first, last)
        if number in drawn:
            continue
        drawn.add(number)
        if len(drawn) > last - first:
            unfinished.remove(bounds)
        yield number


def load_numbers(
    source_language: str = "en",
    target_language: str = "de",
    *,
    train_size: int = 20_000,
    validation_size: int = 500,
    test_size: int = 1_000,
    test_long_size: int = 500,
    maximum: int = 999_999,
    seed: int = 42,
) -> datasets.DatasetDict:
    """Draws whole numbers and writes them out in two languages.

    The number of digits is uniform, as long as there are short numbers left, and the number is uniform among those of
    that many digits. No number and no source text is in two splits.

    Args:
        source_language: a language of num2words, such as `en`, `fr`, `pt_BR`.
        target_language: another language of num2words.
        train_size: rows of the split `train`.
        validation_size: rows of the split `validation`, drawn like `train`.
        test_size: rows of the split `test`, drawn like `train`.
        test_long_size: rows of the split `test_long`: the drawn numbers with the longest source texts in characters.
            Every source text of the other splits is shorter than each of these.
        maximum: the largest number that may be drawn.
        seed: the same seed gives the same rows.

    Returns:
        The splits `train`, `validation`, `test` and `test_long`, each with the one column `translation`, a dictionary
        from language to text.

    Raises:
        ValueError: if a language is unknown, both languages are the same, a size is negative, there are fewer distinct
            numbers up to `maximum` than the splits need, or num2words cannot write a number in one of the languages.
    """
    _check_language("source_language", source_language)
    _check_language("target_language", target_language)
    if source_language == target_language:
        raise ValueError(f"source_language and target_language are both {source_language!r}; they must differ.")
    split_sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    for setting, value in {
        **{f"{name}_size": size for name, size in split_sizes.items()},
        "test_long_size": test_long_size,
        "maximum": maximum,
    }.items():
        if value < 0:
            raise ValueError(f"{setting} is {value}; it must not be negative.")

    generator = random.Random(seed)
    numbers = _draw_numbers(generator, maximum)
    number_of_text: dict[str, int] = {}
    needed = sum(split_sizes.values())
    missing = needed + test_long_size
    while missing > 0:
        for number in numbers:
            text = _spell(number, source_language)
            # In some languages two numbers have the same text, which must not be in two splits.
            if text in number_of_text:
                continue
            number_of_text[text] = number
            missing -= 1
            if missing == 0:
                break
        if missing > 0:
            raise ValueError(
                f"maximum is {maximum}, which gives too few distinct numbers: the splits need {needed} numbers and "
                f"{test_long_size} more whose text in {source_language!r} is longer than all of those. "
                "Raise maximum or lower the sizes."
            )
        by_length = sorted(number_of_text, key=len, reverse=True)
        longest, shorter = by_length[:test_long_size], by_length[test_long_size:]
        if longest:
            # Texts as long as the shortest text of test_long are left out of all splits, and others are drawn instead.
            shorter = [text for text in shorter if len(text) < len(longest[-1])]
        missing = needed - len(shorter)

    features = datasets.Features({"translation": datasets.Translation(languages=(source_language, target_language))})

    def written_out(texts: list[str]) -> datasets.Dataset:
        rows = [
            {source_language: text, target_language: _spell(number_of_text[text], target_language)} for text in texts
        ]
        return datasets.Dataset.from_dict({"translation": rows}, features=features)

    generator.shuffle(shorter)
    splits = datasets.DatasetDict()
    start = 0
    for name, size in split_sizes.items():
        splits[name] = written_out(shorter[start : start + size])
        start += size
    splits["test_long"] = written_out(longest)
    return splits
