"""Constraints of a search: beginnings that translations must have, forbidden words, and a terminology.

Each is a logits processor of `generate()`. The first two set the log-probability of tokens to minus infinity. A
terminology adds a bias to the tokens of its target terms where the source has the source term; a search may still
decide against a term.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from .phrases import PhraseMatcher, Spelling, TextIndex, any_casing, fold_case, words_of
from .visible_text import has_visible_text

# On numbers, see `recipes/RESULTS.md`.
TERM_BIAS = 6.0


@dataclass(frozen=True)
class Prefix:
    """The beginning that a translation must have.

    Attributes:
        tokens: those of all words but the last, or of all words if the last one is complete.
        rest: what the last word spells. Any tokens may spell it, and the last of them may go on.
        is_complete: whether the beginning ended with a space, so that its last word may not go on.
        steps: the smallest number of tokens that write `rest` from each of its places, see `TextIndex.steps_to_write`.
    """

    tokens: tuple[int, ...]
    rest: str
    is_complete: bool
    steps: tuple[float, ...]


@dataclass(frozen=True)
class Term:
    """An entry of a terminology.

    Attributes:
        source, target: as they were given.
        words: those of the target term as the vocabulary spells them.
        variants: the tokens of the target term and, if it starts with a small letter, those with a capital there,
            which only a sentence begins with. Empty if the vocabulary lacks one of its words.
    """

    source: str
    target: str
    words: tuple[str, ...]
    variants: tuple[tuple[int, ...], ...]

    def is_met(self, translation: str) -> bool:
        """Returns True if a translation has the target term, in any casing if the term has no capital."""
        words, wanted = words_of(translation), self.words
        if any_casing("".join(wanted)):
            words, wanted = (tuple(map(fold_case, each)) for each in (words, wanted))
        return any(words[first : first + len(wanted)] == wanted for first in range(len(words) - len(wanted) + 1))


class RequiredPrefixes(LogitsProcessor):
    """Makes the hypotheses of each sentence begin with its prefix, or freely where that is None.

    A token may follow only if those after it can write what is left of the prefix before the limit. Otherwise a search
    without beams would end within the prefix.

    Args:
        limits: the largest number of tokens of each sentence's hypotheses after the start token, (B,).
    """

    def __init__(self, spelling: Spelling, index: TextIndex, prefixes: Sequence[Prefix | None], limits: Sequence[int]):
        self.spelling, self.index, self.prefixes, self.limits = spelling, index, list(prefixes), list(limits)
        self.begins_with_space = [token for token, text in enumerate(spelling.texts) if text.startswith(" ")]

    def allowed(self, prefix: Prefix, written: Sequence[int], limit: int) -> list[int] | None:
        """Returns the tokens that may follow those that are written; None for all."""
        if len(written) < len(prefix.tokens):
            return [prefix.tokens[len(written)]]
        if len(written) > len(prefix.tokens) + len(prefix.rest):  # a token spells a character at least
            return None
        if prefix.is_complete:
            at_end = len(written) == len(prefix.tokens)
            return self.begins_with_space + self.spelling.end_ids if at_end else None
        place = len(self.spelling.text(written[len(prefix.tokens) :]))
        rest, left = prefix.rest[place:], limit - len(written) - 1
        if not rest:
            return None
        lengths = (length for length in range(1, len(rest)) if prefix.steps[place + length] <= left)
        shorter = (token for length in lengths for token in self.index.equal_to(rest[:length]))
        return [token for token, _ in self.index.starting_with(rest)] + list(shorter)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Returns the scores (B * n, V) with -inf at the tokens that may not follow the hypotheses (B * n, T)."""
        rows_each = len(input_ids) // len(self.prefixes)
        scores = scores.clone()
        for row, (_, *written) in enumerate(input_ids.tolist()):
            sentence = row // rows_each
            prefix = self.prefixes[sentence]
            tokens = None if prefix is None else self.allowed(prefix, written, self.limits[sentence])
            if tokens is not None:
                kept = torch.full_like(scores[row], -torch.inf)
                kept[tokens] = scores[row, tokens]
                scores[row] = kept
        return scores

    def keep_sentences(self, sentences: torch.LongTensor) -> "RequiredPrefixes":
        """Returns the processor of a batch that has the given sentences only."""
        prefixes, limits = ([each[i] for i in sentences.tolist()] for each in (self.prefixes, self.limits))
        return RequiredPrefixes(self.spelling, self.index, prefixes, limits)


