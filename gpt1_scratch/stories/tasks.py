"""Generated tasks with labels about the world of the stories, to fine-tune on without a download.

The six tasks are of the kinds in GLUE and the Story Cloze Test, in the language of the pre-training stories. Every
label is true by construction. Everything else that could reveal a label is drawn in the same way for all labels: a
hypothesis or an ending alone is true in half of the rows.

    acceptability  a sentence of a story, unchanged or with one grammatical mistake
    sentiment      a good or bad event, which no word calls good or bad. The events of validation and test never occur
                   in the training rows, only in the pre-training stories, which say how they make people feel
    entailment     the beginning of a story, and a statement about who has or gave a thing, is at a place or feels how
    paraphrase     two wordings of one deed, or of two deeds of the same people with the same thing at the same place
    similarity     two deeds; the number of equal parts among five: actor, deed, thing, partner, place
    cloze          a story without its ending, one ending that is true of its world and one that is not

    >>> load_story_task("entailment")["train"][0]
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .corpus import write_story
from .mistakes import MISTAKES, make_mistake
from .plots import Author
from .scenes import PARTS, tell_happening, tell_two_deeds
from .world import GLAD, JOYS, PLACES, SAD, THINGS, TROUBLES, Person, Place, Thing

Row = dict[str, str | int | float]

# After this many draws in a row without a new row, no new rows are assumed to exist.
MAX_FRUITLESS_DRAWS = 20_000

# Statements about the final state of a story's world, as hypotheses. Some kinds have an opposite.
HYPOTHESES = {
    "has": ("Now {p} had the {x}.", "In the end {p} had the {x}.", "Now the {x} {was} with {p}."),
    "got": ("{p} got the {x} from {q}.", "{q} gave the {x} to {p}."),
    "where": ("Now {p} was {at}.", "In the end {p} was {at}."),
    "glad": ("Now {p} was glad.", "In the end {p} was happy."),
    "sad": ("Now {p} was not glad.", "In the end {p} was not happy."),
    "moved": ("In the end the {x} had a new owner.", "Now the {x} had a new owner."),
    "stayed": ("In the end the {x} still had the old owner.", "Now the {x} still had the old owner."),
    "eaten": ("Now nothing was left of the {x}.", "In the end the {x} had been eaten."),
    "uneaten": ("Now nobody had eaten the {x}.", "In the end the {x} had not been eaten."),
}
# The same statements as last sentences of a story.
ENDINGS = {
    "has": (
        "In the end {p} had the {x}.",
        "At the end of the day the {x} {was} with {p}.",
        "From then on {p} took good care of the {x}.",
        "That night {p} put the {x} beside {his} bed.",
    ),
    "got": ("So {p} got the {x} from {q}.", "It was {q} who gave the {x} to {p}."),
    "where": ("In the evening {p} was still {at}.", "{p} was {at} until evening."),
    "glad": ("In the end {p} was happy.", "{p} walked home and was glad."),
    "sad": ("In the end {p} was not happy.", "{p} walked home and was not glad."),
    "moved": ("So the {x} had a new owner.", "From then on the {x} had a new owner."),
    "stayed": ("So the {x} still had the old owner.", "In the evening the {x} still had the old owner."),
    "eaten": ("In the evening nothing was left of the {x}.", "So the {x} had been eaten."),
    "uneaten": ("In the evening nobody had eaten the {x}.", "So the {x} had not been eaten."),
}
OPPOSITES = {"glad": "sad", "moved": "stayed", "eaten": "uneaten"}
OPPOSITES |= {opposite: kind for kind, opposite in OPPOSITES.items()}


@dataclass(frozen=True)
class _Statement:
    """A statement of one of the kinds of `HYPOTHESES`, and whether it is true of the world."""

    kind: str
    true: bool
    person: Person | None = None
    thing: Thing | None = None
    giver: Person | None = None
    place: Place | None = None

    def told(self, wordings: dict[str, tuple[str, ...]], random: Random) -> str:
        """Returns the statement in one of the wordings, `HYPOTHESES` or `ENDINGS`."""
        roles = {}
        if self.person:
            roles |= {"p": self.person.name, "his": self.person.his}
        if self.thing:
            roles |= {"x": self.thing.noun, "was": "were" if self.thing.plural else "was"}
        if self.giver:
            roles["q"] = self.giver.name
        if self.place:
            roles["at"] = self.place.at
        return random.choice(wordings[self.kind]).format(**roles)


def _state(author: Author) -> list[_Statement]:
    """Returns true and false statements about the holders of a story's things; they differ only in who and what."""
    world, statements = author.world, []
    gifts = [event for event in world.events if event.kind == "give"]
    for thing, holder in world.holder.items():
        moves = [event for event in world.events if event.thing == thing and event.kind in ("give", "leave", "eat")]
        if isinstance(holder, Person):
            statements += [_Statement("has", person == holder, person, thing) for person in world.people]
            # A thing that does not occur in the story.
            nouns = {other.noun for other in world.things}
            absent = author.random.choice([other for other in THINGS[thing.kind] if other.noun not in nouns])
            statements += [_Statement("has", False, holder, absent)]
            moved = bool(moves) and moves[0].actor != holder
            statements += [_Statement("moved", moved, thing=thing), _Statement("stayed", not moved, thing=thing)]
        if thing.kind == "food":
            statements += [
                _Statement("eaten", holder is None, thing=thing),
                _Statement("uneaten", holder is not None, thing=thing),
            ]
        givers = [(gift.actor, gift.other) for gift in gifts if gift.thing == thing]
        if len(givers) == 1:  # a thing that was lent and returned has two givers
            giver, receiver = givers[0]
            statements += [
                _Statement("got", True, receiver, thing, giver),
                _Statement("got", False, giver, thing, receiver),
            ]
    return statements


