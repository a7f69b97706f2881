"""Scores against sacrebleu and sacremoses called directly, and against BLEU counted by hand."""

import math
import random
from collections import Counter

import datasets
import evaluate
import pytest
import sacrebleu
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from seq2seq_scratch.data.metrics import TranslationMetric, bleu_by_source_length, lowercase_and_moses_tokenize

REFERENCES = [
    "A well-known man's hat isn't \"big\" & red , is it ?",
    "Two dogs run through the high grass in the park.",
    "The woman, who wears a T-shirt, smiles at the camera…",
    "Three children are playing football on the beach today.",
    "A man in an orange hat starring at something.",
]
PREDICTIONS = [
    "A well known man's hat isn't \"big\" & red, is it?",
    "two dogs run through high grass in a park .",
    "The woman who wears a t-shirt smiles at the camera...",
    "Three children are playing football on the beach today.",
    "An orange hat.",
]
SOURCES = ["ein Wort"] * 2 + ["w " * 10] + ["w " * 11, "w " * 61]


def compute(predictions=PREDICTIONS, references=REFERENCES, language="en", **arguments):
    return TranslationMetric(language).compute(predictions=predictions, references=references, **arguments)


def multi_bleu(predictions, references):
    """BLEU of tokenised text as Papineni et al. 2002 define it, without smoothing."""
    matches, totals = Counter(), Counter()
    for prediction, reference in zip(predictions, references, strict=True):
        words, expected = prediction.split(), reference.split()
        for order in range(1, 5):
            given = Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
            wanted = Counter(tuple(expected[start : start + order]) for start in range(len(expected) - order + 1))
            matches[order] += (given & wanted).total()
            totals[order] += given.total()
    length = sum(len(text.split()) for text in predictions)
    reference_length = sum(len(text.split()) for text in references)
    precision = math.prod(matches[order] / totals[order] for order in range(1, 5)) ** 0.25
    return 100 * precision * min(1.0, math.exp(1 - reference_length / length))


def test_sacrebleu_and_chrf_are_sacrebleus_own():
    scores = compute()
    bleu = sacrebleu.BLEU()
    assert scores["sacrebleu"] == bleu.corpus_score(PREDICTIONS, [REFERENCES]).score
    assert scores["sacrebleu_signature"] == str(bleu.get_signature())
    assert scores["chrf"] == sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_tokenized_bleu_is_multi_bleu_of_moses_tokens(language):
    def prepared(sentences):
        normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)
        # Entities escaped, as tokenizer.perl does; the score is the same.
        return [
            " ".join(tokenizer.tokenize(normalizer.normalize(text.lower()), aggressive_dash_splits=True))
            for text in sentences
        ]

    expected = multi_bleu(prepared(PREDICTIONS), prepared(REFERENCES))
    assert compute(language=language)["bleu_tokenized_lowercased"] == pytest.approx(expected, abs=1e-9)


def test_moses_preparation_lowercases_splits_hyphens_and_keeps_characters():
    assert lowercase_and_moses_tokenize(['A well-known „Man’s" & <hat>.'], "en") == [
        'a well @-@ known " man \'s " & < hat > .'
    ]
    assert lowercase_and_moses_tokenize(["l'homme", "pt."], "fr_BE") == ["l' homme", "pt ."]


def test_tokenized_bleu_without_a_common_four_gram_is_zero():
    scores = compute(["a b c d x"], ["x a c b d"])
    assert scores["bleu_tokenized_lowercased"] == pytest.approx(0.0)
    assert scores["sacrebleu"] > 1  # smoothed


def test_exact_match_and_length_ratio():
    scores = compute([*REFERENCES[:3], " " + REFERENCES[3] + "\n", REFERENCES[4].lower()])
    assert scores["exact_match"] == 80.0
    assert scores["length_ratio"] == 1.0
    assert compute(["a b"], ["a b c d"])["length_ratio"] == 0.5


def test_references_of_single_words_count_the_orders_that_exist():
    scores = compute(["eins", "drei"], ["eins", "zwei"], language="de")
    assert scores["sacrebleu"] == pytest.approx(50.0)
    assert "eff:yes" in scores["sacrebleu_signature"]
    # One reference of four words, and the definition holds again.
    scores = compute(["eins", "drei"], ["eins", "ein Haus am See"], language="de")
    assert scores["sacrebleu"] == pytest.approx(0.0)
    assert "eff:no" in scores["sacrebleu_signature"]


@pytest.mark.parametrize(("language", "tokenizer"), [("zh", "zh"), ("ja", "char"), ("pt_BR", "13a")])
def test_languages_without_spaces_have_their_tokenizer(language, tokenizer):
    predictions, references = ["二十一万六千七百 三十九"], ["二十一万六千七百 四十九"]
    expected = sacrebleu.BLEU(tokenize=tokenizer, effective_order=tokenizer == "13a")
    scores = compute(predictions, references, language=language)
    assert scores["sacrebleu"] == pytest.approx(expected.corpus_score(predictions, [references]).score)
    assert f"tok:{tokenizer}" in scores["sacrebleu_signature"]


def test_batches_score_as_all_at_once():
    metric = TranslationMetric("en")
    for start in range(0, 5, 2):
        metric.add_batch(predictions=PREDICTIONS[start : start + 2], references=REFERENCES[start : start + 2])
    assert metric.compute(sources=SOURCES) == compute(sources=SOURCES)
    # And nothing stays for the next time.
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == compute()


def test_columns_of_a_data_set_score_as_lists_do():
    columns = datasets.Dataset.from_dict({"source": SOURCES, "target": REFERENCES})
    assert compute(references=columns["target"], sources=columns["source"]) == compute(sources=SOURCES)


def test_it_is_a_metric_of_the_library():
    metric = TranslationMetric("en", keep_in_memory=False)
    assert isinstance(metric, evaluate.Metric)
    metric.add(prediction="a b c d", reference="a b c d")
    assert metric.compute()["exact_match"] == 100.0


def test_bleu_by_source_length_scores_each_class_alone():
    scores = bleu_by_source_length(SOURCES, PREDICTIONS, REFERENCES)
    expected = {"1_to_10": range(3), "11_to_20": [3], "over_60": [4]}
    assert set(scores) == {f"{kind}_{name}_words" for name in expected for kind in ("sacrebleu", "sentences")}
    for name, members in expected.items():
        assert scores[f"sentences_{name}_words"] == len(members)
        own = sacrebleu.corpus_bleu([PREDICTIONS[i] for i in members], [[REFERENCES[i] for i in members]])
        assert scores[f"sacrebleu_{name}_words"] == pytest.approx(own.score)


def test_every_sentence_is_in_one_length_class():
    generator = random.Random(0)
    sources = ["w " * generator.randint(0, 9) for _ in range(200)]
    texts = ["a b c d"] * 200
    scores = bleu_by_source_length(sources, texts, texts, boundaries=(2, 5))
    assert scores["sentences_1_to_2_words"] == sum(len(source) // 2 <= 2 for source in sources)
    assert scores["sentences_3_to_5_words"] == sum(3 <= len(source) // 2 <= 5 for source in sources)
    assert scores["sentences_over_5_words"] == sum(len(source) // 2 > 5 for source in sources)


def test_nothing_to_score_and_unequal_lists_are_named():
    with pytest.raises(ValueError, match="no translations to score"):
        compute([], [])
    with pytest.raises(ValueError, match="predictions.*5.*references.*4"):
        compute(references=REFERENCES[:4])
    with pytest.raises(ValueError, match="4 sources, 5 predictions and 5 references"):
        compute(sources=SOURCES[:4])
