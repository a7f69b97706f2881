"""One function for each picture of a model or of runs, for scripts and notebooks. Each returns matplotlib Figures.

from papers_to_gpt.visualization import figures, models

loaded = models.load("runs/numbers_transformer")
figures.alignment(loaded, "three hundred and forty-two")
figures.heads(loaded, "twelve", layers=[0], kinds=["encoder"])
figures.curves(["runs/numbers_bahdanau", "runs/numbers_transformer"])
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from papers_to_gpt.engine.reporting import LOG_FILE, read_log
from papers_to_gpt.plots.alignments import plot_alignment
from papers_to_gpt.plots.attention_heads import plot_heads
from papers_to_gpt.plots.curves import plot_curves
from papers_to_gpt.plots.positions import MAX_POSITIONS, plot_positions
from papers_to_gpt.plots.probabilities import plot_next_tokens, plot_token_probabilities
from papers_to_gpt.settings.visualization import ATTENTION_KINDS, MAX_TOKENS
from papers_to_gpt.settings.wording import counted
from papers_to_gpt.visualization.models import (
    MAX_SOURCE_LENGTH,
    LoadedModel,
    attention_of,
    attention_sizes,
    positions_of,
    probabilities_of,
    refuse_without_heads,
    translation_of,
)
from seq2seq_scratch.alignments import align, has_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the rows and columns of each kind of attention are.
ROWS = {
    "encoder": "source tokens over source tokens",
    "decoder": "tokens over themselves and those before",
    "cross": "target tokens over source tokens",
}


def alignment(
    loaded: LoadedModel, sentence: str, translation: str | None = None, max_tokens: int = MAX_TOKENS
) -> "Figure":
    """Draws which source tokens each token of a translation attends to (Bahdanau et al. 2014, figure 3).

    Of the Transformer it is the mean over the heads of the last layer but one (see `seq2seq_scratch.alignments`).

    Args:
        loaded: a translator with attention.
        sentence: the source.
        translation: its translation. Default: the model's.
        max_tokens: tokens of each side that are drawn.

    Raises:
        ValueError: if the model has no attention.
    """
    if loaded.target_tokenizer is None:
        raise ValueError(
            f"{loaded.name} is a {loaded.model_type}, which does not translate, so it has no alignment. Draw "
            "its heads."
        )
    tokenizers = loaded.tokenizer, loaded.target_tokenizer
    if not has_attention(loaded.model.config):
        align(loaded.model, *tokenizers, ["."], ["."])  # refuses the model before it translates
    translation = translation_of(loaded, sentence) if translation is None else translation
    (found,) = align(loaded.model, *tokenizers, [sentence], [translation], max_source_length=MAX_SOURCE_LENGTH)
    return plot_alignment(
        loaded.names(found.source_tokens),
        loaded.names(found.target_tokens, target=True),
        found.weights,
        title=loaded.short_name + (f", mean of the heads of layer {of_mean(loaded)}" if loaded.has_heads else ""),
        max_tokens=max_tokens,
    )


def of_mean(loaded: LoadedModel) -> int:
    """Returns the decoder's layer whose heads the alignment is the mean of: the last but one, if there are two."""
    return max(0, loaded.model.config.decoder_layers - 2)


def heads(
    loaded: LoadedModel,
    sentence: str,
    translation: str | None = None,
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    kinds: Sequence[str] = ATTENTION_KINDS,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, "Figure"]:
    """Draws the heads of layers, one figure for each layer and kind of attention.

    Args:
        loaded: a Transformer or GPT-1.
        sentence: the text that the model reads.
        translation: its translation. Default: the model's.
        layers: the layers, counted from 0. Default: the last one.
        heads: the heads, counted from 0. Default: all.
        kinds: encoder, decoder, cross; GPT-1 has decoder alone.
        max_tokens: rows and columns that are drawn.

    Returns:
        The figures by name, such as `cross_layer_2`.

    Raises:
        ValueError: if the model has no heads, or not these layers, heads or kinds.
    """
    chosen = check_heads(loaded, layers, heads, kinds)
    if loaded.target_tokenizer is not None and translation is None:
        translation = translation_of(loaded, sentence)
    there = attention_of(loaded, sentence, translation)
    figures = {}
    for kind in chosen:
        attention = there[kind]
        for layer in layers or [len(attention.weights) - 1]:
            numbers = list(heads) or list(range(len(attention.weights[0])))
            figures[f"{kind}_layer_{layer}"] = plot_heads(
                attention.weights[layer][numbers],
                attention.query_tokens,
                attention.key_tokens,
                heads=numbers,
                title=f"{loaded.short_name}, {kind} attention, layer {layer}: {ROWS[kind]}",
                max_tokens=max_tokens,
            )
    return figures


