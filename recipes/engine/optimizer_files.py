"""An optimizer's state as tensors in safetensors and everything else in JSON: nothing is pickled.

    optimizer.safetensors    "PARAMETER.KEY": a tensor, such as "lm_head.weight.exp_avg"
    optimizer.json           for each part of the optimizer: its groups with the names of their parameters, and the
                             state that is not a tensor

    optimizer/               of a sharded run, in place of the first file: the shares of its processes (`shares.py`)

An optimizer of several parts, such as `Muon`, has a `state_dict` with "parts"; every other one counts as one part.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from papers_to_gpt.engine.shares import part_of, read_shares, shapes_in

TENSORS_FILE = "optimizer.safetensors"
TENSOR_SHARES = "optimizer"
STRUCTURE_FILE = "optimizer.json"
STATE_OF_EARLIER_VERSIONS = "optimizer.pt"


def pack_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Takes an optimizer's state apart.

    Args:
        optimizer: all its parameters must be parameters of `model`.
        model: names the parameters.

    Returns:
        The tensors by name, which are those of the optimizer itself, not copies; and the structure of each part.
    """
    names = _parameter_names(optimizer, model)
    tensors, structure, first = {}, [], 0
    for part in _parts(optimizer.state_dict()):
        groups = [
            group | {"params": [names[first + index] for index in group["params"]]} for group in part["param_groups"]
        ]
        values: dict[str, dict[str, Any]] = {}
        for index, state in part["state"].items():
            name = names[first + index]
            values[name] = {key: value for key, value in state.items() if not torch.is_tensor(value)}
            tensors |= {f"{name}.{key}": value for key, value in state.items() if torch.is_tensor(value)}
        structure.append({"param_groups": groups, "values": {name: value for name, value in values.items() if value}})
        first += sum(len(group["params"]) for group in part["param_groups"])
    return tensors, structure


def write_moments(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes the tensors that `pack_optimizer` returned, in one file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS_FILE)


def write_structure(folder: Path, structure: list[dict]) -> None:
    """Writes the structure that `pack_optimizer` returned."""
    (folder / STRUCTURE_FILE).write_text(json.dumps(structure, indent=1) + "\n", encoding="utf-8")


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Restores an optimizer from what was written of one, bit for bit, in one file or in shares.

    The parameters may be split among processes: each then takes its part of the moments.

    Raises:
        ValueError: if a file cannot be read, or holds the state of another optimizer or model.
    """
    parameters = dict(model.named_parameters())
    if (folder / TENSOR_SHARES).is_dir():
        tensors = read_shares(folder / TENSOR_SHARES, lambda name: parameters.get(name.rpartition(".")[0]))
    else:
        path = folder / TENSORS_FILE
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}).") from error
    try:
        structure = json.loads((folder / STRUCTURE_FILE).read_text(encoding="utf-8"))
        optimizer.load_state_dict(_unpack(tensors, structure, optimizer, model))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{folder / STRUCTURE_FILE} and {TENSORS_FILE} do not fit the optimizer of this run: {error}. Use a "
            "checkpoint of a run with the same model and the same optim."
        ) from error


def read_optimizer_of_earlier_versions(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restores an optimizer from `optimizer.pt`, which checkpoints had before they had `optimizer.safetensors`.

    Raises:
        ValueError: if the file holds the state of another model, as far as shapes tell.
        pickle.UnpicklingError: if it holds anything but tensors, numbers and text.
    """
    # weights_only unpickles nothing but tensors, numbers and strings, so a foreign file cannot run code.
    state_dict = torch.load(folder / STATE_OF_EARLIER_VERSIONS, map_location="cpu", weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first = 0
    for part in _parts(state_dict):
        for index, state in part["state"].items():
            parameter = parameters[first + index]
            for key, value in state.items():
                if not torch.is_tensor(value):
                    continue
                if value.shape not in (parameter.shape, ()):
                    raise ValueError(
                        f"{key} of parameter {index} has the shape {list(value.shape)}, but the parameter "
                        f"{list(parameter.shape)}; it belongs to another model"
                    )
                state[key] = part_of(value, parameter)
        first += sum(len(group["params"]) for group in part["param_groups"])
    optimizer.load_state_dict(state_dict)


def check_optimizer(folder: Path, model: nn.Module) -> None:
    """Compares the names and shapes of the moments with a model's parameters, without reading the tensors.

    Raises:
        ValueError: if they belong to another model.
    """
    path = folder / TENSOR_SHARES
    if path.is_dir():
        shapes = shapes_in(path)
    else:
        path = folder / TENSORS_FILE
        with safe_open(path, framework="pt") as file:
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}
    try:
        _check_names_and_shapes(shapes, model)
    except ValueError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error


def _check_names_and_shapes(shapes: dict[str, torch.Size], model: nn.Module) -> None:
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    for full_name, shape in shapes.items():
        name = full_name.rpartition(".")[0]
        if name not in expected:
            raise ValueError(f"it has {full_name}, but the model has no such parameter")
        if shape not in (expected[name], ()):  # a step count has no dimension
            raise ValueError(f"{full_name} has the shape {list(shape)}, but its parameter {list(expected[name])}")


def _parts(state_dict: dict[str, Any]) -> list[dict[str, Any]]:
    return state_dict["parts"] if "parts" in state_dict else [state_dict]


def _parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Returns the names of an optimizer's parameters in the order of its state."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _unpack(
    tensors: dict[str, torch.Tensor], structure: list[dict], optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, Any]:
    """Returns the `state_dict` that was packed, with the parameters in the order of `optimizer`."""
    present = optimizer.state_dict()
    names = _parameter_names(optimizer, model)
    _check_names_and_shapes({name: tensor.shape for name, tensor in tensors.items()}, model)
    states: dict[str, dict[str, Any]] = {}
    parameters = dict(model.named_parameters())
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        states.setdefault(name, {})[key] = part_of(tensor, parameters[name])
    parts, first = [], 0
    if len(structure) != len(_parts(present)):
        raise ValueError(f"it has {len(structure)} parts instead of {len(_parts(present))}")
    for saved, part in zip(structure, _parts(present), strict=True):
        size = sum(len(group["params"]) for group in part["param_groups"])
        here = names[first : first + size]
        saved_names = [group["params"] for group in saved["param_groups"]]
        expected = [[here[index] for index in group["params"]] for group in part["param_groups"]]
        if [set(group) for group in saved_names] != [set(group) for group in expected]:
            raise ValueError("its groups have other parameters")
        groups = []
        for old, new in zip(saved["param_groups"], part["param_groups"], strict=True):
            # JSON makes lists of tuples such as betas.
            kept = {
                key: tuple(value) if isinstance(new.get(key), tuple) else value
                for key, value in old.items()
                if key != "params"
            }
            groups.append(new | kept)
        state = {index: states.get(name, {}) | saved["values"].get(name, {}) for index, name in enumerate(here)}
        parts.append({"state": {index: entry for index, entry in state.items() if entry}, "param_groups": groups})
        first += size
    return {"parts": parts} if "parts" in present else parts[0]
