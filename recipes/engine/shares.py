"""Tensors in shares: each process of a sharded run writes its own part of every tensor, and any number reads them.

    shard-00001-model-00001-of-00001.safetensors    the parts of process 0
    shard-00002-model-00001-of-00001.safetensors    the parts of process 1

The files are those of `HuggingFaceStorageWriter` of torch.distributed.checkpoint: safetensors whose header says where
each part lies in its tensor. `HuggingFaceStorageReader` gives a process the parts that it asks for, so a run may be
resumed on another number of processes, or on one with the whole tensors.

Nothing is pickled. Of torch's own format, the writer keeps one use of pickle, for a value that is no tensor; it is
given tensors alone. The reader replaces both methods that unpickle: those that read the list of tensors and the
tensors.

What torch 2.13 does not do:

- The reader does not notice that a part is missing, and leaves that part of a tensor as it was in memory. So the sizes
  of the parts are added up here first.
- The writer's consolidation into one file (`enable_consolidation`) writes 0 for a tensor without dimensions, such as
  Adam's step, and fails for integers. So whole tensors are read by the reader, which does both right.
- safetensors orders the three entries that the writer adds to a header at random: the bytes of two files of the same
  tensors may differ.

Each process needs memory for its share once more while it writes, because safetensors serialises it as a whole.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns this process's part of a whole tensor, if `like` is split and has its shape; else the tensor itself.

    No process sends anything: each takes its part of its own tensor.
    """
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the tensors that a model's weights consist of, a tied one under the one name that is saved."""
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def write_shares(folder: Path, tensors: dict[str, torch.Tensor], group: distributed.ProcessGroup) -> None:
    """Writes this process's share of tensors and flushes it to the disk; every process of the group must call this.

    Args:
        folder: on a disk that all processes see; it is made. It must have no files.
        tensors: the same names on every process. A tensor that is not split is written once.
        group: of processes that communicate on the CPU.

    Raises:
        Exception: on every process, the error of the first one that could not write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        distributed_checkpoint.save(tensors, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise _first_failure(error) from error


def _first_failure(error: CheckpointException) -> BaseException:
    return error.failures[min(error.failures)][0]


def _entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Reads the headers of all shares.

    Raises:
        ValueError: if a file cannot be read, or the parts of a tensor do not make up the whole.
    """
    try:
        entries = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:  # the headers may hold anything
        raise ValueError(f"{folder} cannot be read ({error}).") from error
    for name, entry in entries.items():
        found, needed = sum(math.prod(chunk.sizes) for chunk in entry.chunks), math.prod(entry.size)
        if found != needed:
            raise ValueError(
                f"{folder} holds {found:,} elements of {name} instead of {needed:,}: a share is missing, or one of "
                "another checkpoint lies there."
            )
    return entries


def shapes_in(folder: Path) -> dict[str, torch.Size]:
    """Returns the shapes of the whole tensors that a folder's shares make up.

    Raises:
        ValueError: see `read_shares`.
    """
    return {name: entry.size for name, entry in _entries(folder).items()}


def read_shares(
    folder: Path, like: Callable[[str], torch.Tensor | None] = lambda name: None
) -> dict[str, torch.Tensor]:
    """Reads tensors, whole ones into the CPU's memory, and of split ones this process's part.

    Args:
        folder: holds the shares of any number of processes.
        like: function from the name of a tensor to the one that will take its values. If that is split and has the
            same shape, the tensor is split likewise; otherwise, and for None, it is whole.

    Raises:
        ValueError: if a share is missing or cannot be read.
    """
    tensors = {}
    for name, entry in _entries(folder).items():
        taker, dtype = like(name), entry.properties.dtype
        is_split = isinstance(taker, DTensor) and taker.shape == entry.size
        tensors[name] = torch.empty_like(taker, dtype=dtype) if is_split else torch.empty(entry.size, dtype=dtype)
    try:
        with warnings.catch_warnings():
            # Each process reads for itself, also where there are others.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            reader = HuggingFaceStorageReader(str(folder))
            distributed_checkpoint.load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read ({_first_failure(error)}).") from error
    return tensors
