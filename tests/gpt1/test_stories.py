"""The generated stories agree with their world, are grammatical and reproducible."""

import re
from random import Random

import pytest

from gpt1_scratch.stories.corpus import load_stories, write_story
from gpt1_scratch.stories.plots import Author
from gpt1_scratch.stories.world import GLAD, PEOPLE, PLACES, SAD, TASKS, THINGS, Person, Telling, Thing

STORIES = [write_story(Random(seed)) for seed in range(600)]
ALL_THINGS = [thing for things in THINGS.values() for thing in things]


def test_world_is_what_its_events_make_of_it():
    for story in STORIES:
        holder, location = {}, {}
        for event in story.world.events:
            if event.kind == "go":
                location[event.actor] = event.place
            elif event.kind == "give":
                assert holder.get(event.thing, event.actor) == event.actor, story.text
                holder[event.thing] = event.other
            elif event.kind == "get":
                holder[event.thing] = event.actor
            elif event.kind == "leave":
                holder[event.thing] = event.place or location[event.actor]
            elif event.kind == "eat":
                assert holder.get(event.thing, event.actor) == event.actor, story.text
                holder[event.thing] = None
        assert location == story.world.location
        for thing, place_or_person in holder.items():
            assert story.world.holder[thing] == place_or_person, story.text


def test_stories_say_who_has_what():
    checked = 0
    for story in STORIES:
        nouns = {thing.noun: thing for thing in story.world.things}
        assert len(nouns) == len(story.world.things), "two things of one name in a story"
        by_name = {person.name: person for person in story.world.people}
        last = story.sentences[-1]
        told = re.fullmatch(r"In the end (\w+) had the (?:\w+ )?(\w+)\.", last)
        told = told or re.fullmatch(r"From then on (\w+) took good care of the (?:\w+ )?(\w+)\.", last)
        if told and told[1] in by_name:
            checked += 1
            assert story.world.holder[nouns[told[2]]] == by_name[told[1]], story.text
    assert checked > 50


def test_feelings_come_from_events_of_the_story():
    for story in STORIES:
        for feeling in story.world.feelings.values():
            assert any(feeling.cause is event for event in story.world.events)


def test_stories_end_with_what_somebody_feels():
    checked = {"glad": 0, "sad": 0}
    for story in STORIES:
        feelings = {person.name: feeling.word for person, feeling in story.world.feelings.items()}
        told = re.fullmatch(r"In the (evening|end) (\w+) was (still |not )?(\w+)\.", story.sentences[-1])
        if told and told[1] == "evening":
            assert feelings[told[2]] == told[4], story.text
        elif told:
            mood = "sad" if told[3] else "glad"
            assert told[4] == "happy"
            assert feelings[told[2]] in {"glad": GLAD, "sad": SAD}[mood], story.text
            checked[mood] += 1
    assert min(checked.values()) > 5, checked


def test_moods_of_another_day_are_forgotten():
    author = Author(Random(1))
    author.open()
    author.race()
    assert sorted(map(id, author.glad_or_sad_today())) == sorted(map(id, author.people[:2]))
    author.next_day()
    # But for what the new day itself brings.
    assert {author.world.feelings[person].cause.kind for person in author.glad_or_sad_today()} <= {"hear"}


def test_gossip_is_passed_on_in_other_words_with_nothing_else_changed():
    passed_on = 0
    for story in STORIES:
        text = re.search(
            r"(?:had news for \w+|what people said)\. (.*?) (?:(?:In the evening )?\w+ (?:told|passed it on to) \w+ "
            r"(?:mother|father|grandmother|sister)(?: about it)?)\. (.*?) "
            r"(?:The next day|A week later|Some days later|Two days after that) ",
            story.text,
        )
        if not text:
            continue
        passed_on += 1
        heard, retold = text.groups()
        assert heard != retold
        for words in ({person.name for person in PEOPLE}, {thing.full_name for thing in ALL_THINGS}):
            mentioned = [{word for word in words if re.search(rf"\b{word}\b", told)} for told in (heard, retold)]
            assert mentioned[0] == mentioned[1] != set(), story.text
        assert [place.name in heard for place in PLACES] == [place.name in retold for place in PLACES]
        strangers = {person.name for person in PEOPLE if person.name in heard}
        assert not strangers & {person.name for person in story.world.people}
    assert passed_on > 200, passed_on


