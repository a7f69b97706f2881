"""Translating lists of sentences, against one `generate()` call for each sentence."""

import copy
import logging
import math
import os
from dataclasses import fields

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import MarianConfig, MarianMTModel

from papers_to_gpt.settings.decoding import DecodingSettings, TranslationSettings, parse_scoring
from papers_to_gpt.translation import scoring
from papers_to_gpt.translation.decoding import load_model
from seq2seq_scratch import BahdanauConfig, BahdanauForConditionalGeneration
from seq2seq_scratch.ensemble import EnsembleForSeq2SeqLM
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import Hypothesis, load_translator, translate

SENTENCES = [
    "two dogs run",
    "a man and a woman walk along the street",
    "",
    "snow",
    "  ",
    "the child jumps into the water and the dog runs after it",
    "a red hat",
]


@pytest.fixture(scope="module")
def tokenizers():
    source = train_tokenizer(SENTENCES * 3, kind="bpe", vocab_size=320)
    target = train_tokenizer(
        ["zwei Hunde rennen", "ein Mann und eine Frau gehen", "Schnee"] * 3, kind="word", vocab_size=40
    )
    return source, target


@pytest.fixture(scope="module")
def model(tokenizers):
    source, target = tokenizers
    torch.manual_seed(1)
    config = MarianConfig(
        vocab_size=len(source),
        decoder_vocab_size=len(target),
        share_encoder_decoder_embeddings=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=128,
        init_std=1.0,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        forced_eos_token_id=None,
        decoder_start_token_id=2,
        tie_word_embeddings=False,
    )
    model = MarianMTModel(config).eval()
    # Ends come often enough for hypotheses of different lengths; padding never does.
    model.final_logits_bias[0, 3] = 3.0
    model.final_logits_bias[0, 1] = -1e9
    model.generation_config.max_new_tokens = 8
    return model


def texts_of(results):
    return [[hypothesis.text for hypothesis in hypotheses] for hypotheses in results]


def one_by_one(model, tokenizers, **arguments):
    """Translates every sentence that is not empty by itself."""
    source, target = tokenizers
    results = []
    for sentence in SENTENCES:
        if sentence.strip():
            ids = model.generate(**source(sentence, return_tensors="pt"), **arguments)
            results.append(target.batch_decode(ids, skip_special_tokens=True))
    return results


@pytest.mark.parametrize("max_tokens_per_batch", [1, 60, 4096])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_batches_translate_as_single_sentences_do(model, tokenizers, num_beams, max_tokens_per_batch):
    arguments = {"num_beams": num_beams, "num_return_sequences": num_beams}
    results = texts_of(
        translate(model, *tokenizers, SENTENCES, max_tokens_per_batch=max_tokens_per_batch, **arguments)
    )
    expected = iter(one_by_one(model, tokenizers, **arguments))
    for sentence, hypotheses in zip(SENTENCES, results, strict=True):
        assert hypotheses == (next(expected) if sentence.strip() else [""] * num_beams)
    assert len({hypotheses[0] for hypotheses in results}) > 3


