"""The fast form of an LSTM's run over a batch of sentences of different lengths.

Skip this file on first reading. `modeling_rnn_seq2seq.py` has the plain form, and tests hold both to the same numbers.

Dimensions: as in `modeling_rnn_seq2seq.py`.
"""

from collections import Counter

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
    outputs, (hidden, cell) = call_lstm(lstm, inputs, (hidden, cell))
    return outputs, torch.stack([hidden, cell], dim=2).transpose(0, 1)  # L B D each -> B L 2 D


def call_lstm(
    lstm: nn.LSTM, inputs: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Calls `nn.LSTM`, on an accelerator outside of autocast.

    On a GPU, autocast gives cuDNN's LSTM float16 even if its own type is bf16 (aten/src/ATen/cudnn/AutocastRNN.cpp).
    Most gradients of a loss that is not scaled are below float16's smallest normal number, 6e-5, and lose bits. In
    fp32, cuDNN rounds the factors of its products to TF32, which has the range of bf16 and three bits more.

    GPT-1's package has the same function; the packages do not import each other.

    Args:
        lstm: one direction, batch first.
        inputs: (B, S, E).
        state: the h and c to start from, (L, B, D) each; None for zeros.

    Returns:
        The top layer's outputs, (B, S, D), and the last h and c, (L, B, D) each.
    """
    device_type = inputs.device.type
    if device_type == "cpu" or not torch.amp.is_autocast_available(device_type):
        return lstm(inputs, state)
    dtype = lstm.weight_ih_l0.dtype
    with torch.autocast(device_type, enabled=False):
        return lstm(inputs.to(dtype), None if state is None else tuple(part.to(dtype) for part in state))


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
    # One copy to the host, because on an accelerator each waits for all that is queued.
    rows_that_end = Counter(lengths.tolist())
    state = None
    outputs, finished_states = [], []
    start, running = 0, batch_size
    for end, ending in sorted(rows_that_end.items()):
        output, (hidden, cell) = call_lstm(lstm, inputs[:running, start:end], state)
        outputs.append(nn.functional.pad(output, (0, 0, 0, 0, 0, batch_size - running)))
        start, running = end, running - ending
        finished_states.append(torch.stack([hidden[:, running:], cell[:, running:]], dim=2))  # (L, ending, 2, D)
        state = hidden[:, :running].contiguous(), cell[:, :running].contiguous()
    given_order = inverse_permutation(longest_first)
    outputs = nn.functional.pad(torch.cat(outputs, dim=1), (0, 0, 0, padded_length - start))
    final_state = torch.cat(finished_states[::-1], dim=1).transpose(0, 1)
    return outputs[given_order], final_state[given_order]