def test_plurals_and_articles_agree():
    plural = "|".join(sorted({thing.noun for thing in ALL_THINGS if thing.plural}))
    single = "|".join(sorted({thing.noun for thing in ALL_THINGS if not thing.plural}))
    adjective = r"(?:\w+ )?"
    for story in STORIES:
        text = story.text
        for wrong in (
            rf"\b(?:a|an|this) {adjective}(?:{plural})\b",
            rf"\b(?:some|these) {adjective}(?:{single})\b",
            rf"\bthe {adjective}(?:{plural}) (?:was|is)\b",
            rf"\bthe {adjective}(?:{single}) (?:were|are)\b",
            r"\ba [aeiou]\w",
            r"\ban [^aeiou]",
        ):
            assert not re.search(wrong, text, re.IGNORECASE), (wrong, text)


def test_sentences_are_well_formed():
    for story in STORIES:
        assert 8 <= len(story.sentences) <= 30
        for sentence in story.sentences:
            assert re.fullmatch(r'"?[A-Z].*[.!?]"?', sentence), sentence
            assert not re.search(r"[{}]|  | [.,]|None", sentence), sentence


def test_a_pronoun_never_could_mean_somebody_else_just_mentioned():
    anna, dora, tom = Person("Anna", "she"), Person("Dora", "she"), Person("Tom", "he")
    kite = Thing("red", "kite", "toy")
    for seed in range(50):
        telling = Telling(Random(seed))
        telling.say("{a} met {b:him}.", a=anna, b=dora)
        telling.say("{a} laughed at {b:him}.", a=anna, b=dora)
        assert telling.sentences[1] == "Anna laughed at Dora."
        telling = Telling(Random(seed))
        telling.say("{a} met {b:him}.", a=anna, b=tom)
        telling.say("{b} gave {a:him} {x} and {a:his} hat.", a=anna, b=tom, x=kite)
        assert telling.sentences[1] == "Tom gave her the red kite and her hat."
    telling.pause()
    telling.say("{b} gave {a:him} {x}.", a=anna, b=tom, x=kite)
    assert telling.sentences[2] == "Tom gave Anna the kite."


def test_all_words_of_the_world_are_used():
    text = " ".join(story.text for story in STORIES)
    for word in [person.name for person in PEOPLE] + [place.name for place in PLACES] + list(TASKS.values()):
        assert word in text, word
    assert sum(thing.full_name in text for thing in ALL_THINGS) > 0.95 * len(ALL_THINGS)


def test_same_seed_same_stories_and_other_seed_others():
    first, again, other = (load_stories(30, 10, seed=seed) for seed in (1, 1, 2))
    assert first["train"]["text"] == again["train"]["text"]
    assert not set(first["train"]["text"]) & set(other["train"]["text"])
    assert first["train"]["text"][:5] == load_stories(5, 1, seed=1)["train"]["text"]


def test_training_and_validation_are_disjoint_and_of_the_sizes_asked_for():
    stories = load_stories(train_size=400, validation_size=100)
    assert {name: len(split) for name, split in stories.items()} == {"train": 400, "validation": 100}
    assert stories["train"].column_names == ["text"]
    texts = [*stories["train"]["text"], *stories["validation"]["text"]]
    assert len(set(texts)) == 500


@pytest.mark.parametrize("sizes", [{"train_size": 0}, {"validation_size": -1}])
def test_an_empty_corpus_is_refused(sizes):
    with pytest.raises(ValueError, match="size is (0|-1); it must be at least 1"):
        load_stories(**sizes)
