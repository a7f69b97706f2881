"""What the pictures need of a trained model: its attention, its probabilities and its positions, as arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from gpt1_scratch.tokenization import WORD_END
from papers_to_gpt.engine.checkpointing import name_with_run
from papers_to_gpt.engine.model_folder import LANGUAGE_MODEL, TRANSLATOR, check_folder
from papers_to_gpt.gpt1 import text_scoring
from papers_to_gpt.plots.tokens import name_of, readable
from papers_to_gpt.settings.decoding import TranslationSettings
from papers_to_gpt.settings.text_scoring import TextScoringSettings
from papers_to_gpt.translation import decoding
from seq2seq_scratch.encoding import encode_sources
from seq2seq_scratch.modeling_transformer import LearnedPositions
from seq2seq_scratch.tokenization import WORD_START
from seq2seq_scratch.translation import translate
from seq2seq_scratch.visible_text import has_visible_text

# Source tokens that a translator reads, as in translate.py.
MAX_SOURCE_LENGTH = 256


def short_name(name: str) -> str:
    """Returns the name of a model, see `name_with_run`, as a part of a file's name."""
    return name_with_run(name).replace("/", "_")


@dataclass(frozen=True)
class LoadedModel:
    """A model with what reads and writes its text.

    Attributes:
        name: its folder or Hub id.
        model: the model in evaluation mode.
        tokenizer: the tokenizer; that of the source for a translator.
        target_tokenizer: that of a translator's target; None for a language model.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    target_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def short_name(self) -> str:
        """What pictures call the model; see `short_name`."""
        return short_name(self.name)

    @property
    def model_type(self) -> str:
        """The model's type, such as bahdanau."""
        return self.model.config.model_type

    @property
    def has_heads(self) -> bool:
        """True for the Transformer and GPT-1, whose layers have several attention heads and position vectors."""
        return self.model_type == "transformer_seq2seq" or (self.target_tokenizer is None and not self.is_lstm)

    @property
    def is_lstm(self) -> bool:
        """True for models without any attention: the LSTM translator, and GPT-1 with an LSTM in its place."""
        return self.model_type == "rnn_seq2seq" or getattr(self.model.config, "lstm_size", None) is not None

    @property
    def has_positions(self) -> bool:
        """True for models that add a vector for its position to each token."""
        return self.has_heads and getattr(self.model.config, "position_embedding_type", None) != "absent"

    def names(self, tokens: Sequence[str], target: bool = False) -> list[str]:
        """Returns tokens without marks of word starts and ends, as they are drawn."""
        tokenizer = self.target_tokenizer if target else self.tokenizer
        return readable(tokens, tokenizer.all_special_tokens, **self.marks)

    @property
    def marks(self) -> dict[str, str]:
        """How the vocabulary marks words, as `readable` takes it."""
        return {"word_end": WORD_END} if self.target_tokenizer is None else {"word_start": WORD_START}


def load(name: str, revision: str | None = None, trust_remote_code: bool = False) -> LoadedModel:
    """Loads a translator or a language model with its tokenizers, in float32.

    Args:
        name: a folder, or an id on the Hub.
        revision: a branch, tag or commit on the Hub.
        trust_remote_code: whether code in the model's folder may run. The models of this project do not need it.

    Raises:
        ValueError: if the folder holds no such model.
        OSError: if there is neither a folder nor a model on the Hub with this name.
    """
    check_folder(name, trust_remote_code, (TRANSLATOR, LANGUAGE_MODEL))
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    if AutoConfig.from_pretrained(name, **source).model_type in TRANSLATOR.model_types:
        return LoadedModel(name, *decoding.load_model(TranslationSettings(model_name_or_path=[name], **source)))
    return LoadedModel(name, *text_scoring.load_model(TextScoringSettings(model_name_or_path=name, **source)))


@dataclass(frozen=True)
class Attention:
    """The attention of all layers of one kind.

    Attributes:
        kind: encoder, decoder or cross; decoder for GPT-1.
        weights: L arrays (H, Q, K), one for each layer.
        query_tokens: Q tokens that attend. In cross-attention they are the tokens that are predicted with it.
        key_tokens: K tokens that are attended to.
    """

    kind: str
    weights: tuple[np.ndarray, ...]
    query_tokens: list[str]
    key_tokens: list[str]


