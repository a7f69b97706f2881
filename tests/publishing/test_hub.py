"""Sharing with the real client over HTTP, with a local Hub: pushing, verifying, loading and all failures."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from hub_server import OTHER_TOKEN, READ_TOKEN, WRITE_TOKEN, Blob
from safetensors.torch import load_file, save_file

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch import tokenization as gpt1_tokenization
from gpt1_scratch.stories.corpus import load_stories
from papers_to_gpt import finetune_gpt1, generate_text, pretrain_gpt1, share
from papers_to_gpt.gpt1 import pretraining
from papers_to_gpt.publishing import clean_process, shared_folder
from papers_to_gpt.publishing.clean_process import compare_probes, probe_in_clean_process, probe_model
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.shared_folder import check_shared_folder, refresh_code, shared_files
from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.hub import RepositorySettings
from seq2seq_scratch import TRANSLATION_CONFIGS, TRANSLATION_MODELS
from seq2seq_scratch import tokenization as seq2seq_tokenization
from seq2seq_scratch.translation import load_translator

ROOT = Path(__file__).parents[2]
REPOSITORY = "writer/model"
TINY_TRANSLATORS = {
    "rnn_seq2seq": {"embedding_size": 6, "hidden_size": 8},
    "bahdanau": {"embedding_size": 6, "hidden_size": 8, "attention_size": 6, "maxout_size": 4},
    "transformer_seq2seq": {"hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1, "intermediate_size": 8}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
}
FAMILIES = (*TINY_TRANSLATORS, "gpt1")
CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


def tiny_model(family, folder):
    """Saves a tiny model and its tokenizers as the recipes do; returns the three."""
    torch.manual_seed(0)
    texts = ["there were two friends", "zwei kleine Freunde waren da"] * 9
    if family == "gpt1":
        tokenizer = gpt1_tokenization.train_tokenizer(texts, merges=20)
        ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12}
        model, target = GPT1ForCausalLM(GPT1Config(vocab_size=len(tokenizer), **sizes, **ids)), None
        tokenizer.save_pretrained(folder)
    else:
        tokenizer, target = (
            seq2seq_tokenization.train_tokenizer(texts, kind="bpe", vocab_size=size) for size in (270, 280)
        )
        if family == "transformer_seq2seq":
            target = tokenizer  # one vocabulary for both languages
        sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(target), **TINY_TRANSLATORS[family]}
        config = TRANSLATION_CONFIGS[family](**sizes)
        model = TRANSLATION_MODELS[type(config)](config)
        seq2seq_tokenization.save_tokenizers(folder, tokenizer, target)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "all_results.json").write_text('{"eval_loss": 1.0}\n')
    # What a run leaves besides, and keeps.
    record = {"settings": {"train_file": "/data/secret/train.txt"}, "parameters": 1, "versions": {}}
    record["machine"] = {"device": "a processor", "processes": 1, "threads": 1, "mixed_precision": "no"}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    (folder / "checkpoint-2" / "training_state").mkdir(parents=True)
    tokenizer.save_pretrained(folder / "checkpoint-2")
    torch.save({}, folder / "checkpoint-2" / "training_state" / "optimizer.pt")
    return model.eval(), tokenizer, None if target is tokenizer else target


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Returns the folder of each family and the results of the model in memory."""
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("models") / family
        made[family] = folder, probe_model(*tiny_model(family, folder))
    return made


@pytest.fixture
def folder(originals, tmp_path):
    """Returns a copy of a small model's folder that a test may damage."""
    return shutil.copytree(originals["gpt1"][0], tmp_path / "model")


@pytest.fixture
def no_waiting(monkeypatch):
    """Skips the client's waits between retries, 23 seconds in all."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def stranger_in_process(monkeypatch):
    """Runs the clean process's code in this process, which saves seconds in tests of other things."""

    def computed_here(sources, *arguments, **keywords):
        return [{} for _ in sources]

    monkeypatch.setattr(shared_folder, "probe_in_clean_process", computed_here)
    monkeypatch.setattr("papers_to_gpt.publishing.hub.probe_in_clean_process", computed_here)
    for module in ("papers_to_gpt.publishing.hub", "papers_to_gpt.publishing.shared_folder"):
        monkeypatch.setattr(f"{module}.compare_probes", lambda *arguments: None)


