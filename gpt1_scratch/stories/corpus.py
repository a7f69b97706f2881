"""Short stories about a small world, generated: an embedded corpus to pre-train on without a download.

A story is acted before it is told. People and things stand in a `World`, which knows who is where, who holds what and
who feels what; plots change it by events, and a `Telling` puts each event into words. So whatever a story says is true
of its world, and a model that predicts the words well has to keep track of it: agreement (marbles *were* lost),
reference (who is *she*), possession (who has the lantern now), and reasons (why somebody is sad).

    >>> print(load_stories(train_size=1, validation_size=1)["train"][0]["text"])
"""

from dataclasses import dataclass
from random import Random

from datasets import Dataset, DatasetDict

from .plots import Author
from .world import World


@dataclass(frozen=True)
class Story:
    """A told story, and the world it left behind."""

    sentences: tuple[str, ...]
    world: World

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def write_story(random: Random) -> Story:
    """One story: an opening, two plots with the same people and things, and an ending, in 12 to 30 sentences."""
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
    """The corpus: as many different stories as asked for, the same ones for the same seed.

    Args:
        train_size: stories to train on, of about 165 words each.
        validation_size: stories to validate on; none of them is in the training part.
        seed: decides all stories. The first training stories do not depend on the sizes.

    Returns:
        `train` and `validation`, each with a column `text` that holds a story a row.

    Raises:
        ValueError: a size is less than 1.
    """
    for name, size in (("train_size", train_size), ("validation_size", validation_size)):
        if size < 1:
            raise ValueError(f"{name} is {size}; ask for at least one story.")
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