class Forbidden:
    """Forbidden words and phrases, which are found as whole words.

    One without a capital letter is found in every casing.

    Args:
        phrases: as the vocabulary spells them, without outer spaces.
    """

    def __init__(self, spelling: Spelling, phrases: Sequence[str]):
        folded = [fold_case(phrase) for phrase in phrases if any_casing(phrase)]
        exact = [phrase for phrase in phrases if not any_casing(phrase)]
        lower = [fold_case(text) for text in spelling.texts] if folded else spelling.texts
        self.spelling = spelling
        self.folded, self.exact = (
            PhraseMatcher(some, texts, spelling.starts_word, spelling.whole_words)
            for some, texts in ((folded, lower), (exact, spelling.texts))
        )
        self.longest = max(self.folded.longest, self.exact.longest)

    def completing(self, written: Sequence[int], is_last: bool) -> list[np.ndarray]:
        """Returns the tokens that would complete a forbidden phrase after those that are written."""
        # Every token but the special ones spells a character at least.
        text = self.spelling.text(written[-self.longest - 1 :])
        return self.folded.completing(fold_case(text), is_last) + self.exact.completing(text, is_last)

    def find(self, text: str, is_closed: bool = True) -> str | None:
        """Returns a forbidden phrase that stands in a text that tokens spell; see `PhraseMatcher.find`."""
        return self.folded.find(fold_case(text), is_closed) or self.exact.find(text, is_closed)


