"""Code that both packages hold, since neither imports the other, gives the same results in both."""

import pytest
import torch
from torch import nn

import gpt1_scratch.dropout
import gpt1_scratch.modeling_gpt1
import gpt1_scratch.token_loss
import seq2seq_scratch.dropout
import seq2seq_scratch.modeling_transformer
import seq2seq_scratch.token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_has_the_same_rate_and_scale(probability, dtype):
    count = 200_000
    deviation = (probability * (1 - probability) / count) ** 0.5
    values = []
    for package in (gpt1_scratch, seq2seq_scratch):
        torch.manual_seed(0)
        ones = torch.ones(count, dtype=dtype, requires_grad=True)
        dropped = package.dropout.dropout(ones, probability, True)
        (gradient,) = torch.autograd.grad(dropped.sum(), ones)
        assert torch.equal(gradient, dropped)
        assert abs((dropped == 0).double().mean().item() - probability) < 5 * deviation
        values.append(dropped.detach().float().max())
    torch.testing.assert_close(values[0], values[1], rtol=2e-5 if dtype == torch.float32 else 0.004, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_the_same_predictions_are_equal(dtype):
    torch.manual_seed(0)
    states, labels = torch.randn(3, 7, 16, dtype=dtype), torch.randint(50, (3, 7))
    labels[:, 5:] = -100
    layer = nn.Linear(16, 50, bias=False, dtype=dtype)
    results = []
    for number in (None, 40):
        ours = gpt1_scratch.token_loss.next_token_loss(states, layer, None, number, shift_labels=labels)
        theirs = seq2seq_scratch.token_loss.target_token_loss(states, layer, labels, num_items_in_batch=number)
        results.append([(loss, *torch.autograd.grad(loss, layer.weight)) for loss in (ours, theirs)])
    for ours, theirs in results:
        tolerance = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.01}
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_sinusoids_are_the_same_columns_in_another_order():
    ours = gpt1_scratch.modeling_gpt1.sinusoids(20, 8)  # sines, then cosines
    theirs = seq2seq_scratch.modeling_transformer.sinusoids(20, 8)  # a sine, then its cosine
    torch.testing.assert_close(ours, torch.cat([theirs[:, 0::2], theirs[:, 1::2]], dim=1))


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (1, 4), (2, 5)])
def test_causal_masks_are_the_same_triangle(queries, keys):
    ours = gpt1_scratch.modeling_gpt1.causal_mask(queries, keys)
    assert torch.equal(ours, seq2seq_scratch.modeling_transformer.causal_mask(queries, keys))
