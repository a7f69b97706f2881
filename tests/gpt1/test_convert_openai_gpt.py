"""Conversion of weights in both directions agrees with transformers' OpenAIGPTLMHeadModel."""

import json
import re
import resource

import pytest
import torch
from exported_models import run
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTLMHeadModel,
    OpenAIGPTTokenizer,
)

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.pretraining.convert_openai_gpt import convert, from_openai_gpt, to_openai_gpt
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt import convert_openai_gpt, export

SMALL = {"vocab_size": 47, "n_positions": 20, "n_embd": 24, "n_layer": 2, "n_head": 3}


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Draws biases and gains at random too, so that a misplaced layer changes the result."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def published_model(**settings) -> OpenAIGPTLMHeadModel:
    return stir(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**{**SMALL, **settings})))


def largest_difference(one, other, vocab_size: int, length: int) -> float:
    input_ids = torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (one(input_ids).logits - other(input_ids).logits).abs().max().item()


def test_full_size_logits_agree_both_ways():
    published = stir(OpenAIGPTLMHeadModel(OpenAIGPTConfig()))
    ours = from_openai_gpt(published.config, published.state_dict())
    assert sum(parameter.numel() for parameter in ours.parameters()) == 116_534_784
    assert largest_difference(ours, published, 40478, 24) < 1e-5
    again = to_openai_gpt(ours)
    weights = published.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
    assert largest_difference(ours, again, 40478, 24) < 1e-5


def test_our_own_model_becomes_an_openai_one():
    config = GPT1Config(
        vocab_size=47, max_position_embeddings=20, hidden_size=24, num_hidden_layers=2, num_attention_heads=3
    )
    ours = stir(GPT1ForCausalLM(config))
    assert largest_difference(ours, to_openai_gpt(ours), 47, 20) < 1e-5


def test_settings_survive_the_way_there_and_back():
    settings = {
        "resid_pdrop": 0.2,
        "embd_pdrop": 0.3,
        "attn_pdrop": 0.4,
        "layer_norm_epsilon": 1e-3,
        "pad_token_id": 5,
    }
    published = published_model(**settings)
    again = to_openai_gpt(from_openai_gpt(published.config, published.state_dict()))
    for name in {**SMALL, **settings, "initializer_range": 0.02, "eos_token_id": None}:
        assert getattr(again.config, name) == getattr(published.config, name), name


