"""Scores of translations, without a network: BLEU as it is published today, BLEU as in older tables, and others."""

from collections.abc import Sequence

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF
from sacremoses import MosesPunctNormalizer, MosesTokenizer

# sacreBLEU's tokenisers for languages written without spaces; the others have its default, 13a.
TOKENIZERS_WITHOUT_SPACES = {"zh": "zh", "ja": "char", "th": "char"}

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
    return language.replace("-", "_").split("_")[0].lower()


def lowercase_and_moses_tokenize(sentences: Sequence[str], language: str) -> list[str]:
    """Lower case, then Moses' punctuation normalisation, then its tokenisation with aggressive splitting at hyphens.

    So most published scores on Multi30k prepare hypotheses and references. Special characters are not written as
    HTML entities: for BLEU, `&apos;` and `'` are one token alike.
    """
    normalizer = MosesPunctNormalizer(_base_language(language))
    tokenizer = MosesTokenizer(_base_language(language))
    return [
        tokenizer.tokenize(
            normalizer.normalize(sentence.lower()), aggressive_dash_splits=True, return_str=True, escape=False
        )
        for sentence in sentences
    ]


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
        predictions: N translations.
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

    Args:
        target_language: decides how text is tokenised.
        arguments: for `evaluate.Metric`. Inputs are kept in memory unless they say otherwise.

    Raises:
        ValueError: no sentences, or unequally many.
    """

    def __init__(self, target_language: str = "en", **arguments):
        super().__init__(**{"keep_in_memory": arguments.get("num_process", 1) == 1, **arguments})
        self.target_language = target_language

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU, tokenised BLEU, chrF and exact match of translations.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], sources: Sequence[str] | None = None
    ) -> dict[str, float | int | str]:
        if not predictions:
            raise ValueError("There are no translations to score.")
        tokenize = TOKENIZERS_WITHOUT_SPACES.get(_base_language(self.target_language))
        sacrebleu, length_ratio, signature = _corpus_bleu(predictions, references, tokenize=tokenize)
        tokenized, _, _ = _corpus_bleu(
            lowercase_and_moses_tokenize(predictions, self.target_language),
            lowercase_and_moses_tokenize(references, self.target_language),
            tokenize="none",
            smooth_method="none",
            force=True,  # sacreBLEU would warn that the text is tokenised
        )
        matches = sum(
            prediction.strip() == reference.strip()
            for prediction, reference in zip(predictions, references, strict=True)
        )
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
