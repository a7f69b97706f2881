"""transformers' own tests of GPT-1, its heads and its config. Run by `tests/library_tests.py`."""

import unittest

from library_common import LibraryTests
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ids_tensor, random_attention_mask
from transformers_tests.test_training_mixin import TrainingTesterMixin

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, GPT1ForMultipleChoice, GPT1ForSequenceClassification, GPT1Model

# The library's tests find out by a class's name what it is for.
modeling_auto.MODEL_MAPPING_NAMES["gpt1"] = "GPT1Model"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["gpt1"] = "GPT1ForCausalLM"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["gpt1"] = "GPT1ForSequenceClassification"
modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES["gpt1"] = "GPT1ForMultipleChoice"


class GPT1Tester:
    """The sizes and inputs that the library's tests ask for by these names."""

    batch_size = 5
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_choices = 4
    is_training = True
    causal_lm_class = GPT1ForCausalLM

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return GPT1Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=64,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self):
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], self.vocab_size),
            "attention_mask": random_attention_mask([self.batch_size, self.seq_length]),
        }
        return self.get_config(), inputs


class GPT1LibraryTests(LibraryTests):
    def setUp(self):
        self.model_tester = GPT1Tester(self)


class GPT1ModelTest(GPT1LibraryTests, unittest.TestCase):
    all_model_classes = (GPT1Model,)


class GPT1ForCausalLMTest(GPT1LibraryTests, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (GPT1ForCausalLM,)


class GPT1ForSequenceClassificationTest(GPT1LibraryTests, unittest.TestCase):
    all_model_classes = (GPT1ForSequenceClassification,)


class GPT1ForMultipleChoiceTest(GPT1LibraryTests, unittest.TestCase):
    all_model_classes = (GPT1ForMultipleChoice,)


class GPT1ConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = GPT1Tester(self)
        ConfigTester(self, config_class=GPT1Config, hidden_size=36).run_common_tests()
