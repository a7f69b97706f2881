"""How runs are started: the packaged configs of accelerate, torchrun, and what is refused before data loads."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from torch import distributed, nn

from papers_to_gpt import pretrain_gpt1, train_translation
from papers_to_gpt.engine.launching import check_launch, make_accelerator, must_use_cpu
from papers_to_gpt.settings.training import TrainingSettings

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem: path for path in (ROOT / "recipes" / "accelerate_configs").glob("*.yaml")}
PARSERS = {
    "recipes/train_translation.py": train_translation.parse,
    "recipes/pretrain_gpt1.py": pretrain_gpt1.parse,
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch")
TINY = """--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300 --bf16 false
    --eval_steps 2 --logging_steps 2 --num_beams 1 --max_new_tokens 4 --max_train_samples 60 --use_cpu true""".split()


def start(launcher, output_dir, *arguments, **environment):
    """Starts a tiny translator in processes of their own."""
    preset = ROOT / "recipes" / "presets" / "numbers" / "bahdanau.yaml"
    script = str(ROOT / "recipes" / "train_translation.py")
    command = [sys.executable, *launcher, script, preset, *TINY, "--output_dir", output_dir, *arguments]
    return subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "MASTER_", "FSDP_"))]:
        monkeypatch.delenv(name)


def test_there_is_a_config_for_every_kind_of_machine():
    assert set(CONFIGS) == {"one_cpu", "cpu_processes", "one_gpu", "ddp", "fsdp2", "two_nodes"}


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_the_config_and_starts_as_many_processes_as_its_comment_says(name):
    config = load_config_from_file(str(CONFIGS[name]))
    several = config.num_processes > 1
    # For any other type, accelerate starts one process and says nothing.
    assert (config.distributed_type in (DistributedType.MULTI_GPU, DistributedType.FSDP)) is several
    assert (config.distributed_type == DistributedType.FSDP) is (config.fsdp_config.get("fsdp_version") == 2)
    comment = re.sub(r"^#", "", CONFIGS[name].read_text(), flags=re.M)
    for shown in re.findall(r"--num_processes (\d+)", comment):
        assert int(shown) == config.num_processes
    nodes = int(*re.findall(r"--nnodes (\d+)", comment) or ["1"])
    for shown in re.findall(r"--nproc_per_node (\d+)", comment):
        assert int(shown) * nodes == config.num_processes
    assert config.num_machines == nodes


@pytest.mark.parametrize("name", CONFIGS)
def test_the_commands_that_a_config_shows_parse(name):
    lines = [line[1:].strip() for line in CONFIGS[name].read_text().splitlines() if line.startswith("#   ")]
    text = "\n".join(lines).replace("\\\n", "")
    assert f"--config_file recipes/accelerate_configs/{name}.yaml" in text
    commands = re.findall(r"(?:accelerate launch|torchrun|python).*? (recipes/\w+\.py .*)", text)
    assert len(commands) == 2
    for command in commands:
        script, *arguments = shlex.split(command)
        PARSERS[script]([argument.replace("recipes/", f"{ROOT}/recipes/") for argument in arguments])


@pytest.mark.parametrize(("name", "processes"), [("one_cpu", 1), ("cpu_processes", 2)])
@pytest.mark.long
def test_a_config_for_the_cpu_trains_with_all_its_processes(tmp_path, name, processes):
    run = start((*ACCELERATE, "--config_file", CONFIGS[name]), tmp_path, "--max_steps", 2)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["machine"]["processes"] == processes
    assert json.loads((tmp_path / "all_results.json").read_text())["train_updates"] == 2


def test_torchrun_on_a_machine_without_gpus_needs_no_setting(monkeypatch):
    """Accelerate alone would start processes that do not know of each other and write to one folder."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert must_use_cpu(False)


