"""Japanese and Korean translations are scored by words if the extra ja-ko is installed."""

import pytest

from seq2seq_scratch.data.metrics import TranslationMetric


@pytest.mark.parametrize(
    ("language", "package", "sentence", "tokenizer"),
    [
        ("ja", "MeCab", "吾輩は猫である。名前はまだ無い。", "ja-mecab"),
        ("kor", "mecab_ko", "나는 고양이로소이다. 이름은 아직 없다.", "ko-mecab"),
    ],
)
def test_the_extra_splits_japanese_and_korean_into_words(language, package, sentence, tokenizer):
    pytest.importorskip(package, reason="the extra ja-ko is not installed")
    scores = TranslationMetric(target_language=language).compute(predictions=[sentence], references=[sentence])
    assert f"tok:{tokenizer}" in scores["sacrebleu_signature"]
    assert scores["sacrebleu"] == pytest.approx(100)
