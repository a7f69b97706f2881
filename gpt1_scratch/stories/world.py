"""The world of the stories: its people, things, places and events, and how they are described.

A `World` records where each person is, what each person holds and how each person feels; events change it. A
`Telling` fills people and things into templates of sentences and uses a pronoun where it is unambiguous.
"""

from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Person:
    """A person with a name and pronouns."""

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
    """A thing that a person can own; a plural noun ("apples") counts as one thing."""

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
    """A place ("the mill") and the preposition that goes with it."""

    name: str
    preposition: str
    outdoors: bool = False

    @property
    def at(self) -> str:
        return f"{self.preposition} {self.name}"


@dataclass(frozen=True)
class Event:
    """An event: its actor, deed, thing, partner and place; parts that do not apply are `None`."""

    kind: str
    actor: Person
    thing: Thing | None = None
    other: Person | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Feeling:
    """A person's feeling and the event that caused it."""

    word: str
    cause: Event | None


# Words for feelings that are clearly good or bad. Others (calm, puzzled, hungry) are neither.
GLAD = ("happy", "glad", "pleased", "satisfied", "grateful", "amused", "delighted", "proud", "relieved")
SAD = ("sad", "disappointed", "angry", "unhappy", "miserable", "gloomy")


@dataclass
class World:
    """The state of a story's world; locations and holders change only through `happen`.

    Attributes:
        people, things: those that take part in the story.
        location: the place of each person.
        holder: the person who has a thing or the place where it lies; `None` if it was eaten.
        feelings: how each person feels now.
        events: all events so far, in order.
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
        """Adds an event and changes locations and holders accordingly.

        Args:
            kind: "go" (to `place`), "get" (`thing`, from any person or place), "give" (`thing` to `other`), "leave"
                (`thing` at the actor's location, or at `place`), "eat" (`thing`), or any other word, which changes
                neither locations nor holders.
            actor, thing, other, place: as in `Event`.

        Returns:
            The event.
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
        """Sets a person's feeling and its cause."""
        self.feelings[person] = Feeling(word, cause)

    def belongings(self, person: Person) -> list[Thing]:
        """Returns the things that a person has, in the order in which they entered the story."""
        return [thing for thing in self.things if self.holder.get(thing) == person]


class _Mention:
    """A person or thing in the template of a sentence; the format specification selects the form.

    Forms of a person: `{a}` (the subject), `{a:name}`, `{a:he}`, `{a:him}`, `{a:his}`. Forms of a thing: `{x}` (with
    "the"), `{x:a}` (with "a", "an" or "some"), `{x:noun}`, `{x:it}`, `{x:this}`, and verbs that agree with it:
    `{x:was}`, `{x:is}`.
    """

    def __init__(self, telling: "Telling", subject: Person | Thing):
        self.telling, self.subject = telling, subject

    def __format__(self, form: str) -> str:
        if isinstance(self.subject, Person):
            return self.telling.name_person(self.subject, form)
        return self.telling.name_thing(self.subject, form)


class Telling:
    """Makes sentences from templates, with pronouns where they are unambiguous.

    A pronoun may refer to a person mentioned in this sentence or the one before, if no other person mentioned there
    has the same pronoun.
    """

    def __init__(self, random: Random):
        self.random = random
        self.sentences: list[str] = []
        self._topic: Person | None = None  # subject of the previous sentence
        self._subject: Person | None = None  # subject of this sentence
        self._before: set[Person] = set()  # mentioned in the previous sentence
        self._here: set[Person] = set()  # mentioned in this sentence so far
        self._thing: Thing | None = None  # the thing mentioned last
        self._known: set[Thing] = set()

    def say(self, *templates: str, **roles: Person | Thing | Place | str) -> None:
        """Chooses a template at random, fills in the roles and adds the sentence."""
        self._before, self._here, self._subject = self._here, set(), None
        words = {
            name: _Mention(self, role) if isinstance(role, Person | Thing) else role for name, role in roles.items()
        }
        sentence = self.random.choice(templates).format(**words)
        first = next(index for index, letter in enumerate(sentence) if letter.isalpha())
        self.sentences.append(sentence[:first] + sentence[first].upper() + sentence[first + 1 :])
        self._topic = self._subject or self._topic

    def pause(self) -> None:
        """Ends the scope of pronouns: the next sentence names people again."""
        self._topic, self._here = None, set()

    def name_person(self, person: Person, form: str) -> str:
        """Returns a person's name or pronoun in one of the forms of `_Mention`."""
        recent = self._before | self._here
        clear = person in recent and not any(other.he == person.he for other in recent - {person})
        pronoun = {"": person.he, "he": person.he, "him": person.him, "his": person.his, "name": ""}[form]
        if form == "":
            clear = clear and person == self._topic and self.random.random() < 0.6
        elif form in ("he", "his") and person == self._subject:
            clear = True  # "Tom took his kite": the pronoun refers to the subject
        if self._subject is None:
            self._subject = person
        self._here.add(person)
        if clear and pronoun:
            return pronoun
        return f"{person.name}'s" if form == "his" else person.name

    def name_thing(self, thing: Thing, form: str) -> str:
        """Returns a thing, its pronoun or a verb that agrees with it, in one of the forms of `_Mention`."""
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

RELATIVES = ("mother", "father", "grandmother", "sister")

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

# What can happen to a person (a) outside of a story's plots.
JOYS = (
    "{a:his} friends had come to see {a:him}",
    "everybody had remembered {a:his} birthday",
    "{a:his} cat had come back",
    "{a:he} had won a race",
    "{a:he} was not ill any more",
    "the sun was out at last",
    "there would be pancakes for supper",
    "a letter from {a:his} uncle had come",
    "the cherries were ripe",
    "the holidays had begun",
    "{a:his} new shoes fitted well",
    "the swallows were back",
    "{a:his} team had won the match",
    "the teacher had praised {a:him}",
    "{a:his} tooth did not hurt any more",
    "{a:he} had caught three fish",
    "{a:his} kite flew higher than the tower",
    "the circus was in town",
    "{a:his} aunt had baked bread",
    "{a:he} could stay up late that night",
    "there was enough snow for a sledge",
    "{a:his} roses were in bloom",
    "{a:he} knew the answer to the riddle",
    "{a:his} dog had learnt a trick",
    "there was music in the street",
    "the ferry had come in time",
    "{a:his} sister was home from the sea",
    "the hens had laid ten eggs",
    "{a:he} had slept well",
    "{a:his} picture hung on the wall of the school",
    "the miller had given {a:him} a ride",
    "{a:his} wound had healed",
    "a rainbow stood over the hills",
    "{a:he} had grown taller than {a:his} brother",
    "the honey was sweet this year",
    "everybody sang {a:his} song",
    "there were kittens in the barn",
    "the new bridge was open",
    "{a:his} coat was warm and dry",
    "{a:he} had found the way home",
    "the shop had kept a book for {a:him}",
    "{a:his} boat was the fastest of all",
    "the old well had water again",
    "{a:he} had been chosen for the play",
    "{a:his} grandfather could walk again",
    "the harvest was in",
    "{a:his} lamp burned brightly",
    "nobody had to work that day",
)
TROUBLES = (
    "{a:his} friends had gone away",
    "nobody had remembered {a:his} birthday",
    "it had rained all week",
    "{a:his} cat had run off",
    "{a:he} had lost a race",
    "{a:he} had been ill for days",
    "{a:his} garden had flooded",
    "{a:his} brother had moved to the city",
    "the milk had turned sour",
    "{a:his} tooth hurt",
    "the ferry had left without {a:him}",
    "a storm had blown the roof away",
    "{a:his} shoes were too tight",
    "the soup was burnt",
    "{a:he} had failed the test",
    "the frost had killed {a:his} tomatoes",
    "{a:his} bicycle was broken",
    "somebody had laughed at {a:him}",
    "the mice had eaten the cheese",
    "{a:he} had to stay in bed",
    "{a:his} team had come last",
    "the wolf had taken a lamb",
    "{a:his} window had a crack",
    "the candles had gone out",
    "{a:he} had a bad cold",
    "{a:his} tent leaked",
    "the bees had stung {a:him}",
    "the road was closed",
    "{a:his} sandwich had fallen into the mud",
    "there was no wood for the fire",
    "{a:he} had torn {a:his} coat",
    "{a:his} grandmother was in hospital",
    "the ice had melted too soon",
    "the bell had woken {a:him} too early",
    "{a:his} best friend would not speak to {a:him}",
    "the crows had eaten all the pears",
    "{a:he} had forgotten the words of {a:his} song",
    "{a:his} sand castle was washed away",
    "the shop had closed for ever",
    "{a:he} had cut {a:his} finger",
    "the play had been called off",
    "{a:his} hen had stopped laying",
    "a tree had fallen on {a:his} fence",
    "the stove smoked",
    "{a:he} was too small for the ride",
    "{a:his} purse was empty",
    "the puppy had chewed {a:his} hat",
    "nobody had saved a seat for {a:him}",
)
GOOD_MOODS = ("happy", "glad", "pleased", "delighted")
BAD_MOODS = ("sad", "unhappy", "miserable", "gloomy")
