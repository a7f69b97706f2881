"""Trackers receive the values and settings of a run, write into its folder, and are refused if not installed."""

import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.tracking import get_available_trackers
from PIL import Image

from papers_to_gpt import finetune_gpt1, pretrain_gpt1, train_translation
from papers_to_gpt.translation import tracking

PRESETS = Path(__file__).parents[2] / "recipes" / "presets"
TINY = """--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300 --max_steps 2
    --eval_steps 1 --logging_steps 1 --num_beams 1 --max_new_tokens 4 --bf16 false --use_cpu true
    --dataset_name none --average_last_checkpoints 0""".split()
SAMPLES, PICTURE = "eval/samples/text_summary", "eval/alignment"
SECRET = "hf_" + "s" * 34


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs the translation script in this process on files of a few lines and returns the folder of the model."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    files = []
    for split in ("train", "validation"):
        for language in ("en", "de"):
            (tmp_path / f"{split}.{language}").write_text("one and two\nthree\n" * 8)
        files += [f"--{split}_file", str(tmp_path / split)]

    def start(*arguments):
        folder = tmp_path / "my_run"
        preset = str(PRESETS / "numbers" / "bahdanau.yaml")
        command = ["train_translation.py", preset, *TINY, *files, "--output_dir", str(folder), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        train_translation.main()
        return folder

    return start


def assert_is_the_runs_config(config, folder):
    """Checks that a tracker has everything in `run.yaml` under its name (set settings, versions), and no token."""
    record = yaml.safe_load((folder / "run.yaml").read_text())
    for name, value in record["settings"].items():
        expected = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert config.get(name) == expected, name
    assert config["seed"] == 42 and config["max_steps"] == 2 and config["optim"] == record["settings"]["optim"]
    assert {name: config[f"versions/{name}"] for name in record["versions"]} == record["versions"]
    assert SECRET not in str(config)


def logged_losses(folder, kind):
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return {line["update"]: line["loss"] for line in lines if line["kind"] == kind}


def test_tensorboard_has_settings_and_values_in_the_output_folder(train):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train("--report_to", "tensorboard")
    logs = folder / "papers-to-gpt-translation"
    (hparams,) = logs.rglob("hparams.yml")
    assert_is_the_runs_config(yaml.safe_load(hparams.read_text()), folder)
    events = EventAccumulator(str(logs)).Reload()
    for kind in ("train", "eval"):
        values = {event.step: event.value for event in events.Scalars(f"{kind}/loss")}
        assert values == pytest.approx(logged_losses(folder, kind)) and set(values) == {1, 2}
    for name in ("gradient_norm", "learning_rate"):
        assert {event.step for event in events.Scalars(f"train/{name}")} == {1, 2}
    samples = [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(SAMPLES)]
    assert [step for step, _ in samples] == [1, 2]
    for _, text in samples:
        assert text.startswith("source: one and two\n\ntranslation: ") and text.count("reference: three") == 2


def test_tensorboard_has_the_alignment_of_the_first_sample_as_a_picture(train):
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = train("--report_to", "tensorboard") / "papers-to-gpt-translation"
    pictures = EventAccumulator(str(logs)).Reload().Images(PICTURE)
    assert [picture.step for picture in pictures] == [1, 2]
    for picture in pictures:
        drawn = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB"))
        assert drawn.shape == (picture.height, picture.width, 3)
        # Axes and text are dark, cells are blue, the ground is white.
        assert drawn.min() < 60 and drawn.max() == 255 and (drawn[..., 2] > drawn[..., 0].astype(int) + 40).any()


def test_without_matplotlib_the_trackers_get_no_picture_and_the_run_says_so_once(train, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    logs = train("--report_to", "tensorboard") / "papers-to-gpt-translation"
    tags = EventAccumulator(str(logs)).Reload().Tags()
    assert PICTURE not in tags["images"] and SAMPLES in tags["tensors"]
    assert capsys.readouterr().out.count("no pictures of alignments: matplotlib is not installed") == 1


def test_a_model_without_attention_has_samples_and_no_picture(train, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = train("--report_to", "tensorboard", "--use_attention", "false") / "papers-to-gpt-translation"
    tags = EventAccumulator(str(logs)).Reload().Tags()
    assert PICTURE not in tags["images"] and SAMPLES in tags["tensors"]
    assert "no pictures" not in capsys.readouterr().out


def test_wandb_has_settings_project_and_name_and_writes_into_the_output_folder(train, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    begun = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **keywords: begun.append(init(**keywords)) or begun[-1])
    folder = train("--report_to", "wandb", "--project", "mine")
    (run,) = begun
    assert (run.project, run.name) == ("mine", "my_run")
    assert_is_the_runs_config(dict(run.config), folder)
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    written = record.read_bytes()
    assert all(name in written for name in (b"versions/transformers", b"train/loss", b"eval/loss"))
    assert SECRET.encode() not in written
    if find_spec("matplotlib") is not None:
        assert len(list(folder.glob(f"wandb/offline-run-*/files/media/images/{PICTURE}_*.png"))) == 2
    assert not (tmp_path / "wandb").exists()


def test_trackio_has_settings_project_and_name(train, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read on import
    trackio = pytest.importorskip("trackio")
    folder = train("--report_to", "trackio")
    (run,) = trackio.Api().runs("papers-to-gpt-translation")
    assert run.name == "my_run"
    assert_is_the_runs_config(run.config, folder)
    if find_spec("matplotlib") is not None:
        assert len(list((tmp_path / "trackio").rglob("*.png"))) == 2


@pytest.mark.parametrize("name", ["comet_ml", "aim", "clearml", "wandb"])
def test_a_tracker_that_is_not_installed_stops_the_run_before_it_makes_a_folder(train, tmp_path, name):
    if name in map(str, get_available_trackers()):
        pytest.skip(f"{name} is installed")
    expected = rf"report_to is '{name}', which is not installed. Install it \(pip install {name}\), or leave it out."
    with pytest.raises(ValueError, match=expected):
        train("--report_to", "tensorboard", name)
    assert not (tmp_path / "my_run").exists()


def test_a_tracker_that_nobody_knows_stops_the_run_with_those_that_are_allowed(train, tmp_path):
    with pytest.raises(
        ValueError, match="report_to is 'tensorbord'; it must be some of .*tensorboard, trackio, wandb"
    ):
        train("--report_to", "tensorbord")
    assert not (tmp_path / "my_run").exists()


def test_runs_of_a_recipe_share_a_project_that_a_setting_names():
    projects = {}
    for recipe, preset in (
        (train_translation, "numbers/bahdanau.yaml"),
        (pretrain_gpt1, "stories/gpt1_mini.yaml"),
        (finetune_gpt1, "stories/sentiment.yaml"),
    ):
        projects[recipe.__name__.rpartition(".")[2]] = recipe.parse([str(PRESETS / preset)])[-2].project
        assert recipe.parse([str(PRESETS / preset), "--project", "mine"])[-2].project == "mine"
    assert projects == {
        "train_translation": "papers-to-gpt-translation",
        "pretrain_gpt1": "papers-to-gpt-pretraining",
        "finetune_gpt1": "papers-to-gpt-finetuning",
    }
