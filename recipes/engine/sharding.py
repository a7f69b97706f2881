"""Fully sharded training (FSDP2): each process keeps a part of the weights, the gradient and the optimizer's state.

torch's `fully_shard` splits a copy of the model, on GPUs and on the CPU alike. The recipe's own model stays whole:
before an evaluation, every process gathers the weights into it. So evaluation and decoding are those of any other run,
also where the processes have different numbers of batches. The price is one more copy of the weights on each process.

A checkpoint gathers nothing: each process writes its own part of weights and optimizer state, and reads its own part
when the run is resumed (see `shares.py`), with or without sharding and on any number of processes.
"""

import copy
import os
import warnings

import torch
from accelerate import Accelerator
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.engine.process_watch import LIMIT_WHILE_TRAINING
from papers_to_gpt.settings.training import OptimizationSettings


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor with the parts of all processes; for a tensor in parts, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Sharding:
    """A model and an optimizer that are split among the processes, and the whole model beside them.

    Args:
        accelerator: of a run of several processes.
        model: the whole model. It is moved to the accelerator's device and computes in its precision.
        optimization: settings of the optimizer.

    Attributes:
        sharded: the sharded copy, which trains.
        model: the same in the accelerator's precision.
        optimizer: of its parameters.
        group: the processes, with communication on the CPU, which a checkpoint's thread can use while training
            communicates.

    Raises:
        ValueError: if the optimizer needs whole matrices.
    """

    def __init__(self, accelerator: Accelerator, model: PreTrainedModel, optimization: OptimizationSettings):
        if optimization.optim == "muon":
            raise ValueError("optim is muon, which needs whole matrices, and FSDP splits them. Set optim to adamw.")
        self.whole = accelerator.prepare_model(model, evaluation_mode=True)
        sharded = copy.deepcopy(model).to(accelerator.device)
        # The copy's own forward, not the one that accelerate has put before the whole model's.
        vars(sharded).pop("forward", None)
        vars(sharded).pop("_original_forward", None)
        vars(sharded).pop("_is_accelerate_prepared", None)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        # It warns of operations in place on outputs, which the loop does not make.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
        layers = set(model._no_split_modules or ())
        for module in list(sharded.modules()):
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(sharded, mesh=mesh)
        self.sharded = sharded
        self.model = accelerator.prepare_model(sharded, evaluation_mode=True, device_placement=False)
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(sharded, optimization))
        self.group = distributed.new_group(backend="gloo", timeout=LIMIT_WHILE_TRAINING)
        accelerator.print(f"FSDP2: each of {accelerator.num_processes} processes trains a part of the model")

    @torch.no_grad()
    def gather_weights(self) -> None:
        """Copies the weights that train into the whole model; every process must call this."""
        whole = dict(self.whole.named_parameters())
        for name, parameter in self.sharded.named_parameters():
            whole[name].copy_(whole_tensor(parameter))
