"""Grammatical mistakes in sentences of the stories, for the acceptability task: one mistake per sentence."""

import re
from collections.abc import Callable, Iterable
from itertools import cycle
from random import Random

from .world import NOUNS, PEOPLE, PLACES, THINGS


def _one_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(sorted(words)) + ")"


_SINGLE, _SEVERAL = ([noun for nouns in NOUNS.values() for noun in nouns.split(";")[part].split()] for part in (0, 1))
# A plural noun of the same kind for each singular noun.
_SEVERAL_FOR = {
    noun: other
    for single, several in (nouns.split(";") for nouns in NOUNS.values())
    for noun, other in zip(single.split(), cycle(several.split()))
}
_ADJECTIVES = {thing.adjective for things in THINGS.values() for thing in things}
_THING = rf"(?:{_one_of(_ADJECTIVES)} )?{_one_of(_SINGLE + _SEVERAL)}"
# Nouns that need an article. Fresh cheese, rope, shell and painting can stand without one.
_COUNTED = sorted(set(_SINGLE) - {"rope", "shell", "painting"} - {thing.noun for thing in THINGS["food"]})

_AGREEING = {"was": "were", "were": "was", "is": "are", "are": "is"}
_CASES = {"he": "him", "him": "he", "she": "her", "her": "she", "they": "them", "them": "they", "I": "me", "me": "I"}
_PAST = {
    "find": "found",
    "have": "had",
    "know": "knew",
    "take": "took",
    "go": "went",
    "give": "gave",
    "keep": "kept",
    "laugh": "laughed",
    "mend": "mended",
    "look": "looked",
}
_PRESENT = {past: present for present, past in _PAST.items()}
_PARTICIPLES = {"gone": "went", "seen": "saw", "eaten": "ate", "been": "was"}
# Words that are never correct twice in a row. ("Had had" can be, and so can "gave her her kite".)
_NEVER_DOUBLE = (
    "the a an some and to was were he she it they him them at in on by of with for from because but not did could "
    "gave took found went got said asked"
).split()

# The kinds of mistakes: patterns of whole words, and the replacement of a match. A replacement only uses words of the
# stories, and wherever a pattern matches, the result is not correct English.
MISTAKES: dict[str, tuple[tuple[str, str | Callable[[re.Match], str]], ...]] = {
    "agreement": ((_one_of(_AGREEING), lambda match: _AGREEING[match[0]]),),
    "article": (("an?", lambda match: "an" if match[0] == "a" else "a"),),
    "number": (
        (rf"(an? {_one_of(_ADJECTIVES)}) ({_one_of(_SINGLE)})", lambda match: f"{match[1]} {_SEVERAL_FOR[match[2]]}"),
        (rf"some ({_one_of(_ADJECTIVES)} {_one_of(_SEVERAL)})", lambda match: f"{_a(match[1])} {match[1]}"),
    ),
    "pronoun": ((_one_of(_CASES), lambda match: _CASES[match[0]]),),
    "order": (
        (rf"(the|a|an|some) ({_THING})", r"\2 \1"),
        (rf"(a|an|some) ({_one_of(_ADJECTIVES)}) ({_one_of(_SINGLE + _SEVERAL)})", r"\1 \3 \2"),
        (rf"(at|in|on|by) the ({_one_of(place.name.split()[-1] for place in PLACES)})", r"the \1 \2"),
        ("(did|could) not", r"not \1"),
        ("(and|because) (he|she|they)", r"\2 \1"),
    ),
    # Only the first verb of a sentence, because "Anna got the kite, and Tom the drum" is correct.
    "missing": (
        (rf"(?:the|a|an) ((?:{_one_of(_ADJECTIVES)} )?{_one_of(_COUNTED)})", r"\1"),
        (r"(?:was|were) (at|in|on|by|not|two|friends|good|a)", r"\1"),
        (r"^(.*?)\bhad (a|an|some|the|to)", r"\1\2"),
        (r"^(.*?)\b(?:gave|took|found|got|hid|put|owned|wanted|snatched|stole|followed|kept) (\w+)", r"\1\2"),
        (r"(?:went|walked) (to|there|home)", r"\1"),
        (r"(went|came) to the", r"\1 the"),
        (r"wanted to (?!help)(\w+)", r"wanted \1"),
    ),
    "doubled": ((_one_of(_NEVER_DOUBLE), r"\g<0> \g<0>"),),
    "verb": (
        (
            rf"(did not|could not|to|may|rather|will you) ({_one_of(_PAST)})",
            lambda match: f"{match[1]} {_PAST[match[2]]}",
        ),
        (rf"(he|she) ({_one_of(_PRESENT)})", lambda match: f"{match[1]} {_PRESENT[match[2]]}"),
        (rf"had ({_one_of(_PARTICIPLES)})", lambda match: f"had {_PARTICIPLES[match[1]]}"),
    ),
    "comparison": (("(faster|more) than", r"\1 as"), ("as (fast|good) as", r"as \1 than")),
}
_NAMES = {person.name for person in PEOPLE}


def _a(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _with_first_letter(sentence: str, change: Callable[[str], str]) -> str:
    first = next(index for index, letter in enumerate(sentence) if letter.isalpha())
    return sentence[:first] + change(sentence[first]) + sentence[first + 1 :]


def make_mistake(sentence: str, kind: str, random: Random) -> str | None:
    """Makes one mistake in a sentence.

    Args:
        sentence: a correct sentence.
        kind: a key of `MISTAKES`.
        random: chooses among the places where a mistake of this kind is possible.

    Returns:
        The sentence with the mistake, or `None` if it has no such place.
    """
    first_word = re.search(r"\w+", sentence)[0]
    if first_word not in _NAMES and first_word != "I":
        sentence = _with_first_letter(sentence, str.lower)
    places = [
        (match, change) for pattern, change in MISTAKES[kind] for match in re.finditer(rf"\b{pattern}\b", sentence)
    ]
    if not places:
        return None
    match, change = random.choice(places)
    changed = match.expand(change) if isinstance(change, str) else change(match)
    return _with_first_letter(sentence[: match.start()] + changed + sentence[match.end() :], str.upper)
