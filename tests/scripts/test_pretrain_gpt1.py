"""Pre-training and generation, run by the scripts on tiny models."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from killed_runs import forget_the_end
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gpt1_scratch.stories.corpus import load_stories
from papers_to_gpt import finetune_gpt1, generate_text, pretrain_gpt1, score_text
from papers_to_gpt.settings.generation import GenerationSettings

SAMPLES = "eval/samples/text_summary"
PRESET = Path(__file__).parents[2] / "recipes" / "presets" / "stories" / "gpt1_mini.yaml"
TINY = """--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --max_position_embeddings 32 --num_merges 100
    --per_device_train_batch_size 4 --max_steps 6 --eval_steps 3 --logging_steps 3 --warmup_steps 1 --bf16 false
    --max_eval_blocks 8 --sample_new_tokens 5 --residual_dropout 0.1 --save_total_limit 0""".split()


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    for split, stories in load_stories(train_size=60, validation_size=12).items():
        (folder / f"{split}.txt").write_text("\n\n".join(stories["text"]))
    return folder


@pytest.fixture
def pretrain(tmp_path, books, monkeypatch):
    """Runs the script in this process and returns the folder of the model."""

    def start(*arguments, name="run", embedded=False):
        folder = tmp_path / name
        preset = tmp_path / "preset.yaml"
        preset.write_text(PRESET.read_text() if embedded else PRESET.read_text().replace("dataset_name: stories", ""))
        files = [] if embedded else [f"--{split}_file={books / split}.txt" for split in ("train", "validation")]
        monkeypatch.setattr(
            sys, "argv", ["pretrain_gpt1.py", str(preset), *TINY, *files, "--output_dir", str(folder), *arguments]
        )
        pretrain_gpt1.main()
        return folder

    return start


def test_tensorboard_has_the_texts_of_every_evaluation_and_the_learning_rate(pretrain):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = pretrain("--report_to", "tensorboard")
    events = EventAccumulator(str(folder / "papers-to-gpt-pretraining")).Reload()
    samples = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(SAMPLES)}
    written = (folder / "samples.txt").read_text()
    assert sorted(samples) == [3, 6]
    assert all(text.startswith("[") and text.replace("\n\n", "\n") in written for text in samples.values())
    for name in ("learning_rate", "gradient_norm"):
        assert [event.step for event in events.Scalars(f"train/{name}")] == [3, 6]


def test_the_embedded_preset_runs_and_the_model_loads_and_generates(pretrain, monkeypatch, capsys):
    folder = pretrain(embedded=True)
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert results["train_updates"] == 6
    # 6 updates of 4 blocks, each predicting all but its first token.
    assert results["train_target_tokens"] == 6 * 4 * 31
    assert (folder / "samples.txt").read_text().count("----") == 3
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["model_flops_utilization_percent"] < 100
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    for saved in (tokenizer, AutoTokenizer.from_pretrained(folder / "checkpoint-6")):
        cut = saved("Once there were two friends . " * 20, truncation=True, return_tensors="pt")
        assert cut.input_ids.shape == (1, 32) and model(**cut).logits.isfinite().all()  # of 32 positions
    capsys.readouterr()
    arguments = ["--model_name_or_path", str(folder), "--prompt", "Once there were", "--max_new_tokens", "5"]
    monkeypatch.setattr(sys, "argv", ["generate_text.py", *arguments, "--bf16", "false", "--do_sample", "false"])
    generate_text.main()
    ids = tokenizer("Once there were", return_tensors="pt").input_ids
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert capsys.readouterr().out.strip() == tokenizer.decode(expected[0], skip_special_tokens=True).strip()


def test_scores_per_word_and_per_byte_are_those_of_the_whole_text(pretrain, books):
    folder = pretrain("--max_eval_blocks", "1000")
    results = json.loads((folder / "all_results.json").read_text())
    text = (books / "validation.txt").read_text()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text, verbose=False).input_ids
    blocks = torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)
    with torch.no_grad():
        logits = model(blocks).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten()).item()
    assert results["eval_loss"] == pytest.approx(loss, rel=1e-4)
    assert results["eval_bits_per_byte"] == pytest.approx(loss * len(ids) / len(text.encode()) / math.log(2), rel=1e-4)
    assert results["eval_word_perplexity"] == pytest.approx(math.exp(loss * len(ids) / len(text.split())), rel=1e-3)


def test_a_validation_that_begins_with_rows_without_text_is_sampled_from_the_others(pretrain, tmp_path, capsys):
    rows = [None, "", " \n", *["Once there were two friends who met a dog ."] * 30]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    folder = pretrain(f"--train_file={file}", f"--validation_file={file}", "--num_samples", "2")
    assert "validation: 33 rows (3 without text), 300 words" in capsys.readouterr().out
    assert (folder / "samples.txt").read_text().count(
        "[once there were two friends"
    ) == 2 * 3  # samples at each of 3 evaluations


@pytest.mark.parametrize("objective", ["next_token", "masked"])
def test_a_resumed_run_equals_an_uninterrupted_one(objective, pretrain):
    whole = pretrain("--objective", objective, name="whole")
    # The same run, which lost its end: all but its first checkpoint.
    folder = whole.parent / "parts"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoint-6")
    forget_the_end(folder)
    pretrain("--resume_from_checkpoint", "last", "--objective", objective, name="parts")
    weights = load_file(whole / "checkpoint-6" / "model.safetensors")
    for name, tensor in load_file(folder / "checkpoint-6" / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), name


def test_a_masked_model_reports_its_masked_tokens_is_refused_for_text_and_is_fine_tuned(
    pretrain, tmp_path, monkeypatch, capsys
):
    folder = pretrain("--objective", "masked", "--metric_for_best_model", "accuracy")
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert 0 <= results["eval_accuracy"] <= 1 and not [name for name in results if "byte" in name or "word" in name]
    assert results["train_target_tokens"] == 6 * 4 * 5  # 15 % of 32
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["model_flops_utilization_percent"] < 100
    assert ", was: " in (folder / "samples.txt").read_text()
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "1810.04805" in card and 'pipeline("fill-mask"' in card
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    assert config.vocab_size == len(tokenizer) == tokenizer.mask_token_id + 1
    for script, arguments in ((generate_text, ["--prompt", "once"]), (score_text, ["--input_file", "lines.txt"])):
        monkeypatch.setattr(sys, "argv", ["x.py", "--model_name_or_path", str(folder), *arguments])
        with pytest.raises(ValueError, match="holds a GPT1ForMaskedLM, a GPT-1 that predicts masked tokens"):
            script.main()
    rows = tmp_path / "rows.csv"
    texts = (f"a cat met {count} dogs,good\na dog lost {count} hats,bad\n" for count in range(20))
    rows.write_text("text,label\n" + "".join(texts))
    arguments = f"--model_name_or_path {folder} --train_file {rows} --output_dir {tmp_path / 'tuned'} --max_steps 2"
    monkeypatch.setattr(sys, "argv", ["finetune_gpt1.py", *arguments.split(), "--bf16", "false"])
    capsys.readouterr()
    finetune_gpt1.main()
    assert "it sees the next token, so the auxiliary loss is off" in capsys.readouterr().out
    tuned = AutoConfig.from_pretrained(tmp_path / "tuned", trust_remote_code=False)
    assert (tuned.attention, tuned.auxiliary_loss_weight) == ("bidirectional", 0)


def test_a_run_from_a_masked_model_follows_its_objective(pretrain):
    start = pretrain("--objective", "masked", "--num_samples", "0", "--max_steps", "1", name="start")
    more = ["--init_from", str(start), "--num_merges", "none", "--max_steps", "1", "--num_samples", "0"]
    folder = pretrain(*more, name="on")
    assert "eval_accuracy" in json.loads((folder / "all_results.json").read_text())
    with pytest.raises(ValueError, match="objective is 'next_token'.*but the model's is 'masked'"):
        pretrain(*more, "--objective", "next_token", name="other")


def test_resuming_with_another_vocabulary_or_block_size_is_refused(pretrain):
    pretrain()
    for setting, value in (("num_merges", "90"), ("block_size", "16")):
        with pytest.raises(ValueError, match=f"cannot continue with other settings: {setting}"):
            pretrain(f"--{setting}", value, "--resume_from_checkpoint", "last")


def test_a_stream_trains_on_the_same_blocks(pretrain):
    results = json.loads((pretrain("--streaming", "true") / "all_results.json").read_text())
    assert results["train_target_tokens"] == 6 * 4 * 31


def test_short_and_whole_blocks_make_batches_of_as_many_tokens(pretrain):
    options = "--short_block_size 8 --short_block_share 0.5 --separate_documents false --max_steps 12"
    folder = pretrain(*options.split())
    counts = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    results = json.loads((folder / "all_results.json").read_text())
    # 4 blocks of 32, or 16 of 8, each predicting all but its first token; both kinds come up.
    whole, short = 4 * 31, 16 * 7
    assert 12 * short < results["train_target_tokens"] < 12 * whole
    assert results["train_target_tokens"] in {n * short + (12 - n) * whole for n in range(1, 12)}
    assert all(line["padding_percent"] == 0 for line in counts if line["kind"] == "train")


def test_corpora_with_weights_are_cut_short_and_resume_exactly(pretrain, books, tmp_path, capsys):
    shutil.copy(books / "validation.txt", tmp_path / "more.txt")
    weighted = ["--train_file", str(books / "train.txt"), str(tmp_path / "more.txt"), "--train_weights", "0.5", "2"]
    weighted += ["--short_block_size", "8", "--num_samples", "0", "--save_steps", "1"]
    weighted += ["--separate_documents", "false"]
    whole = pretrain(*weighted, name="whole")
    train, more = json.loads((whole / "all_results.json").read_text())["train_corpora"]
    assert (train["name"], more["name"]) == ("train", "more")
    assert more["blocks_per_epoch"] == 2 * more["blocks"] and 2 * train["blocks_per_epoch"] - train["blocks"] in (0, 1)
    assert f"more {more['blocks_per_epoch']:,} (" in capsys.readouterr().out
    parts = shutil.copytree(whole, whole.parent / "parts")
    for update in (5, 6):
        shutil.rmtree(parts / f"checkpoint-{update}")
    forget_the_end(parts)
    pretrain(*weighted, name="parts")
    first, second = (load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)

    # Without weights the files are one text, like the files of a folder; from a stream, every file is counted too.
    joined = pretrain(*weighted[:3], "--num_samples", "0", name="joined")
    sizes = [corpus["tokens"] for corpus in json.loads((joined / "all_results.json").read_text())["train_corpora"]]
    assert sizes[0] > sizes[1] > 32
    stream = pretrain(*weighted[:6], "--num_samples", "0", "--streaming", "true", name="stream")
    counts = [
        corpus["blocks_read"] for corpus in json.loads((stream / "all_results.json").read_text())["train_corpora"]
    ]
    assert sum(counts) == 6 * 4 and counts[1] > counts[0]


def test_blocks_that_repeat_themselves_reach_the_model(pretrain):
    options = """--short_block_size 16 --short_block_share 1 --separate_documents false --max_steps 2 --eval_steps 2
        --num_samples 0""".split()
    losses, tokenizer = [], []
    for share in ("0", "0", "1"):
        folder = pretrain(*options, *tokenizer, "--repeated_block_share", share, name=f"run_{len(losses)}")
        losses.append(json.loads((folder / "all_results.json").read_text())["eval_loss"])
        tokenizer = ["--tokenizer_name", str(folder)]  # learned twice it may differ
    assert losses[0] == losses[1] != losses[2]


def test_separate_documents_reach_the_model(pretrain, tmp_path):
    rows = Dataset.from_dict({"text": [f"row {index} of some text" for index in range(200)]})
    rows.to_parquet(tmp_path / "rows.parquet")
    files = ["--train_file", str(tmp_path / "rows.parquet"), "--validation_file", str(tmp_path / "rows.parquet")]
    apart = json.loads((pretrain(*files, name="apart") / "all_results.json").read_text())
    together = json.loads(
        (pretrain(*files, "--separate_documents", "false", name="together") / "all_results.json").read_text()
    )
    assert apart["eval_loss"] != together["eval_loss"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--objective", "masked", "--lstm_size", "8"], "objective is masked, but lstm_size is 8"),
        (["--hidden_size", "15"], "hidden_size .15. must be a multiple of num_attention_heads"),
        (["--block_size", "64"], "but max_position_embeddings is 32. Lower the first, or"),
        (["--dataset_name", "stories"], "one of dataset_name and train_file"),
        (
            ["--dataset_revision", "v1"],
            "dataset_revision is 'v1', but dataset_name is None: only a data set on the Hub",
        ),
        (["--vocabulary_file", "a.json"], "vocabulary_file and merges_file go together"),
        (["--train_file", "nowhere.txt"], "nowhere.txt"),
        (["--short_block_size", "5", "--separate_documents", "false"], "short_block_size is 5; it must be at least 2"),
        (["--short_block_size", "8", "--separate_documents", "true"], "short_block_size and separate_documents are"),
        (["--short_block_size", "8", "--streaming", "true"], "short_block_size and streaming are both set"),
        (["--short_block_share", "2"], "short_block_share is 2"),
        (["--repeated_block_share", "-1"], "repeated_block_share is -1"),
        (["--repeated_block_share", "0.5"], "repeated_block_share is 0.5, a fraction of the short blocks, but there"),
        (["--label_smoothing_factor", "0.1"], "unknown setting 'label_smoothing_factor'"),
    ],
)
def test_wrong_settings_are_named(pretrain, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        pretrain(*arguments)


def test_a_prompt_longer_than_the_context_keeps_its_end_with_a_warning(pretrain, monkeypatch, capsys, caplog):
    folder = pretrain()
    words = " ".join(np.random.default_rng(0).choice(["anna", "kite", "river"], size=60))
    arguments = ["--model_name_or_path", str(folder), "--prompt", words, "--max_new_tokens", "40", "--bf16", "false"]
    monkeypatch.setattr(sys, "argv", ["generate_text.py", *arguments])
    generate_text.main()
    assert "only its last 16 are read" in caplog.text
    assert "the model's positions end after 16" in caplog.text
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": "a", "prompt_file": "b"}, "prompt and prompt_file are both set"),
        ({"do_sample": False, "num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3, but num_beams is 2"),
        ({"do_sample": False, "temperature": 0.3}, "temperature is set, but do_sample is false"),
        ({"do_sample": False, "top_k": 5, "seed": 1}, "top_k and seed are set, but do_sample is false"),
        ({"top_p": 0.0}, "top_p"),
        ({"torch_compile": True, "num_beams": 2}, "torch_compile is true and num_beams is 2"),
        ({"torch_compile": True, "quantization": "int8"}, "torch_compile is true and quantization is int8"),
    ],
)
def test_impossible_generation_settings_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        GenerationSettings(**({"model_name_or_path": "x"} | settings))
