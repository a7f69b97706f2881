"""Any number of processes trains the same model, sharded or not; the long form is tests/process_counts.py."""

import copy
import os
import socket

import pytest
import torch
from accelerate import Accelerator
from process_counts import compare, read_run, train, write_data
from tiny_models import tiny_batch, tiny_model
from torch import distributed, multiprocessing
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSeq2SeqLM

from papers_to_gpt.engine.sharding import Sharding
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
    resumed = train("translation", data, tmp_path / "sharded", 1, 6, *same)
    differences = compare(whole, read_run(tmp_path / "sharded"))
    assert differences["loss"] < 1e-5 and differences["scores"] < 1e-5 and differences["weights"] < 1e-5
    # The three tables of this model are one tensor, also in what the sharded run has saved.
    model = AutoModelForSeq2SeqLM.from_pretrained(resumed.folder / "checkpoint-3", trust_remote_code=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def take_step(model, optimizer, batch):
    torch.manual_seed(0)
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def check_sharding(rank, port, name):
    """Runs in each of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank)}
    accelerator = Accelerator(cpu=True)
    # Adam divides by the size of the gradient. Where that is rounding, a smaller epsilon would make steps of noise.
    batch, settings = tiny_batch(name), OptimizationSettings(learning_rate=0.01, adam_epsilon=1e-3)
    reference = tiny_model(name).train()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, eps=1e-3, weight_decay=0.0)
    sharding = Sharding(accelerator, tiny_model(name).train(), settings)

    # Each process has a part of every parameter, and of its moments.
    take_step(sharding.model, sharding.optimizer, batch)
    take_step(reference, optimizer, batch)
    parameters = [p for group in sharding.optimizer.param_groups for p in group["params"]]
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    own = sum(parameter.to_local().numel() for parameter in parameters)
    assert own < 0.7 * reference.num_parameters()
    states = sharding.optimizer.optimizer.state
    assert all(states[parameter]["exp_avg"].to_local().shape == parameter.to_local().shape for parameter in parameters)

    def difference():
        sharding.gather_weights()
        pairs = zip(reference.parameters(), sharding.whole.parameters(), strict=True)
        return max(float((a - b).abs().max().detach()) for a, b in pairs)

    assert difference() < 1e-6
    # What a checkpoint holds restores a sharding whose weights and moments have gone elsewhere.
    sharding.gather_optimizer()
    saved = [copy.deepcopy(sharding.whole_optimizer.state_dict()) if rank == 0 else None]
    distributed.broadcast_object_list(saved)
    weights = {key: value.clone() for key, value in sharding.whole.state_dict().items()}
    take_step(sharding.model, sharding.optimizer, batch)
    assert difference() > 1e-3
    sharding.whole.load_state_dict(weights)
    sharding.scatter_weights()
    sharding.whole_optimizer.load_state_dict(saved[0])
    assert difference() < 1e-6
    take_step(sharding.model, sharding.optimizer, batch)
    take_step(reference, optimizer, batch)
    assert difference() < 1e-6
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["transformer", "causal_lm"])
def test_each_process_keeps_a_part_and_a_checkpoint_the_whole(name):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free now
    multiprocessing.spawn(check_sharding, (port, name), nprocs=2)


def test_muon_is_refused_because_it_needs_whole_matrices():
    settings = OptimizationSettings(optim="muon")
    with pytest.raises(ValueError, match="optim is muon"):
        Sharding(Accelerator(cpu=True), tiny_model("causal_lm"), settings)
