"""What the recurrent translators share: source alignment, the recurrent state, forward and generation.

Dimensions: B batch, S source length, T target length, V target vocabulary, D hidden size of the recurrent networks,
M width of what the softmax layer reads (D for the LSTM, the maxout size for the attention model).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .beam_search import BeamSearchGenerationMixin
from .file_modes import SavedWithUmask
from .library_arguments import CACHE_NAME, understand_arguments
from .old_keys import LoadsOldKeys
from .seq2seq_common import check_encoder_outputs, check_rows, inverse_permutation, shift_tokens_right
from .token_loss import target_token_loss


def align_left(attention_mask: torch.Tensor, reverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the order that moves every row's real tokens to its start, whichever side the padding is on.

    Args:
        attention_mask: (B, S) with 1 for real tokens and 0 for padding.
        reverse: if true, the real tokens are in reverse order; padding still follows them.

    Returns:
        Indices for `torch.gather` along the sequence, (B, S), and the source lengths, (B,). A row of nothing but
        padding has length 1, so that it has a last state.
    """
    # The order is counted, not sorted, because ONNX has no stable sort.
    real = attention_mask.bool()
    real_so_far = real.cumsum(dim=1)
    count = real_so_far[:, -1:]
    positions = torch.arange(real.shape[1], device=real.device)
    steps = torch.where(
        real, count - real_so_far if reverse else real_so_far - 1, count + positions - real_so_far
    )  # (B, S) index in the result of each position
    return inverse_permutation(steps), attention_mask.sum(dim=1).clamp(min=1)


