"""Small scenes in the stories' language: situations that turn out well or badly, and deeds told in several ways."""

import re
from dataclasses import dataclass, replace
from random import Random

from .story_world import PEOPLE, PLACES, THINGS, TROUBLES, Person, Place, Telling, Thing


@dataclass(frozen=True)
class Situation:
    """Something that can turn out well or badly for person `a`.

    Attributes:
        before: how it begins, in several wordings; `|` ends a sentence.
        good: how it turns out well.
        bad: how it turns out badly; or the two roles to exchange in `good`, as in "ab".
        kinds: of the things `x` and `y`.
    """

    before: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...] | str
    kinds: tuple[str, ...] = ("toy", "treasure", "tool")

    def endings(self, good: bool) -> tuple[str, ...]:
        if good or not isinstance(self.bad, str):
            return self.good if good else self.bad
        first, second = self.bad
        exchanged = {first: second, second: first}
        return tuple(
            re.sub(rf"\{{([{self.bad}])(?=[:}}])", lambda match: "{" + exchanged[match[1]], text) for text in self.good
        )


_VICTORIES = (
    "{a:name} was faster than {b:name}.",
    "{b:name} stumbled, and so {a:name} came first.",
    "They ran as fast as they could, and {a:name} won.",
    "{b:name} was not as fast as {a:name}.",
)
_JOYS = (
    "{a:his} friends had come to see {a:him}",
    "everybody had remembered {a:his} birthday",
    "it had been sunny all week",
    "{a:his} cat had come back",
    "{a:he} had won a race",
    "{a:he} was not ill any more",
)

SITUATIONS = (
    Situation(
        (
            "{a:name} and {b:name} agreed to race to {there}, and the winner was to have {x:a}.",
            '"Let us race to {there}," said {b:name} to {a:name}. | "The winner gets {x}."',
        ),
        _VICTORIES,
        "ab",
    ),
    Situation(
        (
            "{b} and {c:name} wanted to race to {there}. | {a:name} wished that {b:name} would win.",
            "{c} and {b:name} wanted to race to {there}. | {a:name} wished that {b:name} would win.",
        ),
        tuple(text.replace("{b", "{c").replace("{a", "{b") for text in _VICTORIES),
        "bc",
    ),
    Situation(
        (
            "{b} had promised {x} to {a:name}, but {c:name} wanted {x:it} too.",
            "{a:name} wanted {x}, and so did {c:name}.",
            "{c:name} wanted {x}, and so did {a:name}.",
        ),
        ("In the end {b:name} gave {x:it} to {a:name}.", "In the end {a:name} got {x:it} from {b:name}."),
        "ac",
    ),
    Situation(
        (
            "{a} wished for {x:a}, and {c:name} wished for {y:a}.",
            "{c} wished for {y:a}, and {a:name} wished for {x:a}.",
        ),
        (
            "{b:name} gave {x} to {a:name} and {y} to {c:name}.",
            "{b:name} gave {y} to {c:name} and {x} to {a:name}.",
            "{a:name} got {x} from {b:name}, and {c:name} got {y}.",
        ),
        "xy",
    ),
    Situation(
        (
            "{a} and {c:name} were hungry, but {b:name} had only {x:a}.",
            "{c} and {a:name} were hungry, but {b:name} had only {x:a}.",
        ),
        (
            "{b:name} gave {x:it} to {a:name}, and {c:name} got nothing.",
            "{c:name} got nothing, for {a:name} ate {x:it}.",
        ),
        "ac",
        ("food",),
    ),
    Situation(
        (
            "{a:name} wished for {w}, but {c:name} wished for {v}.",
            "{c:name} wished for {v}, but {a:name} wished for {w}.",
        ),
        ("All day there was {w}.", "The next day there was {w}.", "There was {w} until evening."),
        "wv",
    ),
    Situation(
        (
            "{a} had lost {x:a}, and {c:name} had lost {y:a}.",
            "A {thief} stole {x:a} from {a:name} and {y:a} from {c:name}.",
            "A {thief} stole {y:a} from {c:name} and {x:a} from {a:name}.",
        ),
        (
            "{b:name} found {x} in the grass, but nobody ever saw {y} again.",
            "Nobody ever saw {y} again, but {b:name} found {x} {at}.",
        ),
        "xy",
    ),
    Situation(
        (
            "{a} lent {x:a} to {b:name}, and {c:name} lent {b:him} {y:a}.",
            "{b} asked for {x:a} and {y:a}. | {a:name} lent {b:him} {x}, and {c:name} lent {b:him} {y}.",
        ),
        (
            "{b:name} brought {x} back, but by accident {b:he} spoilt {y}.",
            "Then {y} {y:was} damaged, but {x} {x:was} as good as new.",
        ),
        "xy",
    ),
    Situation(
        ("{b} had {x:a}, but {a:name} had not eaten since dawn.", "{b} had {x:a}. | {a:name} was very hungry."),
        (
            "{b:name} kept one half of {x} and gave the other half to {a:name}.",
            "Together they ate {x:it} until nothing was left.",
        ),
        (
            "But {b:name} turned away and ate {x} alone.",
            "{b:name} did not leave a single bite of {x} for {a:name}.",
        ),
        ("food",),
    ),
    Situation(
        ("A {thief} stole {x:a} from {a:name} and ran off.", "{a} had {x:a}, but a {thief} snatched {x:it}."),
        (
            "{b:name} ran after the {thief} and brought {x} back.",
            "At {there} the {thief} let go, and {a:name} had {x} again.",
        ),
        ("{b:name} ran after the {thief}, but it was too late.", "{a:name} never saw {x} again."),
    ),
    Situation(
        ("{a} dropped {x:a} {at} and did not notice.", "{a} put {x:a} down {at} and forgot {x:it}."),
        (
            "{b:name} found {x} and knew the owner at once, so {b:he} gave {x:it} back.",
            '"{x:this} must belong to {a:name}," {b:name} thought and brought {x:it} back.',
        ),
        (
            "{b:name} found {x} and did not know the owner, so {b:he} kept {x:it}.",
            '"Who may have lost {x:it}?" {b:name} thought and took {x:it} home.',
        ),
    ),
    Situation(
        (
            '{a} looked at {x:a} of {b:name} and liked {x:it} very much. | "Let us trade," {a:he} said.',
            '{a} wanted {x:a} more than anything. | "Will you give me {x} for {y:a}?" {a:he} asked {b:name}.',
        ),
        ("{b:name} agreed, and they traded.", '"Gladly," said {b:name}.'),
        ("{b:name} shook {b:his} head.", '"No," said {b:name}, "I would rather keep {x:it}."'),
    ),
    Situation(
        ("{b:name} met {a:name} {at}.", "{a:name} and {b:name} met {at}."),
        tuple(f"{{a:name}} told {{b:him}} that {joy}." for joy in _JOYS),
        tuple(f"{{a:name}} told {{b:him}} that {trouble}." for trouble in TROUBLES),
    ),
)