def _begin_story(random: Random) -> tuple[str, list[_Statement]]:
    """Returns a story up to the end of its first plot, and statements about its world.

    No statement is about what the world records but the text does not say, such as where people go when they part.
    """
    author = Author(random)
    author.open()
    plot = random.choice(author.plots())
    plot()
    met_again = random.random() < 0.25
    if met_again:
        author.next_day()
    text, world = " ".join(author.telling.sentences), author.world

    statements = _state(author)
    places = [place for place in PLACES if place.name in text]
    together = plot in (author.errand, author.race, author.theft)
    if len(places) > 1 and (together or met_again):
        for person in world.people if together else world.people[:2]:
            statements += [
                _Statement("where", place == world.location[person], person, place=place) for place in places
            ]
    for person, feeling in world.feelings.items():
        if feeling.word in GLAD + SAD and not met_again:
            glad = feeling.word in GLAD
            statements += [_Statement("glad", glad, person), _Statement("sad", not glad, person)]
    return text, statements


# The functions below draw a row of a task. They take a random generator and the kind of row, and return the row and
# those of its texts that must not occur in another row, or `None` if the draw gave no row of that kind.
_Drawn = tuple[Row, list[str]] | None


def _acceptability(random: Random, kind: str, label: int) -> _Drawn:
    # The mistake is also possible in the correct sentences, so the choice of sentences does not reveal the label.
    pairs = [(sentence, make_mistake(sentence, kind, random)) for sentence in write_story(random).sentences]
    pairs = [(sentence, mistaken) for sentence, mistaken in pairs if mistaken]
    if not pairs:
        return None
    sentence, mistaken = random.choice(pairs)
    return {"sentence": sentence if label else mistaken, "label": label}, [sentence, mistaken]


def _sentiment(random: Random, happenings: tuple[str, ...], label: int) -> _Drawn:
    text = tell_happening(random.choice(happenings), random)
    return {"sentence": text, "label": label}, [text]


def _happenings(all_of_them: tuple[str, ...], split: str) -> tuple[str, ...]:
    """Returns the events of a split: a quarter for test, a quarter for validation, the others for training."""
    quarter = len(all_of_them) // 4
    first, last = {"test": (0, quarter), "validation": (quarter, 2 * quarter), "train": (2 * quarter, None)}[split]
    return all_of_them[first:last]


def _entailment(random: Random, kind: str, label: int) -> _Drawn:
    premise, statements = _begin_story(random)
    fitting = [statement for statement in statements if statement.kind == kind and statement.true == (label == 0)]
    if not fitting:
        return None
    hypothesis = random.choice(fitting).told(HYPOTHESES, random)
    return {"premise": premise, "hypothesis": hypothesis, "label": label}, [premise]


def _paraphrase(random: Random, label: int) -> _Drawn:
    # People, thing and place are the same in both, so only the meaning of the wordings reveals the label.
    first, second = map(" ".join, tell_two_deeds(set() if label else {"what"}, random))
    return {"sentence1": first, "sentence2": second, "label": label}, [first, second]


def _similarity(random: Random, score: int) -> _Drawn:
    first, second = map(" ".join, tell_two_deeds(set(random.sample(PARTS, len(PARTS) - score)), random))
    return {"sentence1": first, "sentence2": second, "label": float(score)}, [first, second]


