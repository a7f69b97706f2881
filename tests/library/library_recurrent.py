"""transformers' own tests of the two recurrent translators and their configs. Run by `tests/library_tests.py`."""

import unittest
from unittest import mock

import torch
from library_common import LibraryTests, assert_loss_is_aligned
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ids_tensor, random_attention_mask

from seq2seq_scratch import (
    BahdanauConfig,
    BahdanauForConditionalGeneration,
    RNNSeq2SeqConfig,
    RNNSeq2SeqForConditionalGeneration,
)

# The library's tests find out by a class's name what it is for.
modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["rnn_seq2seq"] = "RNNSeq2SeqForConditionalGeneration"
modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["bahdanau"] = "BahdanauForConditionalGeneration"


class OneVocabulary:
    """Makes a config set both vocabularies as one, as the library's test of resizing does from outside."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "vocab_size":
            super().__setattr__("decoder_vocab_size", value)


class RecurrentTester:
    """The sizes and inputs that the library's tests ask for by these names."""

    batch_size = 5
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    # Recurrent layers are run by one call, that gives the states of the last one.
    expected_num_hidden_layers = 1
    is_training = True

    def __init__(self, parent, config_class, **sizes):
        self.parent = parent
        self.config_class = config_class
        self.sizes = {"vocab_size": self.vocab_size, "decoder_vocab_size": None, "hidden_size": self.hidden_size}
        self.sizes |= {"embedding_size": 24, **sizes}

    def get_config(self):
        return self.config_class(**self.sizes)

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {
            "input_ids": ids_tensor(shape, self.vocab_size),
            "attention_mask": random_attention_mask(shape),
            "decoder_input_ids": ids_tensor(shape, self.vocab_size),
        }
        return self.get_config(), inputs


class RecurrentLibraryTests(LibraryTests):
    is_encoder_decoder = True

    @property
    def model_class(self):
        return self.all_model_classes[0]

    def model_and_inputs(self):
        torch.manual_seed(0)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return self.model_class(config).eval(), inputs

    def test_encoder_decoder_loss_no_double_shift(self):
        assert_loss_is_aligned(self, self.model_class)

    def test_resize_tokens_embeddings(self):
        """The library's test changes the config's `vocab_size` alone, and looks for one in the model."""
        config_class = self.model_tester.config_class
        self.model_tester.config_class = type("OneVocabularyConfig", (OneVocabulary, config_class), {})
        vocab_size = property(lambda model: model.config.vocab_size)
        with mock.patch.object(self.model_class, "vocab_size", vocab_size, create=True):
            super().test_resize_tokens_embeddings()

    @unittest.skip("encoder, decoder and softmax stand side by side: there is no base model under a head")
    def test_model_base_model_prefix(self):
        pass

    @unittest.skip("there is no base model under a head, whose weights a file could hold by themselves")
    def test_torch_save_load(self):
        pass

    @unittest.skip("the forward pass collects its outputs itself: nothing is captured from layers in passing")
    def test_capture_outputs_decorator(self):
        pass

    @unittest.skip("each stack returns one layer's states: there are none to choose from")
    def test_can_capture_specific_layers_hidden_states(self):
        pass

    @unittest.skip("recurrent layers run over all positions in one call: there is nothing to compute again, piecewise")
    def test_enable_input_require_grads_with_gradient_checkpointing(self):
        pass

    @unittest.skip("no part is scaled dot-product attention, which comes in several implementations")
    def test_can_set_attention_dynamically(self):
        pass

    @unittest.skip("for models made of models; and no part is scaled dot-product attention")
    def test_can_set_attention_dynamically_composite_model(self):
        pass


class RNNSeq2SeqForConditionalGenerationTest(RecurrentLibraryTests, unittest.TestCase):
    all_model_classes = (RNNSeq2SeqForConditionalGeneration,)
    has_attentions = False

    def setUp(self):
        self.model_tester = RecurrentTester(self, RNNSeq2SeqConfig, num_hidden_layers=2)

    def test_retain_grad_hidden_states_attentions(self):
        """Of the source the decoder is given the final state alone, and none of the states before it."""
        model, inputs = self.model_and_inputs()
        encoded = model.encoder(inputs.pop("input_ids"), inputs.pop("attention_mask"))
        outputs = model(**inputs, encoder_outputs=encoded, output_hidden_states=True)
        (decoder_states,) = outputs.decoder_hidden_states
        for tensor in (encoded.final_state, decoder_states):
            tensor.retain_grad()
        outputs.logits.flatten()[0].backward()
        self.assertTrue(encoded.final_state.grad.any())
        self.assertTrue(decoder_states.grad.any())

    @unittest.skip("attention came later")
    def test_attention_outputs(self):
        pass

    @unittest.skip("attention came later, in windows much later")
    def test_sliding_window_mask(self):
        pass


class BahdanauForConditionalGenerationTest(RecurrentLibraryTests, unittest.TestCase):
    all_model_classes = (BahdanauForConditionalGeneration,)

    def setUp(self):
        self.model_tester = RecurrentTester(self, BahdanauConfig, attention_size=20, maxout_size=16)

    def test_attention_outputs(self):
        """There is one attention, of the decoder over the source; encoder and decoder do not attend to themselves."""
        model, inputs = self.model_and_inputs()
        (asked,) = model(**inputs, output_attentions=True).cross_attentions
        self.assertEqual(asked.shape, (5, 1, 7, 7))
        torch.testing.assert_close(asked.sum(dim=-1), torch.ones(5, 1, 7))
        padding = (inputs["attention_mask"] == 0)[:, None, None].expand_as(asked)
        self.assertFalse(asked[padding].any())
        self.assertIsNone(model(**inputs).cross_attentions)
        model.config.output_attentions = True
        torch.testing.assert_close(model(**inputs).cross_attentions[0], asked)

    def test_hidden_states_output(self):
        """The source's states are those of two directions side by side, twice as wide."""
        model, inputs = self.model_and_inputs()
        asked = model(**inputs, output_hidden_states=True)
        self.assertEqual([states.shape for states in asked.encoder_hidden_states], [(5, 7, 64)])
        self.assertEqual([states.shape for states in asked.decoder_hidden_states], [(5, 7, 32)])
        self.assertIsNone(model(**inputs).decoder_hidden_states)
        model.config.output_hidden_states = True
        torch.testing.assert_close(model(**inputs).decoder_hidden_states, asked.decoder_hidden_states)

    def test_retain_grad_hidden_states_attentions(self):
        """From the last logit: the readout of the paper sees the state before its position, and the first none."""
        model, inputs = self.model_and_inputs()
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
        returned = (outputs.encoder_hidden_states, outputs.decoder_hidden_states, outputs.cross_attentions)
        for (tensor,) in returned:
            tensor.retain_grad()
        outputs.logits[:, -1].sum().backward()
        for (tensor,) in returned:
            self.assertTrue(tensor.grad.any())


class RNNSeq2SeqConfigTest(unittest.TestCase):
    def test_config(self):
        names = ["hidden_size", "num_hidden_layers"]
        ConfigTester(self, RNNSeq2SeqConfig, common_properties=names, hidden_size=36).run_common_tests()


class BahdanauConfigTest(unittest.TestCase):
    def test_config(self):
        ConfigTester(self, BahdanauConfig, common_properties=["hidden_size"], hidden_size=36).run_common_tests()
