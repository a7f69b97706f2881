"""The loss of GPT-1's language model, against cross-entropy."""

import pytest
import torch
from tiny_gpt1 import gradients, tiny_model, tokens
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gpt1_scratch import modeling_gpt1


@pytest.mark.parametrize("num_items_in_batch", [None, 17, torch.tensor(17)])
def test_loss_and_gradients_equal_cross_entropy(num_items_in_batch, small_blocks):
    model, input_ids = tiny_model(), tokens(3, 12)
    labels = input_ids.clone()
    labels[0, :5] = -100
    labels[2] = -100
    loss = model.train()(input_ids, labels=labels, num_items_in_batch=num_items_in_batch).loss
    found = gradients(model, loss)
    logits = model(input_ids).logits[:, :-1].flatten(0, 1)
    expected = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    expected = expected / (num_items_in_batch or (labels[:, 1:] != -100).sum())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, gradients(model, expected))


def test_loss_without_any_label_is_zero():
    model, input_ids = tiny_model(), tokens(2, 6)
    loss = model.train()(input_ids, labels=torch.full_like(input_ids, -100)).loss
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss).values())


def softmax_layer(vocabulary, width):
    layer = torch.nn.Linear(width, vocabulary, bias=False)
    torch.nn.init.normal_(layer.weight)
    return layer


def test_bfloat16_loss_is_close_to_the_exact_one():
    torch.manual_seed(0)
    states, head = torch.randn(4, 100, 64), softmax_layer(300, 64)
    labels = torch.randint(300, (4, 100))
    exact = modeling_gpt1.next_token_loss(states, head, labels)
    (exact_gradient,) = torch.autograd.grad(exact, head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = modeling_gpt1.next_token_loss(states, head, labels)
    (gradient,) = torch.autograd.grad(rounded, head.weight)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)
    assert functional.cosine_similarity(gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.999


class LargestTensors(TorchDispatchMode):
    """Records the rows of every matrix product with the vocabulary and the largest tensor made."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size, self.logit_rows, self.largest = vocab_size, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
            if function is torch.ops.aten.mm.default and result.shape[1] == self.vocab_size:
                self.logit_rows += result.shape[0]
        return result


def test_loss_never_holds_all_logits_and_ignored_labels_cost_nothing(small_blocks):
    states, head = torch.randn(4, 50, 8), softmax_layer(300, 8)
    labels = torch.randint(300, (4, 50))
    labels[:, 10:] = -100
    with LargestTensors(vocab_size=300) as record:
        modeling_gpt1.next_token_loss(states, head, labels).backward()
    assert record.logit_rows == 4 * 9
    assert record.largest == max(7 * 300, head.weight.numel())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("label", [-1, -99, 61])
def test_a_label_that_is_no_token_is_an_error_and_not_another_token(label, training):
    model, input_ids = tiny_model().train(training), tokens(2, 6)
    labels = input_ids.clone()
    labels[1, 3] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        model(input_ids, labels=labels)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (1, 6), (12,)])
def test_labels_of_another_shape_are_refused(shape):
    model = tiny_model().train()
    with pytest.raises(ValueError, match=r"labels have the shape .*, but the tokens \(2, 6\)"):
        model(tokens(2, 6), shift_labels=torch.ones(shape, dtype=torch.long))


def test_labels_that_are_shifted_already_are_taken_as_they_are():
    """The library passes shifted labels when it splits sequences between devices."""
    model, input_ids = tiny_model().train(), tokens(2, 6)
    shifted = functional.pad(input_ids[:, 1:], (0, 1), value=-100)
    expected = model(input_ids, labels=input_ids).loss
    torch.testing.assert_close(model(input_ids, shift_labels=shifted).loss, expected)
    outputs = model(input_ids, labels=torch.zeros_like(input_ids), shift_labels=shifted)
    torch.testing.assert_close(outputs.loss, expected)
    assert outputs.logits is None


def test_logits_are_returned_where_they_are_wanted():
    model, input_ids = tiny_model(), tokens(2, 6)
    assert model.train()(input_ids, labels=input_ids).logits is None
    assert model(input_ids).logits.shape == (2, 6, 61)
    full = model.eval()(input_ids, labels=input_ids)
    assert full.logits.shape == (2, 6, 61)
    last = model(input_ids, labels=input_ids, logits_to_keep=1)
    torch.testing.assert_close(last.logits, full.logits[:, -1:])
    torch.testing.assert_close(last.loss, full.loss)
    chosen = model(input_ids, logits_to_keep=torch.tensor([1, 4])).logits
    torch.testing.assert_close(chosen, full.logits[:, [1, 4]])
