"""What is wrong with a folder is found before anything is sent, and nothing of the machine is shared."""

import shutil

import pytest
import torch
from hub_server import OTHER_TOKEN, WRITE_TOKEN
from safetensors.torch import load_file, save_file
from shared_models import CARD, REPOSITORY, run_share, spoil, tiny_model

from gpt1_scratch import tokenization as gpt1_tokenization
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.shared_folder import check_shared_folder, shared_files
from papers_to_gpt.settings.hub import RepositorySettings


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


def test_what_trainer_writes_beside_a_model_is_neither_refused_nor_shared(hub, folder):
    before = set(shared_files(folder))
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_1.pth"):
        torch.save({}, folder / name)
    check_shared_folder(folder)
    assert set(shared_files(folder)) == before


@pytest.mark.parametrize(("family", "multiple"), [("gpt1", 64), ("transformer_seq2seq", 128)])
def test_embeddings_may_be_padded_beyond_the_tokenizer(family, multiple, hub, tmp_path):
    model, tokenizer, _ = tiny_model(family, tmp_path / "padded")
    model.resize_token_embeddings(pad_to_multiple_of=multiple)
    model.save_pretrained(tmp_path / "padded")
    assert model.config.vocab_size == -(-len(tokenizer) // multiple) * multiple > len(tokenizer)
    assert check_shared_folder(tmp_path / "padded").model.config.vocab_size == model.config.vocab_size
    model.resize_token_embeddings(model.config.vocab_size + 1)  # no padding, but the size of another tokenizer
    model.save_pretrained(tmp_path / "padded")
    with pytest.raises(ValueError, match="It belongs to another model"):
        check_shared_folder(tmp_path / "padded")


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
