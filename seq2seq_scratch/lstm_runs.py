"""The fast form of an LSTM's run over a batch of sentences of different lengths.

Skip this file on first reading. `modeling_rnn_seq2seq.py` has the plain form, and tests hold both to the same numbers.

Dimensions: as in `modeling_rnn_seq2seq.py`.
"""

import torch
from torch import nn

from .seq2seq_common import inverse_permutation, product_dtype


def fast_run_lstm(
    lstm: nn.LSTM,
    inputs: torch.Tensor,
    lengths: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `run_lstm` with `nn.LSTM`; takes either `lengths` or `state`."""
    if inputs.device.type == "cpu" and product_dtype(inputs) == torch.bfloat16 and not _onednn_has_bf16():
        # Autocast leaves an LSTM with inputs in fp32 to oneDNN. With inputs in bf16, PyTorch's own code computes it.
        inputs = inputs.to(torch.bfloat16)
    if lengths is not None:
        return _run_lstm_to_lengths(lstm, inputs, lengths)
    hidden, cell = (part.contiguous() for part in state.permute(2, 1, 0, 3))  # B L 2 D -> L B D each
    outputs, (hidden, cell) = lstm(inputs, (hidden, cell))
    return outputs, torch.stack([hidden, cell], dim=2).transpose(0, 1)  # L B D each -> B L 2 D


def _onednn_has_bf16() -> bool:
    """Returns True if oneDNN computes in bf16 here; on processors without AVX-512 it raises an error."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _run_lstm_to_lengths(
    lstm: nn.LSTM, inputs: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs an LSTM over rows of different lengths, each row exactly to its end.

    Packed sequences would compute the same, but on CPU they do not use the fused bf16 kernels, which are three times
    as fast as those for fp32. So the time axis is cut at the lengths that occur, and after each cut the finished rows
    leave the batch. A batch of sentences of similar length has few cuts and costs little more than a run without
    padding.
    """
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
        finished_states.append(torch.stack([hidden[:, running:], cell[:, running:]], dim=2))  # (L, ending, 2, D)
        state = hidden[:, :running].contiguous(), cell[:, :running].contiguous()
    given_order = inverse_permutation(longest_first)
    outputs = nn.functional.pad(torch.cat(outputs, dim=1), (0, 0, 0, padded_length - start))
    final_state = torch.cat(finished_states[::-1], dim=1).transpose(0, 1)
    return outputs[given_order], final_state[given_order]
