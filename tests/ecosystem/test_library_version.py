"""Versions of transformers that are too old are refused, and generation is checked under those that are untested."""

import configparser
import copy
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import cpu_offload
from tiny_models import END, TRANSLATORS, tiny_batch, tiny_model
from transformers import GenerationConfig, GenerationMixin

import gpt1_scratch.library_version
import seq2seq_scratch.library_version

ROOT = Path(__file__).parents[2]
GENERATORS = [*TRANSLATORS, "causal_lm"]
FUTURE = "5.99.0"


def versions_of(name):
    """Returns the module `library_version` of the package that a model belongs to."""
    return (seq2seq_scratch if name in TRANSLATORS else gpt1_scratch).library_version


@pytest.fixture(params=GENERATORS)
def name(request, monkeypatch):
    """Returns a model's name, after making transformers appear newer than the tested versions."""
    versions = versions_of(request.param)
    monkeypatch.setattr(versions, "INSTALLED", FUTURE)
    monkeypatch.setattr(versions, "_found", {})
    return request.param


def broken(model):
    """Changes a model's `forward` so that it ignores the cache, as under a name that it does not know."""

    class Broken(type(model)):
        def forward(self, input_ids=None, position_ids=None, past_key_values=None, cache=None, **kwargs):
            if position_ids is not None:  # GPT-1's alone
                kwargs["position_ids"] = position_ids
            return super().forward(input_ids, **kwargs)

    model.__class__ = Broken
    return model


def prompts(name):
    batch = tiny_batch(name, 2)
    batch = {key: batch[key] for key in ("input_ids", "attention_mask")}
    if name == "causal_lm":  # padded on the left, to be gone on with
        batch = {key: value.flip(1) for key, value in batch.items()}
    return batch


def calls_of(monkeypatch, model):
    """Returns a list that records the arguments of every later `generate()` of the library."""
    calls, search = [], GenerationMixin.generate

    def counted(self, *args, **kwargs):
        calls.append(kwargs)
        return search(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    return calls


def import_under(version, package):
    """Imports a package in a new process whose transformers calls itself `version`."""
    code = f"import transformers; transformers.__version__ = {version!r}; import {package}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("package", ["seq2seq_scratch", "gpt1_scratch", "gpt1_scratch.configuration_gpt1"])
def test_an_older_version_is_refused_with_the_command_that_helps(package):
    result = import_under("4.57.1", package)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: transformers 4.57.1 is installed, but this model needs transformers>=5.23,<5.25: "
        'pip install "transformers>=5.23,<5.25"'
    )


def test_a_newer_version_is_warned_of_once_whatever_is_imported():
    result = import_under(FUTURE, "gpt1_scratch, seq2seq_scratch")
    assert result.returncode == 0
    assert result.stderr.count(f"transformers {FUTURE} is newer than the versions") == 1
    assert result.stderr.count('pip install "transformers>=5.23,<5.25"') == 1


