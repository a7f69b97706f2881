"""The setting of the scripts that run a trained model in 8-bit integers."""

from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option


@dataclass(kw_only=True)
class QuantizationSettings(CheckedSettings):
    """The numbers of the linear layers; a subclass may have the settings bf16 and torch_compile, which exclude it."""

    quantization: Literal["int8"] | None = option(
        None,
        "Store and multiply the weights of linear layers in 8 bits, on the CPU and with the package torchao. "
        "Embeddings and recurrent networks stay in float32. It is faster than float32 with wide layers and large "
        "vocabularies only, and mostly no faster than bfloat16; loading takes the memory of the float32 model.",
        "model",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.quantization and getattr(self, "bf16", None):
            raise ValueError(
                f"quantization is {self.quantization}, and bf16 is true: the weights are either 8-bit integers or "
                "bfloat16. Leave one of them out."
            )
        if self.quantization and getattr(self, "torch_compile", False):
            raise ValueError(
                f"torch_compile is true and quantization is {self.quantization}, but 8-bit layers are not compiled. "
                "Leave one of them out."
            )
