"""Models accept both names of a cache and refuse unknown arguments."""

from pathlib import Path

import pytest
import torch
from tiny_models import MODELS, TRANSLATORS, tiny_batch, tiny_model
from transformers import ContinuousBatchingConfig, DynamicCache, EncoderDecoderCache, GenerationConfig, StaticCache
from transformers.utils import logging

from gpt1_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.recurrent_common import RecurrentState

ROOT = Path(__file__).parents[2]
GENERATORS = [*TRANSLATORS, "causal_lm"]


def first_tokens(name, count=3):
    batch = tiny_batch(name)
    return {key: batch[key][:, :count] for key in ("input_ids", "attention_mask")}


def steps_with_cache(name, argument):
    """Returns the logits of four positions that are read one by one, with the cache passed under the given name."""
    model, inputs = tiny_model(name), first_tokens(name, 4)
    tokens = inputs.pop("input_ids")
    given = {}
    if name in TRANSLATORS:
        given = {"input_ids": tokens, "attention_mask": inputs["attention_mask"]}
    key = "decoder_input_ids" if name in TRANSLATORS else "input_ids"
    cache, logits = None, []
    with torch.no_grad():
        for position in range(4):
            token = tokens[:, position : position + 1]
            outputs = model(**given, **{key: token, argument: cache}, use_cache=True)
            cache = outputs[CACHE_NAME]
            logits.append(outputs.logits)
        whole = model(**given, **{key: tokens}, use_cache=False).logits
    return torch.cat(logits, dim=1), whole


@pytest.mark.parametrize("argument", ["cache", "past_key_values"])
@pytest.mark.parametrize("name", GENERATORS)
def test_a_cache_is_read_under_either_name(name, argument):
    step_by_step, whole = steps_with_cache(name, argument)
    torch.testing.assert_close(step_by_step, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", GENERATORS)
def test_generation_continues_from_a_cache_under_either_name(name):
    model, inputs = tiny_model(name), first_tokens(name)
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1, "eos_token_id": None}
    expected = model.generate(**inputs, **settings)
    for argument in ("cache", "past_key_values"):
        begun = model.generate(**inputs, **settings | {"max_new_tokens": 2}, return_dict_in_generate=True)
        rest = {argument: begun[CACHE_NAME], "max_new_tokens": 4}
        if name in TRANSLATORS:
            sequences = model.generate(**inputs, decoder_input_ids=begun.sequences, **settings | rest)
        else:
            mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(len(expected), 2)], dim=1)
            sequences = model.generate(input_ids=begun.sequences, attention_mask=mask, **settings | rest)
        assert sequences.tolist() == expected.tolist(), argument


@pytest.mark.parametrize("name", GENERATORS)
def test_a_cache_under_both_names_is_refused(name):
    model, inputs = tiny_model(name), first_tokens(name)
    cache = tiny_cache(name)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(**inputs, cache=cache, past_key_values=cache)
    with pytest.raises(ValueError, match="two names of one argument"):
        model.generate(**inputs, cache=cache, past_key_values=cache)


def tiny_cache(name):
    if name == "causal_lm":
        return DynamicCache()
    if name == "transformer":
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    return RecurrentState({"state": torch.zeros(1)})


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_under_an_unknown_name_is_refused(name):
    with pytest.raises(TypeError, match=r"DynamicCache as 'cache_params', a name that it does not know"):
        tiny_model(name)(**tiny_batch(name), cache_params=DynamicCache())


@pytest.mark.parametrize(
    ("name", "cache", "message"),
    [
        ("transformer", DynamicCache(), "takes a EncoderDecoderCache as cache, but got a DynamicCache"),
        ("bahdanau", DynamicCache(), "takes a RecurrentState as cache, but got a DynamicCache"),
        ("rnn_seq2seq", (torch.zeros(1),), "takes a RecurrentState as cache, but got a tuple"),
        ("causal_lm", (torch.zeros(1),), "takes a Cache or a PagedAttentionCache as cache, but got a tuple"),
        ("masked_lm", DynamicCache(), "takes no cache, but got a DynamicCache"),
        ("classification", DynamicCache(), "takes no cache, but got a DynamicCache"),
        ("multiple_choice", DynamicCache(), "takes no cache, but got a DynamicCache"),
    ],
)
def test_a_cache_of_another_class_is_refused(name, cache, message):
    model, batch = tiny_model(name), tiny_batch(name)
    for argument in ("cache", "past_key_values"):
        with pytest.raises(TypeError, match=message):
            model(**batch, **{argument: cache})
    if name == "causal_lm":
        with pytest.raises(TypeError, match=message):
            model(batch["input_ids"], None, None, cache)


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_argument_is_refused_unless_it_says_nothing(name):
    model, batch = tiny_model(name), tiny_batch(name)
    with torch.no_grad():
        expected = model(**batch).loss
        assert torch.equal(model(**batch, memory=None, write_memory=False, output_router_logits=True).loss, expected)
    with pytest.raises(TypeError, match=r"unknown argument 'memory' of type Tensor"):
        model(**batch, memory=torch.zeros(1))