@pytest.mark.parametrize("version", ["5.23.0", "5.24.0", "5.24.3"])
def test_a_tested_version_imports_without_output(version):
    result = import_under(version, "gpt1_scratch, seq2seq_scratch")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_cache_that_is_not_read_is_found_before_anything_is_generated(name, monkeypatch):
    model = broken(tiny_model(name))
    calls = calls_of(monkeypatch, model)
    for _ in range(2):  # not the first time alone
        with pytest.raises(RuntimeError, match=rf"transformers {FUTURE} does not work with Broken.*<5\.25.*use_cache"):
            model.generate(**prompts(name), max_new_tokens=2)
        assert [call["use_cache"] for call in calls] == [False, True]
    plain = model.generate(**prompts(name), max_new_tokens=4, do_sample=False, use_cache=False)
    expected = tiny_model(name).generate(**prompts(name), max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(plain, expected)
    config = GenerationConfig(max_new_tokens=4, use_cache=False)
    assert torch.equal(model.generate(**prompts(name), generation_config=config), expected)


def test_a_renamed_argument_between_generate_and_forward_is_found(name, monkeypatch):
    """As in version 5.24: the library passes the cache under a new name, which `forward` takes as `**kwargs`."""
    prepare = GenerationMixin.prepare_inputs_for_generation

    def renamed(self, *args, **kwargs):
        inputs = prepare(self, *args, **kwargs)
        for known in ("past_key_values", "cache"):
            if known in inputs:
                inputs[f"next_{known}"] = inputs.pop(known)
        return inputs

    class Deaf(type(tiny_model(name))):
        def forward(self, input_ids=None, attention_mask=None, next_past_key_values=None, next_cache=None, **kwargs):
            return super().forward(input_ids, attention_mask, **kwargs)

        prepare_inputs_for_generation = renamed

    model = tiny_model(name)
    model.__class__ = Deaf
    with pytest.raises(RuntimeError, match="does not work with Deaf"):
        model.generate(**prompts(name), max_new_tokens=2)


def test_a_working_model_generates_as_before_and_keeps_its_state(name, monkeypatch):
    model, untouched = tiny_model(name), tiny_model(name)
    for each in (model, untouched):
        each.generation_config.update(min_length=9, suppress_tokens=[4], forced_eos_token_id=END, max_length=12)
    config = copy.deepcopy(model.generation_config)
    calls = calls_of(monkeypatch, model)
    model.train()
    next(model.children()).eval()  # as one that is frozen
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    sampled = model.generate(**prompts(name), do_sample=True)
    state = torch.get_rng_state()
    assert len(calls) == 3
    assert [module.training for module in model.modules()] == modes
    assert model.generation_config.to_dict() == config.to_dict()

    # The check would come first here too; under a tested version it does not.
    monkeypatch.setattr(versions_of(name), "INSTALLED", transformers.__version__)
    untouched.train()
    next(untouched.children()).eval()
    torch.manual_seed(3)
    assert torch.equal(untouched.generate(**prompts(name), do_sample=True), sampled)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == 4


def test_each_class_is_checked_once_however_many_threads_generate(name, monkeypatch):
    models = [tiny_model(name) for _ in range(4)]
    calls = calls_of(monkeypatch, models[0])
    results = [None] * 4

    def generate(number):
        results[number] = models[number].generate(**prompts(name), max_new_tokens=3, do_sample=False)

    threads = [threading.Thread(target=generate, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2 + 4
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rounding_is_no_disagreement(name, dtype):
    model = tiny_model(name).to(dtype)
    assert len(model.generate(**prompts(name), max_new_tokens=2)) == 2
    model = broken(tiny_model(name)).to(dtype)
    with pytest.raises(RuntimeError, match="does not work"):
        model.generate(**prompts(name), max_new_tokens=2)


def test_an_lstm_language_model_is_checked_without_padding(monkeypatch):
    monkeypatch.setattr(gpt1_scratch.library_version, "INSTALLED", FUTURE)
    monkeypatch.setattr(gpt1_scratch.library_version, "_found", {})
    model = tiny_model("causal_lm", lstm_size=8)
    assert len(model.generate(torch.tensor([[4, 5, 6]]), max_new_tokens=2)) == 1
    assert gpt1_scratch.library_version._found == {type(model): ""}


def test_weights_that_are_elsewhere_are_not_checked(monkeypatch):
    monkeypatch.setattr(gpt1_scratch.library_version, "INSTALLED", FUTURE)
    monkeypatch.setattr(gpt1_scratch.library_version, "_found", {})
    model = cpu_offload(tiny_model("causal_lm"), execution_device="cpu")
    model.generate(**prompts("causal_lm"), max_new_tokens=2)
    assert not gpt1_scratch.library_version._found


def test_both_packages_have_the_versions_that_setup_names():
    """They do not import each other."""
    first, second = (ROOT / package / "library_version.py" for package in ("seq2seq_scratch", "gpt1_scratch"))
    assert first.read_text() == second.read_text()
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    required = settings["options"]["install_requires"].split()
    assert f"transformers{gpt1_scratch.library_version.requirement()}" in required
