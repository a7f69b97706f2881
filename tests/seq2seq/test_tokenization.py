"""Vocabularies: decoding restores text, ids have a fixed order, and a process without this code loads them."""

import json
import random
import subprocess
import sys
import time
import unicodedata

import pytest
from transformers import AutoTokenizer

from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers, train_tokenizer

SENTENCES = [
    'Ein Mann sagt: "Guten Tag!" und geht.',
    "Zwei Männer (mit Hüten) stehen auf der Straße.",
    "A man's hat isn't a well-known thing, is it?",
    "The man, the hat; the dog -- and the man's dog.",
] * 5
ODD_STRINGS = [
    'Er sagte: „Hallo“, dann «rien», then "nothing".',
    "don't, it's, l'homme, 'quoted', rock 'n' roll, the dogs'",
    "Über Ärger, ÖL und Straßen - naïve café",
    "3.14 % of $5,000.00 (or €4.500,00) is 50/50 #tag @home a_b c\\d e^f `g` {h} [i] |j| ~k <l> = m + n",
    "emoji 👩‍👩‍👧 ☃ and 日本語のテキスト。中文，字！",
    "(brackets) first ... and last (end)",
    "?!... –— …",
    "ПРИВЕТ мир العربية हिन्दी",
    "e\u0301 composed and \u00e9",
]


def as_normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def decoded(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(SENTENCES, kind="bpe", vocab_size=400)


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(SENTENCES, kind="word", vocab_size=400)


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_special_tokens_have_the_agreed_ids(kind, request):
    tokenizer = request.getfixturevalue("bpe" if kind == "bpe" else "words")
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<pad>", "<s>", "</s>"]) == [0, 1, 2, 3]
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id) == (0, 1)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3)


@pytest.mark.parametrize("text", ODD_STRINGS)
def test_bpe_decoding_gives_the_text_back(bpe, text):
    assert decoded(bpe, text) == as_normalised(text)
    assert bpe.unk_token_id not in bpe(text)["input_ids"]


@pytest.mark.parametrize("text", ODD_STRINGS)
def test_word_decoding_gives_the_text_back(text):
    tokenizer = train_tokenizer([text], kind="word", vocab_size=1000, min_frequency=1)
    assert decoded(tokenizer, text) == as_normalised(text)
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_bpe_decoding_gives_random_text_back(bpe):
    generator = random.Random(0)
    alphabet = "aäEß?\"'( ),. -–…\u00a0\t日\u0301☃👍</s>"
    for _ in range(300):
        text = "".join(generator.choices(alphabet, k=generator.randint(1, 15)))
        assert decoded(bpe, text) == as_normalised(text)


def test_the_word_mark_in_text_becomes_an_underscore(bpe):
    assert decoded(bpe, "a ▁b▁") == "a _b_"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_encodes_to_the_end_alone(bpe, text):
    assert bpe(text)["input_ids"] == [3]


def test_text_that_reads_like_a_special_token_stays_text(bpe, words):
    for tokenizer in (bpe, words):
        ids = tokenizer("the </s> <pad> <s> hat")["input_ids"]
        assert ids.index(3) == len(ids) - 1
        assert 1 not in ids and 2 not in ids
    assert decoded(bpe, "the </s> <pad> <s> hat") == "the </s> <pad> <s> hat"


def test_unknown_words_are_one_unk_each_and_shown_apart(words):
    ids = words("the unseen hat")["input_ids"]
    assert ids[1] == words.unk_token_id and len(ids) == 4
    assert words.decode(ids) == "the <unk> hat</s>"
    assert words.decode(ids, skip_special_tokens=True) == "the hat"


def test_target_text_gives_labels_and_no_token_types(bpe):
    encoded = bpe(["the man", "a hat"], text_target=["ein Mann", "Hut"])
    assert set(encoded) == {"input_ids", "attention_mask", "labels"}
    assert encoded["labels"][0] == bpe("ein Mann")["input_ids"]
    assert encoded["labels"][0][-1] == bpe.eos_token_id


def test_padding_is_on_the_right(bpe):
    encoded = bpe(["a", "the man, the hat"], padding=True)
    assert encoded["attention_mask"][0][:2] == [1, 1] and encoded["attention_mask"][0][-1] == 0
    assert encoded["input_ids"][0][-1] == bpe.pad_token_id


def test_truncation_keeps_the_end_token(bpe):
    ids = bpe("the man, the hat; the dog", max_length=4, truncation=True)["input_ids"]
    assert len(ids) == 4 and ids[-1] == bpe.eos_token_id


def test_vocabulary_size_counts_everything():
    text = ["abcdefghij" * 3 + " " + "".join(map(chr, range(0x4E00, 0x4F00)))] * 3
    for size in (262, 300, 330):
        assert len(train_tokenizer(text, kind="bpe", vocab_size=size)) <= size
    assert len(train_tokenizer(text, kind="bpe", vocab_size=300)) == 300
    assert len(train_tokenizer(SENTENCES, kind="word", vocab_size=10)) == 10
    fewer = train_tokenizer(["ab"], kind="bpe", vocab_size=5000, min_frequency=1)
    assert len(fewer) == 4 + 256 + 3 + 2  # the mark, a and b; two merges