def run_share(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["share.py", *map(str, arguments)])
    share.main()


def as_a_stranger(sources, home, **environment):
    """Loads models by their ids in a new process in an empty folder; the cache in `home` is kept."""
    empty, target = home / "empty", home / "computed"
    shutil.rmtree(target, ignore_errors=True)
    for place in (empty, target):
        place.mkdir(parents=True, exist_ok=True)
    job = {"sources": sources, "revision": None, "target": str(target)}
    job["hidden_packages"] = ["seq2seq_scratch", "gpt1_scratch"]
    return subprocess.run(
        [sys.executable, "-P", clean_process.__file__],
        input=json.dumps(job),
        env={**os.environ, "HF_HOME": str(home), **environment},
        cwd=empty,
        capture_output=True,
        text=True,
    )


def test_every_family_is_pushed_wiped_loaded_and_the_same_then_again_offline(hub, originals, tmp_path, monkeypatch):
    ids = []
    for family, (original, _) in originals.items():
        folder = shutil.copytree(original, tmp_path / family)
        repository = HubRepository(RepositorySettings(hub_model_id=f"writer/{family}"), family, folder)
        repository.push(folder, "a model")
        shutil.rmtree(folder)
        ids.append(repository.repo_id)
    monkeypatch.delenv("HF_TOKEN")  # these are public
    for environment in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        result = as_a_stranger(ids, tmp_path / "home", **environment)
        assert result.returncode == 0, result.stderr
        for number, (_, expected) in enumerate(originals.values()):
            found = load_file(tmp_path / "home" / "computed" / f"{number}.safetensors")
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bahdanau", "transformer_seq2seq"])
def test_a_translator_of_the_hub_loads_again_without_the_network(family, hub, originals, monkeypatch):
    folder, _ = originals[family]
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    online = load_translator(REPOSITORY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    offline = load_translator(REPOSITORY)
    for there, here in zip(online[1:], offline[1:], strict=True):
        assert there.get_vocab() == here.get_vocab()
    assert (offline[1] is offline[2]) == (family == "transformer_seq2seq")


def make_code_stale(folder):
    """Replaces the code by an old version that the installed library breaks; returns the files that must stay."""
    (folder / "library_version.py").unlink()
    for path in folder.glob("*.py"):
        path.write_text(path.read_text() + "\nraise RuntimeError('written for another library')\n")
    config = json.loads((folder / "config.json").read_text())
    config["transformers_version"] = "5.22.0"
    (folder / "config.json").write_text(json.dumps(config))
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]
    return {path: path.read_bytes() for path in kept if path.name != "config.json"}


def test_stale_code_is_refreshed_and_the_folder_loads_with_nothing_else_changed(originals, tmp_path):
    folders = [shutil.copytree(original, tmp_path / family) for family, (original, _) in originals.items()]
    for folder in folders:
        kept = make_code_stale(folder)
        refresh_code(folder)
        assert {path: path.read_bytes() for path in kept} == kept
        assert {path.name for path in folder.glob("*.py")} >= {"library_version.py"}
    found = probe_in_clean_process(folders, ["seq2seq_scratch", "gpt1_scratch"], offline=True)
    for each, (_, expected) in zip(found, originals.values(), strict=True):
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-5)


def test_the_code_of_a_repository_is_refreshed_in_one_commit(hub, folder, monkeypatch, capsys):
    make_code_stale(folder)
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    before = hub.repositories[REPOSITORY].files()
    with pytest.raises(ValueError, match="lacks library_version.py"):
        run_share(monkeypatch, folder)
    run_share(monkeypatch, folder, "--refresh_code", "true", "--hub_model_id", REPOSITORY)
    assert "downloaded again and compared" in capsys.readouterr().out
    repository = hub.repositories[REPOSITORY]
    after = repository.files()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"config.json", *(name for name in after if name.endswith(".py"))}