def test_the_limit_is_fifty_tokens_beyond_the_source(model, tokenizers, monkeypatch):
    seen = []
    generate = MarianMTModel.generate

    def spy(self, input_ids, **arguments):
        seen.append((input_ids.shape[1], arguments.get("max_new_tokens"), arguments.get("max_length")))
        return generate(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(MarianMTModel, "generate", spy)
    monkeypatch.setattr(model.generation_config, "max_new_tokens", None)
    translate(model, *tokenizers, SENTENCES, max_tokens_per_batch=1)
    assert len(seen) == 5
    assert all(limit == length + 50 for length, limit, _ in seen)
    assert [length for length, *_ in seen] == sorted((length for length, *_ in seen), reverse=True)

    monkeypatch.setattr(model.generation_config, "max_new_tokens", 7)
    seen.clear()
    translate(model, *tokenizers, SENTENCES)
    translate(model, *tokenizers, SENTENCES, max_new_tokens=9)
    assert [limit for _, limit, _ in seen] == [7, 9]

    # As models on the Hub come.
    monkeypatch.setattr(model.generation_config, "max_new_tokens", None)
    monkeypatch.setattr(model.generation_config, "max_length", 6)
    seen.clear()
    translate(model, *tokenizers, SENTENCES)
    translate(model, *tokenizers, SENTENCES, max_new_tokens=9)
    assert [(limit, length) for _, limit, length in seen] == [(None, 6), (None, 10)]


def tiny_bahdanau(source, end_bias):
    torch.manual_seed(3)
    sizes = dict.fromkeys(("embedding_size", "hidden_size", "attention_size", "maxout_size"), 6)
    config = BahdanauConfig(vocab_size=len(source), decoder_vocab_size=12, initializer_std=0.6, **sizes)
    model = BahdanauForConditionalGeneration(config).eval()
    model.lm_head.bias.data[1] = -1e9  # padding
    model.lm_head.bias.data[3] = end_bias
    return model


SEARCHES = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "canonical": {"num_beams": 3, "early_stopping": "never"},
    "constrained": {"num_beams": 3, "prefix_allowed_tokens_fn": lambda row, ids: range(3, 12)},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("of_library", [False, True], ids=["bahdanau", "marian"])
@pytest.mark.parametrize("with_scores", [False, True], ids=["texts", "scores"])
def test_a_sentence_without_an_end_has_its_own_limit_in_every_batch(
    model, tokenizers, search, of_library, with_scores
):
    source, _ = tokenizers
    if of_library:
        model = copy.deepcopy(model)
        model.generation_config.max_new_tokens = None
        model.final_logits_bias[0, 3] = -2.0
    else:
        model = tiny_bahdanau(source, end_bias=-2.0)
    sentences = [sentence for sentence in SENTENCES if sentence.strip()]
    results = [
        translate(
            model,
            source,
            IdsAsText(),
            sentences,
            max_tokens_per_batch=tokens,
            with_scores=with_scores,
            **SEARCHES[search],
        )
        for tokens in (1, 4096)
    ]
    unended = 0
    for sentence, alone, together in zip(sentences, *results, strict=True):
        for one, other in zip(alone, together, strict=True):
            ids, others = one.text.split(), other.text.split()
            assert others[: len(ids)] == ids and set(others[len(ids) :]) <= {"1"}  # padding
            if with_scores:
                assert other.score == pytest.approx(one.score, abs=1e-4)
            if "3" not in ids:
                assert len(ids) - 1 == len(source(sentence).input_ids) + 50
                unended += 1
    assert unended > 1


@pytest.mark.parametrize(("num_beams", "rows_each"), [(1, 1), (4, 4)])
def test_batches_hold_at_most_the_tokens_asked_for(model, tokenizers, monkeypatch, num_beams, rows_each):
    shapes = []
    generate = MarianMTModel.generate

    def spy(self, input_ids, attention_mask, **arguments):
        shapes.append(tuple(input_ids.shape))
        return generate(self, input_ids=input_ids, attention_mask=attention_mask, **arguments)

    monkeypatch.setattr(MarianMTModel, "generate", spy)
    sentences = ["a man"] * 30 + ["the child jumps into the water"] * 5
    translate(model, *tokenizers, sentences, max_tokens_per_batch=100, num_beams=num_beams, max_new_tokens=2)
    assert sum(rows for rows, _ in shapes) == 35
    for rows, length in shapes:
        assert rows * length * rows_each <= 100
    # Filled up: no two neighbours would have fitted into one.
    for (rows, length), (next_rows, _) in zip(shapes, shapes[1:], strict=False):
        assert (rows + next_rows) * length * rows_each > 100


class IdsAsText:
    """A tokenizer that decodes to the ids themselves, so that a test can score them again."""

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows.tolist()]


def sum_of_log_probabilities(model, source_ids, target_ids):
    """Returns the sum of the log-probabilities of target_ids, from one forward pass."""
    logits = model(
        input_ids=source_ids,
        attention_mask=torch.ones_like(source_ids),
        decoder_input_ids=torch.tensor([[2, *target_ids[:-1]]]),
    ).logits
    log_probabilities = logits.log_softmax(-1)[0]
    return sum(log_probabilities[step, token].item() for step, token in enumerate(target_ids))


