"""What `translate`, alignments and forced scores take: texts, settings of a search, and more than a model reads."""

import logging

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import GenerationConfig

from seq2seq_scratch.alignments import align
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.translation import translate

SENTENCES = ["word4 word5", "word6", "word7 word8 word9"]


@pytest.fixture(scope="module")
def translator():
    return tiny_model("transformer"), tiny_tokenizer(), tiny_tokenizer()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3, "max_new_tokens": 3, "length_penalty": 0.6},
        {"num_beams": 2, "max_length": 4, "suppress_tokens": [3]},
        {"do_sample": True, "temperature": 0.5, "top_k": 5, "max_new_tokens": 4},
        {"eos_token_id": 7, "max_new_tokens": 9},
    ],
    ids=lambda settings: [*settings][0],
)
def test_a_generation_config_counts_as_its_settings_do(translator, settings):
    found = []
    for arguments in ({"generation_config": GenerationConfig(**settings)}, settings):
        torch.manual_seed(0)
        found.append(translate(*translator, SENTENCES, with_scores=True, **arguments))
    assert found[0] == found[1] != translate(*translator, SENTENCES, with_scores=True)


def test_samples_without_an_end_token_have_scores():
    model, tokenizer = tiny_model("transformer"), tiny_tokenizer()
    settings = {"max_new_tokens": 4, "suppress_tokens": [0, 1, 2, 3], "with_scores": True}
    wanted = translate(model, tokenizer, tokenizer, SENTENCES, **settings)
    model.generation_config.eos_token_id = None
    assert translate(model, tokenizer, tokenizer, SENTENCES, **settings) == wanted


def test_arguments_go_before_those_of_a_generation_config(translator):
    config = GenerationConfig(num_beams=3, length_penalty=0.6, max_new_tokens=5, num_return_sequences=2)
    with pytest.raises(ValueError, match="num_return_sequences is 1, but that of generation_config is 2"):
        translate(*translator, SENTENCES, generation_config=config)
    config.num_return_sequences = None
    for arguments in ({"num_beams": 1}, {"max_length": 3, "num_beams": 1}, {"max_new_tokens": 2, "num_beams": 1}):
        wanted = translate(
            *translator, SENTENCES, **({"max_new_tokens": 5} if len(arguments) == 1 else {}), **arguments
        )
        assert translate(*translator, SENTENCES, generation_config=config, **arguments) == wanted


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("word4", " is the text 'word4'. Pass a list"),
        (["word4", None, "word5"], r"\[1\] is None, of type NoneType; it must be text"),
        ([4, "word4", "word5"], r"\[0\] is 4, of type int"),
        (["word4", "word5", "a \ud83d"], r"\[2\] is 'a \\ud83d', where U\+D83D is half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_named(translator, texts, message):
    with pytest.raises(ValueError, match="sentences" + message):
        translate(*translator, texts)
    with pytest.raises(ValueError, match="prefixes" + message):
        translate(*translator, SENTENCES, prefixes=texts)
    for function in (align, score_translations):
        with pytest.raises(ValueError, match="sources" + message):
            function(*translator, texts, SENTENCES)
        with pytest.raises(ValueError, match="translations" + message):
            function(*translator, SENTENCES, texts)


def test_sources_are_cut_where_learned_positions_end_and_longer_translations_are_refused(caplog):
    learned = {"position_embedding_type": "learned", "max_position_embeddings": 6}
    translator = tiny_model("transformer", **learned), tiny_tokenizer(), tiny_tokenizer()
    sources = ["word4 " * 9, "word5"]
    for function in (translate, align, score_translations):
        given = [sources] if function is translate else [sources, SENTENCES[:2]]
        wanted = function(*translator, *given, max_source_length=6)
        with caplog.at_level(logging.WARNING):
            found = function(*translator, *given, max_source_length=20)
        if function is align:
            assert all(np.allclose(one.weights, other.weights) for one, other in zip(found, wanted, strict=True))
            continue
        assert found == wanted == function(*translator, *given)
    assert "1 of 2 sources have more than 6 tokens" in caplog.text
    for function in (align, score_translations):
        with pytest.raises(
            ValueError, match="translation 'word4 .* has .* tokens, but the model has learned 6 positions"
        ):
            function(*translator, SENTENCES[:2], sources)
