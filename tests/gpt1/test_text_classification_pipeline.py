"""GPT-1's pipeline for text classification gives the scores of the model."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from tiny_heads import tiny_head
from transformers import BertConfig, BertForSequenceClassification, TextClassificationPipeline, pipeline

from gpt1_scratch import GPT1ForSequenceClassification, GPT1TextClassificationPipeline
from gpt1_scratch.finetuning import tasks
from gpt1_scratch.pipeline_text_classification import THRESHOLD
from gpt1_scratch.tokenization import add_task_template, train_tokenizer

CORPUS = ["a cat sat on the mat and a dog ran to the cat", "is the dog on the mat or is the cat"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return add_task_template(train_tokenizer(CORPUS, merges=60, model_max_length=40))


@pytest.fixture
def fine_tuned(tokenizer, tmp_path):
    """Returns a folder with a small model for pairs, read in both orders, and its tokenizer."""

    def save(both_orders: bool, **settings) -> tuple[str, GPT1ForSequenceClassification]:
        ids = {"pad_token_id": tokenizer.pad_token_id, "delimiter_token_id": tokenizer.sep_token_id}
        model = tiny_head(vocab_size=len(tokenizer), both_orders=both_orders, **ids, **settings)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return save


@pytest.mark.parametrize("both_orders", [False, True])
def test_pipeline_on_texts_and_pairs_gives_the_models_scores_and_no_warning(
    both_orders, fine_tuned, tokenizer, caplog, monkeypatch
):
    folder, model = fine_tuned(both_orders, id2label={0: "no", 1: "yes", 2: "maybe"})
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        classify = pipeline("text-classification", model=folder, trust_remote_code=False, device="cpu")
        pair = {"text": "The cat sat", "text_pair": "a dog ran to the mat"}
        found = [
            classify(pair, top_k=None),
            *classify(["The cat", "a dog ran to the cat"], top_k=None, batch_size=2),
            classify("a dog and a cat " * 20, top_k=None, truncation=True),
        ]
    assert not caplog.records
    texts = [
        ("The cat sat", "a dog ran to the mat"),
        ("The cat",),
        ("a dog ran to the cat",),
        ("a dog and a cat " * 20,),
    ]
    for scores, text in zip(found, texts, strict=True):
        inputs = tokenizer(*text, truncation=True, return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)[0].tolist()
        expected = dict(zip(["no", "yes", "maybe"], expected, strict=True))
        assert {score["label"]: score["score"] for score in scores} == pytest.approx(expected, abs=1e-6)


def test_pipeline_gives_a_regressions_number_as_it_is(fine_tuned, tokenizer):
    folder, model = fine_tuned(True, num_labels=1, problem_type="regression")
    classify = pipeline("text-classification", model=folder, trust_remote_code=False, device="cpu")
    expected = model(**tokenizer("The cat", "a dog", return_tensors="pt")).logits.item()
    assert classify({"text": "The cat", "text_pair": "a dog"})["score"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("shift", "counts"), [(-9.0, {0}), (0.0, {1, 2, 3}), (9.0, {4})])
def test_pipeline_gives_every_label_over_the_threshold_and_possibly_none(shift, counts, fine_tuned, tokenizer):
    folder, model = fine_tuned(False, num_labels=4, problem_type="multi_label_classification")
    texts = ["the cat", "a dog ran to the mat", "the dog and a mat"]
    classify = pipeline("text-classification", model=folder, trust_remote_code=False, device="cpu")
    with torch.no_grad():
        for head in (model, classify.model):
            head.score.bias += shift
        wanted = [model(**tokenizer(text, return_tensors="pt")).logits[0].sigmoid() for text in texts]
    assert {(row > 0.5).sum().item() for row in wanted} <= counts
    for found, row in zip(classify(texts), wanted, strict=True):
        expected = {f"LABEL_{index}": value for index, value in enumerate(row.tolist()) if value > 0.5}
        assert {each["label"]: each["score"] for each in found} == pytest.approx(expected, abs=1e-6)
        assert [each["score"] for each in found] == sorted(expected.values(), reverse=True) or not expected
    assert [len(row) for row in classify(texts, top_k=2)] == [2, 2, 2]
    assert THRESHOLD == tasks.THRESHOLD


def test_a_classification_pipeline_of_another_model_is_the_librarys(tokenizer, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes))
    other = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert type(other) is TextClassificationPipeline and other("the cat")[0]["label"] in ("LABEL_0", "LABEL_1")
    other.save_pretrained(tmp_path)
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text() and not list(tmp_path.glob("*.py"))


FRESH = """
import json, sys
sys.modules["gpt1_scratch"] = None  # as if it were not installed
from transformers import AutoModelForCausalLM, pipeline
from transformers.utils import logging
folder = sys.argv[1]
logging.disable_progress_bar()
classify = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
pair = classify({"text": "The cat sat", "text_pair": "a dog"}, top_k=None)
single = classify("The cat sat", top_k=None)
applies = classify(["The cat sat", "a dog"])
logging.set_verbosity_error()  # of the head that the language model has no use for
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
print(json.dumps([[pair, single, *applies], type(model).__name__, type(model).__module__]))
"""


def test_a_fresh_process_without_the_package_classifies_with_the_code_shipped(fine_tuned, tmp_path):
    folder, _ = fine_tuned(True, num_labels=3, problem_type="multi_label_classification")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", FRESH, folder], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    scores, name, module = json.loads(result.stdout.splitlines()[-1])
    classify = pipeline("text-classification", model=folder, trust_remote_code=False, device="cpu")
    expected = [
        classify({"text": "The cat sat", "text_pair": "a dog"}, top_k=None),
        classify("The cat sat", top_k=None),
        *classify(["The cat sat", "a dog"]),
    ]
    assert type(classify) is GPT1TextClassificationPipeline
    for found, wanted in zip(scores, expected, strict=True):
        assert [score["label"] for score in found] == [score["label"] for score in wanted]
        assert [score["score"] for score in found] == pytest.approx([score["score"] for score in wanted], abs=1e-6)
    assert name == "GPT1ForCausalLM" and module.startswith("transformers_modules.")