@pytest.mark.parametrize(("num_beams", "length_penalty"), [(1, 1.0), (3, 1.0), (3, 0.6)])
def test_scores_are_log_probabilities(model, tokenizers, num_beams, length_penalty):
    source, _ = tokenizers
    results = translate(
        model,
        source,
        IdsAsText(),
        SENTENCES,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=length_penalty,
        with_scores=True,
    )
    lengths = set()
    for sentence, hypotheses in zip(SENTENCES, results, strict=True):
        if not sentence.strip():
            assert hypotheses == [Hypothesis("", 0.0)] * num_beams
            continue
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            _, *ids = map(int, hypothesis.text.split())
            if 3 in ids:
                ids = ids[: ids.index(3) + 1]
            expected = sum_of_log_probabilities(model, source(sentence, return_tensors="pt")["input_ids"], ids)
            if num_beams > 1:
                expected /= len(ids) ** length_penalty
            assert math.isclose(hypothesis.score, expected, abs_tol=1e-4)
            lengths.add(len(ids))
    assert len(lengths) > 1


@pytest.mark.parametrize(
    "limits", [{"temperature": 0.3}, {"top_k": 3}, {"top_p": 0.4}], ids=lambda limits: [*limits][0]
)
def test_the_score_of_a_sample_is_the_models_log_probability(model, tokenizers, limits):
    source, _ = tokenizers
    torch.manual_seed(0)
    settings = {"num_beams": 1, "do_sample": True, "with_scores": True, **limits}
    results = translate(model, source, IdsAsText(), SENTENCES, **settings)
    for sentence, (hypothesis,) in zip(SENTENCES, results, strict=True):
        if sentence.strip():
            _, *ids = map(int, hypothesis.text.split())
            ids = ids[: ids.index(3) + 1] if 3 in ids else ids
            expected = sum_of_log_probabilities(model, source(sentence, return_tensors="pt")["input_ids"], ids)
            assert hypothesis.score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "search", [{"do_sample": True}, {"prefix_allowed_tokens_fn": lambda row, ids: range(3, 9)}], ids=lambda s: [*s][0]
)
def test_beams_that_the_library_searches_have_scores(tokenizers, search):
    source, _ = tokenizers
    model = tiny_bahdanau(source, end_bias=1.0)
    settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.6, "max_new_tokens": 8}
    results = translate(model, source, IdsAsText(), SENTENCES, with_scores=True, **settings, **search)
    lengths = set()
    for sentence, hypotheses in zip(SENTENCES, results, strict=True):
        for hypothesis in hypotheses if sentence.strip() else []:
            _, *ids = map(int, hypothesis.text.split())
            ids = ids[: ids.index(3) + 1] if 3 in ids else ids
            expected = sum_of_log_probabilities(model, source(sentence, return_tensors="pt")["input_ids"], ids)
            assert hypothesis.score == pytest.approx(expected / ((5 + len(ids)) / 6) ** 0.6, abs=1e-4)
            lengths.add(len(ids))
    assert len(lengths) > 1


def only(ids):
    """Lets a search write these ids and nothing else."""
    return lambda row, written: [ids[min(len(written) - 1, len(ids) - 1)]]


@pytest.mark.parametrize("with_scores", [False, True])
def test_a_list_has_only_the_hypotheses_that_constraints_allow(with_scores):
    model, tokenizer = tiny_model("bahdanau"), tiny_tokenizer()
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4}
    allowed = tokenizer("word5 word6 </s>").input_ids
    (found,) = translate(
        model,
        tokenizer,
        tokenizer,
        ["word4"],
        with_scores=with_scores,
        prefix_allowed_tokens_fn=only(allowed),
        **asked,
    )
    assert [hypothesis.text for hypothesis in found] == ["word5 word6"]
    assert (found[0].score is not None) == with_scores
    for function in (only(allowed), None):
        constraint = {"suppress_tokens": [i for i in range(16) if i != 3]} if function is None else {}
        constraint |= {} if function is None else {"prefix_allowed_tokens_fn": function}
        with pytest.raises(ValueError, match="num_return_sequences is 3, but .* leave 1 hypothesis for sentence 0"):
            model.generate(**tokenizer(["word4"], return_tensors="pt"), **asked, **constraint)
    with pytest.raises(ValueError, match=r"leave no translation for sentence 1 \(counted from 0\), 'word4'"):
        translate(
            model, tokenizer, tokenizer, ["", "word4"], suppress_tokens=list(range(16)), num_beams=2, max_new_tokens=2
        )