def _cloze(random: Random, kind: str, label: int) -> _Drawn:
    context, statements = _begin_story(random)
    right = [statement for statement in statements if statement.kind == kind and statement.true]
    if not right:
        return None
    right = random.choice(right)
    if kind in OPPOSITES:
        wrong = replace(right, kind=OPPOSITES[kind], true=False)
    else:
        wrong = random.choice([statement for statement in statements if statement.kind == kind and not statement.true])
    endings = [right.told(ENDINGS, random), wrong.told(ENDINGS, random)]
    if label:
        endings.reverse()
    return {"context": context, "ending1": endings[0], "ending2": endings[1], "label": label}, [context]


@dataclass(frozen=True)
class _Task:
    """A function above, the kinds of rows that it draws for a split, all equally often, and the columns."""

    draw: Callable[..., _Drawn]
    variants: Callable[[str], list[tuple]]
    features: Features


def _features(*texts: str, label: Any) -> Features:
    return Features({**{text: Value("string") for text in texts}, "label": label})


_TASKS = {
    "acceptability": _Task(
        _acceptability,
        lambda _: [(kind, label) for kind in MISTAKES for label in (0, 1)],
        _features("sentence", label=ClassLabel(names=["unacceptable", "acceptable"])),
    ),
    "sentiment": _Task(
        _sentiment,
        lambda split: [(_happenings(TROUBLES, split), 0), (_happenings(JOYS, split), 1)],
        _features("sentence", label=ClassLabel(names=["negative", "positive"])),
    ),
    "entailment": _Task(
        _entailment,
        lambda _: [(kind, label) for kind in HYPOTHESES for label in (0, 1)],
        _features("premise", "hypothesis", label=ClassLabel(names=["entailment", "not_entailment"])),
    ),
    "paraphrase": _Task(
        _paraphrase,
        lambda _: [(0,), (1,)],
        _features("sentence1", "sentence2", label=ClassLabel(names=["not_paraphrase", "paraphrase"])),
    ),
    "similarity": _Task(
        _similarity,
        lambda _: [(score,) for score in range(len(PARTS) + 1)],
        _features("sentence1", "sentence2", label=Value("float32")),
    ),
    "cloze": _Task(
        _cloze,
        lambda _: [(kind, label) for kind in ENDINGS for label in (0, 1)],
        _features("context", "ending1", "ending2", label=Value("int64")),
    ),
}
STORY_TASKS = tuple(_TASKS)


def load_story_task(
    name: str, train_size: int = 4_000, validation_size: int = 500, test_size: int = 500, seed: int = 42
) -> DatasetDict:
    """Generates one of the tasks: the requested number of different rows, the same ones for the same seed.

    Labels are balanced, and within each label the kinds of rows (mistakes, statements, differences) are, too. A
    sentence, premise or context occurs once in all splits together. The same holds for the correct form of each
    incorrect sentence of acceptability.

    Args:
        name: one of `STORY_TASKS`.
        train_size, validation_size, test_size: number of rows of each split.
        seed: determines all rows. The test rows do not depend on the other sizes, nor the validation rows on
            `train_size`.

    Returns:
        `train`, `validation` and `test`. Columns: `sentence` (acceptability, sentiment), `premise` and `hypothesis`
        (entailment), `sentence1` and `sentence2` (paraphrase, similarity), or `context`, `ending1` and `ending2`
        (cloze). `label` is 1 for acceptable, positive and paraphrase, and 0 for entailment, as in GLUE; for similarity
        it is the number of equal parts, 0.0 to 5.0; for cloze, the index of the right ending, 0 or 1.

    Raises:
        ValueError: the name is unknown, a size is less than 1, or larger than the number of rows that exist.
    """
    if name not in _TASKS:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(STORY_TASKS)}.")
    sizes = {"test": test_size, "validation": validation_size, "train": train_size}
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"{split}_size is {size}; it must be at least 1.")
    task, splits, told = _TASKS[name], {}, set()
    for split, size in sizes.items():
        random, rows, fruitless_draws = Random(f"{split} {name} {seed}"), [], 0
        variants = task.variants(split)
        while len(rows) < size:
            drawn = task.draw(random, *variants[len(rows) % len(variants)])
            if drawn is None or not told.isdisjoint(drawn[1]):
                fruitless_draws += 1
                if fruitless_draws == MAX_FRUITLESS_DRAWS:
                    raise ValueError(
                        f"{split}_size is {size}, but {name} has only {len(rows)} different rows. Lower it."
                    )
                continue
            row, texts = drawn
            rows.append(row)
            told.update(texts)
            fruitless_draws = 0
        random.shuffle(rows)
        splits[split] = Dataset.from_list(rows, features=task.features)
    return DatasetDict({split: splits[split] for split in ("train", "validation", "test")})
