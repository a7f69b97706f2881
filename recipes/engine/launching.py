"""Checks how a run was started, before data loads: by which engine, in which precision, and in how many processes.

`accelerate launch` tells a script what it was asked for by environment variables, and so does `torchrun`.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import distributed

from papers_to_gpt.engine.hardware import processor_has_bf16
from papers_to_gpt.engine.memory import keep_freed_memory
from papers_to_gpt.engine.process_watch import ProcessWatch
from papers_to_gpt.engine.reporting import check_trackers
from papers_to_gpt.settings.training import TrainingSettings
from papers_to_gpt.settings.wording import counted

# Set in place of ACCELERATE_USE_FSDP.
SHARDED = "PAPERS_TO_GPT_SHARDED"

CONFIGS = "recipes/accelerate_configs"

# Seconds until a process that waits for the others says so. Processes that start together need less, but for their
# imports on a slow disk.
SILENT_WAIT = 10

# What `accelerate launch` sets to "true" for an engine, and the engine's name.
OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config (tensor, context and sequence parallelism)",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's own parallelism",
}


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def check_launch() -> None:
    """Refuses what the launcher was asked for and a run cannot do. Call it before the accelerator is made.

    Raises:
        ValueError: for another engine than DistributedDataParallel and FSDP2, and for float16 and float8.
    """
    for name, engine in OTHER_ENGINES.items():
        if _is_set(name):
            raise ValueError(
                f"{engine} cannot train these models (the launcher set {name}). Use DistributedDataParallel or "
                f"FSDP2: {CONFIGS}/ddp.yaml or fsdp2.yaml."
            )
    if _is_set("ACCELERATE_USE_FSDP"):
        _check_fsdp()
        # The recipes shard the model themselves (see `engine/sharding.py`). Accelerate would do it in its own way, on
        # GPUs only, and transformers would load weights on the main process alone.
        del os.environ["ACCELERATE_USE_FSDP"]
        os.environ[SHARDED] = "true"
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise ValueError(
            f"mixed_precision is {precision} (accelerate launch); it must be no or bf16. These recipes do not scale "
            f"the loss, which {precision} needs."
        )
    accumulation = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulation not in ("1", "auto"):
        raise ValueError(
            f"gradient_accumulation_steps is {accumulation} (accelerate launch). Leave it out there, and set it for "
            f"the recipe: --gradient_accumulation_steps {accumulation}."
        )


def _check_fsdp() -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            "FSDP's version is 1 (FSDP_VERSION), which these recipes do not train with. Set fsdp_version to 2, as "
            f"{CONFIGS}/fsdp2.yaml does."
        )
    for name, option in (
        ("FSDP_OFFLOAD_PARAMS", "fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "fsdp_activation_checkpointing"),
    ):
        if _is_set(name):
            raise ValueError(f"{option} is true, which these recipes do not do. Set it to false.")


def is_sharded(accelerator: Accelerator) -> bool:
    """Returns True if the launcher asked for FSDP2 and there are several processes."""
    return _is_set(SHARDED) and accelerator.num_processes > 1


def must_use_cpu(use_cpu: bool) -> bool:
    """Returns whether a run is on the CPU: because it was asked to be, or because there is no accelerator.

    Without this answer, accelerate would start processes on a machine without an accelerator that know nothing of each
    other.

    Raises:
        ValueError: if there are more processes on this machine than accelerators.
    """
    if use_cpu or _is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        return True
    processes, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if processes > devices:
        raise ValueError(
            f"{processes} processes were started on a machine with {counted(devices, 'accelerator')}. "
            f"Start one for each (--nproc_per_node {devices}, or --num_processes of accelerate launch), or train on "
            "the CPU (--use_cpu true)."
        )
    return False


@contextmanager
def ended_by_signals_while_connecting() -> Iterator[None]:
    """Says what a process waits for that finds no others, and lets SIGTERM and Ctrl-C end it at once.

    PyTorch waits for the others for up to half an hour, without a word, and Python handles no signal meanwhile. The
    variables that ask for several processes may be left over from another job.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2 or distributed.is_initialized() or threading.current_thread() is not threading.main_thread():
        yield
        return
    place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    notice = threading.Timer(
        SILENT_WAIT,
        print,
        (
            f"Process {os.environ.get('RANK', '?')} waits for the others of {count} (WORLD_SIZE) at {place}. If this "
            "is no run of several processes, end it and unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT.",
        ),
        {"file": sys.stderr, "flush": True},
    )
    notice.daemon = True
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def connect_after_restart(use_cpu: bool) -> None:
    """Connects the processes of a run that torchrun has restarted (`--max-restarts`), before accelerate would.

    torchrun keeps one store for all attempts, where the addresses of the processes of the first one remain. The ranks
    of a later attempt would try to connect to those.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or distributed.is_initialized():
        return
    device = torch.device("cpu") if use_cpu else torch.accelerator.current_accelerator()
    store, rank, count = next(distributed.rendezvous("env://"))
    distributed.init_process_group(
        distributed.get_default_backend_for_device(device),
        store=distributed.PrefixStore(f"attempt/{attempt}", store),
        rank=rank,
        world_size=count,
    )


def check_processes(accelerator: Accelerator) -> None:
    """Refuses an accelerator that is not what the user asked the launcher for.

    Raises:
        ValueError: if accelerate started one process in place of several, or if the device is a TPU.
    """
    if accelerator.distributed_type == DistributedType.XLA or accelerator.device.type == "xla":
        raise ValueError(
            "These recipes do not train on a TPU. Train on a GPU or on the CPU (--use_cpu true), in an environment "
            "without torch_xla."
        )
    # `accelerate launch` starts one process unless its config says MULTI_GPU, whatever the number of processes. All
    # that is left of the number is where it expects the main process to be. ACCELERATE_USE_CPU shows its own doing.
    launched_alone = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "RANK" not in os.environ
    if accelerator.num_processes == 1 and launched_alone:
        raise ValueError(
            "accelerate launch was asked for several processes, but on a machine without GPUs, or with --cpu, it "
            f"starts one. Use --config_file {CONFIGS}/cpu_processes.yaml, or torchrun --nproc_per_node. If you want "
            "one process, leave --num_processes out and unset MASTER_ADDR and MASTER_PORT."
        )


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """Creates the accelerator of a run. The precision of `accelerate launch` takes precedence over the default.

    Raises:
        ValueError: if a tracker of report_to is not installed, or a run cannot do what the launcher was asked for.
    """
    check_trackers(settings.report_to)
    check_launch()
    keep_freed_memory()
    bf16 = processor_has_bf16(settings.use_cpu) if settings.bf16 is None else settings.bf16
    chosen_at_launch = settings.bf16 is None and "ACCELERATE_MIXED_PRECISION" in os.environ
    use_cpu = must_use_cpu(settings.use_cpu)
    with ended_by_signals_while_connecting():
        connect_after_restart(use_cpu)
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision=None if chosen_at_launch else "bf16" if bf16 else "no",
            log_with=settings.report_to or None,
            project_dir=settings.output_dir,
            # The gradients lie in the memory that travels between processes, and are not there a second time.
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    check_processes(accelerator)
    ProcessWatch.start(accelerator)
    return accelerator
