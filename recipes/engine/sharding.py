"""Fully sharded training (FSDP2): each process keeps a part of the weights, the gradient and the optimizer's state.

torch's `fully_shard` splits a copy of the model, on GPUs and on the CPU alike. The recipe's own model stays whole:
before an evaluation or a checkpoint, every process gathers the weights into it. So evaluation, decoding and
checkpoints are those of any other run, also where the processes have different numbers of batches, and a run may be
resumed with or without sharding and on another number of processes. The price is one more copy of the weights on each
process.
"""

import copy
import os
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.settings.training import OptimizationSettings


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor with the parts of all processes; for a tensor in parts, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class WholeOptimizer:
    """The optimizer of sharded parameters, in the form that checkpoints have: that of the whole model.

    Args:
        optimizer: has the sharded parameters.
        sharded, whole: the two models. Their parameters have the same names.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, sharded: nn.Module, whole: nn.Module):
        self.optimizer = optimizer
        parameters = dict(whole.named_parameters())
        self._whole = {id(parameter): parameters[name] for name, parameter in sharded.named_parameters()}
        self._gathered: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [
            group | {"params": [self._whole[id(parameter)] for parameter in group["params"]]}
            for group in self.optimizer.param_groups
        ]

    def gather(self, keep: bool) -> None:
        """Gathers the state, one tensor after another; every process must call this.

        Args:
            keep: whether this process keeps the whole state, in the CPU's memory, for `state_dict`.
        """
        state = self.optimizer.state_dict()
        gathered: dict[int, dict[str, Any]] = {}
        for index, entry in state["state"].items():
            values = {key: whole_tensor(value) if torch.is_tensor(value) else value for key, value in entry.items()}
            if keep:
                gathered[index] = {
                    key: value.cpu() if torch.is_tensor(value) else value for key, value in values.items()
                }
        self._gathered = state | {"state": gathered}

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state as of the last `gather`."""
        return self._gathered

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Gives every process its parts of a whole state, which all of them have read."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        parts = {}
        for index, entry in state["state"].items():
            parameter = parameters[index]
            parts[index] = {
                key: _part_of(value, parameter) if torch.is_tensor(value) and value.shape == parameter.shape else value
                for key, value in entry.items()
            }
        self.optimizer.load_state_dict(state | {"state": parts})


def _part_of(value: torch.Tensor, like: DTensor) -> DTensor:
    """Returns a whole tensor split as a parameter is. No process sends anything: each takes its part of its own."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class Sharding:
    """A model and an optimizer that are split among the processes, and the whole model beside them.

    Args:
        accelerator: of a run of several processes.
        model: the whole model. It is moved to the accelerator's device and computes in its precision.
        optimization: settings of the optimizer.

    Attributes:
        model: the sharded copy, which trains.
        optimizer: of its parameters.
        whole_optimizer: what checkpoints are written from and read into.

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
        self._sharded = sharded
        self.model = accelerator.prepare_model(sharded, evaluation_mode=True, device_placement=False)
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(sharded, optimization))
        self.whole_optimizer = WholeOptimizer(self.optimizer.optimizer, sharded, model)
        self.is_main_process = accelerator.is_main_process
        accelerator.print(f"FSDP2: each of {accelerator.num_processes} processes trains a part of the model")

    @torch.no_grad()
    def gather_weights(self) -> None:
        """Copies the weights that train into the whole model; every process must call this."""
        whole = dict(self.whole.named_parameters())
        for name, parameter in self._sharded.named_parameters():
            whole[name].copy_(whole_tensor(parameter))

    def gather_optimizer(self) -> None:
        """Gathers the optimizer's state on the main process; every process must call this."""
        self.whole_optimizer.gather(keep=self.is_main_process)

    @torch.no_grad()
    def scatter_weights(self) -> None:
        """Gives every process its part of the whole model's weights, after a checkpoint was read into it."""
        whole = dict(self.whole.named_parameters())
        for name, parameter in self._sharded.named_parameters():
            parameter.copy_(_part_of(whole[name], parameter))
