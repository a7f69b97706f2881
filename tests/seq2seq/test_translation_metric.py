"""Scores against sacrebleu and sacremoses called directly, and against BLEU counted by hand."""

import logging
import math
import random
import sys
import unicodedata
from collections import Counter
from typing import get_args

import datasets
import evaluate
import pytest
import sacrebleu
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from papers_to_gpt.publishing.cards import iso_codes
from papers_to_gpt.settings.translation import BleuTokenizer
from seq2seq_scratch.data import metrics
from seq2seq_scratch.data.metrics import (
    TranslationMetric,
    bleu_by_source_length,
    lowercase_and_moses_tokenize,
    normalize_for_scores,
)
from seq2seq_scratch.tokenization import train_tokenizer

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


@pytest.fixture(autouse=True)
def without_the_extra(monkeypatch):
    """Scores as they are without the extra ja-ko, whether or not it is installed."""
    monkeypatch.setattr(metrics, "TOKENIZERS_OF_PACKAGES", {})


def compute(predictions=PREDICTIONS, references=REFERENCES, language="en", **arguments):
    return TranslationMetric(language).compute(predictions=predictions, references=references, **arguments)


def multi_bleu(predictions, references):
    """Computes BLEU of tokenised text as Papineni et al. 2002 define it, without smoothing."""
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