def test_more_beams_than_one_token_has_choices_give_a_shorter_list():
    model, tokenizer = tiny_model("transformer"), tiny_tokenizer()
    (found,) = translate(
        *(model, tokenizer, tokenizer, ["word4"]), num_beams=20, num_return_sequences=20, max_new_tokens=1,
        with_scores=True,
    )  # fmt: skip
    assert len(found) == 16 and all(math.isfinite(hypothesis.score) for hypothesis in found)


def test_without_asking_there_are_no_scores(model, tokenizers):
    for num_beams in (1, 2):
        for hypotheses in translate(model, *tokenizers, SENTENCES, num_beams=num_beams):
            assert hypotheses[0].score is None


def test_samples_may_outnumber_beams(model, tokenizers):
    torch.manual_seed(0)
    results = translate(model, *tokenizers, SENTENCES, do_sample=True, num_return_sequences=4, with_scores=True)
    assert [len(hypotheses) for hypotheses in results] == [4] * len(SENTENCES)
    assert len({hypothesis.text for hypothesis in results[1]}) > 1
    assert all(hypothesis.score < 0 for hypothesis in results[1])


def test_long_sources_are_cut_with_one_warning(model, tokenizers, caplog):
    source, _ = tokenizers
    with caplog.at_level(logging.WARNING):
        results = translate(model, *tokenizers, SENTENCES, max_source_length=5, max_tokens_per_batch=1)
    [record] = caplog.records
    assert "3 of 7 sources have more than 5 tokens (max_source_length, or" in record.getMessage()
    ids = source(SENTENCES[1])["input_ids"]
    inputs = torch.tensor([[*ids[:4], source.eos_token_id]])
    expected = model.generate(inputs, attention_mask=torch.ones_like(inputs))
    assert results[1][0].text == tokenizers[1].decode(expected[0], skip_special_tokens=True)


def test_saved_beam_settings_draw_no_warning_in_greedy_search(model, tokenizers, caplog, monkeypatch):
    for name, value in (("num_beams", 4), ("length_penalty", 0.6), ("early_stopping", True)):
        monkeypatch.setattr(model.generation_config, name, value)
    logging.getLogger("transformers").addHandler(caplog.handler)
    greedy = texts_of(translate(model, *tokenizers, SENTENCES, num_beams=1))
    beams = texts_of(translate(model, *tokenizers, SENTENCES))
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records
    assert beams == texts_of(
        translate(model, *tokenizers, SENTENCES, num_beams=4, length_penalty=0.6, early_stopping=True)
    )
    assert greedy != beams


def test_a_model_in_training_is_searched_without_dropout_and_left_in_training(model, tokenizers):
    expected = texts_of(translate(model, *tokenizers, SENTENCES))
    model.train()
    for layer in (model.model.encoder, model.model.decoder):
        layer.dropout = 0.5
    try:
        assert texts_of(translate(model, *tokenizers, SENTENCES)) == expected
        assert model.training
    finally:
        model.eval()


def test_hypotheses_are_one_line_each(model, tokenizers, monkeypatch):
    monkeypatch.setattr(type(tokenizers[1]), "batch_decode", lambda self, rows, **_: [" a\nb\u2028 c "] * len(rows))
    assert translate(model, *tokenizers, ["snow"]) == [[Hypothesis("a b c")]]


