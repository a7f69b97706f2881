"""The GPT-1 tokenizer: OpenAI's word split in hand-worked examples, the published merges, and training."""

import json
import random
import re
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gpt1_scratch.tokenization import published_tokenizer, train_tokenizer

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "openai_gpt_bpe"

# Text, and the words that ftfy 6.3, OpenAI's substitutions and spaCy's English tokenizer make of it.
WORDS = {
    # accents stay, composed
    "Café déjà-vu": "café déjà - vu",
    "Cafe\u0301 Zo\u00eb": "café zoë",
    # contractions
    "I don't, won't, can't, shan't.": "i do n't , wo n't , ca n't , sha n't .",
    "They'll say we've, you're, I'd, I'm.": "they 'll say we 've , you 're , i 'd , i 'm .",
    "I couldn't've; she'd've.": "i could n't 've ; she 'd 've .",
    "Tom's and the boys' books, it's 'Tom's'": "tom 's and the boys ' books , it 's ' tom 's '",
    "You cannot. I'm gonna, I gotta. Let's! c'mon": "you can not . i 'm gon na , i got ta . let 's ! c'm on",
    "y'all don't": "y' all do n't",
    "dont wont thats youre id were well": "do nt wo nt that s you re i d were well",
    "DON'T o'clock ma'am O'Brien rock'n'roll": "don't o'clock ma'am o'brien rock'n'roll",
    "nothin' 'em goin', 'cause 'tis": "nothin' 'em goin' , 'cause ' tis",
    # dashes and ellipses
    "yes\u2014no \u2013 well-known \u2015 a--b ---": "yes - no - well - known - a -- b ---",
    "wait\u2026 what... no....Yes": "wait ... what ... no .... yes",
    # quotes
    "\u201cHello,\u201d he said; \u2018I see.\u2019": "\" hello , \" he said ; ' i see . '",
    "'well' '' ``a` \u00abb\u00bb it\u2019s": "' well ' '' ` ` a ` « b » it 's",
    # new lines and other white space
    "one\n\n \ntwo\r\nthree\tfour  five\u00a0six\n": "one \n two \n three four five six",
    "\n  indented": "indented",
    # full stops
    "Mr. Smith, Dr. J. Doe, U.S. and e.g. this etc.": "mr. smith , dr. j. doe , u.s. and e.g. this etc .",
    "At 5 p.m. in St. Mary's. The end.Next NASA.": "at 5 p.m. in st. mary 's . the end . next nasa .",
    "I shall miss. But Miss. is a state": "i shall miss . but miss. is a state",
    # numbers and signs
    "$5.50, 10% of 3km at 10:30, 1,000 or 9am": "$ 5.50 , 10 % of 3 km at 10:30 , 1 , 000 or 9 am",
    "A&B & C (x/y) [z] {q} a_b *c* d|e !!! ??": "a&b & c ( x / y ) [ z ] { q } a _ b * c * d | e ! ! ! ? ?",
    "#1 <b> a=b key:value 3.14. US$9 \u00a33": "# 1 < b > a = b key : value 3.14 . us$ 9 £ 3",
    # ligatures and control characters
    "\ufb01nal o\ufb03ce\u0007 \ufefftext": "final office text",
}

# Worked out by hand from the published merges: every symbol that ends a word carries the mark.
TOKENS = {
    "Don't stop!": ["do</w>", "n't</w>", "stop</w>", "!</w>"],
    "café": ["café</w>"],
    "well\u2014then": ["well</w>", "-</w>", "then</w>"],
    "end.\n\nNew": ["end</w>", ".</w>", "\n</w>", "new</w>"],
    "\u2603": ["<unk>"],
}


