"""transformers' own tests of the Transformer and its config. Run by `tests/library_tests.py`."""

import tempfile
import unittest

import torch
from library_common import LibraryTests, assert_loss_is_aligned
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ids_tensor, random_attention_mask

from seq2seq_scratch import TransformerConfig, TransformerForConditionalGeneration, TransformerModel

# The library's tests find out by a class's name what it is for.
modeling_auto.MODEL_MAPPING_NAMES["transformer_seq2seq"] = "TransformerModel"
modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["transformer_seq2seq"] = (
    "TransformerForConditionalGeneration"
)


class TransformerTester:
    """The sizes and inputs that the library's tests ask for by these names."""

    batch_size = 5
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self, **options):
        return TransformerConfig(
            vocab_size=self.vocab_size,
            d_model=self.hidden_size,
            encoder_layers=self.num_hidden_layers,
            decoder_layers=self.num_hidden_layers,
            encoder_attention_heads=self.num_attention_heads,
            decoder_attention_heads=self.num_attention_heads,
            encoder_ffn_dim=37,
            decoder_ffn_dim=41,
            max_position_embeddings=64,
            **options,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {
            "input_ids": ids_tensor(shape, self.vocab_size),
            "attention_mask": random_attention_mask(shape),
            "decoder_input_ids": ids_tensor(shape, self.vocab_size),
            "decoder_attention_mask": random_attention_mask(shape),
        }
        return self.get_config(), inputs


class TransformerLibraryTests(LibraryTests):
    is_encoder_decoder = True

    def setUp(self):
        self.model_tester = TransformerTester(self)

    def test_load_save_without_tied_weights(self):
        """With a table each for source and target: a shared one is always the softmax matrix, as in the paper."""
        untied = self.model_tester.get_config(share_encoder_decoder_embeddings=False)
        self.model_tester.prepare_config_and_inputs_for_common = lambda: (untied, {})
        super().test_load_save_without_tied_weights()

    def test_sdpa_can_dispatch_non_composite_models(self):
        """Named, as the default differs: eager attention where there is no accelerator, being quicker there."""
        (model_class,) = self.all_model_classes
        with tempfile.TemporaryDirectory() as folder:
            model_class(self.model_tester.get_config()).save_pretrained(folder)
            for asked in ("sdpa", "eager"):
                model = model_class.from_pretrained(folder, attn_implementation=asked)
                self.assertEqual(model.config._attn_implementation, asked)
            default = "sdpa" if torch.accelerator.is_available() else "eager"
            self.assertEqual(model_class.from_pretrained(folder).config._attn_implementation, default)


class TransformerModelTest(TransformerLibraryTests, unittest.TestCase):
    all_model_classes = (TransformerModel,)


class TransformerForConditionalGenerationTest(TransformerLibraryTests, unittest.TestCase):
    all_model_classes = (TransformerForConditionalGeneration,)

    def test_encoder_decoder_loss_no_double_shift(self):
        assert_loss_is_aligned(self, TransformerForConditionalGeneration)


class TransformerConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = TransformerTester(self)
        ConfigTester(self, config_class=TransformerConfig, d_model=40, encoder_layers=1).run_common_tests()