@dataclass(frozen=True)
class Probabilities:
    """What a model predicts at each place of a text.

    Attributes:
        tokens: T tokens.
        probabilities: (T,) of each token, given what comes before it.
        candidates: T times C most probable tokens.
        candidate_probabilities: (T, C), largest first.
        next_tokens: C most probable tokens after the text; empty for a translation, which has an end.
        next_probabilities: (C,).
    """

    tokens: list[str]
    probabilities: np.ndarray
    candidates: list[list[str]]
    candidate_probabilities: np.ndarray
    next_tokens: list[str]
    next_probabilities: np.ndarray


def translation_of(loaded: LoadedModel, sentence: str, num_beams: int | None = None) -> str:
    """Returns the model's translation of a sentence.

    Raises:
        ValueError: if it is empty.
    """
    beams = {} if num_beams is None else {"num_beams": num_beams}
    ((best, *_),) = translate(
        loaded.model,
        loaded.tokenizer,
        loaded.target_tokenizer,
        [sentence],
        max_source_length=MAX_SOURCE_LENGTH,
        **beams,
    )
    if not has_visible_text(best.text):
        raise ValueError(
            f"{loaded.name} translates {sentence!r} by nothing, so there is nothing to draw. Give a translation "
            "(--translation), or another sentence."
        )
    return best.text


def attention_of(loaded: LoadedModel, sentence: str, translation: str | None = None) -> dict[str, Attention]:
    """Computes the attention of every layer and head, by one forward pass over a sentence and its translation.

    Args:
        loaded: a Transformer or GPT-1.
        sentence: the text that the model reads.
        translation: its translation, for a translator.

    Returns:
        The kinds encoder, decoder and cross for a Transformer, and decoder for GPT-1.

    Raises:
        ValueError: if the model has no attention heads.
    """
    refuse_without_heads(loaded)
    if loaded.target_tokenizer is None:
        ids = _ids_of_text(loaded, sentence)
        with _eager(loaded.model):
            layers = loaded.model(input_ids=_row(loaded, ids), output_attentions=True, use_cache=False).attentions
        names = loaded.names(loaded.tokenizer.convert_ids_to_tokens(ids))
        return {"decoder": Attention("decoder", _arrays(layers), names, names)}
    source_ids, target_ids, inputs = _ids_of_pair(loaded, sentence, translation)
    with _eager(loaded.model):
        output = loaded.model(**inputs, output_attentions=True, use_cache=False)
    source = loaded.names(loaded.tokenizer.convert_ids_to_tokens(source_ids))
    target = loaded.target_tokenizer.convert_ids_to_tokens(target_ids)
    read = loaded.target_tokenizer.convert_ids_to_tokens(inputs["decoder_input_ids"][0].tolist())
    return {
        "encoder": Attention("encoder", _arrays(output.encoder_attentions), source, source),
        "decoder": Attention("decoder", _arrays(output.decoder_attentions), *[loaded.names(read, target=True)] * 2),
        "cross": Attention("cross", _arrays(output.cross_attentions), loaded.names(target, target=True), source),
    }


def attention_sizes(loaded: LoadedModel) -> dict[str, tuple[int, int]]:
    """Returns the numbers of layers and of heads in each, for every kind of attention of a model that has heads."""
    config = loaded.model.config
    if loaded.target_tokenizer is None:
        return {"decoder": (config.num_hidden_layers, config.num_attention_heads)}
    decoder = config.decoder_layers, config.decoder_attention_heads
    return {"encoder": (config.encoder_layers, config.encoder_attention_heads), "decoder": decoder, "cross": decoder}


@torch.inference_mode()
def probabilities_of(
    loaded: LoadedModel, sentence: str, translation: str | None = None, candidates: int = 4
) -> Probabilities:
    """Computes the probability of each token of a translation, or of a text after its first token.

    Args:
        loaded: a translator or a language model.
        sentence: the source, or the text.
        translation: the translation whose tokens are predicted, for a translator.
        candidates: C, the number of most probable tokens.
    """
    if loaded.target_tokenizer is None:
        ids = _ids_of_text(loaded, sentence)
        logits = loaded.model(input_ids=_row(loaded, ids), use_cache=False).logits[0]
        tokenizer, wanted, before = loaded.tokenizer, ids[1:], ids
    else:
        _, wanted, inputs = _ids_of_pair(loaded, sentence, translation)
        logits = loaded.model(**inputs, use_cache=False).logits[0]
        tokenizer, before = loaded.target_tokenizer, inputs["decoder_input_ids"][0].tolist()
    probabilities = logits.float().softmax(dim=-1).cpu()
    best = probabilities.topk(min(candidates, probabilities.shape[1]), dim=-1)
    special = tokenizer.all_special_tokens
    names = [
        [name_of(token, context, special, **loaded.marks) for token in tokenizer.convert_ids_to_tokens(row)]
        for row, context in zip(best.indices.tolist(), tokenizer.convert_ids_to_tokens(before), strict=True)
    ]
    tokens = tokenizer.convert_ids_to_tokens(before if loaded.target_tokenizer is None else wanted)
    shown = readable(tokens, special, **loaded.marks)
    count = len(wanted)
    has_next = count < len(names)
    return Probabilities(
        tokens=shown[len(shown) - count :],
        probabilities=probabilities[range(count), wanted].numpy(),
        candidates=names[:count],
        candidate_probabilities=best.values[:count].numpy(),
        next_tokens=names[-1] if has_next else [],
        next_probabilities=best.values[-1].numpy() if has_next else np.zeros(0),
    )


