"""The plots of the stories. Each plot changes the world by events and describes them."""

from collections.abc import Callable

from .stage import Stage
from .world import BAD_MOODS, HIDING_PLACES, PLACES, TASKS, TROUBLES


class Author(Stage):
    """A stage with plots, one method each; a and b are the two main people in random order."""

    def gift(self) -> None:
        """a is sad; b gives a a thing."""
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
        """a loses a thing; b or a third person finds it and returns or keeps it."""
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
        """a offers a thing for a thing of b, who agrees or refuses."""
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
        """a borrows a tool from b and returns it, or damages it, apologises and mends it."""
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
        """b is hungry; a shares some food or eats it alone."""
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
        """a hides a thing; b moves it while a is away."""
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
        """a brings a thing to a third person at another place and may get something in return."""
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
        """a and b race for a thing of b's."""
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
        """An animal steals a thing of a's; a or b gets it back."""
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

    def plots(self) -> list[Callable[[], None]]:
        """Returns all plots."""
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
