"""What the tests of several families share."""

import unittest

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers_tests.test_modeling_common import ModelTesterMixin


class LibraryTests(ModelTesterMixin):
    """The library's tests of one model class; one at a time, as the first one of several to skip a test skips all."""

    # Else left out, as if the models were older than 2023.
    test_can_init_all_missing_weights_before_2023 = True

    @unittest.skip("the library's tests of generate() are not in its distribution: tests/test_*.py have ours")
    def test_generation_tester_mixin_inheritance(self):
        pass


def assert_loss_is_aligned(test: unittest.TestCase, model_class: type[PreTrainedModel]) -> None:
    """The library's test that the loss does not shift `labels` a second time, for losses that hold no logits.

    The library follows the gradient from the loss to the logits it returned. Ours is computed without them, in blocks
    of rows, so here it is followed to the softmax matrix.
    """
    torch.manual_seed(0)
    config, inputs = test.model_tester.prepare_config_and_inputs_for_common()
    inputs.pop("decoder_attention_mask", None)
    model = model_class(config).eval()
    labels = torch.randint(4, config.decoder_vocab_size, inputs.pop("decoder_input_ids").shape)
    outputs = model(**inputs, labels=labels)
    matrix = model.get_output_embeddings().weight

    def gradient(loss):
        return torch.autograd.grad(loss, matrix, retain_graph=True)[0]

    reported = gradient(outputs.loss)
    torch.testing.assert_close(reported, gradient(functional.cross_entropy(outputs.logits.mT, labels)))
    shifted = gradient(functional.cross_entropy(outputs.logits[:, :-1].mT, labels[:, 1:]))
    test.assertFalse(torch.allclose(reported, shifted))