def test_the_script_checks_pushes_one_commit_and_verifies(hub, folder, monkeypatch, capsys):
    (folder / "README.md").unlink()
    run_share(monkeypatch, folder, "--hub_model_id", REPOSITORY, "--hub_private_repo", "true")
    assert "downloaded again and compared" in capsys.readouterr().out
    repository = hub.repositories[REPOSITORY]
    assert repository.private and len(repository.commits) == 2
    shared = repository.files()
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    expected |= {"modeling_gpt1.py", "configuration_gpt1.py", "tokenizer_config.json", "all_results.json"}
    assert expected <= set(shared)
    assert not [path for path in shared if "checkpoint" in path or path.endswith((".yaml", ".pt", ".jsonl"))]
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()) + b"".join(
        shared.values()
    )
    assert WRITE_TOKEN.encode() not in everything
    assert REPOSITORY.encode() in shared["README.md"] and b"/data/secret" not in shared["README.md"]
    # It was downloaded after the commit.
    paths = [path for _, path in hub.requests]
    commit = paths.index(f"/api/models/{REPOSITORY}/commit/main")
    assert [path for path in paths[commit:] if path.endswith("/model.safetensors")]


def test_what_the_hub_gives_back_is_compared(originals):
    _, computed = originals["gpt1"]
    compare_probes(computed, computed, "here")
    for name in computed:
        with pytest.raises(ValueError, match=f"there: its {name} differ"):
            compare_probes(computed | {name: computed[name] + 1}, computed, "there")
    with pytest.raises(ValueError, match="differ .* by up to nan"):
        compare_probes(computed | {"logits": computed["logits"] * torch.nan}, computed, "there")
    with pytest.raises(ValueError, match="another shape"):
        compare_probes({"logits": computed["logits"]}, computed, "there")


def test_without_an_id_the_script_only_checks(hub, folder, monkeypatch, capsys, stranger_in_process):
    monkeypatch.delenv("HF_TOKEN")
    run_share(monkeypatch, folder)
    assert "is complete" in (said := capsys.readouterr().out) and "model.safetensors" in said
    assert not hub.requests


# What is wrong with a folder


def spoil(name):
    """Returns a function that changes a JSON file of a folder."""
    return lambda change: (
        lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    )


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


def offer_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.popitem()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def another_tokenizer(folder):
    gpt1_tokenization.train_tokenizer(["other words"] * 9, merges=3).save_pretrained(folder)


def link_to_weights(folder):
    elsewhere = (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(elsewhere)


BAD_FOLDERS = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights: model.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no model: config.json is not there"),
    "unknown type": (spoil("config.json")({"model_type": "elmo"}), "model_type is 'elmo', which is no model of"),
    "no auto_map": (spoil("config.json")({"auto_map": None}), "its auto_map does not say where the code"),
    "link": (link_to_weights, "model.safetensors is a link, and links are not shared"),
    "truncated": (truncate, "model.safetensors is cut off or no safetensors file"),
    "pickle": (offer_pickle, "holds pytorch_model.bin: loading a pickle runs the code in it"),
    "a weight less": (drop_a_weight, "the weights are not those of its config.json: .*missing_keys"),
    "other sizes": (
        spoil("config.json")({"hidden_size": 16}),
        "the weights are not those of its config.json: .*mismatched_keys",
    ),
    "other tokenizer": (another_tokenizer, r"the tokenizer has \d+ entries, but vocab_size in config.json is \d+"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer: tokenizer.json not there"),
    "no code": (lambda folder: (folder / "modeling_gpt1.py").unlink(), "lacks modeling_gpt1.py"),
    "half the code": (lambda folder: (folder / "cpu_kernels.py").unlink(), "lacks cpu_kernels.py, which"),
    "no generation config": (lambda folder: (folder / "generation_config.json").unlink(), "no generation_config"),
    "nothing": (shutil.rmtree, "is not a folder"),
}


@pytest.mark.parametrize("fault", BAD_FOLDERS)
def test_a_folder_with_a_fault_is_refused_before_anything_is_sent(fault, hub, folder, monkeypatch):
    change, message = BAD_FOLDERS[fault]
    change(folder)
    with pytest.raises(ValueError, match=message):
        check_shared_folder(folder)


def test_a_link_and_a_lock_are_not_shared(hub, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    before = set(shared_files(folder))
    for name in ("plot.png", "notes.py"):
        (folder / name).symlink_to(tmp_path / "secret.txt")
    (folder / "target_tokenizer").symlink_to(folder)
    (folder / ".run.lock").touch()
    assert set(shared_files(folder)) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"token: {OTHER_TOKEN}", "holds a token of the Hub"),
        (f"token: {WRITE_TOKEN}", "holds a token of the Hub"),
        ("trained on /data/secret/train.txt", "names the path /data/secret/train.txt"),
        ("written to {folder}/model", "names the path .*, which is of this machine"),
    ],
)
def test_nothing_of_the_machine_is_shared(content, message, hub, folder):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    (folder / "README.md").write_text(CARD + content.replace("{folder}", str(folder.resolve())))
    with pytest.raises(ValueError, match=message):
        repository.push(folder, "a model")
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}


