"""transformers' own tests of the tokenizers that both packages make. Run by `tests/library_tests.py`."""

import shutil
import tempfile
import unittest
from unittest import mock

from transformers import PreTrainedTokenizerFast
from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from transformers_tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

import gpt1_scratch.tokenization
import seq2seq_scratch.tokenization

# The words of the texts that the library's tests encode are in the vocabulary, and so are their letters.
CORPUS = """
This is a sample text for the tokenizer tests. It holds words of the language, upper and lower case.
Test this method. With these inputs. Sequence of words, another sequence. Hello world, how are you doing?
He is very happy, unwanted, running. A new special token stands here; the first sentence and the second one.
What is your name? I am a robot! They do not want 12 or 345 of 6789 (0), but they can have it.
The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.
""".strip().splitlines()


class TokenizerLibraryTests(TokenizersBackendTesterMixin, TokenizerTesterMixin):
    """The library's tests load a tokenizer by a name; here it is a folder, trained and saved for them."""

    tokenizer_class = PreTrainedTokenizerFast
    rust_tokenizer_class = PreTrainedTokenizerFast

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname = tempfile.mkdtemp()
        cls.from_pretrained_id = [cls.tmpdirname]
        cls.tokenizers_list = [(PreTrainedTokenizerFast, cls.tmpdirname, {})]
        cls.train().save_pretrained(cls.tmpdirname)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmpdirname)

    @unittest.skip("for published tokenizers with known tokens: tests/test_tokenization.py and others have ours")
    def test_integration(self):
        pass

    @unittest.skip("for published tokenizers with known tokens: tests/test_tokenization.py and others have ours")
    def test_integration_from_extractor(self):
        pass

    @unittest.skip("none of our models holds conversations")
    def test_chat_template_save_loading(self):
        pass


class TranslatorTokenizerTests(TokenizerLibraryTests):
    def test_tokenize_special_tokens(self):
        """In a text to translate, what reads like a special token is text; here it is told to be one."""
        load = self.get_tokenizer
        with mock.patch.object(self, "get_tokenizer", lambda **options: load(split_special_tokens=False, **options)):
            super().test_tokenize_special_tokens()


class TranslatorSubwordsTest(TranslatorTokenizerTests, unittest.TestCase):
    @staticmethod
    def train():
        return seq2seq_scratch.tokenization.train_tokenizer(CORPUS, kind="bpe", vocab_size=600, min_frequency=1)


class TranslatorWordsTest(TranslatorTokenizerTests, unittest.TestCase):
    @staticmethod
    def train():
        return seq2seq_scratch.tokenization.train_tokenizer(CORPUS, kind="word", vocab_size=600, min_frequency=1)


class GPT1TokenizerTest(TokenizerLibraryTests, unittest.TestCase):
    @staticmethod
    def train():
        return gpt1_scratch.tokenization.train_tokenizer(CORPUS, merges=200)


class GPT1TaskTokenizerTest(TokenizerLibraryTests, unittest.TestCase):
    @staticmethod
    def train():
        return gpt1_scratch.tokenization.add_task_template(GPT1TokenizerTest.train())