def test_the_most_frequent_words_are_kept():
    tokenizer = train_tokenizer(["a a a b b c"], kind="word", vocab_size=6)
    assert set(tokenizer.get_vocab()) == {"<unk>", "<pad>", "<s>", "</s>", "▁a", "▁b"}
    assert "▁c" not in train_tokenizer(["a a a b b c"], kind="word", vocab_size=10).get_vocab()
    assert "▁c" in train_tokenizer(["a a a b b c"], kind="word", vocab_size=10, min_frequency=1).get_vocab()


def test_lower_case_is_a_setting(bpe):
    tokenizer = train_tokenizer(SENTENCES, kind="bpe", vocab_size=400, lowercase=True)
    assert decoded(tokenizer, "The MAN Über") == "the man über"
    assert decoded(bpe, "The MAN Über") == "The MAN Über"


def test_batches_and_sentences_train_the_same_vocabulary(bpe):
    batched = train_tokenizer([SENTENCES[:7], SENTENCES[7:]], kind="bpe", vocab_size=400)
    assert batched.get_vocab() == bpe.get_vocab()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bpe", "vocab_size": 100}, "vocab_size is 100.*at least 262"),
        ({"kind": "word", "vocab_size": 4}, "vocab_size is 4.*more than its 4 special"),
        ({"kind": "unigram", "vocab_size": 400}, "kind is 'unigram'.*bpe, word"),
        ({"kind": "word", "vocab_size": 400, "min_frequency": 0}, "min_frequency is 0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(SENTENCES, **settings)


@pytest.mark.parametrize("kind", ["bpe", "word"])
@pytest.mark.parametrize("sentences", [[], ["", "  "]])
def test_a_vocabulary_needs_text(kind, sentences):
    with pytest.raises(ValueError, match="contain no"):
        train_tokenizer(sentences, kind=kind, vocab_size=400)


def test_a_process_without_this_code_loads_both_tokenizers(bpe, words, tmp_path):
    # The folder of a model whose type the library does not know.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    save_tokenizers(tmp_path, bpe, words)
    texts = ["A man's „hat“ </s> ☃", "Ein Mann geht"]
    program = (
        "import json, sys\n"
        "from transformers import AutoTokenizer\n"
        "folder, texts = json.loads(sys.argv[1])\n"
        "source = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)\n"
        "target = AutoTokenizer.from_pretrained(folder, subfolder='target_tokenizer', trust_remote_code=False)\n"
        "ids = [source(texts)['input_ids'], target(texts)['input_ids']]\n"
        "decoded = source.batch_decode(ids[0], skip_special_tokens=True)\n"
        "settings = [source.padding_side, source.model_input_names, source.pad_token_id]\n"
        "print(json.dumps([ids, decoded, settings]))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, json.dumps([str(tmp_path), texts])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    ids, decoded_texts, settings = json.loads(finished.stdout.splitlines()[-1])
    assert ids == [bpe(texts)["input_ids"], words(texts)["input_ids"]]
    assert decoded_texts == texts
    assert settings == ["right", ["input_ids", "attention_mask"], 1]


def test_separate_tokenizers_come_back_as_two(bpe, words, tmp_path):
    save_tokenizers(tmp_path, bpe, words)
    source, target = load_tokenizers(tmp_path)
    assert source.get_vocab() == bpe.get_vocab()
    assert target.get_vocab() == words.get_vocab()


def test_a_shared_tokenizer_comes_back_as_one(bpe, words, tmp_path):
    save_tokenizers(tmp_path, words, bpe)  # what an earlier run left in the folder
    save_tokenizers(tmp_path, bpe, bpe)
    source, target = load_tokenizers(tmp_path)
    assert source is target
    assert source.get_vocab() == bpe.get_vocab()
    assert AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)("a hat") == bpe("a hat")


def test_the_last_call_leaves_no_trace_in_what_is_saved(bpe, words, tmp_path):
    save_tokenizers(tmp_path / "before", bpe, words)
    for tokenizer in (bpe, words):
        tokenizer(SENTENCES, padding=True, truncation=True, max_length=3)
    save_tokenizers(tmp_path / "after", bpe, words)
    for path in (tmp_path / "before").rglob("*.json"):
        assert (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_text() == path.read_text()


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no tokenizer"):
        load_tokenizers(tmp_path)


def test_the_example_of_byte_pair_encoding_is_what_training_learns():
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    sentences = [word for word, count in words.items() for _ in range(count)]
    tokenizer = train_tokenizer(sentences, kind="bpe", vocab_size=290)
    merges = [tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    assert merges[:2] == [("e", "s"), ("es", "t")]
    assert tokenizer.tokenize("lowest") == ["▁low", "est"]


@pytest.mark.parametrize("letters", [20_000, 200_000])
def test_a_word_of_one_repeated_letter_is_learned_from_in_pieces_with_a_warning(letters, caplog):
    start = time.process_time()
    tokenizer = train_tokenizer([*SENTENCES, "a" * letters], kind="bpe", vocab_size=400)
    assert time.process_time() - start < 5  # the whole word of 200,000 letters takes more than 10 seconds
    [record] = caplog.records
    assert f"words of up to {letters + 1:,} characters; those of more than 1,000" in record.getMessage()
    assert decoded(tokenizer, "a" * letters) == "a" * letters


def test_long_lines_of_ordinary_words_give_no_warning(caplog):
    line = " ".join(SENTENCES * 2)
    assert len(line) > 1000
    whole = train_tokenizer([line], kind="bpe", vocab_size=400).get_vocab()
    assert train_tokenizer([*SENTENCES * 2], kind="bpe", vocab_size=400).get_vocab() == whole
    assert not caplog.records
