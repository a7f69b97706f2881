"""A corpus of generated short stories about a small world, to pre-train on without a download.

A story is simulated before it is told. A `World` records where each person is, what each person holds and how each
person feels. Plots change the world by events, and a `Telling` describes each event in words. Everything that a story
says is therefore true of its world. A model that predicts the words well must keep track of agreement (marbles *were*
lost), reference (who is *she*), possession (who has the lantern now) and reasons (why somebody is sad).

    >>> print(load_stories(train_size=1, validation_size=1)["train"][0]["text"])
"""

from dataclasses import dataclass
from random import Random

from datasets import Dataset, DatasetDict

from .plots import Author
from .world import World


@dataclass(frozen=True)
class Story:
    """A story's sentences and the state of its world at the end."""

    sentences: tuple[str, ...]
    world: World

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def write_story(random: Random) -> Story:
    """Generates a story of 12 to 30 sentences: an opening, two plots with the same two people, and an ending."""
    author = Author(random)
    author.open()
    first, second = random.sample(author.plots(), 2)
    first()
    author.gossip()
    author.next_day()
    second()
    author.close()
    return Story(tuple(author.telling.sentences), author.world)


def load_stories(train_size: int = 20_000, validation_size: int = 1_000, seed: int = 42) -> DatasetDict:
    """Generates the corpus: the requested number of different stories, the same ones for the same seed.

    Args:
        train_size: number of training stories, of about 165 words each.
        validation_size: number of validation stories; none of them is a training story.
        seed: determines all stories. The first training stories do not depend on the sizes.

    Returns:
        `train` and `validation`, each with a column `text` of one story per row.

    Raises:
        ValueError: a size is less than 1.
    """
    for name, size in (("train_size", train_size), ("validation_size", validation_size)):
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1.")
    splits, told = {}, set()
    for split, size in (("train", train_size), ("validation", validation_size)):
        random, texts = Random(f"{split} stories {seed}"), []
        while len(texts) < size:
            text = write_story(random).text
            if text not in told:
                told.add(text)
                texts.append(text)
        splits[split] = Dataset.from_dict({"text": texts})
    return DatasetDict(splits)