def test_a_saved_model_is_loaded_with_its_tokenizers(model, tokenizers, tmp_path):
    model.save_pretrained(tmp_path / "model")
    save_tokenizers(tmp_path / "model", *tokenizers)
    loaded = load_translator(str(tmp_path / "model"))
    assert not loaded[0].training
    assert translate(*loaded, SENTENCES) == translate(model, *tokenizers, SENTENCES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no model: config.json"):
        load_model(TranslationSettings([str(tmp_path / "empty")]))


@pytest.mark.parametrize(("set_before", "kept"), [(None, "64"), ("7", "7")])
def test_the_code_of_few_products_is_kept_for_a_search_unless_the_environment_says_otherwise(
    set_before, kept, model, tokenizers, tmp_path, monkeypatch
):
    variables = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
    for variable in variables:
        monkeypatch.setenv(variable, set_before or "")  # restored at the end, whatever `load_model` sets
        if set_before is None:
            monkeypatch.delenv(variable)
    model.save_pretrained(tmp_path)
    save_tokenizers(tmp_path, *tokenizers)
    load_model(TranslationSettings([str(tmp_path)]))
    assert [os.environ[variable] for variable in variables] == [kept, kept]


def test_progress_counts_every_sentence_once(model, tokenizers):
    counts = []
    translate(model, *tokenizers, SENTENCES, max_tokens_per_batch=20, progress=counts.append)
    assert sum(counts) == len(SENTENCES)
    assert len(counts) > 2


def test_nothing_translates_to_nothing(model, tokenizers):
    assert translate(model, *tokenizers, []) == []
    assert translate(model, *tokenizers, ["", " "]) == [[Hypothesis("")], [Hypothesis("")]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences is 3, but num_beams is 2"),
        ({"length_penalty": 0.6}, "length_penalty is 0.6, but num_beams is 1"),
        ({"max_length": 30, "max_new_tokens": 29}, "max_length and max_new_tokens are both set"),
        ({"max_length": 1}, "max_length is 1"),
    ],
)
def test_settings_that_do_not_go_together_are_named(model, tokenizers, arguments, message):
    with pytest.raises(ValueError, match=message):
        translate(model, *tokenizers, SENTENCES, **arguments)


@pytest.mark.parametrize("asked", [{}, {"max_new_tokens": 30}])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_translation_ends_where_the_learned_positions_end(num_beams, asked):
    tokenizer, learned = tiny_tokenizer(), {"position_embedding_type": "learned", "max_position_embeddings": 9}
    single = tiny_model("transformer", **learned)
    for model in (single, EnsembleForSeq2SeqLM([tiny_model("bahdanau"), single])):
        arguments = {"num_beams": num_beams, "suppress_tokens": tokenizer.all_special_ids, **asked}
        ((found,),) = translate(model, tokenizer, tokenizer, ["word5 word6"], **arguments)
        assert len(found.text.split()) == 9


def test_what_is_scored_is_translated_with_every_setting_of_the_model_and_the_search(tmp_path, monkeypatch):
    class Loaded(Exception):
        pass

    def load(settings):
        raise Loaded(settings)

    monkeypatch.setattr(scoring, "load_model", load)
    (tmp_path / "test.tsv").write_text("en\tde\nword4\tword5\n")
    test_set = [f"--test_file={tmp_path / 'test.tsv'}", f"--output_dir={tmp_path}", "--source_column=en"]
    all_but_one = "--revision r --trust_remote_code true --torch_compile true --max_source_length 9 --max_new_tokens 7"
    all_but_one += " --max_tokens_per_batch 99 --bf16 false"
    changed = {"length_penalty"}  # which each number of beams is given by itself
    for options in (all_but_one, "--quantization int8"):
        (asked,) = parse_scoring(["--model_name_or_path=m", "--target_column=de", *test_set, *options.split()])
        with pytest.raises(Loaded) as caught:
            scoring.run(asked)
        (used,) = caught.value.args
        for name in (each.name for each in fields(DecodingSettings)):
            assert getattr(used, name) == getattr(asked, name)
            if getattr(asked, name) != getattr(DecodingSettings(["m"]), name, None):
                changed.add(name)
    assert changed | {"model_name_or_path"} == {each.name for each in fields(DecodingSettings)}