class RecurrentState(Cache):
    """The state that a recurrent decoder carries from one target position to the next, as a cache of the library.

    A key-value cache grows with every token; a recurrent state is replaced. `generate()` asks a cache for its length,
    and beam search reorders it along the batch, so every tensor here is batch first.

    Args:
        tensors: tensors by name, (B, ...) each.
        seen_tokens: number of target positions that the state has read.
    """

    is_compileable = False
    # The library passes the whole prefix to layers of linear attention. This state takes new tokens only.
    is_linear = (False,)

    def __init__(self, tensors: dict[str, torch.Tensor], seen_tokens: int = 0):
        super().__init__(layers=[])
        self.tensors = tensors
        self.seen_tokens = seen_tokens

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def advance(self, steps: int, **tensors: torch.Tensor) -> None:
        """Replaces the named tensors, (B, ...) each, after `steps` more target positions."""
        self.tensors.update(tensors)
        self.seen_tokens += steps

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen_tokens

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.tensors = {name: tensor.index_select(0, indices) for name, tensor in self.tensors.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.tensors = {name: tensor.repeat_interleave(repeats, dim=0) for name, tensor in self.tensors.items()}


@dataclass
class RecurrentDecoderOutput(ModelOutput):
    """The output of a recurrent decoder that has read T target positions.

    Args:
        features: (B, T, M) what the softmax layer reads.
        last_hidden_state: (B, T, D) the state after each position, in a deep network that of the top layer.
        state: (B, ...) everything that the next position needs to know of the past.
        attention_weights: (B, 1, T, S) over source positions, of a decoder with attention. The dimension of size 1 is
            where the library's models have their heads.
    """

    features: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    state: torch.Tensor | None = None
    attention_weights: torch.Tensor | None = None


class RecurrentTranslationModel(LoadsOldKeys, SavedWithUmask, PreTrainedModel, BeamSearchGenerationMixin):
    """The base class of the recurrent translators: forward, the cached state, two vocabularies.

    A subclass has three modules:

    - `encoder(input_ids, attention_mask)` returns a ModelOutput with `last_hidden_state`, (B, S, ...), and everything
      that the decoder reads. All are batch-first tensors at the top level, so that `generate()` can repeat them for
      every beam;
    - `decoder(decoder_input_ids, encoder_outputs, state)` returns a `RecurrentDecoderOutput`; without a state, it
      starts from the encoder's output;
    - `lm_head`, the softmax layer, maps the decoder's features to the target vocabulary.
    """

    main_input_name = "input_ids"
    old_keys = {"output_projection": "lm_head"}
    _skip_keys_device_placement = ["cache", "past_key_values"]
    # A recurrent state cannot be cut back to an earlier position, which assisted decoding would need.
    _is_stateful = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tells `generate()` not to create a key-value cache, because forward creates the `RecurrentState`."""
        return False

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resizes source and target vocabulary to the same size, for models with one tokenizer for both.

        Raises:
            ValueError: the vocabularies are two, so one number cannot be right for both.
        """
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.get_input_embeddings()
        config = self.config
        if config.share_vocabulary is False or config.vocab_size != config.decoder_vocab_size:
            raise ValueError(
                f"resize_token_embeddings cannot tell which vocabulary to resize: vocab_size is {config.vocab_size}, "
                f"decoder_vocab_size is {config.decoder_vocab_size}, share_vocabulary is {config.share_vocabulary}. "
                "Call resize_encoder_token_embeddings or resize_decoder_token_embeddings instead."
            )
        self.resize_decoder_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return self.resize_encoder_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    def resize_encoder_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resizes the source vocabulary; arguments as in `resize_token_embeddings`."""
        self.encoder.embed_tokens = self._get_resized_embeddings(
            self.encoder.embed_tokens, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.vocab_size = self.encoder.embed_tokens.num_embeddings
        return self.encoder.embed_tokens

    def resize_decoder_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resizes the target vocabulary in embeddings and softmax; arguments as in `resize_token_embeddings`."""
        self.decoder.embed_tokens = self._get_resized_embeddings(
            self.decoder.embed_tokens, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.decoder_vocab_size = self.decoder.embed_tokens.num_embeddings
        self.lm_head = self._get_resized_lm_head(
            self.lm_head, self.config.decoder_vocab_size, mean_resizing=mean_resizing
        )
        self.tie_weights()
        return self.decoder.embed_tokens

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's input for teacher forcing, (B, T), from labels, (B, T)."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    @understand_arguments(RecurrentState)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        cache: RecurrentState | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        smoothing: float = 0.0,
        r_drop_weight: float = 0.0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predicts every target token from the source and the target tokens before it.

        Args:
            input_ids: (B, S) source token ids, with padding on either side.
            attention_mask: (B, S) with 1 for real source tokens; by default all tokens but `pad_token_id` are real.
            decoder_input_ids: (B, T) target tokens so far; by default `labels` shifted right.
            decoder_attention_mask: (B, T) with 1 for tokens. Padding may only follow the target's tokens, and then
                changes nothing.
            encoder_outputs: the encoder's output for the source, in place of `input_ids`. It has its own mask.
            cache: the state after earlier target positions; `decoder_input_ids` then has the new tokens only.
            labels: (B, T) target token ids to predict; `-100` where there is nothing to predict.
            use_cache: whether to return the state as `cache`; by default `config.use_cache` without labels, and false
                with them.
            output_attentions: whether to return `cross_attentions`, one tensor (B, 1, T, S) over source positions, of
                a model with attention.
            output_hidden_states: whether to return the states of the encoder, (B, S, ...), and of the decoder,
                (B, T, D), one tensor each.
            smoothing: label smoothing, from 0 (off) to 1; see `smoothed_cross_entropy`. It is not called
                `label_smoothing`, because the library's `Trainer` takes every argument with "label" in its name for a
                column of labels.
            r_drop_weight: weight of R-Drop, for which the second half of the batch repeats the first; see
                `smoothed_cross_entropy`.
            num_items_in_batch: number of target tokens in the whole update; the summed loss is divided by it.
            kwargs: arguments of the library that these models have no use for.

        Returns:
            The loss, a scalar, if there are labels, and the logits, (B, T, V). In training with labels the logits are
            `None`, because the loss never holds them all.

        Raises:
            ValueError: there is no source or no target, one does not fit the other, or target padding comes before
                tokens.
            TypeError: `encoder_outputs` is a tuple.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None:
            raise ValueError(
                "Neither decoder_input_ids nor labels are given. Give one; to translate, call generate()."
            )
        if decoder_attention_mask is not None and (decoder_attention_mask.diff(dim=1) > 0).any():
            raise ValueError(
                "decoder_attention_mask has padding before target tokens, which a recurrent decoder would read. Pad "
                "the target on the right."
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
            check_rows(input_ids, decoder_input_ids)
        check_encoder_outputs(encoder_outputs)

        decoded = self.decoder(decoder_input_ids, encoder_outputs, None if cache is None else cache["state"])
        if cache is not None:
            cache.advance(decoder_input_ids.shape[1], state=decoded.state)
        elif self.config.use_cache if use_cache is None else use_cache:
            cache = RecurrentState({"state": decoded.state}, seen_tokens=decoder_input_ids.shape[1])

        loss = None
        if labels is not None:
            loss = target_token_loss(
                decoded.features,
                self.lm_head,
                labels,
                label_smoothing=smoothing,
                r_drop_weight=r_drop_weight,
                num_items_in_batch=num_items_in_batch,
            )
        logits = None
        if labels is None or not self.training:
            logits = self.lm_head(decoded.features)
        cross_attentions = None
        if output_attentions and decoded.attention_weights is not None:
            cross_attentions = (decoded.attention_weights,)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: cache},
            decoder_hidden_states=(decoded.last_hidden_state,) if output_hidden_states else None,
            cross_attentions=cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=(encoder_outputs.last_hidden_state,) if output_hidden_states else None,
        )