@pytest.mark.parametrize("layout", ["plain", "prefixed", "sharded", "old", "double heads"])
def test_checkpoint_folders_of_every_layout_convert(layout, tmp_path):
    published, source, target = published_model(), tmp_path / "source", tmp_path / "target"
    if layout == "double heads":
        published = stir(OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**SMALL)))
    published.save_pretrained(source, max_shard_size="20KB" if layout == "sharded" else "1GB")
    assert (source / "model.safetensors.index.json").exists() == (layout == "sharded")
    if layout in ("old", "prefixed"):
        weights = load_file(source / "model.safetensors")
        weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        if layout == "old":  # with the constants that early versions stored
            weights["h.0.attn.bias"] = torch.ones(1, 1, 20, 20).tril()
            weights["position_ids"] = torch.arange(20)
        else:
            weights = {f"transformer.{name}": tensor for name, tensor in weights.items()}
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    (source / "tokenizer.json").write_text('{"kept": true}')
    convert(source, target)
    ours = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=False)
    assert isinstance(ours, GPT1ForCausalLM)
    reference = OpenAIGPTLMHeadModel.from_pretrained(source)
    assert largest_difference(ours, reference, 47, 20) < 1e-5
    assert (target / "tokenizer.json").read_text() == '{"kept": true}'


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_command_converts_and_another_exports_the_same_weights(dtype, tmp_path, monkeypatch, capsys):
    published = published_model().to(dtype)
    published.generation_config.update(num_beams=3, max_new_tokens=9, eos_token_id=[4, 5], repetition_penalty=1.5)
    published.save_pretrained(tmp_path / "published")
    train_tokenizer(["a b c"] * 3, merges=4).save_pretrained(tmp_path / "published")
    capsys.readouterr()
    assert run(convert_openai_gpt, monkeypatch, tmp_path / "published", tmp_path / "ours") in (0, None)
    assert capsys.readouterr() == (f"Wrote {tmp_path / 'ours'}.\n", "")
    way_back = ["--format", "openai-gpt", "--output_dir"]
    assert run(export, monkeypatch, tmp_path / "ours", *way_back, tmp_path / "back") in (0, None)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("published", "back"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {tensor.dtype for tensor in other.values()} == {dtype}
    for name in ("ours", "back"):
        found = GenerationConfig.from_pretrained(tmp_path / name)
        assert (found.num_beams, found.max_new_tokens, found.repetition_penalty) == (3, 9, 1.5)
        assert found.eos_token_id == [4, 5]
    assert run(convert_openai_gpt, monkeypatch, tmp_path / "ours", tmp_path / "new") == 2
    assert "model_type 'gpt1'" in capsys.readouterr().err
    assert run(convert_openai_gpt, monkeypatch, tmp_path / "ours", tmp_path / "new", "--to", "openai-gpt") == 2
    assert "recipes/export.py MODEL --format openai-gpt --output_dir FOLDER" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("saved", ["ours", "the library's", "without settings", "the published files"])
def test_a_converted_tokenizer_cuts_to_the_models_positions(saved, tmp_path, monkeypatch):
    vocabulary = ["<unk>", *"abc", *(f"{letter}</w>" for letter in "abc")]
    vocabulary, merges = {token: number for number, token in enumerate(vocabulary)}, []
    published_model().save_pretrained(tmp_path / "source")
    if saved == "ours":
        train_tokenizer(["a b c"] * 3, merges=4).save_pretrained(tmp_path / "source")
    else:
        OpenAIGPTTokenizer(vocab=vocabulary, merges=merges).save_pretrained(tmp_path / "source")
    if saved in ("without settings", "the published files"):
        (tmp_path / "source" / "tokenizer_config.json").unlink()
    if saved == "the published files":
        (tmp_path / "source" / "tokenizer.json").unlink()
        (tmp_path / "source" / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "source" / "merges.txt").write_text("#version: 0.2\n")
    before = AutoTokenizer.from_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    arguments = [tmp_path / "ours", "--format", "openai-gpt", "--output_dir", tmp_path / "back"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    for name, auto_class in (("ours", GPT1ForCausalLM), ("back", OpenAIGPTLMHeadModel)):
        tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / name), auto_class.from_pretrained(tmp_path / name)
        assert tokenizer("c a b").input_ids == before("c a b").input_ids
        cut = tokenizer("c a b " * 20, truncation=True, return_tensors="pt").input_ids
        assert cut.shape == (1, 20) and model(cut).logits.isfinite().all()


def test_pickled_weights_are_refused(tmp_path):
    published = published_model()
    published.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save(published.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no model.safetensors. Its pytorch_model.bin is a pickle"):
        convert(tmp_path / "source", tmp_path / "target")


def test_a_conversion_that_does_not_fit_on_the_disk_leaves_no_folder(tmp_path, monkeypatch, capsys):
    published_model().save_pretrained(tmp_path / "published")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        assert run(convert_openai_gpt, monkeypatch, tmp_path / "published", tmp_path / "ours") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"ours/\S+ could not be written: .*; then convert the checkpoint again", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").touch()
    assert run(convert_openai_gpt, monkeypatch, tmp_path / "published", tmp_path / "ours") == 2
    assert "already has files" in capsys.readouterr().err and (tmp_path / "ours" / "mine.txt").is_file()


def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="neither a folder nor a model"):
        convert("nobody/nothing", tmp_path / "target")
    with pytest.raises(ValueError, match="neither a folder nor a model"):
        convert(tmp_path / "missing", tmp_path / "target")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no config.json"):
        convert(tmp_path / "empty", tmp_path / "target")
    published_model().save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="already has files"):
        convert(tmp_path / "source", tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        convert(tmp_path / "source", tmp_path / "target")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match="model_type 'gpt2'.*'openai-gpt'"):
        convert(tmp_path / "source", tmp_path / "target")


def test_weights_that_do_not_fit_are_named():
    published = published_model()
    weights = published.state_dict()
    incomplete = {name: tensor for name, tensor in weights.items() if "ln_2.bias" not in name}
    with pytest.raises(ValueError, match="Missing: h.0.ln_2.bias, h.1.ln_2.bias; unknown: none"):
        from_openai_gpt(published.config, incomplete)
    with pytest.raises(ValueError, match="unknown: h.2.ln_1.weight"):
        from_openai_gpt(published.config, {**weights, "h.2.ln_1.weight": torch.ones(24)})
    with pytest.raises(ValueError, match=r"c_fc.weight has the shape \(24, 95\).*\(24, 96\)"):
        from_openai_gpt(published.config, {**weights, "transformer.h.0.mlp.c_fc.weight": torch.ones(24, 95)})
    with pytest.raises(ValueError, match="lm_head.weight differs"):
        from_openai_gpt(published.config, {**weights, "lm_head.weight": torch.ones(47, 24)})


def test_models_that_the_other_class_cannot_express_are_refused():
    with pytest.raises(ValueError, match="afn.*'relu'"):
        from_openai_gpt(OpenAIGPTConfig(**SMALL, afn="relu"), {})
    sizes = {"vocab_size": 47, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    with pytest.raises(ValueError, match="intermediate_size is 40"):
        to_openai_gpt(GPT1ForCausalLM(GPT1Config(**sizes, intermediate_size=40)))
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        to_openai_gpt(GPT1ForCausalLM(GPT1Config(**sizes, tie_word_embeddings=False)))
