"""Scores of translations, without a network: BLEU as it is published today, BLEU as in older tables, and others."""

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from ..tokenization import WORD_START
from .languages import language_of_script, resolve_language

logger = logging.getLogger(__name__)

# sacreBLEU's tokenisers for languages written without spaces; the others have its default, 13a. A language stands for
# all that share its script: Cantonese is scored as zh, Shan as my, Dzongkha as bo.
TOKENIZERS_WITHOUT_SPACES = {
    "zh": "zh",
    **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo", "nod", "tdd", "khb", "blt"), "char"),
}

# What no reader sees: soft hyphens, zero-width spaces, byte order marks, marks of direction, invisible operators.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
# The two joiners (U+200C, U+200D) are part of the spelling after letters of these scripts, and of emojis.
_BEFORE_JOINERS = re.compile(
    "[\u0600-\u0dff\u1780-\u18af\u2190-\u2bff\ua8e0-\ua8ff\ufb50-\ufdff\ufe0f\ufe70-\ufefc"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
# Characters of scripts that put no spaces between words: Thai to Burmese, Khmer, Tai Le to Tai Tham, Balinese, Chinese
# and Japanese to Yi, Javanese to Tai Viet.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\u2e80-\u312f\u3190-\ua4cf\ua980-\uaadf"
    "\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"
)
# In text without spaces a "word" is a whole clause; words of segmented Chinese or Japanese have about two characters.
_LONGEST_MEAN_WORD = 6
# What Moses' tokenizer writes for characters special to it, its split hyphens and slashes, and BPE's split words.
_MOSES_MARKS = re.compile(r"&(?:apos|quot|amp|lt|gt|bar|#124|#91|#93);|(?<!\S)@[-/]@(?!\S)|(?<=\w)@@(?!\S)")
# A web page or two in a test set may hold such a mark.
_LEAST_SHARE_OF_MARKED_LINES = 0.01

# Words of the source, as on the axis of figure 2 of Bahdanau et al. 2014.
SOURCE_LENGTH_BOUNDARIES = (10, 20, 30, 40, 50, 60)


def _corpus_bleu(predictions: Sequence[str], references: Sequence[str], **settings) -> tuple[float, float, str]:
    """BLEU, the predictions' number of tokens divided by the references', and sacreBLEU's signature.

    BLEU takes n-grams of up to four tokens, and is 0 by definition where texts are shorter. If not one reference has
    four tokens (a number in German is one word), the orders that exist count, and the signature says `eff:yes`.
    """
    bleu = BLEU(**settings)
    if not any(len(bleu.tokenizer(reference).split()) >= bleu.max_ngram_order for reference in references):
        bleu = BLEU(**settings, effective_order=True)
    score = bleu.corpus_score(predictions, [references])
    return score.score, score.sys_len / max(score.ref_len, 1), str(bleu.get_signature())


def _base_language(language: str) -> str:
    """The code under which Moses' tools and the table of tokenisers know a language; zh for all in Chinese script."""
    return "zh" if language_of_script(language) == "zh" else resolve_language(language).language or "en"


def _bleu_tokenizer(language: str) -> str | None:
    return TOKENIZERS_WITHOUT_SPACES.get(language_of_script(language))


def _remove_invisible(match: re.Match) -> str:
    joins = match[0] in "\u200c\u200d" and _BEFORE_JOINERS.match(match.string, match.start() - 1)
    return match[0] if match.start() and joins else ""


