"""Linear layers in 8-bit integers on the CPU: weights that torchao quantizes, in products of oneDNN.

Why weights *and* inputs are integers: torchao also has weights in int8 whose inputs stay floating-point numbers. Their
error is half as large (0.4 instead of 0.8 % of the outputs' norm, for weights and inputs drawn at random), but every
product first turns all weights into floating-point numbers, which took 1.1 to 3 times as long as float32 in every size
measured (256 to 10,000 outputs, 1 to 1,000 rows, one core of an EPYC with AVX-512 VNNI). With integers on both sides,
the products took from 1.0 to 0.1 times as long as float32 with 512 inputs and 2,048 outputs, or 256 and 8,000, or
more. Smaller ones of few rows took longer, because rounding the inputs takes longer than the product.

torchao's own product of integers arranges the weights anew on every call unless the model is compiled, so it is slower
than float32. `Int8Linear` multiplies torchao's weights in a layout that is made once.
"""

import importlib.util
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from papers_to_gpt.engine.model_folder import is_export, read_export
from papers_to_gpt.settings.commands import command

# Layers with fewer inputs or outputs stay as they are: they take no time, and the outputs of a task's head are few.
LEAST_WIDTH = 32

# oneDNN's fast product takes inputs without sign, from which it subtracts this number.
ZERO_POINT = 128

# Taken for the largest input of a row if that is smaller, so that a row of zeros is not divided by 0.
SMALLEST_NUMBER = 1e-30

# The last arguments of `qlinear_pointwise`: bias, scale and zero point of the output, its type, and no function on it.
NO_BIAS_AND_FLOAT32_OUT = (None, 1.0, 0, torch.float32, "none", [], "")


@dataclass
class Quantized:
    """What `quantize_int8` has done.

    Attributes:
        layers: the number of layers in int8.
        parameters: the number of their weights.
        others: the number of the model's other parameters, which are in float32. A table that is tied to the softmax
            layer counts here, and its copy in int8 among the weights.
    """

    layers: int
    parameters: int
    others: int

    def __str__(self) -> str:
        size = (self.parameters + 4 * self.others) / 1e6
        return (
            f"Quantized {self.layers} linear layers with {self.parameters:,} weights to int8; {self.others:,} other "
            f"parameters stay in float32. Together they take {size:.1f} MB."
        )


def check_int8(device: torch.device | str = "cpu") -> None:
    """Checks that this machine runs a model in int8.

    Raises:
        ValueError: torchao is missing, the device is not the CPU, or the processor lacks AVX2.
    """
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"quantization is int8, which runs on the CPU, but the model runs on {torch.device(device).type}. Leave "
            "quantization out, or hide the GPU: CUDA_VISIBLE_DEVICES= (empty)."
        )
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(
            "quantization is int8, which needs the package torchao: pip install torchao (or the extra `quantization` "
            "of papers-to-gpt)."
        )
    # oneDNN has fast code for these products from AVX2 on. Its general code takes hundreds of times as long.
    capability = torch.backends.cpu.get_cpu_capability()
    if not (capability.startswith("AVX") and torch.backends.mkldnn.is_available()):
        raise ValueError(
            "quantization is int8, which needs an x86 processor with AVX2 and a PyTorch with oneDNN, but this "
            f"PyTorch computes with {capability}. Leave quantization out."
        )


def check_quantization(quantization: str | None, names: Sequence[str]) -> None:
    """Checks before anything loads that models can be quantized as the settings of a script ask for.

    Args:
        quantization: the setting; None asks for nothing.
        names: folders or ids of the models.

    Raises:
        ValueError: see `check_int8`; or a folder is an export, which has the numbers that it was written in.
    """
    if quantization is None:
        return
    for name in filter(is_export, names):
        record = read_export(Path(name))
        again = (record["source"], "--format", record["engine"], "--quantization", quantization)
        raise ValueError(
            f"quantization is {quantization}, but {name} is an export, whose numbers were chosen when it was written. "
            "Leave quantization out, or export the model in other numbers: "
            + command("export", *again, "--output_dir", "FOLDER")
        )
    check_int8("cuda" if torch.cuda.is_available() else "cpu")


def quantize(model: nn.Module, quantization: str | None) -> None:
    """Quantizes a model as the setting of a script asks for, and says on standard error what is quantized."""
    if quantization is not None:
        print(quantize_int8(model), file=sys.stderr)


