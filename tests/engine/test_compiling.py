"""`torch_compile`: results of an eager run, code for all lengths at once, exact resume, names as without it."""

import copy
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import GPT1_SIZES, VOCABULARY, tiny_model, tiny_tokenizer
from torch._dynamo.utils import counters

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from papers_to_gpt import generate_text
from papers_to_gpt.engine import compiling
from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.compiling import CACHE_VARIABLE, CompiledSteps
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.reporting import LOG_FILE
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.settings.decoding import TranslationSettings
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings
from papers_to_gpt.translation.decoding import compile_decoder, load_model
from seq2seq_scratch import TransformerConfig, TransformerForConditionalGeneration

LENGTHS = np.random.default_rng(0).integers(2, 20, size=(60, 2))


def pad(rows, value):
    return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=value)


def collate(examples):
    inputs = pad([example["input_ids"] for example in examples], 1)
    labels = pad([example["labels"] for example in examples], -100)
    return {"input_ids": inputs, "attention_mask": (inputs != 1).long(), "labels": labels}


def tiny_transformer():
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "dropout": 0.0}
    layers = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    return TransformerForConditionalGeneration(TransformerConfig(**sizes, **layers, **heads))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Returns a function that trains a tiny model on batches of many lengths, and returns what a run left."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    generator = np.random.default_rng(1)
    examples = [
        {"input_ids": generator.integers(4, 20, size=source), "labels": generator.integers(4, 20, size=target)}
        for source, target in LENGTHS
    ]

    def run(folder, **options):
        model = tiny_transformer()
        settings = TrainingSettings(
            output_dir=str(tmp_path / folder),
            max_steps=12,
            eval_steps=4,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_total_limit=0,
            **options,
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.compiler.reset()
        counters.clear()
        shapes, graphs = set(), []

        def collate_and_count(rows):
            batch = collate(rows)
            graphs.append(counters["stats"]["unique_graphs"])
            shapes.add((*batch["input_ids"].shape, batch["labels"].shape[1]))
            return batch

        TrainingLoop(
            make_accelerator(settings),
            model,
            LengthBucketBatches(examples, LENGTHS, collate_and_count, max_tokens_per_batch=80, seed=3),
            settings,
            OptimizationSettings(learning_rate=0.01, lr_scheduler_type="constant"),
            evaluate=lambda model: {"loss": -float(next(model.parameters()).abs().sum())},
            save_model=model.save_pretrained,
        ).train()
        log = map(json.loads, (tmp_path / folder / LOG_FILE).read_text().splitlines())
        losses = [row["loss"] for row in log if row["kind"] == "train"]
        weights = load_file(tmp_path / folder / "model.safetensors")
        return losses, weights, graphs, shapes

    return run


@pytest.fixture
def captured(monkeypatch):
    """Runs the captured graphs without generating code, which takes minutes. That is PyTorch's own part."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def tiny_causal_lm(**sizes):
    torch.manual_seed(0)
    # Weights so large that texts differ, and no end token that would cut them.
    config = GPT1Config(
        **(GPT1_SIZES | {"vocab_size": VOCABULARY, "initializer_range": 0.5, "eos_token_id": None} | sizes)
    )
    return GPT1ForCausalLM(config).eval()


def check_losses_and_names(train):
    eager, expected, _, _ = train("eager", torch_compile=False)
    compiled, weights, graphs, shapes = train("compiled", torch_compile=True)
    assert compiled == pytest.approx(eager, rel=1e-4) and len(compiled) == 12
    assert weights.keys() == expected.keys()
    return compiled, weights, graphs, shapes


def test_a_compiled_run_equals_an_eager_one_has_one_code_for_all_lengths_and_resumes(train, captured, tmp_path):
    compiled, weights, graphs, shapes = check_losses_and_names(train)
    # The number of graphs when each batch was read: there are none at first, and the first few batches make them all.
    assert len(shapes) > 8 and graphs[0] == 0 < graphs[1] and graphs[4] == graphs[-1] <= 8, graphs
    shutil.copytree(tmp_path / "compiled", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-12")
    losses, resumed, _, _ = train("resumed", torch_compile=True, resume_from_checkpoint="last")
    assert losses == compiled
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)


@pytest.mark.long
def test_the_code_of_a_run_is_kept_for_the_next_one(train, tmp_path):
    check_losses_and_names(train)
    assert any((tmp_path / "compiled").iterdir())
    counters.clear()
    train("again", torch_compile=True)
    assert counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"] > 0


def test_a_machine_without_a_compiler_is_named(train, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="torch_compile needs a C\\+\\+ compiler, and no-such-compiler is not on"):
        train("refused", torch_compile=True)


def test_steps_of_generation_have_one_code_for_prompts_and_texts_of_all_lengths(captured, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    torch.compiler.reset()
    counters.clear()
    model = tiny_causal_lm()
    steps, graphs = CompiledSteps(model), []
    for length, new_tokens in ((3, 6), (5, 9), (1, 24), (12, 24)):
        ids = torch.randint(4, 16, (1, length), generator=torch.Generator().manual_seed(length))
        settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new_tokens, "do_sample": False}
        expected = model.generate(ids, **settings)
        assert expected.shape[1] > length + 2
        with torch.inference_mode():
            assert torch.equal(model.generate(ids, **settings, **steps.arguments()), expected)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1] * 4 and not counters["graph_break"]


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_home_that_can_be_written_to_compiled_code_stays_in_a_temporary_folder(home, monkeypatch, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "home", none if home == "none" else lambda: tmp_path / "file")
    compiling.prepare_compiler("cpu")
    assert CACHE_VARIABLE not in os.environ
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    compiling.prepare_compiler("cpu")
    assert os.environ.pop(CACHE_VARIABLE) == str(tmp_path / ".cache" / "papers_to_gpt" / "compiled")


@pytest.mark.long
def test_generate_text_prints_the_same_with_compiled_steps_and_keeps_their_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    tiny_causal_lm().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "prompts.txt").write_text("word4 word5\nword9\nword6 word7 word8 word4 word15\n")
    printed = []
    for options in ([], ["--torch_compile", "true"]):
        arguments = [f"--model_name_or_path={tmp_path}", f"--prompt_file={tmp_path / 'prompts.txt'}", *options]
        arguments += ["--max_new_tokens", "9", "--num_return_sequences", "3", "--seed", "1", "--bf16", "false"]
        monkeypatch.setattr(sys, "argv", ["generate_text.py", *arguments])
        generate_text.main()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].count("\n") == 9
    assert any((tmp_path / "compiled").iterdir())


@pytest.mark.long
def test_a_decoder_has_one_code_for_sentences_and_translations_of_all_lengths(captured, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    torch.compiler.reset()
    counters.clear()
    eager = tiny_transformer().eval()
    compiled, graphs = copy.deepcopy(eager), []
    compile_decoder(compiled)
    for rows, length, new_tokens in ((3, 5, 6), (2, 7, 9), (4, 3, 4)):
        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(4, 20, (rows, length), generator=generator)
        ids[-1, 2:] = eager.config.pad_token_id
        sources = {"input_ids": ids, "attention_mask": (ids != eager.config.pad_token_id).long()}
        limits = {"num_beams": 3, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        with torch.inference_mode():
            assert torch.equal(compiled.generate(**sources, **limits), eager.generate(**sources, **limits))
        graphs.append(counters["stats"]["unique_graphs"])
    # The first step of a search, the second, and all later ones.
    assert graphs == [3] * 3 and not counters["graph_break"]


def test_a_translator_without_a_decoder_to_compile_is_named(tmp_path):
    tiny_model("bahdanau").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="torch_compile is true, but only the decoder of a Transformer can be"):
        load_model(TranslationSettings(model_name_or_path=[str(tmp_path)], torch_compile=True))


@pytest.mark.parametrize(
    ("models", "options", "expected"),
    [
        (["x"], {"with_alignments": True}, "with_alignments and torch_compile are true"),
        (["x"], {"quantization": "int8"}, "torch_compile is true and quantization is int8"),
        (["x", "y"], {}, "torch_compile is true, but model_name_or_path names 2 models"),
    ],
)
def test_what_compiled_translators_cannot_do_is_refused(models, options, expected):
    with pytest.raises(ValueError, match=expected):
        TranslationSettings(model_name_or_path=models, torch_compile=True, **options)


def test_a_model_without_a_step_to_compile_is_named():
    with pytest.raises(ValueError, match="torch_compile is true, but GPT1ForCausalLM with this configuration has no"):
        CompiledSteps(tiny_causal_lm(lstm_size=8))
