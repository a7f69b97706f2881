"""Translation through one fixed vector (Sutskever, Vinyals and Le 2014): a deep LSTM reads, another one writes.

Dimensions: B batch, S source length, T target length, L layers, E embedding size, H hidden size, V target vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .dropout import Dropout
from .recurrent_common import RecurrentDecoderOutput, RecurrentTranslationModel, align_left
from .seq2seq_common import inverse_permutation


@dataclass
class LSTMEncoderOutput(ModelOutput):
    """What the encoder knows of the source.

    Args:
        last_hidden_state: (B, S, H) the top layer's output at each source position, 0 at padding. The decoder does
            not see it.
        final_state: (B, L, 2, H) the fixed vector: h and c of every layer after the last token read.
    """

    last_hidden_state: torch.Tensor | None = None
    final_state: torch.Tensor | None = None


def run_lstm_to_lengths(
    lstm: nn.LSTM, inputs: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs an LSTM over rows of unequal length, each exactly to its end.

    Packed sequences would do the same, but on CPUs they leave the fused bf16 kernels, three times as fast as fp32's.
    So the time axis is cut at the lengths that occur, and after each cut the finished rows drop out. A batch of
    similar lengths has few of them, and then little is lost against a run without padding.

    Args:
        lstm: batch first, in one direction.
        inputs: (B, S, E), padding behind the tokens.
        lengths: (B,) between 1 and S.

    Returns:
        (B, S, H) the top layer's outputs, 0 behind each row's end, and (B, L, 2, H) each row's last h and c.
    """
    if torch.compiler.is_exporting():
        return run_lstm_step_by_step(lstm, inputs, lengths)
    batch_size, padded_length, _ = inputs.shape
    longest_first = lengths.argsort(descending=True, stable=True)
    inputs = inputs[longest_first]
    distinct_lengths, rows_that_end = lengths.unique(return_counts=True)
    state = None
    outputs, finished_states = [], []
    start, running = 0, batch_size
    for end, ending in zip(distinct_lengths.tolist(), rows_that_end.tolist(), strict=True):
        output, (hidden, cell) = lstm(inputs[:running, start:end], state)
        outputs.append(nn.functional.pad(output, (0, 0, 0, 0, 0, batch_size - running)))
        start, running = end, running - ending
        finished_states.append(torch.stack([hidden[:, running:], cell[:, running:]], dim=2))  # (L, ending, 2, H)
        state = hidden[:, :running].contiguous(), cell[:, :running].contiguous()
    given_order = inverse_permutation(longest_first)
    outputs = nn.functional.pad(torch.cat(outputs, dim=1), (0, 0, 0, padded_length - start))
    final_state = torch.cat(finished_states[::-1], dim=1).transpose(0, 1)
    return outputs[given_order], final_state[given_order]


def run_lstm_step_by_step(
    lstm: nn.LSTM, inputs: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`run_lstm_to_lengths` for `torch.export`, in whose graph the lengths cannot decide what is computed.

    Every row takes every step, and keeps its state from its end on.
    """
    hidden = cell = inputs.new_zeros(lstm.num_layers, inputs.shape[0], lstm.hidden_size)
    outputs = []
    for step in range(inputs.shape[1]):
        output, (new_hidden, new_cell) = lstm(inputs[:, step : step + 1], (hidden, cell))
        running = (step < lengths)[:, None]
        hidden, cell = torch.where(running, new_hidden, hidden), torch.where(running, new_cell, cell)
        outputs.append(torch.where(running, output[:, 0], 0.0))
    return torch.stack(outputs, dim=1), torch.stack([hidden, cell], dim=2).transpose(0, 1)


class LSTMEncoder(nn.Module):
    """Reads the source into the final state of a deep LSTM (section 3.4), backwards if `reverse_source`."""

    main_input_name = "input_ids"  # asked for by generate()

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.reverse_source = config.reverse_source
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = Dropout(config.dropout)
        self.lstm = _build_lstm(config)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> LSTMEncoderOutput:
        """Encodes (B, S) token ids; the mask (B, S) is 1 at real tokens, by default all but `pad_token_id`."""
        if attention_mask is None:
            attention_mask = input_ids != self.pad_token_id
        reading_order, lengths = align_left(attention_mask, reverse=self.reverse_source)
        embedded = self.dropout(self.embed_tokens(input_ids.gather(1, reading_order)))
        outputs, final_state = run_lstm_to_lengths(self.lstm, embedded, lengths)
        step_of_position = inverse_permutation(reading_order)
        return LSTMEncoderOutput(
            last_hidden_state=outputs.gather(1, step_of_position[:, :, None].expand_as(outputs)),
            final_state=final_state,
        )


class LSTMDecoder(nn.Module):
    """A language model over the target whose LSTM starts from the encoder's final state."""

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.decoder_vocab_size, config.embedding_size)
        self.dropout = Dropout(config.dropout)
        self.lstm = _build_lstm(config)

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        encoder_outputs: LSTMEncoderOutput,
        state: torch.Tensor | None = None,
    ) -> RecurrentDecoderOutput:
        """Reads (B, T) token ids from `state` (B, L, 2, H), by default the encoder's final state."""
        if state is None:
            state = encoder_outputs.final_state
        hidden, cell = (part.contiguous() for part in state.permute(2, 1, 0, 3))  # (L, B, H) each
        embedded = self.dropout(self.embed_tokens(decoder_input_ids))
        outputs, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        return RecurrentDecoderOutput(
            features=self.dropout(outputs),
            last_hidden_state=outputs,
            state=torch.stack([hidden, cell], dim=2).transpose(0, 1),  # (B, L, 2, H)
        )


def _build_lstm(config: RNNSeq2SeqConfig) -> nn.LSTM:
    return nn.LSTM(
        config.embedding_size,
        config.hidden_size,
        config.num_hidden_layers,
        batch_first=True,
        # nn.LSTM warns of a dropout that a single layer has no place for.
        dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
    )


class RNNSeq2SeqForConditionalGeneration(RecurrentTranslationModel):
    """The LSTM encoder-decoder with its softmax; `forward` and `generate()` as in `RecurrentTranslationModel`."""

    config: RNNSeq2SeqConfig
    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__(config)
        self.encoder = LSTMEncoder(config)
        self.decoder = LSTMDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.decoder_vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Section 3.4 draws all LSTM parameters from one uniform distribution; here embeddings and softmax too."""
        limit = self.config.initializer_range
        for name, parameter in module.named_parameters(recurse=False):
            init.uniform_(parameter, -limit, limit)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                # The gates stand in the order input, forget, cell, output.
                bias = torch.empty_like(parameter).uniform_(-limit, limit)
                bias.chunk(4)[1].add_(self.config.forget_gate_bias)
                init.copy_(parameter, bias)


__all__ = ["RNNSeq2SeqForConditionalGeneration"]
