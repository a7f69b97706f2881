"""Short stories about a small world, generated: an embedded corpus to pre-train on without a download.

A story is acted before it is told. People and things stand in a `World`, which knows who is where, who holds what and
who feels what; plots change it by events, and a `Telling` puts each event into words. So whatever a story says is true
of its world, and a model that predicts the words well has to keep track of it: agreement (marbles *were* lost),
reference (who is *she*), possession (who has the lantern now), and reasons (why somebody is sad).

    >>> print(load_stories(train_size=1, validation_size=1)["train"][0]["text"])
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from datasets import Dataset, DatasetDict

from .story_world import (
    BAD_MOODS,
    GLAD,
    GOOD_MOODS,
    HIDING_PLACES,
    JOYS,
    PEOPLE,
    PLACES,
    SAD,
    TASKS,
    THINGS,
    TROUBLES,
    Person,
    Place,
    Telling,
    Thing,
    World,
)


@dataclass(frozen=True)
class Story:
    """A told story, and the world it left behind."""

    sentences: tuple[str, ...]
    world: World

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


class Author:
    """The cast and stage of one story, and the plots that can be played with them."""

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

    def gift(self) -> None:
        a, b = self.two()
        thing = self.own(b, "toy", "treasure", "food")
        trouble, sadness = self.random.choice(TROUBLES), self.random.choice(BAD_MOODS)
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
            self.say(
                "{a:name} never saw {x} again.",
                "{a:name} was sad for a long time.",
                "{b:name} was pleased, but {a:name} was sad.",
                "{a:name} was sad, but {b:name} was pleased.",
                a=a,
                b=finder,
                x=thing,
            )

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
            "{l:name} was disappointed, but {w:name} was proud.",
            "{b:name} was {feeling}.",
            '"Well done," said {l:name}, although {l:he} would have liked to win.',
            w=winner,
            l=loser,
            b=b,
            feeling="proud" if winner == b else "disappointed",
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

    def moods_of_today(self) -> list[Person]:
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
        moods = self.moods_of_today()
        ending = self.random.random()
        if moods and ending < 0.4:
            person = self.random.choice(moods)
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
    author = Author(random)
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