def words(tokenizer, text: str) -> list[str]:
    backend = tokenizer.backend_tokenizer
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Builds the published pipeline with a hand-made vocabulary, in files of the published format."""
    folder = tmp_path_factory.mktemp("bpe")
    symbols = [*"lowern'td", *(f"{letter}</w>" for letter in "lowern'td.,-"), "\n</w>"]
    pairs = ["l o", "lo w</w>", "e r</w>", "' t</w>", "n 't</w>", "d o</w>"]
    tokens = ["<unk>", *symbols, *(pair.replace(" ", "") for pair in pairs)]
    (folder / "encoder.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in pairs))
    return folder


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.is_dir():
        pytest.skip("the published vocabulary is not in ../shared/data/openai_gpt_bpe")
    return published_tokenizer(PUBLISHED / "encoder_bpe_40000.json", PUBLISHED / "vocab_40000.bpe")


def test_text_is_split_into_the_original_pipelines_words(tiny):
    tokenizer = published_tokenizer(tiny / "encoder.json", tiny / "vocab.bpe")
    found = {text: " ".join(words(tokenizer, text)) for text in WORDS}
    assert found == WORDS


def test_merges_apply_within_words_and_unknown_characters_are_unknown(tiny):
    tokenizer = published_tokenizer(tiny / "encoder.json", tiny / "vocab.bpe")
    assert tokenizer.tokenize("Low lower") == ["low</w>", "lo", "w", "er</w>"]
    assert tokenizer.tokenize("don't\nlow\u2014z.") == [
        "do</w>",
        "n't</w>",
        "\n</w>",
        "low</w>",
        "-</w>",
        "<unk>",
        ".</w>",
    ]
    assert tokenizer.tokenize("zz") == ["<unk>", "<unk>"]


def test_special_tokens_follow_the_vocabulary(tiny):
    tokenizer = published_tokenizer(tiny / "encoder.json", tiny / "vocab.bpe")
    size = len(json.loads((tiny / "encoder.json").read_text()))
    names = ["<start>", "<delimiter>", "<extract>", "<pad>"]
    assert tokenizer.convert_tokens_to_ids(names) == [size, size + 1, size + 2, size + 3]
    assert len(tokenizer) == size + 4
    assert tokenizer("<start>low<extract>").input_ids == tokenizer.convert_tokens_to_ids(
        ["<start>", "low</w>", "<extract>"]
    )
    assert tokenizer("low").input_ids == [tokenizer.convert_tokens_to_ids("low</w>")]
    batch = tokenizer(["low", "low low"], padding=True)
    assert batch.input_ids[0][1] == tokenizer.pad_token_id and batch.attention_mask[0] == [1, 0]


def test_published_tokens_by_hand(published):
    assert len(published) == 40_478 + 4
    assert {text: published.tokenize(text) for text in TOKENS} == TOKENS
    assert published("\u2603").input_ids == [0]
    assert published.convert_tokens_to_ids(["\n</w>", "café</w>"]) == [40_477, 13_550]


def test_published_words_split_as_in_the_table(published):
    assert {text: " ".join(words(published, text)) for text in WORDS} == WORDS


def test_published_encoding_equals_merging_by_the_rules(published):
    """Each word is encoded by the algorithm of Sennrich et al. 2016, which applies the merge learned first."""
    lines = (PUBLISHED / "vocab_40000.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    rank = {tuple(line.split()): index for index, line in enumerate(lines)}
    vocab = json.loads((PUBLISHED / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    text = "It was the best of times, it was the worst of times; incomprehensibilities notwithstanding, hullabaloos!"
    expected = []
    for word in words(published, text):
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            best = min(zip(symbols, symbols[1:], strict=False), key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            merged, index = [], 0
            while index < len(symbols):
                width = 2 if tuple(symbols[index : index + 2]) == best else 1
                merged.append("".join(symbols[index : index + width]))
                index += width
            symbols = merged
        expected += [vocab.get(symbol, 0) for symbol in symbols]
    assert published(text).input_ids == expected


def test_decoding_is_readable(published):
    text = "\"I can't,\" said Mr. Smith (he'd tried)!\nThey'll go: it's 10% off."
    decoded = published.decode(published(text).input_ids)
    assert decoded == "\" i can't, \" said mr. smith (he'd tried)!\nthey'll go: it's 10% off."


def test_offsets_point_into_the_text(published):
    text = "Don\u2019t \u201cstop\u201d\u2014Mr. Smith."
    encoding = published(text, return_offsets_mapping=True)
    pieces = [text[start:end] for start, end in encoding.offset_mapping]
    for piece, token in zip(pieces, published.convert_ids_to_tokens(encoding.input_ids), strict=True):
        plain = piece.strip().lower().translate(str.maketrans("\u2019\u201c\u201d\u2014", '\'""-'))
        assert plain == token.replace("</w>", "")


@pytest.mark.parametrize("seed", range(5))
def test_any_text_can_be_encoded(seed, tiny):
    tokenizer = published_tokenizer(tiny / "encoder.json", tiny / "vocab.bpe")
    letters = "aB \n\t'\"\u2019\u201c.,:;!?-\u2014\u2026$%&()[]{}<>/\\|*_~+=#@^`\u00a7\u00e4\u00c9\u0301\u2028"
    letters += "\ufb01\x07\u20ac1\U0001f600n't"
    for number in range(400):
        text = "".join(random.Random(f"{seed} {number}").choices(letters, k=number % 12))
        tokens = tokenizer(text).input_ids
        assert bool(tokens) == bool(words(tokenizer, text))
        assert not any(" " in word for word in words(tokenizer, text))


def test_saved_tokenizer_loads_without_code_of_ours(tiny, tmp_path):
    tokenizer = published_tokenizer(tiny / "encoder.json", tiny / "vocab.bpe", model_max_length=77)
    tokenizer.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    for text in ("Don't\nlower \u2014 low.", "<start> low <delimiter>lower<extract>"):
        assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded.decode(loaded(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.model_max_length == 77


def test_a_conversation_is_written_as_a_play(tmp_path):
    train_tokenizer(["user: low\n assistant: no. system: so"] * 3, merges=60).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    messages = [{"role": "system", "content": "so"}, {"role": "user", "content": "low"}]
    reply = {"role": "assistant", "content": "no."}
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == "system: so\nuser: low\nassistant:"
    whole = tokenizer.apply_chat_template([*messages, reply, messages[1]], tokenize=False)
    assert whole == "system: so\nuser: low\nassistant: no.<start>user: low\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer(prompt).input_ids
    marked = tokenizer.apply_chat_template([*messages, reply], return_dict=True, return_assistant_tokens_mask=True)
    assert marked["input_ids"][: len(ids)] == ids
    said = [token for token, own in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if own]
    assert said == tokenizer("no.").input_ids + [tokenizer.eos_token_id]
    prefilled = tokenizer.apply_chat_template([*messages, reply], continue_final_message=True, tokenize=False)
    assert prefilled == "system: so\nuser: low\nassistant: no."


CORPUS = ["The cat sat on the mat.", "A dog sat on the cat's mat, didn't it?", "The dog\nand the cat."] * 3


def test_training_learns_the_most_frequent_pairs_and_no_more_than_asked():
    tokenizer = train_tokenizer(CORPUS, merges=10)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert len(model["merges"]) == 10
    vocab, symbols = model["vocab"], {"".join(pair) for pair in model["merges"]}
    assert list(sorted(vocab, key=vocab.get))[0] == "<unk>"
    characters = [token for token in vocab if token not in symbols and token != "<unk>"]
    assert all(len(token.replace("</w>", "")) == 1 for token in characters)
    assert len(vocab) == 1 + len(characters) + len(symbols)
    assert {"at</w>", "the</w>"} <= symbols  # the commonest of this corpus
    larger = train_tokenizer(CORPUS, merges=1000)
    assert larger.tokenize("The cat sat") == ["the</w>", "cat</w>", "sat</w>"]
    assert larger.tokenize("didn't") == ["did</w>", "n't</w>"]
    assert larger.tokenize("mat\nX") == ["mat</w>", "\n</w>", "<unk>"]


def test_trained_tokenizer_is_laid_out_as_the_published_one(tmp_path):
    tokenizer = train_tokenizer(iter(CORPUS), merges=30)
    assert tokenizer.unk_token_id == 0
    assert tokenizer.convert_tokens_to_ids("<pad>") == len(tokenizer) - 1
    assert tokenizer.bos_token == tokenizer.eos_token == "<start>"
    tokenizer.save_pretrained(tmp_path)
    text = "The dog didn't sit;\nthe cat sat."
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert re.sub("<unk>", ";", loaded.decode(loaded(text).input_ids)) == "the dog didn't sit ;\nthe cat sat."


def test_a_line_break_is_known_though_the_corpus_has_none():
    tokenizer = train_tokenizer(["low lower lowest"] * 2, merges=5)
    assert tokenizer.tokenize("low\nlow")[1] == "\n</w>"


def test_bad_vocabulary_files_are_named(tiny, tmp_path):
    good, merges = tiny / "encoder.json", tiny / "vocab.bpe"
    wrong = tmp_path / "wrong"
    wrong.write_text("#version: 0.2\nl o\nx y z\n")
    with pytest.raises(ValueError, match="wrong, line 3: 'x y z'"):
        published_tokenizer(good, wrong)
    wrong.write_text("#version: 0.2\nl x\n")
    with pytest.raises(ValueError, match="wrong, line 2: 'l x'"):
        published_tokenizer(good, wrong)
    wrong.write_text("{broken")
    with pytest.raises(ValueError, match="wrong is not a vocabulary in JSON"):
        published_tokenizer(wrong, merges)
    wrong.write_text('{"a": 0, "b": 2}')
    with pytest.raises(ValueError, match="different number, counted from 0"):
        published_tokenizer(wrong, merges)


@pytest.mark.parametrize(
    ("texts", "merges", "message"), [([], 10, "no text"), ([" ", ""], 10, "no text"), (CORPUS, 0, "merges is 0")]
)
def test_training_on_nothing_is_refused(texts, merges, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, merges=merges)


def test_merges_are_learned_in_the_order_of_the_example_in_the_documentation():
    text = " ".join(["hug"] * 10 + ["pug"] * 5 + ["pun"] * 12 + ["hugs"] * 5)
    tokenizer = train_tokenizer([text], merges=3)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert merges == [["p", "u"], ["h", "u"], ["pu", "n</w>"]]
    assert tokenizer.tokenize("hug pun") == ["hu", "g</w>", "pun</w>"]


def test_a_word_of_one_repeated_letter_is_learned_from_in_pieces_with_a_warning(caplog):
    start = time.process_time()
    tokenizer = train_tokenizer(["the dog ran"] * 20 + ["a" * 200_000], merges=100)
    assert time.process_time() - start < 5  # the whole word takes more than 10 seconds
    [record] = caplog.records
    assert "words of up to 200,000 characters; those of more than 1,000" in record.getMessage()
    assert tokenizer.tokenize("the dog") == ["the</w>", "dog</w>"]