def test_a_folder_with_a_fault_gets_no_repository(hub, folder, monkeypatch):
    truncate(folder)
    with pytest.raises(ValueError, match="is cut off"):
        run_share(monkeypatch, folder, "--hub_model_id", REPOSITORY)
    assert not hub.requests


# Ids, tokens, rights


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, REPOSITORY, "requires a token, and none is set. .*HF_TOKEN.*hf auth login"),
        ("hf_mistyped", REPOSITORY, "does not know the token"),
        ("hf_mistyped", "model", "does not know the token"),
        (READ_TOKEN, REPOSITORY, "The token may not write to writer/model .*rights"),
        (READ_TOKEN, "writer/there", "The token may not write to writer/there"),
        (WRITE_TOKEN, "other/model", "The token may not write to other/model"),
        (WRITE_TOKEN, "other/hidden", "The token may not write to other/hidden"),
        (WRITE_TOKEN, "writer/../model", "hub_model_id is 'writer/../model'. It must be user/name"),
        (WRITE_TOKEN, "writer/a model", "hub_model_id is 'writer/a model'. It must be user/name"),
    ],
)
def test_an_id_that_cannot_be_pushed_to_is_explained(token, repo_id, message, hub, folder, monkeypatch):
    hub.add("other/hidden", {}, private=True)
    hub.add("writer/there", {})
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=message) as raised:
        HubRepository(RepositorySettings(hub_model_id=repo_id), "x", folder)
    assert token is None or token not in str(raised.value)
    assert set(hub.repositories) == {"other/hidden", "writer/there"}


def test_an_id_without_a_user_is_the_tokens_and_without_any_the_folders(hub, folder):
    assert HubRepository(RepositorySettings(hub_model_id="model"), "x", folder).repo_id == "writer/model"
    assert HubRepository(RepositorySettings(), "numbers", folder).repo_id == "writer/numbers"


def test_no_network_is_explained(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="The Hub cannot be reached for writer/model"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)


def test_a_private_model_loads_with_a_token_only(hub, folder, monkeypatch, capsys):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY, hub_private_repo=True), "x", folder)
    repository.push(folder, "a model")
    text = ["--prompt", "there were", "--max_new_tokens", "2", "--bf16", "false"]
    monkeypatch.setattr(sys, "argv", ["generate_text.py", "--model_name_or_path", REPOSITORY, *text])
    run_script(generate_text.main)
    assert capsys.readouterr().out.startswith("there were")
    for token in (None, OTHER_TOKEN):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / f"cache of {token}"))
        monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(SystemExit):
            run_script(generate_text.main)
        said = capsys.readouterr().err
        assert "writer/model is not a local folder and is not a valid model identifier" in said
        assert "private repository" in said and "hf auth login" in said


# A repository that is there already


def test_an_existing_repository_with_something_else_is_refused_unless_told(hub, folder):
    there = hub.add(REPOSITORY, {"README.md": b"mine", "data/notes.txt": b"mine", ".gitattributes": b""})
    with pytest.raises(
        ValueError, match="holds something else: README.md, data/notes.txt. .*--overwrite_hub_repo true"
    ):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    assert len(there.commits) == 1
    settings = RepositorySettings(hub_model_id=REPOSITORY, overwrite_hub_repo=True)
    HubRepository(settings, "x", folder).push(folder, "a model")
    assert len(there.commits) == 2
    assert "data/notes.txt" not in there.files() and {".gitattributes", "config.json"} <= set(there.files())