def check_heads(loaded: LoadedModel, layers: Sequence[int], heads: Sequence[int], kinds: Sequence[str]) -> list[str]:
    """Checks that a model has layers, heads and kinds of attention, and returns those of the kinds that it has.

    Args:
        loaded, layers, heads, kinds: as in `heads`.

    Raises:
        ValueError: if the model has no heads, or not these layers, heads or kinds.
    """
    refuse_without_heads(loaded)
    sizes = attention_sizes(loaded)
    chosen = [kind for kind in kinds if kind in sizes]
    if not chosen:
        raise ValueError(
            f"attention is {' '.join(kinds) or 'empty'}, but {loaded.name} has only the kinds {', '.join(sizes)}."
        )
    for kind in chosen:
        count, width = sizes[kind]
        _check_numbers("layers", layers, count, f"{loaded.name} has {counted(count, 'layer')} of {kind} attention")
        _check_numbers("heads", heads, width, f"a layer of {kind} attention has {counted(width, 'head')}")
    return chosen


def _check_numbers(name: str, numbers: Sequence[int], count: int, what: str) -> None:
    wrong = [number for number in numbers if not 0 <= number < count]
    if wrong:
        raise ValueError(f"{name} has {wrong[0]}, but {what}, counted from 0: choose from 0 to {count - 1}.")


def positions(loaded: LoadedModel, max_positions: int = MAX_POSITIONS) -> dict[str, "Figure"]:
    """Draws the position vectors and their similarity (Vaswani et al. 2017, section 3.5), a figure for each table.

    Raises:
        ValueError: if the model has no positions.
    """
    tables = positions_of(loaded, max_positions)
    title = f"{loaded.short_name}, {{}} positions"
    return {
        f"{kind}_positions" if len(tables) > 1 else "positions": plot_positions(
            table,
            title=title.format(f"{what} {kind}" if len(tables) > 1 else what),
            max_positions=max_positions,
        )
        for kind, (what, table) in tables.items()
    }


def probabilities(
    loaded: LoadedModel,
    sentence: str,
    translation: str | None = None,
    *,
    candidates: int = 4,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, "Figure"]:
    """Draws the probability of each token with the best candidates, and for a language model those of the next token.

    Args:
        loaded: a translator or a language model.
        sentence: the source, or the text.
        translation: the translation whose tokens are predicted. Default: the model's.
        candidates: number of candidates for each token.
        max_tokens: rows that are drawn.

    Returns:
        The figures `probabilities`, and for a language model `next_token`.
    """
    if loaded.target_tokenizer is not None and translation is None:
        translation = translation_of(loaded, sentence)
    found = probabilities_of(loaded, sentence, translation, candidates)
    figures = {}
    if found.tokens:
        figures["probabilities"] = plot_token_probabilities(
            found.tokens,
            found.probabilities,
            found.candidates,
            found.candidate_probabilities,
            title=f"{loaded.short_name}, each token given those before it",
            max_tokens=max_tokens,
        )
    if found.next_tokens:
        figures["next_token"] = plot_next_tokens(found.next_tokens, found.next_probabilities.tolist(), title=sentence)
    return figures


def curves(runs: Sequence[str | Path], values: Sequence[str] | None = None) -> "Figure":
    """Draws the training curves of one or several runs.

    Args:
        runs: their output folders.
        values: values of the logs. Default: the loss, a score, the learning rate and the gradient norm.

    Raises:
        ValueError: if a folder has no log, or no log has a value.
    """
    return plot_curves({str(run): read_log(_log_of(Path(run))) for run in runs}, values or None)


def _log_of(folder: Path) -> Path:
    path = folder / LOG_FILE
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Name the output_dir of a run.")
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {LOG_FILE}, so there are no training curves. Name the output_dir of a run, not "
            "one of its checkpoints."
        )
    return path
