"""What `generate_text.py` prints while it generates is the text of all tokens."""

import random

import pytest
import torch

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt.gpt1.generation import WordStreamer, continue_text, generate_here
from papers_to_gpt.settings.generation import GenerationSettings

TEXTS = [
    "they'll say: anna didn't, we've a (big) cat... \"no\"\n[she's here] it's 5% - can't you're it wasn't!",
    "they say anna did we a big cat no she here it can you are was",
]


@pytest.mark.parametrize("merges", [1, 30, 200])
def test_words_are_printed_as_they_are_decoded_whole(merges, capsys):
    tokenizer = train_tokenizer(TEXTS * 3, merges=merges)
    generator = random.Random(0)
    sequences = [tokenizer(text).input_ids for text in TEXTS]
    sequences += [[generator.randrange(len(tokenizer)) for _ in range(40)] for _ in range(100)]
    for ids in sequences:
        streamer = WordStreamer(tokenizer)
        streamer.put(torch.tensor([ids[:3]]))
        for token in ids[3:]:
            streamer.put(torch.tensor([token]))
        early = capsys.readouterr().out
        streamer.end()
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert early + capsys.readouterr().out == text + "\n"
        assert text.startswith(early) and len(early) >= max(text.rfind(" "), text.rfind("\n"))


def test_continuations_are_printed_while_they_are_generated(capsys):
    tokenizer = train_tokenizer(TEXTS * 3, merges=200)
    prompt, text = "they say", "they say they'll: anna didn't, we've a (big) cat"
    ids = tokenizer(text).input_ids
    prompt_length = len(tokenizer(prompt).input_ids)
    model = GPT1ForCausalLM(
        GPT1Config(
            vocab_size=len(tokenizer),
            max_position_embeddings=64,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    printed = []

    def predict_the_text(module, args, outputs):
        printed.append(capsys.readouterr().out)
        outputs.logits[:, -1, ids[prompt_length + len(printed) - 1]] = 1e4

    model.register_forward_hook(predict_the_text)
    settings = GenerationSettings(
        model_name_or_path="a folder", do_sample=False, max_new_tokens=len(ids) - prompt_length
    )
    continue_text(model, tokenizer, prompt, settings, generate_here)
    assert len(printed) == len(ids) - prompt_length
    for step in range(len(printed)):
        known = tokenizer.decode(ids[: prompt_length + step])
        assert "".join(printed[: step + 1]) == known[: max(known.rfind(" "), 0)]
    assert "".join(printed) + capsys.readouterr().out == text + "\n"
