"""Any number of processes trains the same model, sharded or not; the long form is tests/process_counts.py."""

import io
import os
import resource
import shutil
import socket
import zipfile

import pytest
import torch
from accelerate import Accelerator
from process_counts import compare, read_run, train, write_data
from safetensors.torch import load_file, save_file
from tiny_models import tiny_batch, tiny_model
from tiny_runs import contents
from torch import distributed, multiprocessing
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSeq2SeqLM

from papers_to_gpt.engine.checkpoint_writer import CheckpointWriter
from papers_to_gpt.engine.checkpointing import (
    Progress,
    find_good_checkpoint,
    load_checkpoint,
    verify_checkpoint,
    write_whole_model,
)
from papers_to_gpt.engine.durable_files import WriteError
from papers_to_gpt.engine.manifest import write_manifest
from papers_to_gpt.engine.model_folder import check_folder
from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.engine.sharding import Sharding
from papers_to_gpt.publishing.shared_folder import check_shared_folder
from papers_to_gpt.publishing.sharing import run as share
from papers_to_gpt.settings.hub import parse_sharing
from papers_to_gpt.settings.training import OptimizationSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.mark.parametrize("recipe", ["pretraining", "finetuning"])
@pytest.mark.long
def test_two_processes_train_and_score_as_one_with_dropout_and_uneven_data(data, tmp_path, recipe):
    """Fine-tuning has one batch to evaluate, so one of the processes has none."""
    one = train(recipe, data, tmp_path / "one", 1, 4)
    differences = compare(one, train(recipe, data, tmp_path / "two", 2, 4))
    assert differences["loss"] < 1e-5 and differences["scores"] < 1e-5 and differences["weights"] < 1e-5


@pytest.mark.long
def test_a_sharded_run_equals_one_that_is_not_and_goes_on_in_one_process(data, tmp_path):
    whole = train("translation", data, tmp_path / "whole", 1, 6)
    same = ["--gradient_accumulation_steps", "2", "--eval_steps", "3"]
    train("translation", data, tmp_path / "sharded", 2, 3, *same, sharded=True)
    # The three tables of this model are one tensor, also in what the sharded run has saved.
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "sharded", trust_remote_code=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    trained = read_run(tmp_path / "sharded").weights
    assert all(torch.equal(parameter, trained[name]) for name, parameter in model.named_parameters())
    share(*parse_sharing([str(tmp_path / "sharded" / "checkpoint-3"), "--consolidate_to", str(tmp_path / "model")]))
    made, left = contents(tmp_path / "model"), contents(tmp_path / "sharded")
    assert "README.md" in map(str, made)
    assert all(made[path] == left[path] for path in made if path.name != "README.md")
    train("translation", data, tmp_path / "sharded", 1, 6, *same)
    differences = compare(whole, read_run(tmp_path / "sharded"))
    assert differences["loss"] < 1e-5 and differences["scores"] < 1e-5 and differences["weights"] < 1e-5


SETTINGS = OptimizationSettings(learning_rate=0.01, adam_epsilon=1e-3)


def take_step(model, optimizer, batch):
    torch.manual_seed(0)
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def one_process(name, folder):
    """A model in one process, its optimizer, and the writer of its checkpoints."""
    model = tiny_model(name).train()
    # Adam divides by the size of the gradient. Where that is rounding, a smaller epsilon would make steps of noise.
    optimizer = make_optimizer(model, SETTINGS)
    writer = CheckpointWriter(Accelerator(cpu=True), folder, model, optimizer, model.save_pretrained, 0)
    return model, optimizer, writer


