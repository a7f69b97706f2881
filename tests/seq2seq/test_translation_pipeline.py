"""`pipeline("translation")` with the installed package; test_sharing.py tests the copy that models carry."""

import pytest
import torch
from transformers import pipeline

import seq2seq_scratch as seq2seq
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import load_translator, translate

SENTENCES = ["one two three four five", "six", "", "seven eight, nine ten one two three"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saves a model with separate vocabularies, that of the target in lower case."""
    folder = tmp_path_factory.mktemp("model")
    source = train_tokenizer(SENTENCES * 3, kind="word", vocab_size=30)
    target = train_tokenizer(["Eins ZWEI drei vier fünf sechs"] * 3, kind="word", vocab_size=30, lowercase=True)
    torch.manual_seed(1)
    sizes = dict.fromkeys(("embedding_size", "hidden_size", "attention_size", "maxout_size"), 8)
    config = seq2seq.BahdanauConfig(
        vocab_size=len(source), decoder_vocab_size=len(target), initializer_std=1.0, **sizes
    )
    model = seq2seq.BahdanauForConditionalGeneration(config)
    model.generation_config.update(num_beams=3, length_penalty=1.0, max_new_tokens=15)
    model.save_pretrained(folder)
    save_tokenizers(folder, source, target)
    return folder


@pytest.fixture(scope="module")
def translator(folder):
    return pipeline("translation", model=str(folder))


def texts_of(results):
    return [result["translation_text"] for result in results]


def test_installed_it_needs_no_trust_and_translates_as_translate_does(folder, translator):
    assert type(translator) is seq2seq.TranslationPipeline
    wanted = [best.text for best, *_ in translate(*load_translator(str(folder)), SENTENCES)]
    assert texts_of(translator(SENTENCES)) == wanted and wanted[2] == "" and len(set(wanted)) > 2
    assert translator(SENTENCES[0]) == [{"translation_text": wanted[0]}]
    assert wanted[0] == wanted[0].lower()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing_and_order_is_the_inputs(translator, batch_size):
    assert translator(SENTENCES, batch_size=batch_size) == translator(SENTENCES)


def test_generators_are_read_as_they_come_and_tuples_and_nothing_are_taken(translator):
    wanted = translator(SENTENCES)
    assert [one for (one,) in translator(text for text in SENTENCES)] == wanted
    assert translator(tuple(SENTENCES)) == wanted and translator([]) == []


def test_arguments_of_the_call_go_before_those_of_the_pipeline_and_these_before_the_models(folder, translator):
    short = texts_of(translator(SENTENCES, max_new_tokens=2))
    assert (
        max(len(text.split()) for text in short)
        <= 2
        < max(len(text.split()) for text in texts_of(translator(SENTENCES)))
    )
    preset = pipeline("translation", model=str(folder), max_new_tokens=2, num_beams=1)
    assert texts_of(preset(SENTENCES)) == texts_of(translator(SENTENCES, max_new_tokens=2, num_beams=1))
    assert max(len(text.split()) for text in texts_of(preset(SENTENCES, max_new_tokens=1))) <= 1


def test_n_best_lists_carry_scores_when_asked(translator):
    (best, second) = translator(SENTENCES[0], num_return_sequences=2, with_scores=True)
    assert best["score"] >= second["score"] and best["translation_text"] == texts_of(translator(SENTENCES[0]))[0]
    assert [len(each) for each in translator(SENTENCES[:2], num_return_sequences=2)] == [2, 2]
    others = [index for index in range(translator.model.config.decoder_vocab_size) if index != 3]
    ends = {"suppress_tokens": others, "num_return_sequences": 3}  # there is no second hypothesis
    assert translator(SENTENCES[:2], **ends) == [[{"translation_text": ""}]] * 2


def test_mistakes_are_refused(folder, translator):
    with pytest.raises(ValueError, match="translates texts, but 5 is of type int"):
        translator(["one", 5])
    with pytest.raises(ValueError, match="num_return_sequences is 4, but num_beams is 3"):
        translator("one", num_return_sequences=4)
    big = train_tokenizer([f"word{number}" for number in range(90)] * 2, kind="word", vocab_size=90)
    with pytest.raises(ValueError, match="source tokenizer of .* has 90 entries, but its model has only"):
        pipeline("translation", model=str(folder), tokenizer=big)
    with pytest.raises(ValueError, match="target tokenizer of .* has 90 entries"):
        pipeline("translation", model=str(folder), target_tokenizer=big)


def test_a_live_model_takes_the_tokenizers_it_is_given_and_saves_them(folder, translator, tmp_path):
    model, source, target = load_translator(str(folder))
    live = pipeline("translation", model=model, tokenizer=source, target_tokenizer=target)
    assert live(SENTENCES) == translator(SENTENCES)
    live.save_pretrained(tmp_path / "saved")
    assert pipeline("translation", model=str(tmp_path / "saved"))(SENTENCES) == translator(SENTENCES)
    assert load_tokenizers(tmp_path / "saved")[1].get_vocab() == target.get_vocab()
