"""Every saved file has the permissions that the umask grants, weights included."""

import os
import stat

import pytest
from tiny_models import MODELS, tiny_model, tiny_tokenizer
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from gpt1_scratch import GPT1ForCausalLM
from gpt1_scratch.pretraining.convert_openai_gpt import convert
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt.engine.checkpointing import average_weights
from papers_to_gpt.exporting.openai_gpt import write_openai_gpt


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def permissions(request):
    """Sets a umask and returns the permissions that a new file gets under it."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def permissions_in(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.suffix != ".py"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard", ["1GB", "1KB"])
def test_models_and_tokenizers(name, shard, permissions, tmp_path):
    tiny_model(name).save_pretrained(tmp_path, max_shard_size=shard)
    train_tokenizer(["a word"] * 2, merges=3).save_pretrained(tmp_path)
    found = permissions_in(tmp_path)
    assert len([path for path in found if path.endswith(".safetensors")]) > (1 if shard == "1KB" else 0)
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} < found.keys()
    assert set(found.values()) == {permissions}


def test_converted_and_averaged_weights(permissions, tmp_path):
    sizes = {"vocab_size": 47, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3}
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes)).save_pretrained(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "ours")
    write_openai_gpt(GPT1ForCausalLM.from_pretrained(tmp_path / "ours"), tiny_tokenizer(), tmp_path / "back")
    (tmp_path / "mean").mkdir()
    average_weights([tmp_path / "ours"] * 2, tmp_path / "mean")
    for name in ("ours", "back", "mean"):
        assert permissions_in(tmp_path / name)["model.safetensors"] == permissions, name


def test_files_written_before_are_replaced_with_the_permissions_of_now(permissions, tmp_path):
    tiny_model("causal_lm").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").chmod(0o600)
    tiny_model("causal_lm").save_pretrained(tmp_path)
    assert permissions_in(tmp_path)["model.safetensors"] == permissions
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
