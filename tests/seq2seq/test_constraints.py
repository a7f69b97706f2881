"""Constraints of a search, against all sequences of a tiny vocabulary, judged by regular expressions."""

import itertools
import re

import pytest
import torch
from tiny_models import TRANSLATORS, tiny_model
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, pipeline

from seq2seq_scratch.phrases import joins, words_of
from seq2seq_scratch.pipeline_translation import TranslationPipeline
from seq2seq_scratch.tokenization import (
    SPECIAL_TOKENS,
    WORD_START,
    end_of_sentence,
    text_normalizer,
    train_tokenizer,
    word_splitter,
)
from seq2seq_scratch.translation import make_constraints, translate

PIECES = [*SPECIAL_TOKENS.values(), "\u2581", "H", "a", "t", ".", "\u2581H", "\u2581a", "\u2581Ha", "\u2581at", "ta"]
MERGES = [("\u2581", "H"), ("\u2581", "a"), ("\u2581H", "a"), ("\u2581a", "t"), ("t", "a")]
END, LIMIT = 3, 3

# More than there are sequences, so that none is lost.
BEAMS = 1200
SEARCH = {"num_beams": BEAMS, "num_return_sequences": 8, "suppress_tokens": [0, 1, 2], "with_scores": True}
SOURCES = ["a", "Ha ta a", "at. a"]


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(PIECES)}, MERGES, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = text_normalizer(False), word_splitter()
    backend.post_processor = end_of_sentence(END)
    backend.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS, padding_side="right")


@pytest.fixture(scope="module", params=TRANSLATORS)
def model(request):
    model = tiny_model(request.param, vocab_size=len(PIECES), decoder_vocab_size=len(PIECES))
    model.generation_config.update(max_new_tokens=LIMIT, length_penalty=0.6)
    return model


def all_sequences():
    """Returns every sequence of tokens up to the end token or the limit; the special tokens are left out."""
    tokens = range(4, len(PIECES))
    ended = [[*row, END] for size in range(LIMIT) for row in itertools.product(tokens, repeat=size)]
    return ended + [list(row) for row in itertools.product(tokens, repeat=LIMIT)]


