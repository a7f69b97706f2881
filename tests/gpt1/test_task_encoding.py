"""The encoding of texts for a task, and predictions of many."""

import numpy as np
import pytest
import torch

from gpt1_scratch import GPT1Config, GPT1ForMultipleChoice, GPT1ForSequenceClassification
from gpt1_scratch.finetuning.examples import TaskExamples, collate_examples, predict, tokenize_task
from gpt1_scratch.finetuning.loading import TaskSplit
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.tokenization import add_task_template, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the red kite was in the tree by the mill", "anna and tom went to the old mill", "a b c d e f g h i j"]
    return add_task_template(train_tokenizer(texts * 3, merges=60, model_max_length=12))


def texts_of(tokenizer, ids):
    return tokenizer.decode(ids)


def test_texts_pairs_and_choices_get_the_papers_delimiters(tokenizer):
    def frame(task, *texts):
        examples = tokenize_task(TASKS[task], TaskSplit([texts], None), tokenizer, max_length=50)
        return [tokenizer.convert_ids_to_tokens(tokens) for tokens in examples[0]["input_ids"]]

    def plain(text):
        return tokenizer.tokenize(text)

    assert frame("sst2", "the mill") == [["<start>", *plain("the mill"), "<extract>"]]
    pair = ["<start>", *plain("the mill"), "<delimiter>", *plain("anna"), "<extract>"]
    assert frame("rte", "the mill", "anna") == [pair]
    # The model itself reads a pair in the other order.
    assert frame("stsb", "the mill", "anna") == [pair]
    choices = frame("stories_cloze", "the mill", "anna", "tom")
    assert choices == [pair, ["<start>", *plain("the mill"), "<delimiter>", *plain("tom"), "<extract>"]]


def test_long_texts_are_cut_and_counted_and_keep_their_frame(tokenizer):
    texts = [("a",), (" ".join("abcdefghij"),), (" ".join("abcdefghijabcdefghij"),)]
    examples = tokenize_task(TASKS["sst2"], TaskSplit(texts, [0, 1, 1]), tokenizer, max_length=12)
    assert examples.cut == 1
    assert examples.lengths.tolist() == [[3], [12], [12]]
    last = examples[2]["input_ids"][0]
    assert last.tolist() == [*examples[1]["input_ids"][0][:11], tokenizer.cls_token_id]
    pairs = [("a b c d e f g h i j", "a b"), ("a b", "a b c d e f g h i j"), ("a", "b")]
    examples = tokenize_task(TASKS["rte"], TaskSplit(pairs, [0, 1, 1]), tokenizer, max_length=9)
    assert examples.cut == 2
    # 9 places, 3 of them special: the shorter text stays whole.
    for index, expected in ((0, "<start> a b c d <delimiter> a b <extract>"), (1, "<start> a b <delimiter> a b c d")):
        tokens = tokenizer.convert_ids_to_tokens(examples[index]["input_ids"][0])
        assert " ".join(tokens).replace("</w>", "").startswith(expected)
    choices = tokenize_task(
        TASKS["stories_cloze"], TaskSplit([("a", "b", "a b c d e f g h"), ("a", "b", "c")], [0, 1]), tokenizer, 9
    )
    assert choices.cut == 1 and choices.lengths.tolist() == [[9], [5]]
    # The question stands at the end of a context, so that a long one loses its beginning.
    split = TaskSplit([(" ".join("abcdefghij") + " the mill", "a", "b", "c", "d")], [0])
    examples = tokenize_task(TASKS["race"], split, tokenizer, max_length=9)
    question = tokenizer.tokenize("the mill")
    for tokens, answer in zip(examples[0]["input_ids"], "abcd", strict=True):
        tokens = tokenizer.convert_ids_to_tokens(tokens)
        assert [*tokens[:1], *tokens[-3 - len(question) :]] == [
            "<start>", *question, "<delimiter>", f"{answer}</w>", "<extract>"
        ]  # fmt: skip
    assert tokenizer.truncation_side == "right"
    # A fine-tuned model's folder would keep it, and programs that read tokenizer.json would cut every text.
    assert tokenizer.backend_tokenizer.truncation is None