def normalize_for_scores(sentences: Sequence[str]) -> list[str]:
    """Text in the form in which a model can write it: as `train_tokenizer` normalises it, without lower-casing.

    That is Unicode NFC, every run of white space as one space, none outside, and `_` for `▁`. Invisible characters go
    too, except the joiners where they belong to the spelling, as in Persian and in Hindi.
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
        # Dotted and dotless i are two letters. Unicode's own lower case of İ, which a tokenizer writes, has two dots.
        text = text.replace("İ", "i").replace("I", "ı").replace("i\u0307", "i")
    return text.lower()


def lowercase_and_moses_tokenize(sentences: Sequence[str], language: str) -> list[str]:
    """Lower case, then Moses' punctuation normalisation, then its tokenisation with aggressive splitting at hyphens.

    So most published scores on Multi30k prepare hypotheses and references. Special characters are not written as
    HTML entities: for BLEU, `&apos;` and `'` are one token alike.

    Lower case in Turkish and Azerbaijani turns I into ı and İ into i. Moses' tokeniser finds no words in languages
    written without spaces; those are split by sacreBLEU's tokeniser for them.

    Args:
        sentences: N.
        language: a code in any usual form; one that Moses does not know has the rules of English.

    Returns:
        N sentences, their tokens between spaces.
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
    """What makes scores against these references mean less than they seem to."""
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
            f"{undecoded} of {len(references)} references hold U+FFFD or half a surrogate pair, in place of text that "
            "was not decoded rightly: no right translation equals them."
        )
    if tokenize is None:
        characters = sum(len(text) - text.count(" ") for text in references)
        unspaced = sum(len(_WITHOUT_SPACES.findall(text)) for text in references if not text.isascii())
        words = sum(text.count(" ") + 1 for text in references if text)
        if 2 * unspaced > characters > _LONGEST_MEAN_WORD * words:
            yield (
                f"the references hardly have spaces ({words} words in {len(references)} lines, of "
                f"{characters / words:.0f} characters each), and BLEU counts what stands between spaces. Set "
                f"target_language to the text's language; {', '.join(TOKENIZERS_WITHOUT_SPACES)} are scored by "
                "characters."
            )


def bleu_by_source_length(
    sources: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    boundaries: Sequence[int] = SOURCE_LENGTH_BOUNDARIES,
    tokenize: str | None = None,
) -> dict[str, float | int]:
    """SacreBLEU of the sentences of each source length, as in figure 2 of Bahdanau et al. 2014.

    Args:
        sources: N sentences; their length is in words between spaces.
        predictions: N translations, scored as they are: `normalize_for_scores` comes before.
        references: N.
        boundaries: the longest source of each class, rising; longer ones make a last class.
        tokenize: sacreBLEU's tokeniser, its default if None.

    Returns:
        For each class with sentences `sacrebleu_1_to_10_words`, `sentences_1_to_10_words` and so on, the last
        `sacrebleu_over_60_words`, `sentences_over_60_words`. A source without words is in the first class.

    Raises:
        ValueError: lists of unequal length.
    """
    if not len(sources) == len(predictions) == len(references):
        raise ValueError(
            f"There are {len(sources)} sources, {len(predictions)} predictions and {len(references)} references; "
            "they must be equally many."
        )
    lengths = [len(source.split()) for source in sources]
    names = [f"{low + 1}_to_{high}" for low, high in zip((0, *boundaries), boundaries, strict=False)]
    scores: dict[str, float | int] = {}
    for name, low, high in zip(
        (*names, f"over_{boundaries[-1]}"), (-1, *boundaries), (*boundaries, float("inf")), strict=True
    ):
        members = [index for index, length in enumerate(lengths) if low < length <= high]
        if members:
            score, _, _ = _corpus_bleu(
                [predictions[index] for index in members], [references[index] for index in members], tokenize=tokenize
            )
            scores |= {f"sacrebleu_{name}_words": score, f"sentences_{name}_words": len(members)}
    return scores


