"""Short scenes in the language of the stories: news about people, and deeds that are told in several wordings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from .world import PEOPLE, PLACES, RELATIVES, THINGS, Person, Place, Telling, Thing

# How a person (a) comes to report one of `JOYS` or `TROUBLES`, in several wordings.
_NEWS = (
    "{b:name} met {a:name} {at}. | {a:name} told {b:him} that {happening}.",
    "{a:name} and {b:name} met {at}. | {a:name} told {b:him} that {happening}.",
    "{a} came from {there} and told {b:name} that {happening}.",
    "{at} {a} had heard that {happening}.",
)
_AFTERWARDS = (
    "In the evening {a:name} told {a:his} {relative} the whole story.",
    "{a:name} thought about it for a long time.",
    "{a:name} walked home and told {a:his} {relative} what had happened.",
)


def _things(random: Random, *kinds: str, number: int) -> list[Thing]:
    """Draws things with different nouns."""
    things = random.sample([thing for kind in kinds for thing in THINGS[kind]], 10)
    return list({thing.noun: thing for thing in things}.values())[:number]


def _tell(random: Random, *texts: str, **roles: Person | Thing | str) -> list[str]:
    telling = Telling(random)
    for text in texts:
        for sentence in text.split(" | "):
            telling.say(sentence, **roles)
    return telling.sentences


def tell_happening(happening: str, random: Random) -> str:
    """Tells one of `JOYS` or `TROUBLES`, and ends with a sentence that does not mention feelings."""
    a, b = random.sample(PEOPLE, 2)
    here, there = random.sample(PLACES, 2)
    sentences = _tell(
        random,
        random.choice(_NEWS).replace("{happening}", happening),
        random.choice(_AFTERWARDS),
        a=a,
        b=b,
        at=here.at,
        there=there.name,
        relative=random.choice(RELATIVES),
    )
    return " ".join(sentences)


# What a person (a) does with a thing (x) and with another person (b) at some place, each in several wordings.
DEEDS = {
    "give": (
        "{a} gave {x:a} to {b} {at}.",
        "{at} {a} gave {b} {x:a}.",
        "{b} got {x:a} from {a} {at}.",
        '{b} met {a:name} {at}. | "Take {x:a}," said {a:name}, "you may keep {x:it}."',
    ),
    "lend": (
        "{a} lent {x:a} to {b} {at}.",
        "{at} {a} let {b} borrow {x:a}.",
        "{b} asked {a} for {x:a} {at}, and {a:name} lent {x:it} to {b:him}.",
        '{b} met {a:name} {at}. | "May I borrow {x:a}?" asked {b:name}, and {a:name} agreed.',
    ),
    "return": (
        "{a} brought {x:a} back to {b} {at}.",
        "{at} {a} gave {b} {x:a} back.",
        "{b} got {x:a} back from {a} {at}.",
        "{a} had {x:a} that belonged to {b}. | {at} {a:he} gave {x:it} back.",
    ),
    "steal": (
        "{a} stole {x:a} from {b} {at}.",
        "{at} {a} snatched {x:a} from {b} and ran off.",
        "{b} had {x:a} {at}, but {a:name} stole {x:it}.",
        '{b} had {x:a}. | "Stop!" cried {b:name} {at}, but {a:name} ran off with {x:it}.',
    ),
    "hide": (
        "{a} hid {x:a} from {b} {at}.",
        "{at} {a} put {x:a} where {b} would not look.",
        "{b} could not find {x:a}, because {a:name} hid {x:it} {at}.",
        "{b} looked for {x:a} everywhere. | But {a:name} hid {x:it} {at}.",
    ),
    "promise": (
        "{a} promised {x:a} to {b} {at}.",
        "{at} {a} promised that {b} would get {x:a}.",
        "{b} was to have {x:a}, for {a:name} had promised {x:it} {at}.",
        '{b} met {a:name} {at}. | "You will get {x:a} from me," said {a:name}.',
    ),
    "refuse": (
        "{a} would not give {x:a} to {b} {at}.",
        "{at} {b} asked {a} for {x:a}, but {a:name} said no.",
        "{b} wanted {x:a} {at}, but {a:name} kept {x:it}.",
        '{b} met {a:name} {at}. | "Will you give me {x:a}?" {b:he} asked, but {a:name} did not agree.',
    ),
    "spoil": (
        "{a} spoilt {x:a} that belonged to {b} {at}.",
        "{at} {x:a} of {b} {x:was} damaged by {a}.",
        "{b} had {x:a} {at}, but {a:name} spoilt {x:it}.",
        "By accident {a} damaged {x:a} {at}. | {b:name} was the owner.",
    ),
    "find": (
        "{a} found {x:a} that belonged to {b} {at}.",
        "{at} {a} saw {x:a} lying on the ground and knew that {b} was the owner.",
        "{b} had lost {x:a}, and {a:name} found {x:it} {at}.",
        "{b} was the owner of {x:a} that {a:name} picked up {at}.",
    ),
}
PARTS = ("who", "what", "thing", "whom", "where")


@dataclass(frozen=True)
class _Deed:
    """A deed with its actor, thing, recipient and place; `what` is the deed, a key of `DEEDS`."""

    who: Person
    what: str
    thing: Thing
    whom: Person
    where: Place

    def differing(self, parts: set[str], random: Random) -> "_Deed":
        """Draws a deed that differs from this one in exactly these parts."""
        people = [person for person in PEOPLE if person not in (self.who, self.whom)]
        who, whom = random.sample(people, 2)
        if {"who", "whom"} <= parts and random.random() < 0.5:
            who, whom = self.whom, self.who
        things = [thing for things in THINGS.values() for thing in things if thing.noun != self.thing.noun]
        others = {
            "who": who,
            "what": random.choice([what for what in DEEDS if what != self.what]),
            "thing": random.choice(things),
            "whom": whom,
            "where": random.choice([place for place in PLACES if place != self.where]),
        }
        return replace(self, **{part: other for part, other in others.items() if part in parts})

    def told(self, wording: int, random: Random) -> list[str]:
        """Returns the sentences of one of the deed's wordings."""
        roles = {"a": self.who, "b": self.whom, "x": self.thing, "at": self.where.at}
        return _tell(random, DEEDS[self.what][wording], **roles)


def tell_two_deeds(
    differing: set[str], random: Random, strangers_to: Sequence[Person] = ()
) -> tuple[list[str], list[str]]:
    """Tells two deeds, in different wordings, that differ in exactly the given parts.

    Args:
        differing: a subset of `PARTS`; the empty set for the same deed twice.
        random: draws the deeds and the wordings.
        strangers_to: people who take no part in the first deed.

    Returns:
        The sentences of the first and of the second deed.
    """
    who, whom = random.sample([person for person in PEOPLE if person not in strangers_to], 2)
    (thing,) = _things(random, *THINGS, number=1)
    deed = _Deed(who, random.choice(list(DEEDS)), thing, whom, random.choice(PLACES))
    first, second = random.sample(range(4), 2)
    return deed.told(first, random), deed.differing(differing, random).told(second, random)