_WEATHERS = ("rain", "wind", "snow", "heat", "fog")
_AFTERWARDS = (
    "In the evening {a:name} told {a:his} {relative} the whole story.",
    "{a:name} thought about it for a long time.",
    "{a:name} walked home and told {a:his} {relative} what had happened.",
)


def _things(random: Random, *kinds: str, number: int) -> list[Thing]:
    """Things of different names."""
    things = random.sample([thing for kind in kinds for thing in THINGS[kind]], 10)
    return list({thing.noun: thing for thing in things}.values())[:number]


def _tell(random: Random, *texts: str, **roles: Person | Thing | str) -> str:
    telling = Telling(random)
    for text in texts:
        for sentence in text.split(" | "):
            telling.say(sentence, **roles)
    return " ".join(telling.sentences)


def tell_situation(situation: Situation, good: bool, random: Random) -> str:
    """What happened to somebody, told with a last sentence that says who is meant and nothing of feelings."""
    a, b, c = random.sample(PEOPLE, 3)
    x, y = _things(random, *situation.kinds, number=2)
    w, v = random.sample(_WEATHERS, 2)
    place = random.choice(PLACES)
    return _tell(
        random,
        random.choice(situation.before),
        random.choice(situation.endings(good)),
        random.choice(_AFTERWARDS),
        **{"a": a, "b": b, "c": c, "x": x, "y": y, "w": w, "v": v, "at": place.at, "there": place.name},
        relative=random.choice(("mother", "father", "grandmother", "sister")),
        thief=random.choice(("dog", "monkey", "goat", "fox")),
    )


# What somebody (a) does with a thing (x) and with somebody else (b) at some place, each in several wordings.
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
EXCHANGE = "exchange"  # who and whom change places


@dataclass(frozen=True)
class _Deed:
    """Who did what, with which thing, to whom and where; the deed itself is a key of `DEEDS`."""

    who: Person
    what: str
    thing: Thing
    whom: Person
    where: Place

    def differing(self, parts: set[str], random: Random) -> "_Deed":
        """A deed that differs from this one in all these parts, and in no other; EXCHANGE: in who and whom."""
        if EXCHANGE in parts:
            return replace(self, who=self.whom, whom=self.who)
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

    def told(self, wording: int, random: Random) -> str:
        roles = {"a": self.who, "b": self.whom, "x": self.thing, "at": self.where.at}
        return _tell(random, DEEDS[self.what][wording], **roles)


def tell_two_deeds(differing: set[str], random: Random) -> tuple[str, str]:
    """Two tellings, in different wordings, of deeds that differ in the given parts."""
    who, whom = random.sample(PEOPLE, 2)
    (thing,) = _things(random, *THINGS, number=1)
    deed = _Deed(who, random.choice(list(DEEDS)), thing, whom, random.choice(PLACES))
    first, second = random.sample(range(4), 2)
    return deed.told(first, random), deed.differing(differing, random).told(second, random)
