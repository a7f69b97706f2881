"""Streamers, stopping criteria and logits processors of `generate()`, in searches that remove finished sentences."""

import pytest
import torch
from tiny_models import END, PAD, TRANSLATORS, VOCABULARY, tiny_batch, tiny_model, tiny_tokenizer
from transformers import LogitsProcessor, StoppingCriteria, TextIteratorStreamer

from seq2seq_scratch.beam_search import SentenceLengthLimits

GENERATORS = [*TRANSLATORS, "causal_lm"]
SENTENCES = 6


def prompts(name, rows=slice(None)):
    batch = tiny_batch(name, SENTENCES)
    if name == "causal_lm":  # all of one length, as nothing is padded here
        return {
            "input_ids": batch["input_ids"][rows, :3],
            "attention_mask": torch.ones_like(batch["input_ids"])[rows, :3],
        }
    return {key: batch[key][rows] for key in ("input_ids", "attention_mask")}


def new_tokens(name, sequences):
    """Returns the tokens of each row after its prompt, up to the end token."""
    start = 3 if name == "causal_lm" else 1
    rows = [row[start:] for row in sequences.tolist()]
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def allowed(sentence, length):
    """Returns the tokens that a sentence may have: a third of the vocabulary, and from some length only the end."""
    return [END] if length > sentence else [token for token in range(4, VOCABULARY) if token % 3 == sentence % 3]


class OwnThird(LogitsProcessor):
    """Allows each sentence another third of the vocabulary, by its index in the batch."""

    def __init__(self, sentences, beams, start):
        self.sentences, self.start = [sentence for sentence in sentences for _ in range(beams)], start

    def __call__(self, input_ids, scores):
        kept = torch.full_like(scores, -torch.inf)
        for row, sentence in enumerate(self.sentences):
            tokens = allowed(sentence, input_ids.shape[1] - self.start)
            kept[row, tokens] = scores[row, tokens]
        return kept


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", GENERATORS)
def test_constraints_by_sentence_reach_their_sentence(name, beams):
    model, settings = tiny_model(name), {"max_new_tokens": 7, "num_beams": beams, "do_sample": False}
    start = 3 if name == "causal_lm" else 1

    def allowed_next(sentence, sequence):
        return allowed(sentence, len(sequence) - start)

    together = {
        "function": model.generate(**prompts(name), **settings, prefix_allowed_tokens_fn=allowed_next),
        "processor": model.generate(
            **prompts(name), **settings, logits_processor=[OwnThird(range(SENTENCES), beams, start)]
        ),
    }
    alone = []
    for sentence in range(SENTENCES):
        processor = OwnThird([sentence], beams, start)
        sequences = model.generate(**prompts(name, [sentence]), **settings, logits_processor=[processor])
        alone += new_tokens(name, sequences)
    assert list(map(len, alone)) == [2, 3, 4, 5, 6, 7]
    for kind, sequences in together.items():
        assert new_tokens(name, sequences) == alone, kind


class AfterTokens(StoppingCriteria):
    """Stops each row after its own number of new tokens."""

    def __init__(self, limits):
        self.limits = torch.tensor(limits)

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.limits


@pytest.mark.parametrize("name", GENERATORS)
def test_a_stopping_criterion_by_row_stops_its_row(name):
    model, limits = tiny_model(name), [5, 6, 7, 8, 9, 10]
    settings = {"max_length": 12, "do_sample": False, "num_beams": 1, "suppress_tokens": [END]}
    without = model.generate(**prompts(name), **settings)
    stopped = model.generate(**prompts(name), **settings, stopping_criteria=[AfterTokens(limits)])
    assert stopped.shape[1] == 10
    for row, limit in enumerate(limits):
        assert stopped[row, :limit].tolist() == without[row, :limit].tolist()
        assert (stopped[row, limit:] == model.config.pad_token_id).all()


class AtToken(StoppingCriteria):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


@pytest.mark.parametrize("name", GENERATORS)
def test_beams_finish_where_a_stopping_criterion_says(name):
    """A criterion that stops at a token must find the same as a search with that token as end token."""
    model, settings = tiny_model(name), {"max_new_tokens": 7, "num_beams": 3, "length_penalty": 0.6}
    settings |= {"do_sample": False, "suppress_tokens": [END]}
    token = int(model.generate(**prompts(name), **settings)[0, 5])
    stopped = model.generate(**prompts(name), **settings, stopping_criteria=[AtToken(token)])
    expected = model.generate(**prompts(name), **settings, eos_token_id=[END, token])
    assert stopped[0].tolist().count(token) == 1 and stopped.tolist() == expected.tolist()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_streamer_gets_the_text_that_greedy_search_gives(name):
    model, tokenizer, row = tiny_model(name), tiny_tokenizer(), [1]
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    streamed = model.generate(**prompts(name, row), **settings, streamer=streamer)
    sequences = model.generate(**prompts(name, row), **settings)
    assert streamed.tolist() == sequences.tolist()
    (tokens,) = sequences[:, 3 if name == "causal_lm" else 1 :].tolist()
    assert "".join(streamer) == tokenizer.decode(tokens)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", GENERATORS)
def test_a_tokenizer_which_stop_strings_need_changes_nothing_else(name, beams):
    model, settings = tiny_model(name), {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    expected = model.generate(**prompts(name), **settings)
    assert model.generate(**prompts(name), **settings, tokenizer=tiny_tokenizer()).tolist() == expected.tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_padding_before_the_beginning_of_a_translation_follows_its_sentence(beams):
    """Only the Transformer masks the target; some sentences end and leave the batch before the others."""
    model, settings = tiny_model("transformer"), {"num_beams": beams, "max_new_tokens": 8, "do_sample": False}
    prefixes = [[2, *range(5, 5 + sentence % 3)] for sentence in range(SENTENCES)]
    ids = torch.tensor([[PAD] * (3 - len(prefix)) + prefix for prefix in prefixes])
    limits = torch.arange(SENTENCES) + 5
    padded = {"decoder_input_ids": ids, "decoder_attention_mask": (ids != PAD).long()}
    together = model.generate(
        **prompts("transformer"), **padded, **settings, stopping_criteria=[SentenceLengthLimits(limits)]
    )
    for sentence, prefix in enumerate(prefixes):
        alone = model.generate(
            **prompts("transformer", [sentence]),
            decoder_input_ids=torch.tensor([prefix]),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=int(limits[sentence]) + 1 - 3,
        )
        found = together[sentence, 3 - len(prefix) : int(limits[sentence]) + 1]
        assert found.tolist()[: alone.shape[1]] == alone[0].tolist()