@pytest.fixture(scope="module")
def scored(model, tokenizer):
    """Returns for each source the score of all sequences, by forward passes."""
    rows = all_sequences()
    labels = torch.tensor([row + [1] * (LIMIT - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    start = torch.full((len(rows), 1), model.config.decoder_start_token_id)
    scores = []
    for source in SOURCES:
        ids = tokenizer(source, return_tensors="pt").input_ids.expand(len(rows), -1)
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=torch.cat([start, labels[:, :-1]], 1)).logits
        each = logits.log_softmax(-1).gather(2, labels[:, :, None])[:, :, 0] * (labels != 1)
        scores.append((each.sum(1) / ((5 + lengths) / 6) ** 0.6).tolist())
    return rows, scores


def text_of(row):
    return "".join(PIECES[token] for token in row if token != END).replace("\u2581", " ")


def has(text, *patterns):
    return any(re.search(pattern, text) for pattern in patterns)


FORBIDDEN = [r"(?<!\w)Ha(?!\w)", r"(?i)(?<!\w)at(?!\w)", r"\."]


def allowed(row, index):
    text = text_of(row)
    return row[0] != END and not has(text, *FORBIDDEN)


def begun(row, index):
    text = text_of(row)
    return [True, text.startswith(" Ha"), row[0] == PIECES.index("\u2581a") and has(text, "^ a( |$)")][index]


CASES = {
    "forbidden": (allowed, {"forbidden_words": ["Ha", "at", "."]}, None),
    "prefixes": (begun, {}, ["", "Ha", "a "]),
    "both": (lambda *each: allowed(*each) and begun(*each), {"forbidden_words": ["Ha", "at", "."]}, ["", "Ha", "a "]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_search_finds_the_best_of_all_translations_that_meet_the_constraints(model, tokenizer, scored, case):
    holds, settings, prefixes = CASES[case]
    found = translate(
        *(model, tokenizer, tokenizer, SOURCES),
        constraints=make_constraints(model, tokenizer, **settings),
        prefixes=prefixes,
        **SEARCH,
    )
    rows, scores = scored
    for index, hypotheses in enumerate(found):
        pairs = zip(rows, scores[index], strict=True)
        expected = sorted(((score, text_of(row)) for row, score in pairs if holds(row, index)), reverse=True)
        assert len(expected) > 8
        assert [each.score for each in hypotheses] == pytest.approx([score for score, _ in expected[:8]], abs=1e-4)
        assert [each.text for each in hypotheses[:3]] == [" ".join(text.split()) for _, text in expected[:3]]


def bias_of(row, term):
    """Returns the number of tokens of a term that a sequence has as a whole word, or else ends within."""
    text, size = text_of(row) + (" " if row[-1] == END else ""), len(term)
    if has(text, r" Hat(?=[ .])"):
        return size
    return max(length for length in range(size + 1) if length == 0 or row[-length:] == term[:length])


def test_a_terminology_orders_translations_by_their_biased_scores_and_reports_those_of_the_model(
    model, tokenizer, scored
):
    term, bias = tokenizer("Hat", add_special_tokens=False).input_ids, 3.0
    assert len(term) == 2
    constraints = make_constraints(model, tokenizer, terminology={"ta": "Hat"}, term_bias=bias)
    found = translate(
        *(model, tokenizer, tokenizer, SOURCES),
        constraints=constraints,
        **SEARCH,
    )
    rows, scores = scored
    for index, hypotheses in enumerate(found):
        added = [bias * bias_of(row, term) / ((5 + len(row)) / 6) ** 0.6 if index == 1 else 0.0 for row in rows]
        order = sorted(range(len(rows)), key=lambda i: scores[index][i] + added[i], reverse=True)[:8]
        assert [each.score for each in hypotheses] == pytest.approx([scores[index][i] for i in order], abs=1e-4)
    assert "Hat" in found[1][0].text.split()
    greedy = {**SEARCH, "num_beams": 1, "num_return_sequences": 1}
    ((best,),) = translate(model, tokenizer, tokenizer, SOURCES[1:2], constraints=constraints, **greedy)
    possible = [
        score * ((5 + len(row)) / 6) ** 0.6
        for row, score in zip(rows, scores[1], strict=True)
        if " ".join(text_of(row).split()) == best.text
    ]
    assert "Hat" in best.text.split() and min(abs(score - best.score) for score in possible) < 1e-4
    assert [constraints.terms[0].is_met(text) for text in ("a Hat.", "hat", "Hata", "HatHat")] == [True] + [False] * 3


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_sentence_of_a_batch_has_its_own_constraints(model, tokenizer, num_beams):
    sources, prefixes = [*SOURCES, "ta", "Ha"], ["", "Ha", "a. ", "", "at"]
    settings = {"forbidden_words": ["a"], "terminology": [("ta", "Hat"), ("Ha", "at Ha")], "term_bias": 5.0}
    constraints = make_constraints(model, tokenizer, **settings)
    arguments = {"num_beams": num_beams, "max_new_tokens": 9, "with_scores": True, "constraints": constraints}
    prefixes[2] = "Hat. "
    together = translate(model, tokenizer, tokenizer, sources, prefixes=prefixes, **arguments)
    for source, prefix, (best,) in zip(sources, prefixes, together, strict=True):
        ((alone,),) = translate(model, tokenizer, tokenizer, [source], prefixes=[prefix], **arguments)
        assert best.text == alone.text and best.score == pytest.approx(alone.score, abs=1e-4)
        assert best.text.startswith(prefix.strip()) and not has(best.text, r"(?i)(?<!\w)a(?!\w)")
    translator = pipeline("translation", model=model, tokenizer=tokenizer, pipeline_class=TranslationPipeline)
    arguments = {"num_beams": num_beams, "max_new_tokens": 9, "batch_size": 2, **settings}
    results = translator(sources, prefixes=prefixes, **arguments)
    assert [each["translation_text"] for each in results] == [best.text for (best,) in together]
    (one,) = translator(sources[1], prefixes="Ha", **arguments)
    assert one["translation_text"] == together[1][0].text


def test_words_end_at_spaces_punctuation_and_characters_of_scripts_without_spaces():
    assert words_of("das Haus-Nr.  5,\tcafe\u0301") == ("das", "Haus", "-", "Nr", ".", "5", ",", "caf\u00e9")
    assert words_of("\u6771\u4eac2 \u0e01\u0e34\u0e19") == ("\u6771", "\u4eac", "2", "\u0e01\u0e34", "\u0e19")
    assert joins("a", "5") and joins("\u00df", "\u0301") and not joins("a", "\u20ac") and not joins(" ", "a")


def test_forbidden_words_are_found_in_bytes_and_within_tokens(model):
    text = ["\u6771\u4eac\u90fd", "das Haus steht", "Hausmeister"]
    tokenizer = train_tokenizer(text * 5, kind="bpe", vocab_size=300)
    tiny = type("Sizes", (), {"config": model.config, "generation_config": model.generation_config})
    tiny.config = type(model.config)(vocab_size=300, decoder_vocab_size=300)

    def tokens_of(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    words = ["\u6771\u4eac", "bla\u015f", "haus steht"]
    forbidden = make_constraints(tiny, tokenizer, forbidden_words=words).forbidden
    assert forbidden is not None

    def may_be_written(text):
        ids = [*tokens_of(text), END]
        return not any(
            ids[place] in found for place in range(len(ids)) for found in forbidden.completing(ids[:place], False)
        )

    assert not may_be_written("Bla\u015f.") and may_be_written("bla\u015fe") and may_be_written("bla")
    assert not may_be_written("\u6771\u4eac\u90fd") and may_be_written("\u4eac\u6771")
    assert not may_be_written("das HAUS steht") and may_be_written("Hausmeister steht das Haus")


@pytest.mark.parametrize("search", [{}, {"do_sample": True}, {"do_sample": True, "num_beams": 3}], ids=str)
def test_no_search_stops_within_a_prefix_that_can_be_written(search):
    words = train_tokenizer(["a also so", "al als alsooo"], kind="word", vocab_size=20, min_frequency=1)
    pieces = train_tokenizer(["also as", "al"] * 5, kind="bpe", vocab_size=275)
    for tokenizer, prefix, limit in ((words, "also", 3), (pieces, "also", None)):
        limit = limit or len(tokenizer(prefix, add_special_tokens=False).input_ids)
        for seed in range(8):
            small = tiny_model("bahdanau", vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer))
            torch.manual_seed(seed)
            torch.nn.init.normal_(small.lm_head.weight, std=2.0)
            arguments = {"num_beams": 1, "top_k": 0, "max_new_tokens": limit} | search
            results = translate(small, tokenizer, tokenizer, ["a", "als"], prefixes=[prefix, ""], **arguments)
            assert all(found.text.startswith(prefix) for found in results[0]) and results[0]


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"do_sample": True}, {"do_sample": True, "num_beams": 3}])
def test_constraints_that_leave_nothing_to_draw_are_said(model, tokenizer, search):
    constraints = make_constraints(model, tokenizer, forbidden_words=["Ha"])
    arguments = {"num_beams": 1, "max_new_tokens": 1, "constraints": constraints} | search
    with pytest.raises(ValueError, match="leave no translation for sentence 1"):
        translate(model, tokenizer, tokenizer, ["a", "Ha"], prefixes=["", "Ha"], **arguments)


def test_greek_and_turkish_words_are_found_in_every_casing(model):
    letters = ["\u039f\u03b4\u03cc\u03c2 \u03bf\u03b4\u03cc\u03a3", "\u0130stanbul is"]
    tokenizer = train_tokenizer(letters, kind="bpe", vocab_size=320, min_frequency=9)  # no token has two letters
    tiny = type("Sizes", (), {"config": model.config, "generation_config": model.generation_config})
    tiny.config = type(model.config)(vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer))
    street, city = "\u03bf\u03b4\u03cc\u03c2", "istanbul"
    constraints = make_constraints(
        tiny, tokenizer, forbidden_words=[street, city], terminology={street: "is", city: "is"}
    )
    for text in ("\u039f\u03b4\u03cc\u03a3", "\u0130stanbul"):
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, END]
        found = [
            ids[place] in each
            for place in range(len(ids))
            for each in constraints.forbidden.completing(ids[:place], False)
        ]
        assert any(found) and len(constraints.terms_in(text)) == 1
        assert any(ids[-2] in each for each in constraints.forbidden.completing(ids[:-2], True))
    is_met = make_constraints(tiny, tokenizer, terminology={"is": city}).terms[0].is_met
    assert is_met("is \u0130stanbul.") and is_met("ISTANBUL") and not is_met("\u0130stanbullu")
