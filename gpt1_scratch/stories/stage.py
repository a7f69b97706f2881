"""Where a story is played: its people, places and things, its opening, the days between, its ending."""

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
    """The people, places and things of one story, and what comes before, between and after its plots."""

    def __init__(self, random: Random):
        self.random, self.world, self.telling = random, World(), Telling(random)
        self.say, self.happen, self.feel = self.telling.say, self.world.happen, self.world.feel
        self.people = random.sample(PEOPLE, 3)
        self.world.people = self.people[:2]
        self.places = random.sample(PLACES, 4)
        self.earlier_events = 0  # what had happened when the present day began

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
        self.mood()

    def next_day(self) -> None:
        """Brings the two together again between plots."""
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
        """Tells of every other day how one of the two feels and why; or the reason first, and then the feeling."""
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
        """Tells in half of the stories what others have done, and how it is passed on in other words."""
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
        """Those of the two whom something made plainly glad or sad since the day began."""
        today = self.world.events[self.earlier_events :]
        feelings = {person: self.world.feelings.get(person) for person in self.people[:2]}
        return [
            person
            for person, feeling in feelings.items()
            if feeling and feeling.word in GLAD + SAD and any(feeling.cause is event for event in today)
        ]

    def close(self) -> None:
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
