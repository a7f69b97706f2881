"""Sentences of known length without a download: lists of numbers, in English words and in German words.

"twelve seven thirteen" becomes "zwölf sieben dreizehn": one word of the target for each number, so the length of a
sentence can be chosen, and every translation can be checked. With numbers up to 19, the models learn the words at
once, and what remains to be learned is which word comes when.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from num2words import num2words

from papers_to_gpt.engine.durable_files import write_durably

LARGEST = 19
FILES = {"train": "train.tsv", "validation": "validation.tsv", "test": "test.tsv"}
LANGUAGES = ("en", "de")


def write_number_lists(
    folder: Path,
    *,
    train_lengths: Sequence[int],
    test_lengths: Sequence[int],
    train_size: int = 20_000,
    validation_size: int = 300,
    test_size_of_length: int = 50,
    seed: int = 7,
) -> dict[str, str]:
    """Writes the files, unless they are there, and returns the settings by which a recipe reads them.

    The test file has the lists of the first length first, then those of the next. No list of the test and validation
    files is in another file or twice in one, except those of one number, of which there are only 20.

    Args:
        folder: it is made if necessary.
        train_lengths: numbers in a list of the training and validation files, each length equally often.
        test_lengths: numbers in a list of the test file.
        train_size, validation_size: lists in the file.
        test_size_of_length: lists of each length in the test file.
        seed: of the drawn numbers.
    """
    files = {f"{split}_file": str(folder / name) for split, name in FILES.items()}
    settings = {"dataset_name": "none", "source_language": "en", "target_language": "de"} | files
    if all(map(os.path.exists, files.values())):
        return settings  # lists are drawn for all files together
    words = {language: [num2words(number, lang=language) for number in range(LARGEST + 1)] for language in LANGUAGES}
    generator = random.Random(seed)
    held_out: set[tuple[int, ...]] = set()

    def draw(length: int, split: str) -> tuple[int, ...]:
        while True:
            numbers = tuple(generator.randrange(LARGEST + 1) for _ in range(length))
            if length == 1 or numbers not in held_out:
                if split != "train":
                    held_out.add(numbers)
                return numbers

    wanted = {
        "test": [length for length in test_lengths for _ in range(test_size_of_length)],
        "validation": [generator.choice(train_lengths) for _ in range(validation_size)],
        "train": [generator.choice(train_lengths) for _ in range(train_size)],
    }
    for split, lengths in wanted.items():
        path = folder / FILES[split]
        lists = [draw(length, split) for length in lengths]
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            lines = ["\t".join(LANGUAGES)]
            lines += ["\t".join(" ".join(words[each][n] for n in numbers) for each in LANGUAGES) for numbers in lists]
            write_durably(path, "\n".join(lines) + "\n")
    return settings
