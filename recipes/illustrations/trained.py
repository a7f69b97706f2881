"""Pictures of trained models: an alignment, attention heads, a beam, and the probabilities of tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpt1_scratch.pretraining.corpora import load_texts
from papers_to_gpt.plots.diagrams import BLUE, GREY, ORANGE, draw_arrow, draw_box, new_diagram, write
from papers_to_gpt.plots.style import FONT_SIZE, label_of
from papers_to_gpt.visualization import figures
from papers_to_gpt.visualization.models import MAX_SOURCE_LENGTH, LoadedModel, load
from seq2seq_scratch.encoding import encode_sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = "three hundred and forty-two"
NUMBER_OF_BEAM = "seventy-one thousand, nine hundred and sixteen"
WORDS = 14  # of the story
BEAMS, STEPS = 3, 4


def alignment(folder: Path) -> "Figure":
    """Draws the alignment of one sentence."""
    return figures.alignment(load(str(folder)), NUMBER)


def heads(folder: Path) -> "Figure":
    """Draws the heads of the last cross-attention for one sentence."""
    (figure,) = figures.heads(load(str(folder)), NUMBER, kinds=("cross",)).values()
    return figure


def next_tokens(folder: Path) -> "Figure":
    """Draws the probability of each token of the beginning of a story, and the most probable ones."""
    story = load_texts("stories", "validation")[0]["text"]
    opening = " ".join(story.split()[:WORDS])
    return next(iter(figures.probabilities(load(str(folder)), opening, candidates=3).values()))


@torch.inference_mode()
def best_prefixes(loaded: LoadedModel, sentence: str, beams: int, steps: int) -> list[dict[tuple[int, ...], float]]:
    """Returns the hypotheses that a beam search keeps after each step, with their log-probabilities, best first."""
    (source,), _ = encode_sources(loaded.tokenizer, [sentence], MAX_SOURCE_LENGTH)
    kept = []
    for length in range(1, steps + 1):
        found = loaded.model.generate(
            input_ids=torch.tensor([source]),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=length,
            length_penalty=0.0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        rows = [tuple(row[1 : length + 1].tolist()) for row in found.sequences]
        kept.append(dict(zip(rows, found.sequences_scores.tolist(), strict=True)))
    return kept


def beam(folder: Path) -> "Figure":
    """Draws the hypotheses of a beam of width 3 as a tree, with the log-probability of each."""
    loaded = load(str(folder))
    kept = best_prefixes(loaded, NUMBER_OF_BEAM, BEAMS, STEPS)
    figure, axes = new_diagram(7.6, 2.95)
    columns = [0.35, *(1.55 + 1.75 * step for step in range(STEPS))]
    rows = [2.2, 1.5, 0.8]
    places = {(): (columns[0], rows[0])}
    draw_box(axes, places[()], "<s>", width=0.5, fill=GREY)
    parents = {prefix[:-1] for step in kept for prefix in step}
    for step, hypotheses in enumerate(kept):
        write(axes, (columns[step + 1], 2.75), f"step {step + 1}", color="#555555")
        for place, (prefix, score) in enumerate(hypotheses.items()):
            centre = places[prefix] = (columns[step + 1], rows[place])
            (token,) = loaded.target_tokenizer.convert_ids_to_tokens([prefix[-1]])
            goes_on = prefix in parents or step == len(kept) - 1
            fill = (ORANGE if place == 0 else BLUE) if goes_on else GREY
            draw_box(axes, centre, label_of(token), width=1.36, fill=fill, fontsize=FONT_SIZE - 1)
            write(axes, (centre[0], centre[1] - 0.25), f"{score:.2f}", fontsize=FONT_SIZE - 1, color="#555555")
            if prefix[:-1] in places:
                parent = places[prefix[:-1]]
                width = 0.25 if step == 0 else 0.68
                draw_arrow(axes, (parent[0] + width, parent[1]), (centre[0] - 0.68, centre[1]))
    note = "orange: the best; grey: no kept hypothesis continues it; numbers: log-probability of the hypothesis"
    write(axes, (0.1, 0.2), note, ha="left", color="#555555")
    return figure