class ForbiddenWords(LogitsProcessor):
    """Keeps forbidden words out of all hypotheses.

    A hypothesis that spells a forbidden word may only go on with a token that makes it a longer word. The end
    token cannot come first, as it would be the easiest way out.

    Args:
        forbidden: the words.
        limits: the largest number of tokens of each sentence's hypotheses after the start token, (B,).
    """

    def __init__(self, forbidden: Forbidden, limits: Sequence[int]):
        self.forbidden, self.limits = forbidden, list(limits)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Returns the scores (B * n, V) with -inf at the tokens that complete a forbidden word after (B * n, T)."""
        rows_each = len(input_ids) // len(self.limits)
        rows, tokens = [], []
        for row, (_, *written) in enumerate(input_ids.tolist()):
            is_last = len(written) + 1 >= self.limits[row // rows_each]
            completing = self.forbidden.completing(written, is_last)
            if not written:
                completing.append(np.array(self.forbidden.spelling.end_ids))
            for found in completing:
                rows.append(np.full(len(found), row))
                tokens.append(found)
        if not rows:
            return scores
        scores = scores.clone()
        places = (torch.from_numpy(np.concatenate(each)).to(scores.device) for each in (rows, tokens))
        scores[tuple(places)] = -torch.inf
        return scores

    def keep_sentences(self, sentences: torch.LongTensor) -> "ForbiddenWords":
        """Returns the processor of a batch that has the given sentences only."""
        return ForbiddenWords(self.forbidden, [self.limits[i] for i in sentences.tolist()])


class TermBias(LogitsProcessor):
    """Adds a bias for every token of a target term that a hypothesis begins, continues or completes.

    A hypothesis that leaves a term which it has begun loses what it got. So the sum of what was added depends on the
    tokens of a hypothesis alone: the bias times the tokens of the terms that it has as whole words, once each, and of
    the longest one that it ends within. A search with beams may end before a hypothesis with a term catches up.

    Args:
        terms: those of each sentence, (B,).
        bias: added to the log-probability or logit of a token.
    """

    def __init__(self, spelling: Spelling, terms: Sequence[Sequence[Term]], bias: float):
        self.spelling, self.terms, self.bias = spelling, [list(each) for each in terms], bias
        self.starts_word = torch.from_numpy(spelling.starts_word)

    def _follow(self, written: Sequence[int], terms: Sequence[Term]) -> tuple[int, int, int, dict[int, int]]:
        """Follows the terms through a hypothesis.

        Returns:
            Number of tokens of the terms that it has; of the longest that it ends within or with; of those that it has
            if a word ends here; and for each token that begins or continues a term, of how many it would be the last.
        """
        met, within, ended = 0, 0, 0
        next_tokens: dict[int, int] = {}
        for term in terms:
            lengths = [len(term.variants[i]) for i in range(len(term.variants)) if self._has(written, term, i)]
            if lengths:
                met += max(lengths)
                continue
            begun = [
                (variant, length)
                for index, variant in enumerate(term.variants)
                for length in range(min(len(variant), len(written)) + 1)
                if self._is_begun(written, len(written) - length, len(written), term, index)
            ]
            ended_here = max((length for variant, length in begun if length == len(variant)), default=0)
            ended += ended_here
            for variant, length in begun:
                within = max(within, length)
                # After a token that starts a word, a term that ended is there, and is not begun again.
                if length < len(variant) and not (ended_here and self.spelling.begins_word[variant[length]]):
                    next_tokens[variant[length]] = max(next_tokens.get(variant[length], 0), length + 1)
        return met, within, ended, next_tokens

    def _is_begun(self, written: Sequence[int], first: int, end: int, term: Term, index: int) -> bool:
        """Returns True if the tokens from `first` to `end` are the first ones of a variant of a term."""
        if tuple(written[first:end]) != term.variants[index][: end - first]:
            return False
        return not (index and first) or self.spelling.texts[written[first - 1]].endswith((".", "!", "?"))

    def _has(self, written: Sequence[int], term: Term, index: int) -> bool:
        """Returns True if the tokens have a variant, and then one that starts a word or ends the sentence."""
        size = len(term.variants[index])
        return any(
            written[end - size] == term.variants[index][0]
            and self._is_begun(written, end - size, end, term, index)
            and self.spelling.begins_word[written[end]]
            for end in range(size, len(written))
        )

    def total(self, written: Sequence[int], sentence: int) -> float:
        """Returns the sum of what was added to a hypothesis, which is given with its end token if it has one."""
        met, within, *_ = self._follow(written, self.terms[sentence])
        return self.bias * (met + within)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Returns the scores (B * n, V) with the bias of each token after the hypotheses (B * n, T)."""
        if not any(self.terms):
            return scores
        rows_each = len(input_ids) // len(self.terms)
        scores = scores.clone()
        starts_word = self.starts_word.to(scores.device)
        for row, (_, *written) in enumerate(input_ids.tolist()):
            if not (terms := self.terms[row // rows_each]):
                continue
            _, within, ended, next_tokens = self._follow(written, terms)
            scores[row] -= self.bias * within
            if ended:
                scores[row, starts_word] += self.bias * ended
            if next_tokens:
                lengths = torch.tensor(list(next_tokens.values()), dtype=scores.dtype, device=scores.device)
                scores[row, list(next_tokens)] += self.bias * lengths
        return scores

    def keep_sentences(self, sentences: torch.LongTensor) -> "TermBias":
        """Returns the processor of a batch that has the given sentences only."""
        return TermBias(self.spelling, [self.terms[i] for i in sentences.tolist()], self.bias)


class Constraints:
    """Forbidden words and a terminology for one target vocabulary, and the check of prefixes.

    Args:
        tokenizer: the target's.
        size: number of entries V of the model's target vocabulary.
        end_ids: the tokens that end a sentence.
        forbidden_words: words and phrases that no translation may have as whole words. One without a capital letter
            is forbidden in every casing. One that the vocabulary cannot write has no effect.
        terminology: pairs of a source term and a target term. A source term is found as whole words, in every casing
            if it has no capital letter; where two overlap, the longer one counts.
        term_bias: added to the log-probability of each token of a target term.
        places: where the entries of `forbidden_words` and `terminology` come from, for messages; by default their
            index in the list.

    Raises:
        ValueError: the bias is negative, an entry is empty or no text, a source term is given twice, a target term has
            a forbidden word, or the forbidden words leave nothing to write.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        size: int,
        end_ids: Iterable[int],
        forbidden_words: Sequence[str] = (),
        terminology: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        term_bias: float = TERM_BIAS,
        places: Mapping[str, Sequence[str]] | None = None,
    ):
        for setting, entries in (("forbidden_words", forbidden_words), ("terminology", terminology)):
            if isinstance(entries, str):
                raise ValueError(f"{setting} is the text {entries[:60]!r}. Pass a list.")
        if not 0 <= term_bias < float("inf"):
            raise ValueError(f"term_bias is {term_bias}; it must be at least 0, and finite.")
        self.spelling = Spelling(tokenizer, size, end_ids)
        self.term_bias, self._places = term_bias, places or {}
        self.forbidden = self._read_forbidden(forbidden_words) if len(forbidden_words) else None
        pairs = list(terminology.items()) if isinstance(terminology, Mapping) else list(terminology)
        self.terms = [self._read_term(pair, self._place("terminology", i)) for i, pair in enumerate(pairs)]
        self._terms_by_word: dict[str, list[tuple[tuple[str, ...], Term]]] = {}
        first: dict[str, int] = {}
        for index, term in enumerate(self.terms):
            if first.setdefault(term.source, index) != index:
                raise ValueError(
                    f"{self._place('terminology', index)}: the source term {term.source!r} is also in "
                    f"{self._place('terminology', first[term.source])}. Remove one."
                )
            words = words_of(term.source)
            if any_casing(term.source):
                words = tuple(map(fold_case, words))
            self._terms_by_word.setdefault(fold_case(words[0]), []).append((words, term))
        for entries in self._terms_by_word.values():
            entries.sort(key=lambda entry: -len(entry[0]))

    @functools.cached_property
    def _index(self) -> TextIndex:
        return TextIndex(self.spelling.texts)

    def _place(self, setting: str, index: int) -> str:
        return self._places[setting][index] if setting in self._places else f"{setting}[{index}]"

    def _read_forbidden(self, words: Sequence[str]) -> Forbidden:
        phrases = []
        for index, word in enumerate(words):
            if not isinstance(word, str) or not has_visible_text(word):
                raise ValueError(
                    f"{self._place('forbidden_words', index)} is {word!r}, which is no word. Write one, or remove it."
                )
            if (tokens := self.spelling.tokens(word)) is not None:
                phrases.append(self.spelling.text(tokens).strip())
        forbidden = Forbidden(self.spelling, phrases)
        possible = np.array([has_visible_text(text) for text in self.spelling.texts])
        for found in forbidden.completing([], False):
            possible[found] = False
        if not possible.any():
            raise ValueError(
                f"{self._place('forbidden_words', 0)} and those that follow forbid every word of the vocabulary, so "
                "nothing can be written. Forbid fewer words."
            )
        return forbidden

    def _read_term(self, pair: tuple[str, str], place: str) -> Term:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"{place} is {pair!r}. Give a source term and a target term.")
        source, target = pair
        for side, text in (("source", source), ("target", target)):
            if not has_visible_text(text):
                raise ValueError(f"{place}: the {side} term is empty. Write a term, or remove the entry.")
        tokens, variants, words = self.spelling.tokens(target), [], words_of(target)
        if tokens is not None:
            spelled = self.spelling.text(tokens)
            found = self.forbidden and self.forbidden.find(spelled)
            if found:
                raise ValueError(f"{place}: the target term {target!r} has the forbidden word {found!r}. Remove one.")
            words = words_of(spelled)
            variants = [tuple(tokens)]
            capital = self.spelling.tokens(target[0].upper() + target[1:])
            if capital not in (None, tokens):
                variants.append(tuple(capital))
        return Term(source, target, words, tuple(variants))

    def terms_in(self, sentence: str) -> list[Term]:
        """Returns the terms of which a sentence has the source, each once, in their order in the sentence."""
        words = words_of(sentence)
        folded = tuple(map(fold_case, words))
        found: dict[Term, None] = {}
        place = 0
        while place < len(words):
            for wanted, term in self._terms_by_word.get(folded[place], ()):
                text = folded if any_casing(term.source) else words
                if text[place : place + len(wanted)] == wanted:
                    found[term] = None
                    place += len(wanted) - 1
                    break
            place += 1
        return list(found)

    def read_prefix(self, text: str, limit: int, place: str) -> Prefix | None:
        """Checks the beginning that a translation must have.

        Args:
            text: the beginning. Its last word may go on, unless a space follows it.
            limit: the largest number of tokens of the translation.
            place: where the beginning comes from, for messages.

        Returns:
            The prefix; None if the text is empty.

        Raises:
            ValueError: the vocabulary lacks a word, the beginning has a forbidden word or too many tokens.
        """
        if not has_visible_text(text):
            return None
        tokens = self.spelling.tokens(text)
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        if tokens is None:
            raise ValueError(
                f"{place}: the model's vocabulary lacks a word of the prefix {shown!r}. Change the prefix."
            )
        if len(tokens) > limit:
            raise ValueError(
                f"{place}: the prefix {shown!r} has {len(tokens)} tokens, but a translation of its source has at most "
                f"{limit}. Shorten the prefix, or raise max_new_tokens."
            )
        is_complete = text[-1].isspace()
        found = self.forbidden and self.forbidden.find(self.spelling.text(tokens), is_complete)
        if found:
            raise ValueError(f"{place}: the prefix {shown!r} has the forbidden word {found!r}. Change one of them.")
        starts = [place for place, token in enumerate(tokens) if self.spelling.texts[token].startswith(" ")]
        last = len(tokens) if is_complete else max(starts, default=0)
        rest = self.spelling.text(tokens[last:])
        return Prefix(tuple(tokens[:last]), rest, is_complete, self._index.steps_to_write(rest))

    def for_batch(
        self, terms: Sequence[Sequence[Term]], prefixes: Sequence[Prefix | None], limits: Sequence[int]
    ) -> "BatchConstraints":
        """Returns the constraints of B sentences.

        Args:
            terms: those that are favoured in the translations of each sentence.
            prefixes: those of the translations.
            limits: the largest number of tokens of each sentence's translations.
        """
        # Two terms with one target would have twice the bias.
        once = [list({term.variants: term for term in each}.values()) for each in terms]
        bias = TermBias(self.spelling, once, self.term_bias)
        processors: list[LogitsProcessor] = [bias] if any(bias.terms) else []
        if any(prefix is not None for prefix in prefixes):
            processors.append(RequiredPrefixes(self.spelling, self._index, prefixes, limits))
        if self.forbidden:
            processors.append(ForbiddenWords(self.forbidden, limits))
        return BatchConstraints(self, bias, list(prefixes), processors)


@dataclass(frozen=True)
class BatchConstraints:
    """The constraints of the B sentences of a batch.

    Attributes:
        constraints: those of all sentences.
        bias: the terms of the sentences.
        prefixes: those of the translations.
        processors: for `generate()`; those that are not needed are left out.
    """

    constraints: Constraints
    bias: TermBias
    prefixes: list[Prefix | None]
    processors: list[LogitsProcessor]

    def hold(self, written: Sequence[int], sentence: int) -> bool:
        """Returns False for a hypothesis that a search without beams had to write because nothing else could follow.

        Args:
            written: its tokens after the start token, with the end token if it has one.
            sentence: its index in the batch.
        """
        spelling, forbidden = self.constraints.spelling, self.constraints.forbidden
        text, prefix = spelling.text(written), self.prefixes[sentence]
        begins = prefix is None or text.startswith(spelling.text(prefix.tokens) + prefix.rest)
        return begins and not (forbidden and forbidden.find(text))