@pytest.mark.parametrize("name", MODELS)
def test_token_types_are_ignored_with_one_warning(name, caplog):
    model, batch = tiny_model(name), tiny_batch(name)
    logger = logging.get_logger("transformers")
    logger.warning_once.cache_clear()
    logger.addHandler(caplog.handler)
    try:
        for _ in range(2):
            loss = model(**batch, token_type_ids=torch.zeros_like(batch["input_ids"])).loss
    finally:
        logger.removeHandler(caplog.handler)
    assert torch.equal(loss, model(**batch).loss)
    assert [record.message for record in caplog.records if "token_type_ids are ignored" in record.message] == [
        f"{type(model).__name__} has no token types: token_type_ids are ignored."
    ]


def test_both_packages_hold_the_same_file():
    copies = {(ROOT / package / "library_arguments.py").read_text() for package in ("gpt1_scratch", "seq2seq_scratch")}
    assert len(copies) == 1


def test_a_static_cache_gives_the_same_text():
    model, inputs = tiny_model("causal_lm"), {"input_ids": first_tokens("causal_lm")["input_ids"][2:]}
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    expected = model.generate(**inputs, **settings)
    assert model.generate(**inputs, **settings, cache_implementation="static").tolist() == expected.tolist()
    cache = StaticCache(config=model.config, max_cache_len=12)
    assert model.generate(**inputs, **settings, cache=cache).tolist() == expected.tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_continuous_batching_gives_what_generate_gives(attention):
    model = tiny_model("causal_lm", num_hidden_layers=3)
    model.set_attn_implementation(attention)
    prompts = [[4, 5, 6], [7, 8], [9, 10, 11, 12], [13, 4, 9]]
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=3, pad_token_id=1)
    expected = [
        model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    # Without these numbers, the library reserves most of the memory of the machine.
    sizes = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    results = model.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=sizes, progress_bar=False
    )
    assert [list(result.generated_tokens) for result in results.values()] == expected
    assert len({tuple(tokens) for tokens in expected}) > 1


def test_early_exit_gives_the_same_text_and_leaves_the_model_as_it_was():
    model = tiny_model("causal_lm", num_hidden_layers=3)
    settings = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    prompts = [torch.tensor([tokens]) for tokens in ([4, 5, 6], [9, 10, 11, 12], [13, 4, 9])]
    expected = [model.generate(prompt, **settings).tolist() for prompt in prompts]
    for prompt, sequence in zip(prompts, expected, strict=True):
        assert model.generate(prompt, **settings, assistant_early_exit=1).tolist() == sequence
    with pytest.raises(ValueError, match="assistant_early_exit is 4.*from 1 to 3"):
        model.generate(prompts[0], **settings, assistant_early_exit=4)
    assert model.config.num_hidden_layers == 3
    assert [model.generate(prompt, **settings).tolist() for prompt in prompts] == expected


@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_callers_max_length_goes_before_the_limit_that_was_saved(name):
    model, inputs = tiny_model(name), first_tokens(name)
    model.generation_config.max_new_tokens = 12
    settings = {"do_sample": False, "eos_token_id": None}
    assert model.generate(**inputs, **settings).shape[1] == 13
    assert model.generate(**inputs, **settings, max_length=5).shape[1] == 5
    assert model.generate(**inputs, **settings, max_length=5, num_beams=3).shape[1] == 5
    assert model.generate(**inputs, generation_config=GenerationConfig(max_length=5, **settings)).shape[1] == 5
    assert model.generate(**inputs, **settings, max_length=5, max_new_tokens=7).shape[1] == 8


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["causal_lm", "transformer"])
def test_a_cache_in_training_changes_no_gradient(name, checkpointing):
    gradients = []
    for use_cache in (False, True):
        model = tiny_model(name).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**tiny_batch(name), use_cache=use_cache).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for without, with_cache in zip(*gradients, strict=True):
        torch.testing.assert_close(with_cache, without)