def test_the_same_model_is_gone_on_with_and_another_is_not(hub, folder, originals):
    settings = RepositorySettings(hub_model_id=REPOSITORY)
    HubRepository(settings, "x", folder).push(folder, "a model")
    weights = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    spoil("config.json")({"transformers_version": "5.99"})(folder)
    HubRepository(settings, "x", folder).push(folder, "trained longer")
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    for other in (None, originals["rnn_seq2seq"][0]):
        with pytest.raises(ValueError, match="holds something else"):
            HubRepository(settings, "x", other)


def test_what_is_to_be_private_does_not_go_where_everybody_sees_it(hub, folder):
    hub.add(REPOSITORY, {})
    with pytest.raises(ValueError, match="hub_private_repo is true, but writer/model exists and is public"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY, hub_private_repo=True), "x", folder)


# Interruptions


def test_an_upload_cut_in_the_middle_shows_nothing_and_is_gone_on_with(hub, folder, no_waiting):
    weights = load_file(folder / "model.safetensors")
    # Two files of weights, of which the small one gets through.
    save_file({"small": torch.zeros(4)}, folder / "small.safetensors")
    hub.cut_uploads_after = 2000
    assert sum(tensor.nbytes for tensor in weights.values()) > 2000
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    with pytest.raises(OSError, match="The upload to writer/model broke off: .*'model.safetensors'"):
        repository.push(folder, "a model")
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    assert len(hub.large_blobs) == 1
    hub.cut_uploads_after = None
    earlier = len(hub.uploads())
    # As a later run of the script would.
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    assert len(hub.uploads()) == earlier + 1
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_commit_that_fails_shows_nothing(hub, folder):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    hub.refuse_commits = 500
    with pytest.raises(OSError, match="The Hub did not accept writer/model: .*500"):
        repository.push(folder, "a model")
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    hub.refuse_commits, uploads = None, hub.uploads()
    repository.push(folder, "a model")
    assert hub.uploads() == uploads


def test_a_checkpoint_is_pushed_without_waiting_and_survives_its_removal(hub, folder, caplog):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    weights = (folder / "model.safetensors").read_bytes()
    hub.hold_uploads.clear()
    repository.push_in_background(folder)
    repository.push_in_background(folder)  # the first is still on its way
    (folder / "model.safetensors").unlink()
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    hub.hold_uploads.set()
    repository.finish_uploads()
    assert hub.repositories[REPOSITORY].messages == ["initial commit", "model"]
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == weights
    assert not list(folder.parent.glob("upload")) and not caplog.records
    hub.refuse_commits = 500
    (folder / "all_results.json").write_text("{}")
    repository.push_in_background(folder)
    repository.finish_uploads()
    assert [record.levelno for record in caplog.records if "was not pushed" in record.message] == [logging.WARNING]


# Recipes


@pytest.fixture
def pretrain(tmp_path, monkeypatch):
    for split, stories in load_stories(train_size=40, validation_size=8).items():
        (tmp_path / f"{split}.txt").write_text("\n\n".join(stories["text"]))
    tiny = """--hidden_size 8 --num_hidden_layers 1 --num_attention_heads 2 --max_position_embeddings 16
        --num_merges 20 --max_steps 4 --eval_steps 2 --logging_steps 2 --bf16 false --max_eval_blocks 4 --num_samples 0
        --per_device_train_batch_size 2 --learning_rate 1e-3 --push_to_hub true""".split()

    def start(*arguments):
        files = [f"--{split}_file={tmp_path / split}.txt" for split in ("train", "validation")]
        settings = [*tiny, *files, "--output_dir", str(tmp_path / "run"), *arguments]
        monkeypatch.setattr(pretraining, "measure_matrix_peak", lambda accelerator: 1e9)  # takes seconds
        monkeypatch.setattr(sys, "argv", ["pretrain_gpt1.py", *settings])
        pretrain_gpt1.main()

    return start