def test_batches_are_padded_to_their_longest_and_labels_have_the_heads_type(tokenizer):
    split = TaskSplit([("a b c",), ("a",)], [1, 0])
    examples = tokenize_task(TASKS["sst2"], split, tokenizer, max_length=12)
    batch = collate_examples([examples[0], examples[1]], tokenizer.pad_token_id)
    reference = tokenizer(["a b c", "a"], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], reference.input_ids)
    assert torch.equal(batch["attention_mask"], reference.attention_mask)
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [1, 0]
    numbers = tokenize_task(TASKS["stsb"], TaskSplit([("a", "b")], [2.5]), tokenizer, max_length=12)
    assert collate_examples([numbers[0]], 0)["labels"].dtype == torch.float32
    cloze = tokenize_task(TASKS["stories_cloze"], TaskSplit([("a", "b", "c d e")] * 3, None), tokenizer, max_length=12)
    batch = collate_examples([cloze[index] for index in range(3)], tokenizer.pad_token_id)
    assert batch["input_ids"].shape == (3, 2, 7) and "labels" not in batch
    assert batch["attention_mask"].sum(dim=-1).tolist() == [[5, 7]] * 3


def test_sets_of_labels_become_rows_of_zeros_and_ones(own, tokenizer):
    rows = [("a b", ["x"]), ("c d", ["y", "x"]), ("e f", [])]
    task, splits = own(rows, rows, extension=".jsonl")
    examples = tokenize_task(task, splits["train"], tokenizer, 12)
    batch = collate_examples([examples[index] for index in range(3)], 0)
    assert batch["labels"].tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_many_texts_are_encoded_as_one_by_one(tokenizer, monkeypatch):
    monkeypatch.setattr("gpt1_scratch.finetuning.examples.SEQUENCE_CHUNK_SIZE", 7)
    words = np.random.default_rng(0).choice(list("abcdefghij"), size=(40, 9))
    texts = [(" ".join(row[: 1 + index % 9]),) for index, row in enumerate(words)]
    examples = tokenize_task(TASKS["sst2"], TaskSplit(texts, None), tokenizer, max_length=8)
    assert len(examples) == 40
    for index, (text,) in enumerate(texts):
        assert examples[index]["input_ids"][0].tolist() == tokenizer(text, truncation=True, max_length=8).input_ids
    assert examples.cut == sum(len(text.split()) > 6 for (text,) in texts)


# Predictions


def tiny_config(tokenizer, **settings):
    torch.manual_seed(0)
    return GPT1Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
        **settings,
    )


@pytest.mark.parametrize("kind", ["classification", "similarity", "multiple_choice"])
def test_predictions_come_in_order_and_do_not_depend_on_the_batch_size(tokenizer, kind):
    generator = np.random.default_rng(0)
    words = [" ".join(generator.choice(list("abcdefghij"), size=size)) for size in generator.integers(1, 9, size=33)]
    task = {"classification": "sst2", "similarity": "stsb", "multiple_choice": "stories_cloze"}[kind]
    texts = [
        {"sst2": (a,), "stsb": (a, b), "stories_cloze": (a, b, c)}[task]
        for a, b, c in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    settings = {"both_orders": True, "delimiter_token_id": tokenizer.sep_token_id} if kind == "similarity" else {}
    head = GPT1ForMultipleChoice if kind == "multiple_choice" else GPT1ForSequenceClassification
    model = head(tiny_config(tokenizer, **settings)).eval()
    examples = tokenize_task(TASKS[task], TaskSplit(texts, None), tokenizer, max_length=32)
    one_by_one = []
    for text in texts:
        pairs = [(text[0], choice) for choice in text[1:]] if kind == "multiple_choice" else [text]
        inputs = tokenizer(*(list(column) for column in zip(*pairs, strict=True)), return_tensors="pt", padding=True)
        inputs = {name: tensor[None] if kind == "multiple_choice" else tensor for name, tensor in inputs.items()}
        one_by_one.append(model(**inputs).logits[0].tolist())
    for batch_size in (1, 4, 100):
        logits = predict(model, examples, tokenizer.pad_token_id, batch_size)
        np.testing.assert_allclose(logits, one_by_one, atol=1e-5)
    shares = predict(
        model,
        examples,
        tokenizer.pad_token_id,
        4,
        distribute=lambda function, items: function(items[:1]) + function(items[1:]),
    )
    np.testing.assert_array_equal(shares, predict(model, examples, tokenizer.pad_token_id, 4))


@pytest.mark.parametrize(("choices", "counts"), [(None, {0: 2, 5: 3, 7: 0}), (2, {0: 2, 5: 2, 7: 0})])
def test_examples_with_a_token_are_counted_once(choices, counts):
    sequences = [[5, 0], [5], [5], [0, 0]]
    bounds = np.cumsum([0, *map(len, sequences)])
    examples = TaskExamples(np.concatenate(sequences), bounds, choices, labels=None, cut=0)
    assert {token: examples.count_with(token) for token in counts} == counts
