"""Short stories about a small world, generated: an embedded corpus to pre-train on without a download.

A story is acted before it is told. People and things stand in a `World`, which knows who is where, who holds what and
who feels what; plots change it by events, and a `Telling` puts each event into words. So whatever a story says is true
of its world, and a model that predicts the words well has to keep track of it: agreement (marbles *were* lost),
reference (who is *she*), possession (who has the lantern now), and reasons (why somebody is sad).

    >>> print(load_stories(train_size=1, validation_size=1)["train"][0]["text"])
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class Person:
    """Somebody with a name and the pronouns that go with it."""

    name: str
    he: str  # "he" or "she"

    @property
    def him(self) -> str:
        return "him" if self.he == "he" else "her"

    @property
    def his(self) -> str:
        return "his" if self.he == "he" else "her"


@dataclass(frozen=True)
class Thing:
    """Something to own: one piece ("kite"), or several under one plural noun ("apples")."""

    adjective: str
    noun: str
    kind: str  # "toy", "tool", "treasure" or "food"
    plural: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.adjective} {self.noun}"

    @property
    def article(self) -> str:
        return "some" if self.plural else "an" if self.full_name[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Place:
    """Somewhere to be: "the mill", and the preposition for being there."""

    name: str
    preposition: str
    outdoors: bool = False

    @property
    def at(self) -> str:
        return f"{self.preposition} {self.name}"


@dataclass(frozen=True)
class Event:
    """One change of the world: who did what, to which thing, with whom and where, as far as that applies."""

    kind: str
    actor: Person
    thing: Thing | None = None
    other: Person | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Feeling:
    """What somebody feels, and the event that made it so."""

    word: str
    cause: Event | None


@dataclass
class World:
    """The state of things, changed only through `happen`.

    Attributes:
        people, things: all that take part.
        location: where each person is.
        holder: who has each thing, or the place where it lies; a thing that was eaten has none.
        feelings: how each person feels now.
        events: all that has happened, in order.
    """

    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    location: dict[Person, Place] = field(default_factory=dict)
    holder: dict[Thing, Person | Place | None] = field(default_factory=dict)
    feelings: dict[Person, Feeling] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def happen(
        self,
        kind: str,
        actor: Person,
        thing: Thing | None = None,
        other: Person | None = None,
        place: Place | None = None,
    ) -> Event:
        """Lets an event take place, and its consequences with it.

        Args:
            kind: "go" (to `place`), "get" (`thing`, from anybody or anywhere), "give" (`thing` to `other`), "leave"
                (`thing` where the actor is, or at `place`), "eat" (`thing`), or any other word, which changes nothing.
            actor, thing, other, place: as in `Event`.
        """
        event = Event(kind, actor, thing, other, place)
        self.events.append(event)
        if kind == "go":
            self.location[actor] = place
        elif kind == "get":
            self.holder[thing] = actor
        elif kind == "give":
            assert self.holder[thing] == actor, f"{actor.name} does not have the {thing.noun}"
            self.holder[thing] = other
        elif kind == "leave":
            self.holder[thing] = place or self.location[actor]
        elif kind == "eat":
            self.holder[thing] = None
        return event

    def feel(self, person: Person, word: str, cause: Event | None = None) -> None:
        self.feelings[person] = Feeling(word, cause)

    def belongings(self, person: Person) -> list[Thing]:
        """What a person has, in the order in which it came into the story."""
        return [thing for thing in self.things if self.holder.get(thing) == person]


class _Mention:
    """A person or thing in a sentence's template; the format specification chooses the form.

    Of a person: `{a}` subject, `{a:name}`, `{a:he}`, `{a:him}`, `{a:his}`. Of a thing: `{x}` with "the", `{x:a}` as
    something new, `{x:noun}`, `{x:it}`, `{x:this}`, and verbs that agree with it: `{x:was}`, `{x:is}`.
    """

    def __init__(self, telling: "Telling", subject: Person | Thing):
        self.telling, self.subject = telling, subject

    def __format__(self, form: str) -> str:
        if isinstance(self.subject, Person):
            return self.telling.name_person(self.subject, form)
        return self.telling.name_thing(self.subject, form)


class Telling:
    """Puts events into sentences, with pronouns where they are clear.

    A pronoun may stand for a person who was just mentioned, if nobody else whom it could mean was.
    """

    def __init__(self, random: Random):
        self.random = random
        self.sentences: list[str] = []
        self._topic: Person | None = None  # the subject of the sentence before
        self._subject: Person | None = None  # of this sentence
        self._before: set[Person] = set()  # mentioned in the sentence before
        self._here: set[Person] = set()  # and in this one, so far
        self._thing: Thing | None = None  # the thing mentioned last
        self._known: set[Thing] = set()

    def say(self, *templates: str, **roles: Person | Thing | Place | str) -> None:
        """Adds one of the templates as a sentence; places and strings go in as they are."""
        self._before, self._here, self._subject = self._here, set(), None
        words = {
            name: _Mention(self, role) if isinstance(role, Person | Thing) else role for name, role in roles.items()
        }
        sentence = self.random.choice(templates).format(**words)
        first = next(index for index, letter in enumerate(sentence) if letter.isalpha())
        self.sentences.append(sentence[:first] + sentence[first].upper() + sentence[first + 1 :])
        self._topic = self._subject or self._topic

    def pause(self) -> None:
        """Starts a new paragraph, so to speak: pronouns no longer reach back."""
        self._topic, self._here = None, set()

    def name_person(self, person: Person, form: str) -> str:
        recent = self._before | self._here
        clear = person in recent and not any(other.he == person.he for other in recent - {person})
        pronoun = {"": person.he, "he": person.he, "him": person.him, "his": person.his, "name": ""}[form]
        if form == "":
            clear = clear and person == self._topic and self.random.random() < 0.6
        elif form in ("he", "his") and person == self._subject:
            clear = True  # "Tom took his kite": whose but the subject's
        if self._subject is None:
            self._subject = person
        self._here.add(person)
        if clear and pronoun:
            return pronoun
        return f"{person.name}'s" if form == "his" else person.name

    def name_thing(self, thing: Thing, form: str) -> str:
        agreeing = {"was": ("was", "were"), "is": ("is", "are"), "this": ("this", "these")}
        if form in agreeing:
            return agreeing[form][thing.plural]
        if form == "it" and thing == self._thing:
            return "them" if thing.plural else "it"
        if form == "noun":
            return thing.noun
        first, self._thing = thing not in self._known, thing
        self._known.add(thing)
        if form == "a":
            return f"{thing.article} {thing.full_name}"
        return f"the {thing.full_name if first else thing.noun}"


@dataclass(frozen=True)
class Story:
    """A told story, and the world it left behind."""

    sentences: tuple[str, ...]
    world: World

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


PEOPLE = tuple(
    [
        Person(name, "she")
        for name in "Anna Bella Clara Dora Ella Fiona Grace Hanna Iris Julia Kate Lily Mia Nora".split()
    ]
    + [Person(name, "she") for name in "Olive Paula Rosa Sara Tess Vera".split()]
    + [
        Person(name, "he")
        for name in "Adam Ben Carl David Emil Felix George Henry Ivan Jack Karl Leo Max Noah".split()
    ]
    + [Person(name, "he") for name in "Oscar Paul Robin Sam Tom Victor".split()]
)

PLACES = (
    Place("the market", "at"),
    Place("the harbour", "at"),
    Place("the mill", "at"),
    Place("the school", "at"),
    Place("the station", "at"),
    Place("the library", "in"),
    Place("the barn", "in"),
    Place("the bakery", "in"),
    Place("the tower", "in"),
    Place("the bridge", "on"),
    Place("the garden", "in", outdoors=True),
    Place("the forest", "in", outdoors=True),
    Place("the meadow", "in", outdoors=True),
    Place("the river", "by", outdoors=True),
    Place("the lake", "by", outdoors=True),
    Place("the old oak", "by", outdoors=True),
    Place("the hill", "on", outdoors=True),
    Place("the beach", "on", outdoors=True),
)

HIDING_PLACES = tuple(Place(name, "in") for name in ("old chest", "cupboard", "hollow tree", "blue box", "empty sack"))

NOUNS = {
    "toy": "kite ball doll drum puppet whistle top; marbles cards",
    "tool": "lantern rope basket hammer bucket ladder umbrella knife spade; boots gloves scissors",
    "treasure": "map ring book key painting mirror necklace clock feather shell; coins pearls letters",
    "food": "cake pie loaf cheese pudding; apples cherries plums nuts pancakes",
}
TASKS = {
    "lantern": "look for a lost cat",
    "rope": "tie up a boat",
    "basket": "gather mushrooms",
    "hammer": "mend a fence",
    "bucket": "fetch water",
    "ladder": "pick pears",
    "umbrella": "wait for a friend in the rain",
    "knife": "cut reeds",
    "spade": "dig a hole",
    "boots": "walk through the mud",
    "gloves": "pull out weeds",
    "scissors": "cut flowers",
}
ADJECTIVES = {
    "toy": "red blue green yellow wooden little old striped",
    "tool": "heavy old new rusty long iron big brown",
    "treasure": "golden silver old tiny strange beautiful precious",
    "food": "sweet fresh warm big delicious",
}


def _things(kind: str) -> list[Thing]:
    single, several = (nouns.split() for nouns in NOUNS[kind].split(";"))
    nouns = [(noun, False) for noun in single] + [(noun, True) for noun in several]
    unfit = {("long", noun) for noun, _ in nouns if noun not in ("rope", "ladder", "knife", "boots", "gloves")}
    unfit |= {("warm", noun) for noun in ("cheese", "apples", "cherries", "plums", "nuts")}
    unfit |= {("wooden", "kite"), ("striped", "whistle"), ("striped", "cards"), ("iron", "boots"), ("iron", "gloves")}
    unfit |= {("iron", noun) for noun in ("rope", "basket", "umbrella")} | {("wooden", "cards")}
    unfit |= {("rusty", noun) for noun in ("rope", "basket", "umbrella", "boots", "gloves")}
    unfit |= {
        (metal, noun) for metal in ("golden", "silver") for noun in ("map", "book", "painting", "letters", "shell")
    }
    unfit |= {("silver", "feather"), ("golden", "pearls"), ("silver", "pearls"), ("big", "nuts"), ("big", "cherries")}
    unfit |= {("heavy", noun) for noun in ("gloves", "scissors", "umbrella", "knife")}
    return [
        Thing(adjective, noun, kind, plural)
        for noun, plural in nouns
        for adjective in ADJECTIVES[kind].split()
        if (adjective, noun) not in unfit
    ]


THINGS = {kind: _things(kind) for kind in NOUNS}

TROUBLES = (
    "{a:his} friends had gone away",
    "nobody had remembered {a:his} birthday",
    "it had rained all week",
    "{a:his} cat had run off",
    "{a:he} had lost a race",
    "{a:he} had been ill for days",
    "{a:his} garden had flooded",
    "{a:his} brother had moved to the city",
)
ILL_LUCK = ("sad", "unhappy", "lonely", "gloomy")


class _Author:
    """The cast and stage of one story, and the plots that can be played with them."""

    def __init__(self, random: Random):
        self.random, self.world, self.telling = random, World(), Telling(random)
        self.say, self.happen, self.feel = self.telling.say, self.world.happen, self.world.feel
        self.people = random.sample(PEOPLE, 3)
        self.world.people = self.people[:2]
        self.places = random.sample(PLACES, 4)

    def two(self) -> list[Person]:
        """The two who are always there, in either order."""
        return self.random.sample(self.people[:2], 2)

    def new_thing(self, kinds: tuple[str, ...], owner: Person) -> Thing:
        """A thing unlike any other in the story, in its owner's hands."""
        nouns = {thing.noun for thing in self.world.things}
        thing = self.random.choice([thing for kind in kinds for thing in THINGS[kind] if thing.noun not in nouns])
        self.world.things.append(thing)
        self.world.holder[thing] = owner
        return thing

    def own(self, person: Person, *kinds: str) -> Thing:
        """One of a person's things of these kinds, new to the story if there is none."""
        belongings = self.world.belongings(person)
        fitting = [thing for thing in belongings if thing.kind in kinds]
        if fitting:
            return self.random.choice(fitting)
        thing = self.new_thing(kinds, person)
        if belongings:
            self.say("{a} also had {x:a}.", a=person, x=thing)
        elif thing.kind == "food":
            self.say("{a} had {x:a}.", "{a} had brought {x:a}.", "{a} had just bought {x:a}.", a=person, x=thing)
        else:
            self.say("{a} had {x:a}.", "{a} owned {x:a}.", "{a} had brought {x:a}.", a=person, x=thing)
        return thing

    def bring(self, person: Person, place: Place) -> None:
        """Puts a person on the stage at a place."""
        if person not in self.world.people:
            self.world.people.append(person)
        self.happen("go", person, place=place)

    def open(self) -> None:
        a, b = self.people[:2]
        here = self.places[0]
        self.bring(a, here)
        self.bring(b, here)
        self.say(
            "{a:name} and {b:name} were {bond}.",
            "{a:name} and {b:name} were {bond} who met every day.",
            "Once there were two {bond}, {a:name} and {b:name}.",
            a=a,
            b=b,
            bond=self.random.choice(("friends", "neighbours", "cousins", "good friends")),
        )
        self.telling.pause()
        self.say(
            "One {time} they were {here}.",
            "On a {weather} {time} they sat {here}.",
            "It was a {weather} {time}, and they were {here}.",
            time=self.random.choice(("morning", "afternoon", "evening", "day")),
            weather=self.random.choice(("sunny", "windy", "cold", "warm", "grey")),
            here=here.at,
        )

    def next_day(self) -> None:
        """Brings the two together again between plots."""
        a, b = self.people[:2]
        here = self.random.choice(self.places)
        self.bring(a, here)
        self.bring(b, here)
        self.telling.pause()
        self.say(
            "{when} {a:name} and {b:name} met again {here}.",
            "{when} they were {here} together.",
            when=self.random.choice(("The next day", "A week later", "Some days later", "Two days after that")),
            a=a,
            b=b,
            here=here.at,
        )

    def gift(self) -> None:
        a, b = self.two()
        thing = self.own(b, "toy", "treasure", "food")
        trouble, sadness = self.random.choice(TROUBLES), self.random.choice(ILL_LUCK)
        self.feel(a, sadness, self.happen("suffer", a))
        self.say(
            "{a} was {feeling} because " + trouble + ".",
            "{a} felt {feeling}, for " + trouble + ".",
            a=a,
            feeling=sadness,
        )
        self.say(
            '"What is wrong?" asked {b:name}.',
            "{b} saw that {a:he} was not smiling.",
            "{b} noticed how quiet {a:he} was.",
            a=a,
            b=b,
        )
        self.feel(a, "happy", self.happen("give", b, thing, a))
        self.say(
            "{b} wanted to help, so {b:he} gave {x} to {a:him}.",
            "To cheer {a:him} up, {b:name} gave {a:him} {x}.",
            '"Take {x}," said {b:name}, "you may keep {x:it}."',
            a=a,
            b=b,
            x=thing,
        )
        self.say(
            "{a:name} thanked {b:him} and smiled at last.",
            '"Thank you!" said {a:name}, and {a:he} was not {feeling} any more.',
            "Now {a:name} was happy, because {x} {x:was} just what {a:he} had wished for.",
            a=a,
            b=b,
            x=thing,
            feeling=sadness,
        )

    def lost(self) -> None:
        a, b = self.two()
        thing = self.own(a, "toy", "tool", "treasure")
        there = self.places[1]
        self.bring(a, there)
        self.say(
            "Then {a} went to {there}.",
            "Later {a} walked to {there} alone.",
            "{a} had to go to {there}.",
            a=a,
            there=there.name,
        )
        loss = self.happen("leave", a, thing)
        self.say(
            "There {a:he} dropped {x} and did not notice.",
            "{a} put {x} down there and forgot {x:it}.",
            "There {x} fell out of {a:his} bag.",
            a=a,
            x=thing,
        )
        self.feel(a, "worried", loss)
        self.say(
            "At home {a:he} looked everywhere, but {a:he} could not find {x:it}.",
            "That evening {a:name} was worried because {a:he} did not have {x} any more.",
            a=a,
            x=thing,
        )
        finder = self.random.choice((b, self.people[2]))
        self.bring(finder, there)
        find = self.happen("get", finder, thing)
        self.say(
            "The next day {b:name} came to {there} and found {x}.",
            "Then {b:name} found {x} {at}.",
            "{b:name} was {at} the next morning and saw {x} lying on the ground.",
            b=finder,
            x=thing,
            there=there.name,
            at=there.at,
        )
        if self.random.random() < 0.7:
            self.say(
                '"{x:this} must belong to {a:name}," {b:he} thought.',
                "{b} knew at once that {x} belonged to {a:him}.",
                a=a,
                b=finder,
                x=thing,
            )
            self.feel(a, "glad", self.happen("give", finder, thing, a))
            self.say(
                "{b} brought {x:it} back, and {a:name} was very glad.",
                "So {b:he} ran to {a:name} and gave {x:it} back.",
                "When {b:he} gave {x} back, {a:name} laughed with joy.",
                a=a,
                b=finder,
                x=thing,
            )
        else:
            self.feel(finder, "pleased", find)
            self.feel(a, "sad", loss)
            self.say(
                "{b} did not know the owner, so {b:he} kept {x:it}.",
                '"Who may have lost {x:it}?" {b:he} thought, and {b:he} took {x:it} home.',
                b=finder,
                x=thing,
            )
            self.say("{a:name} never saw {x} again.", "{a:name} was sad for a long time.", a=a, x=thing)

    def trade(self) -> None:
        a, b = self.two()
        first, second = self.own(a, "toy", "treasure", "tool"), self.own(b, "toy", "treasure", "tool")
        self.say("{a} looked at {y} and liked {y:it} very much.", "{a} wanted {y} more than anything.", a=a, y=second)
        self.say(
            '"Will you give me {y} for {x}?" {a:he} asked.',
            '"Let us trade," said {a:name}. "My {x:noun} for your {y:noun}."',
            a=a,
            x=first,
            y=second,
        )
        if self.random.random() < 0.75:
            self.happen("give", a, first, b)
            bargain = self.happen("give", b, second, a)
            self.feel(a, "pleased", bargain)
            self.feel(b, "pleased", bargain)
            self.say(
                "{b} agreed, and they traded.", "{b} thought about it and said yes.", '"Gladly," said {b:name}.', b=b
            )
            self.say(
                "Now {a:name} had {y}, and {b:name} had {x}.",
                "So {b:name} got {x} and {a:name} got {y}.",
                a=a,
                b=b,
                x=first,
                y=second,
            )
            self.say("Both of them were pleased.", "They were both happy with the bargain.", "It was a fair trade.")
        else:
            self.feel(a, "disappointed", self.happen("refuse", b, second, a))
            self.say(
                '"No," said {b:name}, "I would rather keep {y:it}."',
                "But {b} shook {b:his} head, because {b:he} loved {y} too much.",
                b=b,
                y=second,
            )
            self.say(
                "So {a:name} still had {x}, and {b:name} still had {y}.",
                "{a:name} was disappointed, but {a:he} kept {x}.",
                a=a,
                b=b,
                x=first,
                y=second,
            )

    def borrow(self) -> None:
        a, b = self.two()
        thing = self.own(b, "tool")
        there = self.random.choice([place for place in PLACES if place.outdoors])
        self.say(
            "{a} asked for {x}, because {a:he} wanted to {task} {there}.",
            '"May I borrow {x}?" asked {a:name}. "I have to {task} {there}."',
            a=a,
            x=thing,
            task=TASKS[thing.noun],
            there=there.at,
        )
        self.happen("give", b, thing, a)
        self.say(
            "{b} lent {x:it} to {a:him}.", '"Of course," said {b:name} and handed {x:it} over.', a=a, b=b, x=thing
        )
        self.bring(a, there)
        self.say(
            "{a:name} took {x} to {there} and worked until evening.",
            "With {x}, {a:name} went to {there}.",
            a=a,
            x=thing,
            there=there.name,
        )
        if self.random.random() < 0.5:
            self.feel(b, "satisfied", self.happen("give", a, thing, b))
            self.say(
                "When the work was done, {a:he} brought {x} back to {b:him}.",
                "Afterwards {a:he} gave {x} back to {b:him} and said thank you.",
                a=a,
                b=b,
                x=thing,
            )
            return
        damage = self.happen("damage", a, thing)
        self.say(
            "But by accident {a:he} spoilt {x:it}.",
            "But there {a:he} slipped, and {x} {x:was} damaged.",
            a=a,
            x=thing,
        )
        self.feel(a, "ashamed", damage)
        self.feel(b, "angry", damage)
        self.say(
            "{b:name} was angry when {b:he} heard of it.",
            "{a} was ashamed and did not know what to say to {b:him}.",
            a=a,
            b=b,
        )
        apology = self.happen("apologise", a, thing, b)
        self.say(
            '"I am sorry," said {a:name}, and {a:he} promised to mend {x}.',
            "{a:name} told the truth and said that {a:he} was sorry.",
            a=a,
            x=thing,
        )
        self.feel(b, "calm", apology)
        self.say(
            "{b:name} forgave {a:him}, because {a:he} had been honest.",
            "After a while {b:name} was not angry any more.",
            a=a,
            b=b,
        )
        self.happen("mend", a, thing)
        self.happen("give", a, thing, b)
        self.say(
            "{a:name} mended {x} and gave {x:it} back.",
            "In the end {x} {x:was} as good as new, and {b:name} had {x:it} back.",
            a=a,
            b=b,
            x=thing,
        )

    def meal(self) -> None:
        a, b = self.two()
        thing = self.own(a, "food")
        self.feel(b, "hungry", self.happen("hunger", b))
        self.say(
            "{b} was hungry, for {b:he} had not eaten since {time}.",
            "{b} was so hungry that {b:his} stomach growled.",
            b=b,
            time=self.random.choice(("dawn", "breakfast", "the day before")),
        )
        if self.random.random() < 0.6:
            self.say(
                "{a} kept one half of {x} and gave the other half to {b:him}.",
                "{a} was glad to share {x} with {b:him}.",
                a=a,
                b=b,
                x=thing,
            )
            self.feel(b, "grateful", self.happen("eat", a, thing, b))
            self.say(
                "They ate until nothing was left.",
                "Together they ate {x:it} up.",
                "{b} was grateful, and soon nobody was hungry any more.",
                b=b,
                x=thing,
            )
        else:
            self.feel(b, "angry", self.happen("eat", a, thing))
            self.say(
                "But {a:name} turned away and ate {x} alone.",
                "But {a:name} did not share, and soon {x} {x:was} gone.",
                a=a,
                x=thing,
            )
            self.say(
                '"That was not kind," said {b:name}.',
                "{b:name} was angry, because {a:he} had not left a single bite.",
                a=a,
                b=b,
            )

    def hide(self) -> None:
        a, b = self.two()
        thing = self.own(a, "toy", "treasure")
        first, second = self.random.sample(HIDING_PLACES, 2)
        self.happen("leave", a, thing, place=first)
        self.say(
            "{a} hid {x} in {article} {first} and went away.",
            "{a} put {x} in {article} {first}, where {a:he} thought nobody would look.",
            a=a,
            x=thing,
            article="an" if first.name[0] in "aeiou" else "a",
            first=first.name,
        )
        trick = self.happen("leave", b, thing, place=second)
        self.say(
            "While {a:he} was away, {b:name} took {x:it} and put {x:it} in {article} {second}.",
            "But {b:name} had seen it all, and {b:he} moved {x} to {article} {second}.",
            a=a,
            b=b,
            x=thing,
            article="an" if second.name[0] in "aeiou" else "a",
            second=second.name,
        )
        self.feel(a, "puzzled", trick)
        self.say(
            "When {a:name} came back, {a:he} looked in the {first}, but {x} {x:was} not there.",
            "{a:name} came back and looked in the {first}, for {a:he} did not know what had happened.",
            a=a,
            x=thing,
            first=first.name,
        )
        self.happen("get", a, thing)
        self.say(
            "{b} laughed and pointed to the {second}, and there {a:name} found {x}.",
            "In the end {a:he} found {x:it} in the {second}.",
            a=a,
            b=b,
            x=thing,
            second=second.name,
        )
        if self.random.random() < 0.5:
            self.feel(a, "amused", trick)
            self.say("{a:name} had to laugh too.", "It was a good trick, and {a:name} laughed about it.", a=a)
        else:
            self.feel(a, "angry", trick)
            self.say('"Do not do that again!" said {a:name} angrily.', "{a:name} did not think it was funny.", a=a)

    def errand(self) -> None:
        a, c = self.people[0], self.people[2]
        there = self.places[3]
        thing = self.own(a, "food", "treasure", "tool")
        self.bring(c, there)
        self.say(
            "{a} had promised {x} to {a:his} {relation} {c:name}, who worked {there}.",
            "{a} wanted to take {x} to {a:his} {relation} {c:name}, who was {there}.",
            a=a,
            c=c,
            x=thing,
            relation=self.random.choice(
                ("teacher", "aunt", "sister") if c.he == "she" else ("teacher", "uncle", "brother")
            ),
            there=there.at,
        )
        self.bring(a, there)
        self.say(
            "So {a:he} walked there through the {weather}.",
            "So {a:he} set out for {there} at once.",
            a=a,
            weather=self.random.choice(("rain", "wind", "snow", "heat", "fog")),
            there=there.name,
        )
        self.feel(c, "grateful", self.happen("give", a, thing, c))
        self.say("{a} gave {x} to {c:him}.", "{c:name} took {x} and thanked {a:him}.", a=a, c=c, x=thing)
        if self.random.random() < 0.5:
            reward = self.new_thing(("food", "toy"), c)
            self.feel(a, "delighted", self.happen("give", c, reward, a))
            self.say(
                "In return {c:name} gave {a:him} {y:a}.",
                '"{y:this} {y:is} for you," said {c:name}, and {a:name} got {y:a}.',
                a=a,
                c=c,
                y=reward,
            )

    def race(self) -> None:
        a, b = self.two()
        goal = self.places[2]
        prize = self.own(b, "toy", "treasure", "food")
        self.say(
            '"Let us race to {goal}," said {b:name}. "The winner gets {x}."',
            "They agreed to race to {goal}, and the winner was to have {x}.",
            b=b,
            x=prize,
            goal=goal.name,
        )
        winner, loser = self.two()
        self.bring(winner, goal)
        self.bring(loser, goal)
        victory = self.happen("win", winner, prize, loser)
        self.feel(winner, "proud", victory)
        self.feel(loser, "disappointed", victory)
        self.say(
            "{w:name} was faster than {l:name}.",
            "{l:name} stumbled, and so {w:name} came first.",
            "They ran as fast as they could, and {w:name} won.",
            w=winner,
            l=loser,
        )
        if winner == a:
            self.happen("give", b, prize, a)
            self.say("{b} gave {x} to {w:him}.", "So {w:name} got {x}.", b=b, w=winner, x=prize)
        else:
            self.say("So {w:name} kept {x}.", "So {x} stayed with {w:him}.", w=winner, x=prize)
        self.say(
            "{w:name} was proud, and {l:name} was a little disappointed.",
            '"Well done," said {l:name}, although {l:he} would have liked to win.',
            w=winner,
            l=loser,
        )

    def theft(self) -> None:
        a, b = self.two()
        thing = self.own(a, "toy", "treasure", "food")
        thief, there = self.random.choice(("dog", "monkey", "goat", "fox")), self.places[3]
        theft = self.happen("leave", a, thing, place=there)
        self.feel(a, "shocked", theft)
        self.say(
            "Suddenly a {thief} snatched {x} and ran off.",
            "Then a {thief} came and stole {x}.",
            thief=thief,
            x=thing,
        )
        self.say(
            '"Stop!" cried {a:name}, but it was too late.',
            "{a:name} cried out, for {x} {x:was} dear to {a:him}.",
            a=a,
            x=thing,
        )
        self.bring(a, there)
        self.bring(b, there)
        self.say(
            "Together {a:name} and {b:name} followed the {thief} to {there}.",
            "{b:name} ran after the {thief} as far as {there}, and {a:name} came too.",
            a=a,
            b=b,
            thief=thief,
            there=there.name,
        )
        rescuer = self.random.choice((a, b))
        self.feel(a, "relieved", self.happen("get", rescuer, thing))
        self.say(
            "There {c:name} found {x} in the grass.",
            "There the {thief} let go, and {c:name} picked {x} up.",
            c=rescuer,
            x=thing,
            thief=thief,
        )
        if rescuer == b:
            self.happen("give", b, thing, a)
            self.say("{b} gave {x:it} back to {a:him}.", "{a:name} got {x:it} back from {b:him}.", a=a, b=b, x=thing)
        self.say("{a} was relieved.", "How relieved {a:name} was!", a=a)

    def close(self) -> None:
        owners = [person for person in self.people[:2] if self.world.belongings(person)]
        if owners and self.random.random() < 0.6:
            owner = self.random.choice(owners)
            thing = self.world.belongings(owner)[-1]
            self.say(
                "That night {a} put {x} beside {a:his} bed.",
                "From then on {a} took good care of {x}.",
                "In the end {a:name} had {x}.",
                "At the end of the day {x} {x:was} with {a:name}.",
                a=owner,
                x=thing,
            )
        else:
            self.say(
                "In the evening {a} told {a:his} {relative} the whole story.",
                "{a} thought about it for a long time.",
                "{a} walked home {how}.",
                a=self.random.choice(self.people[:2]),
                relative=self.random.choice(("mother", "father", "grandmother", "sister")),
                how=self.random.choice(("slowly", "in the moonlight", "without a word", "with a song")),
            )

    def plots(self) -> list[Callable[[], None]]:
        return [
            self.gift,
            self.lost,
            self.trade,
            self.borrow,
            self.meal,
            self.hide,
            self.errand,
            self.race,
            self.theft,
        ]


def write_story(random: Random) -> Story:
    """One story: an opening, two plots with the same people and things, and an ending, in ten to twenty sentences."""
    author = _Author(random)
    author.open()
    first, second = random.sample(author.plots(), 2)
    first()
    author.next_day()
    second()
    author.close()
    return Story(tuple(author.telling.sentences), author.world)


def load_stories(train_size: int = 20_000, validation_size: int = 1_000, seed: int = 42) -> DatasetDict:
    """The corpus: as many different stories as asked for, the same ones for the same seed.

    Args:
        train_size: stories to train on, of about 130 words each.
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
