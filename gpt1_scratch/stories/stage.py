"""The parts that all stories share: people, places and things, the opening, what lies between plots, the ending."""

from random import Random

from .scenes import tell_two_deeds
from .world import (
    BAD_MOODS,
    GLAD,
    GOOD_MOODS,
    JOYS,
    PEOPLE,
    PLACES,
    RELATIVES,
    SAD,
    THINGS,
    TROUBLES,
    Person,
    Place,
    Telling,
    Thing,
    World,
)


class Stage:
    """The people, places and things of one story, and what happens before, between and after its plots."""

    def __init__(self, random: Random):
        self.random, self.world, self.telling = random, World(), Telling(random)
        self.say, self.happen, self.feel = self.telling.say, self.world.happen, self.world.feel
        self.people = random.sample(PEOPLE, 3)
        self.world.people = self.people[:2]
        self.places = random.sample(PLACES, 4)
        self.earlier_events = 0  # number of events before the present day

    def two(self) -> list[Person]:
        """Returns the two main people in random order."""
        return self.random.sample(self.people[:2], 2)

    def new_thing(self, kinds: tuple[str, ...], owner: Person) -> Thing:
        """Adds a thing to the story, with a noun that no other thing has, and gives it to its owner."""
        nouns = {thing.noun for thing in self.world.things}
        thing = self.random.choice([thing for kind in kinds for thing in THINGS[kind] if thing.noun not in nouns])
        self.world.things.append(thing)
        self.world.holder[thing] = owner
        return thing

    def own(self, person: Person, *kinds: str) -> Thing:
        """Returns a thing of these kinds that a person has. If there is none, adds one and says so."""
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
        """Moves a person to a place; the person becomes part of the story."""
        if person not in self.world.people:
            self.world.people.append(person)
        self.happen("go", person, place=place)

    def open(self) -> None:
        """Tells who the two main people are, where they are, and possibly how one of them feels."""
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
        self.mood()

    def next_day(self) -> None:
        """Tells that the two main people meet again on a later day."""
        self.earlier_events = len(self.world.events)
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
        self.mood()

    def mood(self) -> None:
        """Tells, with probability 1/2, how one of the two main people feels and why, in either order."""
        if self.random.random() < 0.5:
            return
        a, b = self.two()
        reasons, moods = self.random.choice(((JOYS, GOOD_MOODS), (TROUBLES, BAD_MOODS)))
        reason, feeling = self.random.choice(reasons), self.random.choice(moods)
        self.feel(a, feeling, self.happen("hear", a))
        if self.random.random() < 0.5:
            self.say("{a} was {feeling} because " + reason + ".", a=a, feeling=feeling)
        else:
            self.say("{a} told {b:him} that " + reason + ".", "{a} had heard that " + reason + ".", a=a, b=b)
            self.say("{a} was {feeling}.", "So {a:name} was {feeling}.", a=a, feeling=feeling)

    def gossip(self) -> None:
        """Tells, with probability 1/2, a deed of other people, and how it is passed on in another wording."""
        if self.random.random() < 0.5:
            return
        a, b = self.two()
        heard, passed_on = tell_two_deeds(set(), self.random, strangers_to=self.people)
        self.say("{a} had news for {b:name}.", "{a} told {b:name} what people said.", a=a, b=b)
        self.telling.sentences += heard
        self.telling.pause()
        self.say(
            "{b:name} told {b:his} {relative} about it.",
            "In the evening {b:name} passed it on to {b:his} {relative}.",
            b=b,
            relative=self.random.choice(RELATIVES),
        )
        self.telling.sentences += passed_on

    def glad_or_sad_today(self) -> list[Person]:
        """Returns the main people, of two, that an event of the present day made glad or sad."""
        today = self.world.events[self.earlier_events :]
        feelings = {person: self.world.feelings.get(person) for person in self.people[:2]}
        return [
            person
            for person, feeling in feelings.items()
            if feeling and feeling.word in GLAD + SAD and any(feeling.cause is event for event in today)
        ]

    def close(self) -> None:
        """Tells an ending: a feeling, who has a thing, or neither."""
        owners = [person for person in self.people[:2] if self.world.belongings(person)]
        moved = self.glad_or_sad_today()
        ending = self.random.random()
        if moved and ending < 0.4:
            person = self.random.choice(moved)
            feeling = self.world.feelings[person].word
            self.say(
                "In the evening {a:name} was still {feeling}.",
                "{a} walked home and was {feeling}.",
                "In the end {a:name} was {happy}.",
                a=person,
                feeling=feeling,
                happy="happy" if feeling in GLAD else "not happy",
            )
        elif owners and ending < 0.75:
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
                relative=self.random.choice(RELATIVES),
                how=self.random.choice(("slowly", "in the moonlight", "without a word", "with a song")),
            )
