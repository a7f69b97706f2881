"""The template that frames the texts of a task."""

import json

import pytest
from transformers import AutoTokenizer, OpenAIGPTTokenizer, PreTrainedTokenizerFast

from gpt1_scratch.tokenization import add_task_template, train_tokenizer

CORPUS = ["a cat sat on the mat and a dog ran to the cat", "is the dog on the mat or is the cat"] * 3


@pytest.fixture(scope="module")
def plain_tokenizer():
    return train_tokenizer(CORPUS, merges=60, model_max_length=40)


@pytest.fixture(scope="module")
def tokenizer(plain_tokenizer):
    return add_task_template(plain_tokenizer)


def split(tokenizer, *texts, **settings) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(tokenizer(*texts, **settings).input_ids)).replace("</w>", "")


def test_texts_and_pairs_are_framed_and_the_original_is_left_alone(plain_tokenizer, tokenizer):
    assert split(tokenizer, "The cat") == "<start> the cat <extract>"
    assert split(tokenizer, "The cat", "a dog") == "<start> the cat <delimiter> a dog <extract>"
    assert split(plain_tokenizer, "The cat", "a dog") == "the cat a dog"
    assert tokenizer("The cat", "a dog").keys() == {"input_ids", "attention_mask"}


def test_the_template_is_saved_with_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert isinstance(loaded, PreTrainedTokenizerFast) and loaded.padding_side == "right"
    texts, others = ["The cat", "a dog ran to the mat"], ["a dog", "the cat"]
    assert loaded(texts, others, padding=True).data == tokenizer(texts, others, padding=True).data
    assert split(loaded, "The cat", "a dog") == "<start> the cat <delimiter> a dog <extract>"
    assert loaded.model_max_length == 40


def test_truncation_keeps_special_tokens_and_cuts_the_longer_text_first(tokenizer):
    long, short = "a dog ran to the cat and sat", "the mat"
    cut = {"truncation": True, "max_length": 8}
    assert split(tokenizer, long, **cut) == "<start> a dog ran to the cat <extract>"
    assert split(tokenizer, long, short, **cut) == "<start> a dog ran <delimiter> the mat <extract>"
    assert split(tokenizer, short, long, **cut) == "<start> the mat <delimiter> a dog ran <extract>"
    assert split(tokenizer, long, long, **cut | {"max_length": 7}) == "<start> a dog <delimiter> a dog <extract>"


def test_a_tokenizer_without_the_special_tokens_is_refused_until_they_are_added(tmp_path):
    vocabulary = {"<unk>": 0, "t": 1, "h": 2, "e</w>": 3, "th": 4, "the</w>": 5}
    published = OpenAIGPTTokenizer(vocab=vocabulary, merges=[("t", "h"), ("th", "e</w>")])
    published.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(
        ValueError, match="no bos_token, sep_token, cls_token, which.*resize_token_embeddings"
    ) as error:
        add_task_template(published)
    told = str(error.value).split("add_special_tokens(")[1].split(")")[0]
    assert published.add_special_tokens(json.loads(told.replace("'", '"'))) == 3
    add_task_template(published).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert split(loaded, "the", "the the") == "<start> the <delimiter> the the <extract>"
