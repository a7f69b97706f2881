"""The loss against PyTorch's, source alignment and the shifted target against written-out examples."""

import math

import pytest
import torch
from torch import nn

from seq2seq_scratch import chunked_cross_entropy
from seq2seq_scratch.dropout import Dropout
from seq2seq_scratch.recurrent_common import RecurrentState, align_left
from seq2seq_scratch.seq2seq_common import inverse_permutation, shift_tokens_right
from seq2seq_scratch.token_loss import target_token_loss


@pytest.fixture
def batch():
    """Returns features (3, 5, 8), a softmax layer for 11 tokens and targets (3, 5), some of which do not count."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 11, (3, 5), generator=generator)
    labels[0, 3:] = -100
    labels[2, 1] = -100
    torch.manual_seed(0)
    return torch.randn(3, 5, 8, generator=generator), nn.Linear(8, 11), labels


def value_and_gradients(loss_of, features, projection):
    features = features.clone().requires_grad_()
    projection.zero_grad()
    loss = loss_of(features)
    loss.backward()
    return [loss.detach(), features.grad, *(parameter.grad.clone() for parameter in projection.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows_per_chunk", [4, 1024])
def test_loss_and_gradients_equal_cross_entropy(batch, bias, label_smoothing, rows_per_chunk, monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", rows_per_chunk)
    features, _, labels = batch
    projection = nn.Linear(8, 11, bias=bias)

    def reference(features):
        logits = projection(features).flatten(0, 1)
        return nn.functional.cross_entropy(logits, labels.flatten(), label_smoothing=label_smoothing)

    def ours(features):
        return target_token_loss(features, projection, labels, label_smoothing=label_smoothing)

    expected = value_and_gradients(reference, features, projection)
    for actual, wanted in zip(value_and_gradients(ours, features, projection), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number_type", [int, torch.tensor])
def test_loss_divides_by_the_tokens_of_the_whole_update(batch, number_type):
    features, projection, labels = batch
    mean = target_token_loss(features, projection, labels)
    counted = int((labels != -100).sum())
    loss = target_token_loss(features, projection, labels, num_items_in_batch=number_type(4 * counted))
    torch.testing.assert_close(loss * 4, mean)


def test_accumulated_gradients_equal_one_large_batch(batch):
    features, projection, labels = batch
    total = int((labels != -100).sum())

    def in_parts(features):
        return sum(
            target_token_loss(features[part], projection, labels[part], num_items_in_batch=total)
            for part in (slice(0, 1), slice(1, 3))
        )

    def at_once(features):
        return target_token_loss(features, projection, labels)

    expected = value_and_gradients(at_once, features, projection)
    for actual, wanted in zip(value_and_gradients(in_parts, features, projection), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_smoothed_loss_of_a_worked_example():
    """Three tokens with probabilities 1/2, 1/4, 1/4; the first is right; 0.3 is spread over all three."""
    projection = nn.Linear(1, 3)
    with torch.no_grad():
        projection.weight.zero_()
        projection.bias.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
    loss = target_token_loss(torch.zeros(1, 1, 1), projection, torch.tensor([[0]]), label_smoothing=0.3)
    # Targets 0.8, 0.1, 0.1 in bits: 0.8 * 1 + 0.1 * 2 + 0.1 * 2 = 1.2
    assert loss.item() == pytest.approx(1.2 * math.log(2))


@pytest.mark.parametrize("kind", [nn.Linear, type("AdaptedLinear", (nn.Linear,), {})])
@pytest.mark.parametrize("rows_per_chunk", [4, 1024])
def test_r_drop_and_its_gradients_equal_the_divergences_written_out(batch, kind, rows_per_chunk, monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", rows_per_chunk)
    features, _, labels = batch
    projection = kind(8, 11)
    features, labels = torch.cat([features, features.roll(1, dims=2)]), labels.repeat(2, 1)
    counted = labels != -100

    def reference(features):
        logits = projection(features)[counted]
        one, other = logits.log_softmax(dim=-1).chunk(2)
        divergences = [
            nn.functional.kl_div(*pair, reduction="sum", log_target=True) for pair in ((one, other), (other, one))
        ]
        loss = nn.functional.cross_entropy(logits, labels[counted], label_smoothing=0.1, reduction="sum")
        return (loss + 3.0 / 2 * sum(divergences)) / counted.sum()

    def ours(features):
        return target_token_loss(features, projection, labels, label_smoothing=0.1, r_drop_weight=3.0)

    expected = value_and_gradients(reference, features, projection)
    for actual, wanted in zip(value_and_gradients(ours, features, projection), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


def test_r_drop_needs_every_row_twice(batch):
    with pytest.raises(ValueError, match="r_drop_weight is 1.0, but the batch has 3 rows"):
        target_token_loss(*batch, r_drop_weight=1.0)


def test_loss_survives_logits_far_apart():
    projection = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[500.0], [-500.0]]))
    loss = target_token_loss(torch.ones(1, 1, 1), projection, torch.tensor([[1]]))
    assert loss.item() == pytest.approx(1000)


def test_loss_without_counted_tokens_is_zero(batch):
    features, projection, labels = batch
    loss = target_token_loss(features.requires_grad_(), projection, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_loss_under_autocast_is_fp32_and_close(batch):
    features, projection, labels = batch
    exact = target_token_loss(features, projection, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = target_token_loss(features.requires_grad_(), projection, labels)
    loss.backward()
    assert loss.dtype == projection.weight.grad.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)


def test_shift_puts_the_start_token_first_and_pads_what_does_not_count():
    labels = torch.tensor([[7, 8, 3], [9, 3, -100]])
    shifted = shift_tokens_right(labels, pad_token_id=1, decoder_start_token_id=2)
    assert shifted.tolist() == [[2, 7, 8], [2, 9, 3]]
    assert shift_tokens_right(torch.tensor([[5, -100, -100]]), 1, 2).tolist() == [[2, 5, 1]]


def test_align_left_gathers_real_tokens_from_any_side():
    tokens = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 0, 0, 0], [0, 5, 6, 7, 0], [1, 2, 3, 4, 5]])
    order, lengths = align_left(tokens != 0)
    assert tokens.gather(1, order).tolist() == [[5, 6, 7, 0, 0], [5, 6, 0, 0, 0], [5, 6, 7, 0, 0], [1, 2, 3, 4, 5]]
    order, lengths = align_left(tokens != 0, reverse=True)
    assert tokens.gather(1, order).tolist() == [[7, 6, 5, 0, 0], [6, 5, 0, 0, 0], [7, 6, 5, 0, 0], [5, 4, 3, 2, 1]]
    assert lengths.tolist() == [3, 2, 3, 5]


@pytest.mark.parametrize("reverse", [False, True])
def test_align_left_is_the_stable_sort_of_any_mask_and_its_inverse_undoes_it(reverse):
    mask = torch.rand(50, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    order, _ = align_left(mask, reverse)
    positions = torch.arange(9)
    keys = torch.where(mask, -positions if reverse else positions, 9)
    assert torch.equal(order, keys.argsort(dim=1, stable=True))
    assert torch.equal(order.gather(1, inverse_permutation(order)), positions.expand(50, 9))


def test_align_left_gives_a_row_of_padding_one_state():
    assert align_left(torch.tensor([[0, 0], [1, 0]]))[1].tolist() == [1, 1]


def test_recurrent_state_follows_its_rows():
    cache = RecurrentState({"state": torch.tensor([[1.0], [2.0]])})
    cache.batch_repeat_interleave(2)
    assert cache["state"].tolist() == [[1.0], [1.0], [2.0], [2.0]]
    cache.advance(3, state=torch.arange(4.0)[:, None])
    cache.reorder_cache(torch.tensor([3, 3, 0, 1]))
    assert cache["state"].tolist() == [[3.0], [3.0], [0.0], [1.0]]
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dropout_keeps_the_right_share_and_scales_it(dtype):
    torch.manual_seed(0)
    ones = torch.ones(101, 999, dtype=dtype, requires_grad=True)
    dropped = Dropout(0.3)(ones)
    assert dropped.dtype == dtype
    kept = dropped != 0
    # Four standard deviations of a share of 100,899.
    assert kept.double().mean().item() == pytest.approx(0.7, abs=4 * (0.3 * 0.7 / ones.numel()) ** 0.5)
    torch.testing.assert_close(dropped[kept].float(), torch.full((int(kept.sum()),), 1 / 0.7), rtol=0.01, atol=0.0)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped)


def test_dropout_neighbours_are_independent():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(40_000)) != 0).double()
    for distance in range(1, 9):
        together = (kept[distance:] * kept[:-distance]).mean().item()
        assert together == pytest.approx(0.25, abs=0.015), distance


def test_dropout_follows_the_seed_and_leaves_evaluation_alone():
    numbers, dropout = torch.randn(5, 7), Dropout(0.5)

    def draw(seed):
        torch.manual_seed(seed)
        return dropout(numbers)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert dropout.eval()(numbers) is numbers
    assert Dropout(0.0)(numbers) is numbers
    transposed = numbers.T
    torch.manual_seed(1)
    kept = dropout.train()(transposed)
    torch.testing.assert_close(kept[kept != 0], 2 * transposed[kept != 0])
