"""The paper's ablations, run by the script on tiny models."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt import ablate_gpt1
from papers_to_gpt.gpt1 import ablation


@pytest.fixture
def ablate(tmp_path, monkeypatch):
    """Runs the script in this process on a tiny model and task and returns the output folder."""
    words = np.random.default_rng(0).choice("kite lamp mill tree".split(), size=(40, 3))
    rows = [f"{' '.join(row)},{'ab'[index % 2]}" for index, row in enumerate(words)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    tokenizer = train_tokenizer([" ".join(words.flatten())], merges=20, model_max_length=16)
    sizes = {"max_position_embeddings": 16, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    for name, lstm_size in {"model": None, "lstm": 12}.items():
        GPT1ForCausalLM(GPT1Config(**sizes, lstm_size=lstm_size)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def start(*arguments):
        settings = f"--model_name_or_path {tmp_path}/model --train_file {tmp_path}/rows.csv --max_steps 1 --bf16 false"
        monkeypatch.setattr(
            sys, "argv", ["ablate_gpt1.py", *settings.split(), "--output_dir", str(tmp_path / "run"), *arguments]
        )
        ablate_gpt1.main()
        return tmp_path / "run"

    return start


def test_every_variant_is_run_with_what_it_changes_and_leads_to_a_table_and_a_plot(ablate, tmp_path):
    pytest.importorskip("matplotlib")
    folder = ablate("--seeds", "1", "2", "--lstm_model_name_or_path", str(tmp_path / "lstm"))
    changed = {
        "model_name_or_path": str(tmp_path / "model"),
        "from_scratch": False,
        "transferred_layers": None,
        "auxiliary_loss_weight": 0.5,
    }
    variants = {
        "full": {},
        "no_pretraining": {"from_scratch": True},
        "no_auxiliary_loss": {"auxiliary_loss_weight": 0.0},
        "lstm": {"model_name_or_path": str(tmp_path / "lstm")},
        "layers_0": {"transferred_layers": 0},
        "layers_1": {"transferred_layers": 1},
    }
    results = json.loads((folder / "all_results.json").read_text())["variants"]
    assert list(results) == list(variants)
    for name, changes in variants.items():
        for seed in (1, 2):
            settings = yaml.safe_load((folder / name / f"seed_{seed}" / "run.yaml").read_text())["settings"]
            assert {key: settings[key] for key in changed} == changed | changes, name
            assert settings["seed"] == seed
            config = json.loads((folder / name / f"seed_{seed}" / "config.json").read_text())
            assert config["lstm_size"] == (12 if name == "lstm" else None)
    lines = [line.split(" | ") for line in (folder / "ablation.md").read_text().splitlines()]
    assert lines[0] == ["| variant", "average", "own (accuracy)", "failed runs |"]
    assert [line[0] for line in lines[2:-2]] == [f"| {name.replace('_', ' ')}" for name in variants]
    for line, summary in zip(lines[2:-2], results.values(), strict=True):
        own = summary["own"]
        low, median, high, spread = (f"{100 * own[f'eval_accuracy{end}']:.1f}" for end in ("_min", "", "_max", "_std"))
        failed = sum(run["failed_to_learn"] for run in own["runs"].values())
        assert line[1:] == [median, f"{median} ({low} to {high}; {spread})", f"{failed} of 2 |"]
    # The rows have no test split, so that the validation score is what the table reports.
    assert lines[-1][0].startswith("selection train_holdout: rows of train that were held out chose the checkpoints")
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "ablation.svg").read_text()


def test_without_matplotlib_there_is_a_table_and_a_message(ablate, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "find_spec", lambda name: None)
    folder = ablate("--layers", "2")
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert len((folder / "ablation.md").read_text().split("\n\n")[0].splitlines()) == 2 + 3
    assert not (folder / "ablation.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layers", "3"], "layers is 3; the model has 2 blocks"),
        (["--from_scratch", "true"], "are what this script varies"),
        (["--lstm_model_name_or_path", "model"], "model, which is a Transformer"),
    ],
)
def test_impossible_variants_are_refused(ablate, arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=expected):
        ablate(*arguments)