def quantize_int8(model: nn.Module) -> Quantized:
    """Turns the linear layers of a model into `Int8Linear`, in place; what is left becomes float32.

    The model is then for inference alone: it is in evaluation mode, no parameter requires a gradient, and it stays on
    the CPU. Saved, it is a float32 model whose weights are the rounded ones.

    Args:
        model: any model of this project on the CPU, or an ensemble. Loading it took the memory of its own numbers;
            afterwards a quantized weight takes one byte.

    Returns:
        How many weights are in int8, a sentence when printed.

    Raises:
        ValueError: see `check_int8`; or the model has no linear layer with 32 inputs and outputs.
    """
    check_int8(next(model.parameters()).device)
    model.float().eval().requires_grad_(False)
    places = [
        (parent, name, layer)
        for parent in list(model.modules())
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and min(layer.in_features, layer.out_features) >= LEAST_WIDTH
    ]
    if not places:
        raise ValueError(
            f"The model has no linear layer with {LEAST_WIDTH} inputs and outputs or more, so there is nothing to "
            "quantize. Leave quantization out."
        )
    for parent, name, layer in places:
        setattr(parent, name, Int8Linear(layer))
    sizes = [layer.in_features * layer.out_features for _, _, layer in places]
    return Quantized(len(places), sum(sizes), sum(each.numel() for each in model.parameters()))


class Int8Linear(nn.Module):
    """A linear layer without gradients, whose weights and inputs are 8-bit integers times a scale.

    Every row of the weights has a scale, and so has every row of the inputs. So the output of a row does not depend on
    the other rows of its batch.

    Args:
        layer: an ordinary layer in float32 on the CPU.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight, self.largest = _quantize_weight(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.scale = weight.scale.flatten()  # (out_features,)
        self.half = torch.tensor(ZERO_POINT + 0.5)
        self.zero_points = torch.zeros(layer.out_features, dtype=torch.long)
        # An opaque tensor of oneDNN, so it is no buffer; `weight` has the numbers.
        self.packed = torch.ops.onednn.qlinear_prepack(weight.qdata, None)

    @property
    def weight(self) -> torch.Tensor:
        """The numbers that the integers stand for, (out_features, in_features) in float32, computed anew each time."""
        identity = ZERO_POINT + torch.eye(self.in_features)
        return self._multiply(identity.to(torch.uint8)).T.contiguous()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiplies rows, (..., in_features), and adds the bias: returns (..., out_features) of their type."""
        numbers = rows.reshape(-1, self.in_features).float()
        scale = numbers.abs().amax(dim=1, keepdim=True).clamp_(min=SMALLEST_NUMBER).div_(self.largest)  # (rows, 1)
        # Adding a half rounds, because the conversion to integers drops the fraction.
        product = self._multiply(torch.addcdiv(self.half, numbers, scale).to(torch.uint8))
        product = product.mul_(scale) if self.bias is None else torch.addcmul(self.bias, product, scale)
        return product.to(rows.dtype).view(*rows.shape[:-1], self.out_features)

    def _multiply(self, integers: torch.Tensor) -> torch.Tensor:
        """Multiplies integers, (N, in_features), to which `ZERO_POINT` has been added: (N, out_features)."""
        return torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, ZERO_POINT, self.packed, self.scale, self.zero_points, *NO_BIAS_AND_FLOAT32_OUT
        )

    def _save_to_state_dict(self, destination: dict[str, torch.Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


def _quantize_weight(layer: nn.Linear) -> tuple[torch.Tensor, int]:
    """Returns torchao's tensor of a layer's weight, and the largest integer, also that of inputs.

    The largest integer is 127, and on processors without VNNI instructions, whose sums of products would overflow, 63.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao warns of its libraries for GPUs, which are not used here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
            from torchao.utils import should_reduce_range
    finally:
        logging.disable(disabled)
    reduced = should_reduce_range(layer.weight.device)
    config = Int8DynamicActivationInt8WeightConfig(reduce_range=reduced, set_inductor_config=False)
    holder = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    holder.weight = layer.weight  # the layer itself is unchanged, and its weight may be tied to a table
    quantize_(holder, config)
    return holder.weight, 63 if reduced else 127