def _checked_texts(texts: Sequence[str] | None, name: str) -> list[str]:
    """The texts with surrogate pairs joined. A half of one, which no file and no vocabulary can hold, becomes U+FFFD.

    Raises:
        TypeError: no list of texts.
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
    """All scores of a translated test set, for `compute`, or `add_batch` and then `compute`.

    `compute(predictions=..., references=..., sources=...)` takes plain sentences, one reference each; `sources` is
    optional and, after `add_batch`, holds those of all batches. It returns

    - `sacrebleu`: BLEU of the text as it is, with capitals, and `sacrebleu_signature`, which belongs beside it;
    - `bleu_tokenized_lowercased`: BLEU after `lowercase_and_moses_tokenize`, without smoothing. It is what Moses'
      `multi-bleu.perl` prints for files prepared in that way, except that such tables often had their own versions of
      the preparation. For comparison with them only;
    - `chrf`: chrF2;
    - `exact_match`: per cent of translations that equal their reference, outer white space aside;
    - `length_ratio`: tokens of the translations divided by tokens of the references, as sacreBLEU counts them;
    - with sources, what `bleu_by_source_length` returns.

    Translations and references go through `normalize_for_scores` first. A warning, the same one once only, says where
    references look tokenised, were not decoded rightly, or have no spaces in a language that should have some.

    Args:
        target_language: decides how text is tokenised; a code in any usual form (zh, zh-CN, zho_Hans, cmn). One that
            is unknown, and None, are taken as a language with spaces.
        arguments: for `evaluate.Metric`. Inputs are kept in memory unless they say otherwise.

    Raises:
        ValueError: no sentences, or unequally many.
        TypeError: what is not text.
    """

    def __init__(self, target_language: str | None = "en", **arguments):
        super().__init__(**{"keep_in_memory": arguments.get("num_process", 1) == 1, **arguments})
        self.target_language = target_language or "en"
        self._notes_given: set[str] = set()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU, tokenised BLEU, chrF and exact match of translations.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def add_batch(
        self, *, predictions: Sequence[str] | None = None, references: Sequence[str] | None = None, **others: Any
    ) -> None:
        """Adds N translations and their N references, for a later `compute`."""
        predictions, references = _checked_texts(predictions, "predictions"), _checked_texts(references, "references")
        if len(predictions) != len(references):
            raise ValueError(
                f"predictions holds {len(predictions)} lines and references holds {len(references)}; they must be "
                "equally many."
            )
        super().add_batch(predictions=predictions, references=references, **others)

    def add(self, *, prediction: str | None = None, reference: str | None = None, **others: Any) -> None:
        """Adds one translation and its reference, for a later `compute`."""
        self.add_batch(predictions=[prediction], references=[reference], **others)

    def _compute(
        self, predictions: list[str], references: list[str], sources: Sequence[str] | None = None
    ) -> dict[str, float | int | str]:
        if not predictions:
            raise ValueError("There are no translations to score.")
        predictions, references = normalize_for_scores(predictions), normalize_for_scores(references)
        tokenize = _bleu_tokenizer(self.target_language)
        for note in _notes_on(references, tokenize):
            if note not in self._notes_given:  # training computes scores of the same references many times
                self._notes_given.add(note)
                logger.warning("%s", note)
        sacrebleu, length_ratio, signature = _corpus_bleu(predictions, references, tokenize=tokenize)
        tokenized, _, _ = _corpus_bleu(
            lowercase_and_moses_tokenize(predictions, self.target_language),
            lowercase_and_moses_tokenize(references, self.target_language),
            tokenize="none",
            smooth_method="none",
            force=True,  # sacreBLEU would warn that the text is tokenised
        )
        matches = sum(prediction == reference for prediction, reference in zip(predictions, references, strict=True))
        scores = {
            "sacrebleu": sacrebleu,
            "sacrebleu_signature": signature,
            "bleu_tokenized_lowercased": tokenized,
            "chrf": CHRF().corpus_score(predictions, [references]).score,
            "exact_match": 100 * matches / len(predictions),
            "length_ratio": length_ratio,
        }
        if sources is not None:
            scores |= bleu_by_source_length(sources, predictions, references, tokenize=tokenize)
        return scores


SHOWN_SCORES = ("exact_match", "sacrebleu", "bleu_tokenized_lowercased", "chrf")
