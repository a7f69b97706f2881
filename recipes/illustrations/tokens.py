"""How byte-pair encoding cuts text, merge by merge."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from gpt1_scratch import tokenization as gpt1_tokenization
from gpt1_scratch.pretraining.corpora import load_texts
from papers_to_gpt.plots.diagrams import BLUE, GREEN, WHITE, draw_tokens, new_diagram, token_widths, write
from papers_to_gpt.plots.line_plots import Series, draw_lines
from papers_to_gpt.plots.style import FONT_SIZE, add_legend, new_figure
from papers_to_gpt.settings.wording import counted
from seq2seq_scratch import tokenization
from seq2seq_scratch.data.numbers import load_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerFast

SENTENCE = "three hundred and forty-two"
MERGES = (0, 100, 1000)
VOCABULARY = 2000  # entries, enough for 1000 merges

# The text and the word of the reading of GPT-1, section 3.
TEXT = ["the lowest tower is lower than the newest tower", "a low wall and a new wall"] * 10
WORD = "lowest"

# Vocabularies of the stories, and losses of models, for the reading of GPT-1, section 4.
MERGES_OF_STORIES = (50, 100, 200, 500, 1000, 2000)
BITS_PER_BYTE = (0.2, 0.3, 0.4)

ROW = 0.42  # inches


def with_first_merges(tokenizer: "PreTrainedTokenizerFast", count: int) -> Tokenizer:
    """Returns what a tokenizer was after its first `count` merges."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][:count]
    return Tokenizer.from_str(json.dumps(state))


def steps_of_word(tokenizer: "PreTrainedTokenizerFast", word: str) -> list[tuple[int, list[str]]]:
    """Returns how a word is cut at first and after each merge that changes it, with the merge's number from 1."""
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    steps: list[tuple[int, list[str]]] = []
    for count in range(len(merges) + 1):
        tokens = with_first_merges(tokenizer, count).encode(word, add_special_tokens=False).tokens
        if not steps or tokens != steps[-1][1]:
            steps.append((count, tokens))
    return steps


def bpe_tokens() -> "Figure":
    """Draws one sentence, cut after 0, 100 and 1000 merges learned from number words."""
    pairs = load_numbers(train_size=5_000)["train"]["translation"]
    texts = [text for pair in pairs for text in pair.values()]
    tokenizer = tokenization.train_tokenizer(texts, kind="bpe", vocab_size=VOCABULARY)
    rows = [with_first_merges(tokenizer, count).encode(SENTENCE, add_special_tokens=False).tokens for count in MERGES]
    return _draw_rows([f"{count} merges" for count in MERGES], rows, [[WHITE] * len(row) for row in rows])


def bpe_merges() -> "Figure":
    """Draws the merges that make one word of GPT-1's vocabulary; what a merge has made is green."""
    tokenizer = gpt1_tokenization.train_tokenizer(TEXT, merges=40)
    steps = steps_of_word(tokenizer, WORD)
    fills, before = [], steps[0][1]
    for _, tokens in steps:
        fills.append([WHITE if token in before else GREEN for token in tokens])
        before = tokens
    labels = ["characters", *(f"merge {count}" for count, _ in steps[1:])]
    return _draw_rows(labels, [tokens for _, tokens in steps], fills)


def bits_per_byte() -> "Figure":
    """Draws the tokens of one text by vocabulary, and the perplexity per token that one loss per byte then is."""
    train, validation = (load_texts("stories", split)["text"] for split in ("train[:400]", "validation[:100]"))
    tokenizer = gpt1_tokenization.train_tokenizer(train[:], merges=MERGES_OF_STORIES[-1])
    texts = validation[:]
    size = sum(len(text.encode()) for text in texts)
    counts = [
        sum(len(tokens.ids) for tokens in with_first_merges(tokenizer, merges).encode_batch(texts))
        for merges in MERGES_OF_STORIES
    ]
    perplexities = [
        Series(f"{bits:g} bits per byte", MERGES_OF_STORIES, [2 ** (bits * size / count) for count in counts])
        for bits in BITS_PER_BYTE
    ]
    figure = new_figure(7.4, 3.0)
    left, right = figure.subplots(1, 2)
    draw_lines(left, [Series("tokens", MERGES_OF_STORIES, [size / count for count in counts])])
    draw_lines(right, perplexities)
    for axes, name in ((left, "bytes of text per token"), (right, "perplexity per token")):
        axes.set_title(name, fontsize=FONT_SIZE, loc="left")
        axes.set_xlabel("merges of the vocabulary", fontsize=FONT_SIZE)
        axes.set_xscale("log")
        axes.set_xticks(MERGES_OF_STORIES, [str(merges) for merges in MERGES_OF_STORIES])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    add_legend(right, [each.name for each in perplexities], frameon=False, loc="upper left")
    return figure


def _draw_rows(labels: list[str], rows: list[list[str]], fills: Iterable[list[str]]) -> "Figure":
    """Draws one row of tokens under the other, with the number of tokens at its end."""
    left = 1.1
    size = FONT_SIZE - 1
    widest = max(sum(token_widths(row, size)) + 0.04 * len(row) for row in rows)
    figure, axes = new_diagram(left + widest + 0.9, ROW * len(rows) + 0.15)
    top = axes.get_ylim()[1]
    for number, (label, row, colours) in enumerate(zip(labels, rows, fills, strict=True)):
        height = top - ROW * (number + 0.65)
        write(axes, (0.1, height), label, ha="left")
        colours = [BLUE if colour == WHITE else colour for colour in colours]
        draw_tokens(axes, left, height, row, fills=colours, size=size)
        end = left + sum(token_widths(row, size)) + 0.04 * len(row) + 0.08
        write(axes, (end, height), counted(len(row), "token"), ha="left", color="#555555")
    return figure
