"""Translation through one fixed vector (Sutskever, Vinyals and Le 2014), in plain form.

A deep LSTM reads the source. Its final state is the fixed vector v, from which a second deep LSTM, a language model
over the target, starts (section 2):

    P(y_1 ... y_T | x_1 ... x_S) = prod_t P(y_t | v, y_1 ... y_{t-1})

The equations of the LSTM and its run over a sequence are written out in `lstm_step` and `run_lstm`. `lstm_runs.py` has
the fast form, `nn.LSTM`, which training and `generate()` use by default. Run a model inside `plain_forms()` to step
through the plain form in a debugger.

Dimensions: B batch, S source length, T target length, L layers, E embedding size, D hidden size, V target vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .dropout import Dropout, dropout
from .lstm_runs import fast_run_lstm
from .plain_forms import plain_forms_are_on
from .recurrent_common import RecurrentDecoderOutput, RecurrentTranslationModel, align_left
from .seq2seq_common import TokenEmbedding, inverse_permutation, source_mask


def lstm_step(
    lstm: nn.LSTM, layer: int, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes one step of one layer of an LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000):

        i = sigmoid(W_i x + U_i h + b_i)     the input gate: how much of g is written to the cell
        f = sigmoid(W_f x + U_f h + b_f)     the forget gate: how much of the cell is kept
        g = tanh(W_g x + U_g h + b_g)        what is written
        o = sigmoid(W_o x + U_o h + b_o)     the output gate: how much of the cell is shown
        c' = f * c + i * g
        h' = o * tanh(c')

    The cell is a sum, so on its direct path a gradient is multiplied by f alone at each step. In a simple recurrent
    network it is multiplied by a matrix at every step, and vanishes or explodes.

    The paper takes the LSTM of Graves 2013, whose gates also read the cell through a vector of weights each
    (peepholes). `nn.LSTM` has none, so neither has this form.

    Args:
        lstm: holds the weights of all layers; those of the four gates are stacked in the order i, f, g, o.
        layer: the layer's index.
        inputs: (B, E) x, or (B, D) from the layer below.
        hidden: (B, D) h.
        cell: (B, D) c.

    Returns:
        h' and c', (B, D) each.
    """
    W, U, b_W, b_U = (getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    gates = inputs @ W.T + b_W + hidden @ U.T + b_U  # B E, B D -> B 4D
    i, f, g, o = gates.chunk(4, dim=-1)  # B 4D -> B D each
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    cell = f * cell + i * g
    return o * torch.tanh(cell), cell


def run_lstm(
    lstm: nn.LSTM,
    inputs: torch.Tensor,
    lengths: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a deep LSTM over a batch of sequences; each layer reads the outputs of the layer below.

    Args:
        lstm: one direction, batch first. Dropout acts between its layers in training.
        inputs: (B, S, E), padding after the tokens.
        lengths: (B,) between 1 and S, for a run that starts from 0; a row keeps its state from its end on.
        state: (B, L, 2, D) h and c of every layer at the start, for a run in which every row is S long. The fast form
            takes either `lengths` or `state`.

    Returns:
        The top layer's outputs, (B, S, D), which are 0 after each row's end, and the last h and c of every layer,
        (B, L, 2, D).
    """
    # torch.export writes down one graph for all lengths, and the fast form chooses its steps by them.
    if not plain_forms_are_on() and not (lengths is not None and torch.compiler.is_exporting()):
        return fast_run_lstm(lstm, inputs, lengths, state)
    batch_size, steps, _ = inputs.shape
    if state is None:
        state = inputs.new_zeros(batch_size, lstm.num_layers, 2, lstm.hidden_size)
    hidden, cell = ([*part.unbind(1)] for part in state.unbind(2))  # B L 2 D -> L times B D each
    outputs = []
    for step in range(steps):
        layer_inputs = inputs[:, step]
        running = None if lengths is None else (step < lengths)[:, None]  # B 1
        for layer in range(lstm.num_layers):
            if layer > 0:
                layer_inputs = dropout(layer_inputs, lstm.dropout, lstm.training)
            new_hidden, new_cell = lstm_step(lstm, layer, layer_inputs, hidden[layer], cell[layer])
            if running is not None:
                new_hidden = torch.where(running, new_hidden, hidden[layer])
                new_cell = torch.where(running, new_cell, cell[layer])
            hidden[layer], cell[layer] = new_hidden, new_cell
            layer_inputs = new_hidden
        outputs.append(layer_inputs if running is None else torch.where(running, layer_inputs, 0.0))
    final_state = torch.stack([torch.stack(hidden, dim=1), torch.stack(cell, dim=1)], dim=2)  # B L 2 D
    return torch.stack(outputs, dim=1), final_state


@dataclass
class LSTMEncoderOutput(ModelOutput):
    """The encoder's output.

    Args:
        last_hidden_state: (B, S, D) the top layer's output at each source position, 0 at padding. The decoder does
            not see it.
        final_state: (B, L, 2, D) the fixed vector: h and c of every layer after the last token read.
    """

    last_hidden_state: torch.Tensor | None = None
    final_state: torch.Tensor | None = None


class LSTMEncoder(nn.Module):
    """Reads the source into the final state of a deep LSTM (section 3.4), backwards if `reverse_source`.

    Section 3.3 gives the reason for the reversal: the first words of source and target are then close together, so
    training finds the connection between the two sentences more easily.
    """

    main_input_name = "input_ids"  # generate() reads this

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.reverse_source = config.reverse_source
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.embedding_size)
        self.dropout = Dropout(config.dropout)
        self.lstm = _build_lstm(config)

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> LSTMEncoderOutput:
        """Encodes the source.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S) with 1 at real tokens; by default all tokens but `pad_token_id` are real.
            kwargs: ignored; `generate()` passes the arguments of the whole model.

        Raises:
            ValueError: there is no source, or the mask does not fit it (see `source_mask`).
        """
        mask = source_mask(input_ids, attention_mask, self.pad_token_id)
        reading_order, lengths = align_left(mask, reverse=self.reverse_source)
        embedded = self.dropout(self.embed_tokens(input_ids.gather(1, reading_order)))  # B S -> B S E
        outputs, final_state = run_lstm(self.lstm, embedded, lengths)  # B S E -> B S D, B L 2 D
        step_of_position = inverse_permutation(reading_order)
        return LSTMEncoderOutput(
            last_hidden_state=outputs.gather(1, step_of_position[:, :, None].expand_as(outputs)),
            final_state=final_state,
        )


class LSTMDecoder(nn.Module):
    """A language model over the target whose LSTM starts from the encoder's final state."""

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.embed_tokens = TokenEmbedding(config.decoder_vocab_size, config.embedding_size)
        self.dropout = Dropout(config.dropout)
        self.lstm = _build_lstm(config)

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        encoder_outputs: LSTMEncoderOutput,
        state: torch.Tensor | None = None,
    ) -> RecurrentDecoderOutput:
        """Reads target tokens one after the other, in training the right ones (teacher forcing).

        Args:
            decoder_input_ids: (B, T) token ids y_0 ... y_{T-1}.
            encoder_outputs: the encoder's output for the source of each row.
            state: (B, L, 2, D) the state to continue from; by default the encoder's final state.

        Returns:
            What the softmax layer reads, (B, T, D), the top layer's outputs, (B, T, D), and the last state,
            (B, L, 2, D).
        """
        if state is None:
            state = encoder_outputs.final_state
        embedded = self.dropout(self.embed_tokens(decoder_input_ids))  # B T -> B T E
        outputs, state = run_lstm(self.lstm, embedded, state=state)  # B T E -> B T D, B L 2 D
        return RecurrentDecoderOutput(features=self.dropout(outputs), last_hidden_state=outputs, state=state)


def _build_lstm(config: RNNSeq2SeqConfig) -> nn.LSTM:
    return nn.LSTM(
        config.embedding_size,
        config.hidden_size,
        config.num_hidden_layers,
        batch_first=True,
        # nn.LSTM warns of dropout in a single layer, because it acts between layers only.
        dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
    )


class RNNSeq2SeqForConditionalGeneration(RecurrentTranslationModel):
    """Both LSTMs and the softmax layer; `forward` and `generate()` as in `RecurrentTranslationModel`."""

    config: RNNSeq2SeqConfig
    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__(config)
        self.encoder = LSTMEncoder(config)
        self.decoder = LSTMDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.decoder_vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draws all parameters from one uniform distribution.

        Section 3.4 says so of the LSTM's parameters, and names none for the embeddings and the softmax layer.
        """
        limit = self.config.initializer_range
        for name, parameter in module.named_parameters(recurse=False):
            init.uniform_(parameter, -limit, limit)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                # The gates are stacked in the order i, f, g, o.
                bias = torch.empty_like(parameter).uniform_(-limit, limit)
                bias.chunk(4)[1].add_(self.config.forget_gate_bias)
                init.copy_(parameter, bias)


__all__ = ["RNNSeq2SeqForConditionalGeneration"]
