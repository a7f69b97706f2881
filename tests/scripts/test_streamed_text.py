"""What `generate_text.py` prints while it generates is the text of all tokens."""

import random

import pytest
import torch

from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt.gpt1.generation import WordStreamer

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
