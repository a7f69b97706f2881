"""The tokens of a corpus that is encoded word by word are those of the tokenizer."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from gpt1_scratch.data import word_cache
from gpt1_scratch.data.text_encoder import TextEncoder
from gpt1_scratch.tokenization import train_tokenizer

CORPUS = ["It's Mr. Smith's dog, isn't it?\n\n'Tis so: they'll pay $5.50 at 10am -- or not...", "She cannot 'go'."] * 3
PARTS = [
    *" .,:;'\"!?-/()%$#&<>=_*~|\\\n\r\t\x00\x0b\x0c\x1c\x85\xa0\xad\u200b\u2028\u2029\u3000\ufeff",
    *"+[]{}\u201c\u201e\u0338\u0301\u2014\u2026\ufb01",
    *["a", "I", "U.S.", "Mr.", "e.g.", "n't", "'s", "'ve", "can", "not", "gon", "na", "do", "they", "ll", "10", "am"],
    *[
        "km",
        "'Cause",
        "goin'",
        "...",
        "--",
        "<start>",
        "<extract>",
        "e\u0301",
        "\u00c5",
        "\u6f22\u5b57",
        "\u0130",
        "\u03a3",
    ],
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, merges=60)


def direct(tokenizer, texts):
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=14).map("".join), min_size=1, max_size=3))
def test_any_text_has_the_tokenizers_tokens(tokenizer, texts):
    assert TextEncoder(tokenizer)(texts) == direct(tokenizer, texts)


def test_a_word_is_encoded_once_and_the_memory_is_bounded(tokenizer, monkeypatch):
    encoder, asked = TextEncoder(tokenizer), []
    encode = encoder.encode_words
    encoder.encode_words = lambda words: asked.extend(words) or encode(words)
    texts = ["so it goes\nso it", "it goes\non"]
    assert encoder(texts) == encoder(texts) == direct(tokenizer, texts)
    assert sorted(asked) == ["goes", "it", "on", "so"]
    monkeypatch.setattr(word_cache, "LARGEST_CACHE", 10)
    encoder(["some longer words"])
    assert encoder(texts) == direct(tokenizer, texts)
    assert sorted(asked[7:]) == ["goes", "it", "on", "so"]


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.add_tokens("Mr. Smith"),
        lambda tokenizer: tokenizer.add_tokens(AddedToken("dog", rstrip=True)),
        lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", None),
        lambda tokenizer: setattr(tokenizer.backend_tokenizer, "pre_tokenizer", None),
    ],
)
def test_a_tokenizer_that_looks_beyond_a_word_is_asked_for_whole_texts(change):
    tokenizer = train_tokenizer(CORPUS, merges=60)
    change(tokenizer)
    encoder = TextEncoder(tokenizer)
    assert not encoder.treats_words_alike
    assert encoder(CORPUS) == direct(tokenizer, CORPUS)


def test_a_worker_process_gets_it(tokenizer):
    assert pickle.loads(pickle.dumps(TextEncoder(tokenizer)))(CORPUS) == direct(tokenizer, CORPUS)


@pytest.mark.parametrize(
    "use", [{"truncation": True, "max_length": 4}, {"padding": True}, {"padding": "max_length", "max_length": 40}]
)
@pytest.mark.parametrize("is_asked_for_whole_texts", [False, True])
def test_what_an_earlier_call_of_the_tokenizer_left_behind_does_not_matter(use, is_asked_for_whole_texts):
    tokenizer = train_tokenizer(CORPUS, merges=60)
    if is_asked_for_whole_texts:
        tokenizer.backend_tokenizer.normalizer = None
    texts = ["so it goes\nso it goes", "on", "\x01and so it goes on"]
    expected = direct(tokenizer, texts)
    tokenizer(CORPUS, **use)
    encoder = TextEncoder(tokenizer)
    assert encoder(texts) == expected
    tokenizer(CORPUS, **use)
    assert encoder(["on it goes", *texts])[1:] == expected