def test_several_references_are_scored_as_by_sacrebleu_and_any_of_them_matches():
    others = [PREDICTIONS[0], "", "A woman in a T-shirt smiles.", "Some children play football on a beach today.", ""]
    rows = [list(pair) for pair in zip(REFERENCES, others, strict=True)]
    scores = TranslationMetric("en").compute(predictions=PREDICTIONS, references=rows, sources=REFERENCES)
    streams = [normalize_for_scores(REFERENCES), [text or None for text in others]]
    predictions = normalize_for_scores(PREDICTIONS)
    bleu = sacrebleu.BLEU()
    assert scores["sacrebleu"] == pytest.approx(bleu.corpus_score(predictions, streams).score)
    assert scores["sacrebleu_signature"] == str(bleu.get_signature()) and "nrefs:var" in scores["sacrebleu_signature"]
    assert scores["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(predictions, streams).score)
    alone = TranslationMetric("en").compute(predictions=PREDICTIONS, references=REFERENCES)
    assert scores["exact_match"] == alone["exact_match"] + 20  # the first one equals its second reference
    assert scores["bleu_tokenized_lowercased"] > alone["bleu_tokenized_lowercased"]
    again = TranslationMetric("en").compute(predictions=PREDICTIONS, references=[[text, ""] for text in REFERENCES])
    assert again == alone
    with pytest.raises(ValueError, match="different numbers of references"):
        TranslationMetric("en").compute(predictions=PREDICTIONS, references=[*rows[:-1], ["a"]])


def test_bleu_by_source_length_scores_each_range_separately():
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
    with pytest.raises(ValueError, match="There are no references"):
        compute(["a", "b"], [[], []])
    with pytest.raises(ValueError, match="predictions.*5.*references.*4"):
        compute(references=REFERENCES[:4])
    with pytest.raises(TypeError, match=r"references\[1\] is None, of type NoneType"):
        compute(["a", "b"], ["a", None])
    with pytest.raises(TypeError, match="predictions is 'a b'.*list"):
        compute("a b", ["a", "b", "c"])
    with pytest.raises(ValueError, match="sources holds 4 lines, predictions holds 5 and references holds 5"):
        compute(sources=SOURCES[:4])


FRENCH = "Le café coûte 5 € à Orléans , très cher ?"


@pytest.mark.parametrize(
    "other",
    [
        unicodedata.normalize("NFD", FRENCH),
        FRENCH.replace(" €", "\u00a0€").replace(" ?", "\u202f?"),
        FRENCH.replace(" ", "  ") + "\n",
        FRENCH.replace(" ", "\t\u3000"),
        "\ufeff" + FRENCH,
        FRENCH.replace("coûte", "coû\u00adte"),
        FRENCH.replace("Orléans", "Or\u200blé\u200dans\u200c\u2060"),
        "\u200e" + FRENCH + "\u200f",
    ],
    ids=["NFD", "no-break spaces", "double spaces", "other spaces", "BOM", "soft hyphen", "zero width", "direction"],
)
def test_a_form_that_a_model_cannot_write_does_not_change_a_score(other):
    expected = compute([FRENCH], [FRENCH], language="fr", sources=["a"])
    assert expected["exact_match"] == 100.0
    assert compute([FRENCH], [other], language="fr", sources=["a"]) == expected
    assert compute([other], [FRENCH], language="fr", sources=["a"]) == expected


def test_scores_see_text_as_the_tokenizer_normalises_it():
    spaces = [chr(code) for code in range(sys.maxunicode) if chr(code).isspace() and chr(code) > "\x1f"]
    texts = [" a ▁b ", "a\r\n\tb", "Ｅ\u0301 ﬁ Å e\u0301\u0323", *REFERENCES, FRENCH]
    texts += [f"a{space}b" for space in spaces]
    normalizer = train_tokenizer(texts, kind="bpe", vocab_size=400).backend_tokenizer.normalizer
    assert normalize_for_scores(texts) == [normalizer.normalize_str(text) for text in texts]


def test_joiners_stay_where_they_belong_to_the_spelling():
    texts = ["می\u200cروم", "क्\u200dष", "👩\u200d👩\u200d👧"]
    assert normalize_for_scores(texts) == texts


@pytest.mark.parametrize(
    ("codes", "tokenizer", "iso"),
    [
        ("zh zh-CN zh_TW zho zho_Hans zho_Hant cmn cn chi zh_CN.UTF-8", "zh", "zh"),
        ("yue yue_Hant", "zh", "yue"),
        ("ja ja_JP jpn jpn_Jpan jp", "char", "ja"),
        ("th tha tha_Thai", "char", "th"),
        ("km khm_Khmr", "char", "km"),
        ("lo lao_Laoo", "char", "lo"),
        ("my mya_Mymr bur", "char", "my"),
        ("bo bod_Tibt tib", "char", "bo"),
        ("dz dzo_Tibt", "char", "dz"),
        ("shn shn_Mymr", "char", "shn"),
        ("ko kor kor_Hang", "13a", "ko"),
        ("de deu ger deu_Latn de-AT de_DE.UTF-8 de_somethingelse", "13a", "de"),
        ("ja_Latn", "13a", "ja"),
        ("hr hrv_Latn", "13a", "hr"),
        ("xx", "13a", "xx"),
        ("english", "13a", None),
    ],
)
def test_every_form_of_a_code_is_one_language(codes, tokenizer, iso):
    text = "今天天气很好我们去公园"
    for code in codes.split():
        assert f"tok:{tokenizer}|" in compute([text], [text], language=code)["sacrebleu_signature"], code
        assert iso_codes([code]) == (iso and [iso]), code


def test_no_language_is_one_with_spaces():
    assert compute(language=None) == compute(language="en")


@pytest.mark.parametrize(
    ("language", "prediction", "reference"),
    [
        ("zho_Hans", "今天天气很好我们去公园", "今天天气不错我们去公园"),
        ("jpn", "今日は良い天気です公園に行きます", "今日はとても良い天気です公園に行きます"),
        ("khm_Khmr", "ខ្ញុំស្រលាញ់ភាសាខ្មែរណាស់", "ខ្ញុំស្រលាញ់ភាសាខ្មែរ"),
    ],
)
def test_a_sentence_without_spaces_is_not_one_word(language, prediction, reference):
    scores = compute([prediction], [reference], language=language)
    by_character = multi_bleu([" ".join(prediction)], [" ".join(reference)])
    assert scores["sacrebleu"] == pytest.approx(by_character)
    assert scores["bleu_tokenized_lowercased"] == pytest.approx(by_character)


def test_turkish_has_two_lower_case_letters_i():
    assert lowercase_and_moses_tokenize(["IŞIK İki i\u0307ki"], "tur_Latn") == ["ışık iki iki"]
    assert lowercase_and_moses_tokenize(["IN"], "en") == ["in"]


@pytest.mark.parametrize(
    ("language", "references", "note"),
    [
        ("en", ["can &apos;t", "say &quot;no&quot; go @-@ on"], "2 of 2 lines hold &apos; &quot; or @-@"),
        ("en", ["a wo@@ rd", "plain"], "1 of 2 lines hold @@"),
        ("en", ["plain", "broken \ufffd", "half \ud800 a pair"], "2 of 3 references hold U+FFFD"),
        ("xx", ["今天天气很好我们去公园", "今天天气"], "hardly have spaces (2 words in 2 lines"),
        ("en", ["ខ្ញុំស្រលាញ់ភាសាខ្មែរ"], "hardly have spaces"),
    ],
)
def test_references_that_spoil_scores_are_told_of_once(caplog, language, references, note):
    metric = TranslationMetric(language)
    with caplog.at_level(logging.WARNING, logger="seq2seq_scratch"):
        for _ in range(2):
            metric.compute(predictions=references, references=references)
    (record,) = caplog.records
    assert note in record.getMessage()


@pytest.mark.parametrize(
    ("language", "references"),
    [
        ("de", ["zweihundertachttausendsechshundertachtzehn"]),
        ("xx", ["今天 天气 很 好"]),
        ("ko", ["오늘은 날씨가 아주 좋습니다"]),
        ("zh", ["今天天气很好我们去公园"]),
        ("en", ["mail me@@home or user@example.com, R&D; AT&T"]),
        ("en", ["one line with &amp; from a web page"] + ["plain"] * 100),
        ("en", REFERENCES),
    ],
)
def test_ordinary_references_draw_no_warning(caplog, language, references):
    with caplog.at_level(logging.WARNING, logger="seq2seq_scratch"):
        compute(references, references, language=language)
    assert not caplog.records


@pytest.mark.parametrize(
    ("predictions", "references", "matches"),
    [
        (["a b c d"], [""], 0.0),
        ([" \u00a0\t"], ["a b c d"], 0.0),
        (["\u200b"], [" "], 100.0),
        (["a\udc80b"], ["a b"], 0.0),
        (["\ud83d\ude00"], ["😀"], 100.0),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh", "km"])
def test_empty_and_broken_lines_are_scored(predictions, references, matches, language):
    assert compute(predictions, references, language=language, sources=[""])["exact_match"] == matches


@pytest.mark.parametrize("name", ["char", "intl", "none"])
def test_a_tokenizer_of_sacrebleu_may_be_named(name):
    predictions, references = ["the cat sat on a mat today"], ["the cat sat on the mat, today"]
    scores = TranslationMetric("en", name).compute(predictions=predictions, references=references)
    assert scores["sacrebleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, [references], tokenize=name).score)
    assert f"tok:{name}|" in scores["sacrebleu_signature"]


def test_the_tokenizers_of_the_setting_are_those_of_sacrebleu():
    assert {*get_args(BleuTokenizer), "none"} == {*sacrebleu.BLEU.TOKENIZERS}
    with pytest.raises(ValueError, match="bleu_tokenizer is 'moses'; sacreBLEU has none, zh, 13a"):
        TranslationMetric("de", "moses")


def test_sources_without_spaces_are_measured_in_characters():
    sources = ["我喜欢喝茶和咖啡。", "他们在公园里踢足球，然后回家。"]
    texts = ["one two three four five"] * 2
    scores = bleu_by_source_length(sources, texts, texts, boundaries=(10,))
    counted = {name: count for name, count in scores.items() if name.startswith("sentences")}
    assert counted == {"sentences_1_to_10_characters": 1, "sentences_over_10_characters": 1}