def check_sharding(rank, port, name, folder):
    """Runs in each of two processes. Resumes from checkpoint-1, which one process has written."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank)}
    accelerator = Accelerator(cpu=True)
    batch = tiny_batch(name)
    reference, optimizer, _ = one_process(name, folder)
    take_step(reference, optimizer, batch)
    sharding = Sharding(accelerator, tiny_model(name).train(), SETTINGS)

    def difference():
        sharding.gather_weights()
        pairs = zip(reference.parameters(), sharding.whole.parameters(), strict=True)
        return max(float((a - b).abs().max().detach()) for a, b in pairs)

    assert difference() > 1e-3
    load_checkpoint(folder / "checkpoint-1", sharding.sharded, sharding.optimizer)
    assert difference() < 1e-6
    take_step(sharding.model, sharding.optimizer, batch)
    take_step(reference, optimizer, batch)
    assert difference() < 1e-6

    # Each process has a part of every parameter, and of its moments.
    parameters = [p for group in sharding.optimizer.param_groups for p in group["params"]]
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    own = sum(parameter.to_local().numel() for parameter in parameters)
    assert own < 0.7 * reference.num_parameters()
    states = sharding.optimizer.optimizer.state
    assert all(states[parameter]["exp_avg"].to_local().shape == parameter.to_local().shape for parameter in parameters)

    # What the checkpoint must hold, gathered: for the test, not by the code that it tests.
    moments = {
        f"{parameter_name}.{key}": value.full_tensor() if isinstance(value, DTensor) else value
        for parameter_name, parameter in sharding.sharded.named_parameters()
        for key, value in states[parameter].items()
    }
    if rank == 0:
        save_file(moments, folder / "moments.safetensors")
        save_file(dict(sharding.whole.named_parameters()), folder / "weights.safetensors")

    def writer(run, **options):
        return CheckpointWriter(
            accelerator,
            folder / run,
            sharding.sharded,
            sharding.optimizer,
            sharding.whole.save_pretrained,
            0,
            group=sharding.group,
            **options,
        )

    writer(".").save(Progress(update=2))
    behind = writer("behind", background=True)
    behind.save(Progress(update=2))
    pushed = []
    take_step(sharding.model, sharding.optimizer, batch)  # the copy that is being written does not change
    behind.wait()
    assert difference() > 1e-3
    load_checkpoint(folder / "checkpoint-2", sharding.sharded, sharding.optimizer)
    assert difference() < 1e-6
    writer("whole", after_save=pushed.append).save(Progress(update=2))
    assert pushed == ([folder / "whole" / "checkpoint-2"] if rank == 0 else [])
    take_step(sharding.model, sharding.optimizer, batch)
    take_step(reference, optimizer, batch)
    assert difference() < 1e-6

    for optim in ("sgd", "adadelta"):
        settings = OptimizationSettings(learning_rate=0.01, optim=optim)
        plain, split = tiny_model(name).train(), Sharding(accelerator, tiny_model(name).train(), settings)
        take_step(plain, make_optimizer(plain, settings), batch)
        take_step(split.model, split.optimizer, batch)
        split.gather_weights()
        pairs = zip(plain.parameters(), split.whole.parameters(), strict=True)
        assert max(float((a - b).abs().max().detach()) for a, b in pairs) < 1e-6

    # Process 1 cannot write its share.
    if rank == 1:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    with pytest.raises(WriteError, match=rf"could not be written: File too large.* That is {folder}/checkpoint-2\."):
        writer(".").save(Progress(update=3))
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=["transformer", "causal_lm"])
def sharded_run(request, tmp_path_factory):
    """The name of a model, and a folder with checkpoint-1 of one process and checkpoint-2 of two."""
    folder = tmp_path_factory.mktemp("sharded")
    model, optimizer, writer = one_process(request.param, folder)
    take_step(model, optimizer, tiny_batch(request.param))
    writer.save(Progress(update=1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free now
    multiprocessing.spawn(check_sharding, (port, request.param, folder), nprocs=2)
    return request.param, folder


def test_each_process_writes_its_part_and_together_they_are_the_whole(sharded_run):
    _, folder = sharded_run
    state = folder / "checkpoint-2" / "training_state"
    for name in ("weights", "optimizer"):
        files = sorted((state / name).iterdir())
        assert len(files) == 2 and sum(path.stat().st_size > 4000 for path in files) == 2
        parts = [load_file(path) for path in files]
        whole = load_file(folder / f"{'moments' if name == 'optimizer' else name}.safetensors")
        assert set().union(*parts) == whole.keys()
        for key, tensor in whole.items():
            found = [part[key] for part in parts if key in part]
            # A count of steps has no dimension and is written once.
            assert torch.equal(torch.cat(found) if tensor.ndim else found[0], tensor)
            assert tensor.ndim or len(found) == 1


def test_one_process_goes_on_from_the_shares_of_two(sharded_run):
    name, folder = sharded_run
    model, optimizer, writer = one_process(name, folder / "resumed")
    progress = load_checkpoint(folder / "checkpoint-2", model, optimizer)
    assert progress.update == 2
    writer.save(progress)
    weights = load_file(folder / "resumed" / "checkpoint-2" / "model.safetensors")
    moments = load_file(folder / "resumed" / "checkpoint-2" / "training_state" / "optimizer.safetensors")
    for found, expected in ((weights, "weights"), (moments, "moments")):
        expected = load_file(folder / f"{expected}.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_shares_written_in_the_background_are_those_of_the_moment_of_the_save(sharded_run):
    _, folder = sharded_run
    now, behind = (folder / run / "checkpoint-2" for run in (".", "behind"))
    assert contents(now).keys() == contents(behind).keys()
    for path in contents(now):
        if path.suffix == ".safetensors":  # whose headers are written in any order
            expected, found = load_file(now / path), load_file(behind / path)
            assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
        elif path.name != "manifest.json":
            assert (now / path).read_bytes() == (behind / path).read_bytes()


def test_nothing_in_a_checkpoint_of_shares_can_be_unpickled(sharded_run):
    _, folder = sharded_run
    for path, content in contents(folder / "checkpoint-2").items():
        # A file of torch.save is a zip archive, and a pickle begins with its protocol.
        assert path.suffix in (".json", ".py", ".safetensors") and not zipfile.is_zipfile(io.BytesIO(content))
        assert not content.startswith(b"\x80")


def test_a_checkpoint_that_is_pushed_is_also_a_model_with_its_tied_weights(sharded_run):
    name, folder = sharded_run
    checkpoint = folder / "whole" / "checkpoint-2"
    model = type(tiny_model(name)).from_pretrained(checkpoint)
    expected = load_file(folder / "weights.safetensors")
    assert all(torch.equal(parameter, expected[key]) for key, parameter in model.named_parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert verify_checkpoint(checkpoint, model) == []


def test_a_checkpoint_of_shares_becomes_the_model_that_one_process_would_have_saved(sharded_run, tmp_path):
    name, folder = sharded_run
    write_whole_model(folder / "checkpoint-2", tmp_path / "model")
    expected = load_file(folder / "weights.safetensors")
    model = type(tiny_model(name)).from_pretrained(tmp_path / "model")
    assert all(torch.equal(parameter, expected[key]) for key, parameter in model.named_parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "saved")
    assert contents(tmp_path / "model") == contents(tmp_path / "saved")


@pytest.mark.parametrize("check", [lambda folder: check_folder(str(folder)), check_shared_folder])
def test_a_script_that_is_given_a_checkpoint_of_shares_names_the_command_that_makes_a_model_of_it(sharded_run, check):
    checkpoint = sharded_run[1] / "checkpoint-2"
    command = rf"share.py {checkpoint} --consolidate_to {checkpoint}-model$"
    with pytest.raises(ValueError, match=f"is a checkpoint of an FSDP2 run.* Make a model of it: .*{command}"):
        check(checkpoint)


def test_only_whole_shares_become_a_model_and_no_folder_is_replaced(sharded_run, tmp_path):
    _, folder = sharded_run
    for checkpoint, target, expected in (
        (folder / "checkpoint-1", tmp_path / "model", "has no shares of weights"),
        (folder / "whole" / "checkpoint-2", tmp_path / "model", "also holds its weights as a whole"),
        (folder / "checkpoint-2", folder, "which exists"),
        (folder / "checkpoint-2", folder / "checkpoint-2" / "model", "which is in the checkpoint itself"),
    ):
        with pytest.raises(ValueError, match=expected):
            write_whole_model(checkpoint, target)
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.rmtree(tmp_path / "checkpoint-2" / "training_state" / "optimizer")
    write_whole_model(tmp_path / "checkpoint-2", tmp_path / "model")
    share = sorted((tmp_path / "checkpoint-2" / "training_state" / "weights").iterdir())[1]
    change(share, "flipped")
    with pytest.raises(ValueError, match=f"cannot become a model: training_state/weights/{share.name} is damaged"):
        write_whole_model(tmp_path / "checkpoint-2", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def change(path, damage):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    {"flipped": lambda: path.write_bytes(content), "missing": path.unlink}[damage]()


@pytest.mark.parametrize("kind", ["weights", "optimizer"])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_share_is_named_and_the_checkpoint_before_is_taken(sharded_run, tmp_path, kind, damage):
    name, folder = sharded_run
    for number in (1, 2):
        shutil.copytree(folder / f"checkpoint-{number}", tmp_path / f"checkpoint-{number}")
    assert find_good_checkpoint(tmp_path, tiny_model(name))[0].name == "checkpoint-2"
    share = sorted((tmp_path / "checkpoint-2" / "training_state" / kind).iterdir())[1]
    change(share, damage)
    good, skipped = find_good_checkpoint(tmp_path, tiny_model(name))
    assert good.name == "checkpoint-1" and len(skipped) == 1
    assert f"training_state/{kind}/{share.name} is {'missing' if damage == 'missing' else 'damaged'}" in skipped[0]


@pytest.mark.parametrize("kind", ["weights", "optimizer"])
def test_shares_that_are_not_all_of_a_checkpoint_are_refused_though_the_manifest_agrees(sharded_run, tmp_path, kind):
    """torch's reader would leave the missing part of a tensor as it finds it in memory."""
    name, folder = sharded_run
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(folder / "checkpoint-2", checkpoint)
    first, second = sorted((checkpoint / "training_state" / kind).iterdir())
    shutil.copyfile(second, second.with_name("shard-00003-model-00001-of-00001.safetensors"))
    assert "does not name" in verify_checkpoint(checkpoint, tiny_model(name))[0]
    for remaining in ("three", "one"):
        if remaining == "one":
            first.unlink()
            second.with_name("shard-00003-model-00001-of-00001.safetensors").unlink()
        write_manifest(checkpoint, checkpoint / "training_state" / "manifest.json")
        assert "a share is missing, or one of another" in verify_checkpoint(checkpoint, tiny_model(name))[0]
        model, optimizer, _ = one_process(name, tmp_path)
        with pytest.raises(ValueError, match="a share is missing, or one of another"):
            load_checkpoint(checkpoint, model, optimizer)


def test_muon_is_refused_because_it_needs_whole_matrices():
    settings = OptimizationSettings(optim="muon")
    with pytest.raises(ValueError, match="optim is muon"):
        Sharding(Accelerator(cpu=True), tiny_model("causal_lm"), settings)