def test_a_run_pushes_its_checkpoints_and_its_model(hub, pretrain, tmp_path, stranger_in_process):
    pretrain("--hub_model_id", REPOSITORY, "--hub_strategy", "every_save")
    repository = hub.repositories[REPOSITORY]
    # The checkpoint of the last update may still be under way when the one before it is not yet done.
    assert repository.messages[:2] == ["initial commit", "checkpoint-2"]
    assert repository.files()["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert "all_results.json" in repository.files()
    # Resumed, for longer and with other wishes for the Hub, it continues with what it pushed.
    settings = ["--hub_model_id", REPOSITORY, "--hub_private_repo", "false", "--hub_strategy", "end"]
    pretrain(*settings, "--max_steps", "6", "--resume_from_checkpoint", "last")
    assert repository.files()["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert json.loads(repository.files()["all_results.json"])["train_updates"] == 6
    assert WRITE_TOKEN not in (tmp_path / "run" / "run.yaml").read_text()


def test_a_push_that_fails_leaves_the_model_and_names_the_command_to_share_it(
    hub, pretrain, tmp_path, stranger_in_process, monkeypatch, capsys
):
    hub.refuse_commits = 500
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="The model is trained and saved in .*, but it was not shared") as raised:
        pretrain("--hub_model_id", REPOSITORY)
    assert (folder / "model.safetensors").is_file() and (folder / "all_results.json").is_file()
    command = str(raised.value).splitlines()[-1].removeprefix("To share it: python recipes/share.py ")
    hub.refuse_commits = None
    (folder / "README.md").write_text(CARD)
    run_share(monkeypatch, *command.split())
    assert "model.safetensors" in hub.repositories[REPOSITORY].files()


def test_a_run_that_cannot_be_pushed_does_not_start(hub, pretrain, tmp_path, monkeypatch):
    hub.add("writer/full", {"model.safetensors": b"mine"})
    with pytest.raises(ValueError, match="holds something else"):
        pretrain("--hub_model_id", "writer/full")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(ValueError, match="may not write"):
        pretrain("--hub_model_id", REPOSITORY)
    assert not (tmp_path / "run").exists()


def test_settings_of_the_hub_that_have_no_effect_are_told():
    some = ["--train_file", "x.txt", "--validation_file", "y.txt", "--output_dir", "run", "--max_steps", "1"]
    with pytest.raises(ValueError, match="hub_model_id is set, but nothing is pushed"):
        pretrain_gpt1.parse([*some, "--hub_model_id", REPOSITORY])
    some = ["--model_name_or_path", "x", "--output_dir", "run", "--push_to_hub", "true", "--task"]
    with pytest.raises(ValueError, match="push_to_hub shares one model, but task names several"):
        finetune_gpt1.parse([*some, "cola", "sst2"])
    with pytest.raises(ValueError, match="there are several seeds"):
        finetune_gpt1.parse([*some, "cola", "--seeds", "1", "2", "--hub_strategy", "every_save"])


def test_pretraining_streams_a_data_set_of_the_hub_at_the_revision_named(hub, tmp_path):
    def rows(word, number):
        return "".join(json.dumps({"text": f"{word} {index} " * 8}) + "\n" for index in range(number)).encode()

    first = {"train.jsonl": rows("gull", 40), "validation.jsonl": rows("gull", 4)}
    books = hub.add("datasets/reader/books", first)
    books.branches["first"] = books.branches["main"]
    later = {name: Blob(content.replace(b"gull", b"wolf"), False) for name, content in first.items()}
    books.commit("main", later, "other animals")

    folder = tmp_path / "run"
    arguments = f"""--dataset_name reader/books --dataset_revision first --streaming true --output_dir {folder}
        --hidden_size 8 --num_hidden_layers 1 --num_attention_heads 2 --max_position_embeddings 16 --num_merges 20
        --per_device_train_batch_size 2 --max_steps 2 --eval_steps 2 --logging_steps 1 --bf16 false --use_cpu true
        --num_samples 0""".split()
    # In a process of its own: the libraries read the Hub's address when they are imported.
    command = [sys.executable, str(ROOT / "recipes" / "pretrain_gpt1.py"), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # The vocabulary is learned from the training text, so it tells which text was read.
    vocabulary = " ".join(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert "gu" in vocabulary and "wo" not in vocabulary
    assert json.loads((folder / "all_results.json").read_text())["train_updates"] == 2
    assert yaml.safe_load((folder / "run.yaml").read_text())["settings"]["dataset_revision"] == "first"
    # The training text is stored nowhere, not by way of the validation split either.
    assert not [
        path for path in (tmp_path / "hf_home").rglob("*") if path.is_file() and b"gull 39" in path.read_bytes()
    ]