def test_accelerate_launch_that_starts_one_process_for_several_is_refused_before_data_loads(tmp_path):
    run = start((*ACCELERATE, "--cpu", "--num_processes", 2), tmp_path / "run", "--max_steps", 2)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "error: accelerate launch was asked for several processes" in output and "train:" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed cannot train these models"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM cannot train these models"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor, context and sequence parallelism"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP's version is 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision is fp8"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision is fp16"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "--gradient_accumulation_steps 4"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_data_loads(tmp_path, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    preset = ROOT / "recipes" / "presets" / "numbers" / "bahdanau.yaml"
    data = ["--dataset_name", "none", "--train_file", "nowhere.csv", "--validation_file", "nowhere.csv"]
    monkeypatch.setattr(
        sys, "argv", ["train_translation.py", str(preset), *data, "--output_dir", str(tmp_path / "run")]
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        train_translation.main()
    assert not (tmp_path / "run").exists()


def test_what_every_launcher_sets_is_allowed(monkeypatch):
    for name, value in (("ACCELERATE_MIXED_PRECISION", "bf16"), ("ACCELERATE_USE_FSDP", "false")):
        monkeypatch.setenv(name, value)
    check_launch()


def test_a_process_that_waits_for_others_says_so_and_ends_by_a_signal(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    left_over = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = start((), tmp_path / "run", **left_over)
    limit = threading.Timer(120, process.kill)  # the process that says nothing would wait for half an hour
    limit.start()
    said = next(line for line in process.stdout if "waits for" in line)
    process.terminate()
    process.communicate(timeout=60)
    limit.cancel()
    assert said.startswith(f"Process 0 waits for the others of 2 (WORLD_SIZE) at 127.0.0.1:{port}.")
    assert "unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT" in said
    assert process.returncode == -signal.SIGTERM
    assert not (tmp_path / "run").exists()


def test_more_processes_than_accelerators_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert must_use_cpu(False) is False and must_use_cpu(True) is True
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 processes were started on a machine with 2 accelerators"):
        must_use_cpu(False)


def test_processes_that_share_gradients_hold_them_once(tmp_path):
    settings = TrainingSettings(output_dir=str(tmp_path), max_steps=1, bf16=False, use_cpu=True)
    options = make_accelerator(settings).ddp_handler.to_kwargs()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(3, 4), **options)
        for _ in range(2):  # after the first, they are put into buckets again
            model.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
        weight, bias = (parameter.grad.untyped_storage() for parameter in model.parameters())
        assert weight.data_ptr() == bias.data_ptr() and weight.nbytes() >= 4 * (12 + 4)
        torch.testing.assert_close(model.module.weight.grad, torch.ones(4, 3))
    finally:
        distributed.destroy_process_group()


def processes_of(run):
    """The training processes that a launcher has started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
        if parent == run.pid and ranks:
            found[int(ranks[0])] = int(folder.name)
    return found


def wait_for_checkpoint(run, folder):
    waiting_since = time.monotonic()
    while not list(folder.glob("checkpoint-*")) and time.monotonic() - waiting_since < 200:
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_process_that_is_killed_is_named_by_the_others_which_stop(tmp_path):
    killed = 0  # the main process
    run = start(TORCHRUN, tmp_path, "--max_steps", 1_000_000)
    wait_for_checkpoint(run, tmp_path)
    pid = processes_of(run)[killed]
    os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    output, _ = run.communicate(timeout=200)
    assert run.returncode != 0 and time.monotonic() - killed_at < 60
    (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert message.startswith(f"error: Process {killed} (pid {pid} on ")
    assert message.endswith("to resume from the newest checkpoint.")
    # The only traceback is that of the launcher, which knows the exit status alone.
    assert output.count("Traceback (most recent call last)") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
@pytest.mark.long
def test_torchrun_starts_the_processes_anew_and_they_go_on(tmp_path):
    lengths = ["--max_steps", 100, "--eval_steps", 100, "--save_steps", 10]
    run = start((*TORCHRUN, "--max-restarts", "1"), tmp_path, *lengths)
    wait_for_checkpoint(run, tmp_path)
    os.kill(processes_of(run)[1], signal.SIGKILL)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert f"Resuming the run in {tmp_path} from checkpoint-" in output
    lines = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "train"] == list(range(2, 101, 2))