def positions_of(loaded: LoadedModel, rows: int) -> dict[str, tuple[str, np.ndarray]]:
    """Returns the position vectors of a model: what they are, and a table (positions, D), by stack.

    Args:
        loaded: a Transformer or GPT-1.
        rows: number of sinusoids, of which there is no end. Learned positions are returned as a whole.

    Raises:
        ValueError: if the model has no positions.
    """
    if loaded.is_lstm or not loaded.has_heads:
        raise ValueError(
            f"{loaded.name} is a {loaded.model_type}{_lstm(loaded)}, which has no position vectors: its recurrence "
            "reads the tokens one after the other. Leave positions out of pictures."
        )
    if loaded.target_tokenizer is None:
        return {"decoder": ("learned", _array(loaded.model.model.positions_embed.weight))}
    if not loaded.has_positions:
        raise ValueError(
            f"{loaded.name} was trained with position_embedding_type absent, so it has no position vectors. Leave "
            "positions out of pictures."
        )
    stacks = {"encoder": loaded.model.model.encoder, "decoder": loaded.model.model.decoder}
    tables = {kind: stack.embed_positions for kind, stack in stacks.items()}
    if isinstance(tables["encoder"], LearnedPositions):
        return {kind: ("learned", _array(table.weight)) for kind, table in tables.items()}
    places = torch.arange(rows, device=loaded.model.device)[None]
    return {"encoder": ("sinusoidal", _array(tables["encoder"](places, rows)[0]))}


def refuse_without_heads(loaded: LoadedModel) -> None:
    """Raises ValueError for a model that has no attention heads; the message says what it has in their place."""
    if loaded.is_lstm:
        has = (
            "its decoder sees the source as one vector for each layer"
            if loaded.target_tokenizer
            else ("what it has read is one vector in each layer")
        )
        raise ValueError(
            f"{loaded.name} is a {loaded.model_type}{_lstm(loaded)}, which has no attention: {has}. Draw its "
            "probabilities."
        )
    if not loaded.has_heads:
        raise ValueError(
            f"{loaded.name} is a {loaded.model_type}, whose attention has one head, which the alignment shows. "
            "Leave heads out of pictures."
        )


def _lstm(loaded: LoadedModel) -> str:
    return " with an LSTM in the Transformer's place" if loaded.target_tokenizer is None and loaded.is_lstm else ""


def _ids_of_text(loaded: LoadedModel, text: str) -> list[int]:
    """Returns the tokens of a text, as many from the first as the model has positions."""
    return loaded.tokenizer(text, verbose=False).input_ids[: loaded.model.config.max_position_embeddings]


def _ids_of_pair(
    loaded: LoadedModel, sentence: str, translation: str | None
) -> tuple[list[int], list[int], dict[str, Any]]:
    """Returns the tokens of a sentence and its translation, with their end tokens, and the model's arguments."""
    (source,), _ = encode_sources(loaded.tokenizer, [sentence], MAX_SOURCE_LENGTH)
    (target,), _ = encode_sources(loaded.target_tokenizer, [translation], None)
    row = _row(loaded, source)
    inputs = {
        "input_ids": row,
        "attention_mask": torch.ones_like(row),
        "decoder_input_ids": loaded.model.prepare_decoder_input_ids_from_labels(_row(loaded, target)),
    }
    return source, target, inputs


def _row(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(ids)], device=loaded.model.device)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _arrays(layers: Sequence[torch.Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(_array(layer[0]) for layer in layers)


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Makes a model compute attention in the form that returns its weights."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            yield
    finally:
        model.set_attn_implementation(implementation)
