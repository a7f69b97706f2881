"""The tokens of a corpus that is encoded word by word are those of the tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from seq2seq_scratch.data.text_encoder import TextEncoder, text_encoders
from seq2seq_scratch.tokenization import train_tokenizer

CORPUS = ["The lowest tower is lower (and newer) than the newest tower.", "Wer wei\u00df, wie's geht?"] * 3
PARTS = [
    *" .,:'-()_\n\r\t\x00\x1c\x85\xa0\xad\u200b\u2028\u3000\ufeff\u0301\u2014\u2581\u037e\u1fef\u2000",
    *[
        "a",
        "the",
        "low",
        "er",
        "LOW",
        "</s>",
        "<unk>",
        "<0x0A>",
        "e\u0301",
        "\u00c5",
        "\u6f22\u5b57",
        "\u0130",
        "\u03a3",
    ],
]
KINDS = {"bpe": {"kind": "bpe", "vocab_size": 330}, "lowercase": {"kind": "bpe", "vocab_size": 330, "lowercase": True}}
KINDS["word"] = {"kind": "word", "vocab_size": 20}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def tokenizer(request):
    return train_tokenizer(CORPUS, **request.param)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), min_size=1, max_size=3))
def test_any_sentence_has_the_tokenizers_tokens(tokenizer, texts):
    encoder = TextEncoder(tokenizer)
    assert encoder.treats_words_alike
    assert encoder(texts) == tokenizer(texts).input_ids


def test_a_shared_tokenizer_has_one_encoder_and_a_former_truncation_does_not_matter(tokenizer):
    source, target = text_encoders(tokenizer, tokenizer)
    assert source is target
    expected = tokenizer(CORPUS).input_ids
    tokenizer(CORPUS, truncation=True, max_length=2, padding=True)
    assert source(CORPUS) == expected
    assert len(set(map(id, text_encoders(tokenizer, train_tokenizer(CORPUS, **KINDS["bpe"]))))) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.add_tokens("newest tower"),
        lambda tokenizer: tokenizer.add_tokens(AddedToken("low", lstrip=True)),
        lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", None),
        lambda tokenizer: setattr(tokenizer.backend_tokenizer, "post_processor", None),
        lambda tokenizer: setattr(tokenizer, "eos_token", None),
    ],
)
def test_a_tokenizer_of_another_kind_is_asked_for_whole_sentences(change):
    tokenizer = train_tokenizer(CORPUS, **KINDS["bpe"])
    change(tokenizer)
    for encoder in text_encoders(tokenizer, tokenizer):
        assert not encoder.treats_words_alike
        assert encoder(CORPUS) == tokenizer(CORPUS).input_ids


def test_another_tokenizer_is_told_the_side(monkeypatch):
    tokenizer = train_tokenizer(CORPUS, **KINDS["bpe"])
    tokenizer.backend_tokenizer.normalizer = None
    given, call = [], PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "__call__", lambda self, **options: given.append({*options}) or call(self, **options)
    )
    source, target = text_encoders(tokenizer, tokenizer)
    assert source(CORPUS) == target(CORPUS)
    assert [options & {"text", "text_target"} for options in given] == [{"text"}, {"text_target"}]
