"""Runs ONNX exports in onnxruntime, under the interface of our models: `forward`, `generate()`, scores, constraints.

Graphs are the encoder and the decoder's step. B is the batch, S source, T new tokens, P those before, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput, Seq2SeqLMOutput

from papers_to_gpt.engine.model_folder import EXPORT_FILE, read_json
from papers_to_gpt.exporting.exported_folder import check_installed
from papers_to_gpt.exporting.onnx_graphs import CONFIG_FILE, DECODER_FILE, ENCODER_FILE, MODEL_FILE
from seq2seq_scratch.beam_search import BeamSearchGenerationMixin
from seq2seq_scratch.library_arguments import CACHE_NAME, understand_arguments
from seq2seq_scratch.recurrent_common import RecurrentState
from seq2seq_scratch.seq2seq_common import shift_tokens_right


class OnnxGraph:
    """One graph in onnxruntime, on the CPU, with as many threads as PyTorch has."""

    def __init__(self, path: Path):
        check_installed("onnx", "onnxruntime")
        import onnxruntime

        if not path.is_file():
            raise ValueError(f"The folder {path.parent} has no {path.name}. Export the model again.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own classes have no public base class
            raise ValueError(f"onnxruntime cannot load {path}: {error}. Export the model again.") from error
        self.inputs = {each.name: each.shape for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.folder, self.positions = path.parent, read_json(path.parent / EXPORT_FILE)["positions"]

    def __call__(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the outputs, by name, from tensors by name; those that are no inputs of the graph are ignored."""
        arrays = {name: tensors[name].numpy() for name in self.inputs}
        return dict(zip(self.outputs, map(torch.from_numpy, self.session.run(None, arrays)), strict=True))

    def check_length(self, length: int) -> None:
        """Raises ValueError if a text has more tokens than the model has positions."""
        if self.positions is not None and length > self.positions:
            raise ValueError(f"A text has {length} tokens, and {self.folder} {self.positions} positions. Shorten it.")

    def start(self, rows: int, known: dict[str, Tensor]) -> RecurrentState:
        """Returns the state of B rows before the first token: `known` by name, all else zeros or without tokens."""
        shapes = {name: shape[1:] for name, shape in self.inputs.items() if name.startswith("past.")}
        sizes = {name: [0 if isinstance(size, str) else size for size in shape] for name, shape in shapes.items()}
        return RecurrentState({name: known.get(name, torch.zeros(rows, *each)) for name, each in sizes.items()})

    def advance(self, cache: RecurrentState, input_ids: Tensor, others: dict[str, Tensor]) -> Tensor:
        """Returns logits, (B, T, V), of ids, (B, T), and updates the cache; others: a source or a mask, by name."""
        self.check_length(cache.seen_tokens + input_ids.shape[1])
        logits = []
        # The graph of a recurrent decoder with attention takes one token at a time.
        for ids in input_ids.split(1, dim=1) if self.inputs["input_ids"][1] == 1 else [input_ids]:
            outputs = self({"input_ids": ids, **others, **cache.tensors})
            logits.append(outputs.pop("logits"))
            cache.advance(ids.shape[1], **{name.replace("present.", "past."): new for name, new in outputs.items()})
        return torch.cat(logits, dim=1)


class OnnxModel(PreTrainedModel):
    """What the models in onnxruntime share; they are built from the folder of an export."""

    _is_stateful = True  # a state cannot be cut back to an earlier position
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, folder: str | Path, file: str):
        super().__init__(AutoConfig.from_pretrained(Path(folder, CONFIG_FILE), trust_remote_code=False))
        self.generation_config, self.graph = GenerationConfig.from_pretrained(folder), OnnxGraph(Path(folder, file))
        self.folder, self.positions = self.graph.folder, self.graph.positions

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # forward creates the cache


class OnnxEncoder(nn.Module):
    """The encoder of a translator."""

    main_input_name = "input_ids"  # generate() reads this

    def __init__(self, folder: str | Path):
        super().__init__()
        self.graph = OnnxGraph(Path(folder, ENCODER_FILE))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> ModelOutput:
        """Encodes ids, (B, S), of which the mask, (B, S), has 1 at tokens and 0 at padding."""
        self.graph.check_length(input_ids.shape[1])
        return ModelOutput(**self.graph({"input_ids": input_ids, "attention_mask": attention_mask}))


class OnnxTranslator(OnnxModel, BeamSearchGenerationMixin):
    """A translator: `forward` and `generate()` are those of the models in `seq2seq_scratch`, without gradients."""

    def __init__(self, folder: str | Path):
        super().__init__(folder, DECODER_FILE)
        self.encoder = OnnxEncoder(folder)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Returns what the decoder reads to predict labels, (B, T): the start token and all of them but the last."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    @understand_arguments(RecurrentState, also=("use_cache",))
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        cache: RecurrentState | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Returns logits, (B, T, V), of the tokens after `decoder_input_ids`, (B, T), and the cache."""
        encoded = self.encoder(input_ids, attention_mask) if encoder_outputs is None else encoder_outputs
        cache = self.graph.start(len(decoder_input_ids), encoded) if cache is None else cache
        return Seq2SeqLMOutput(logits=self.graph.advance(cache, decoder_input_ids, encoded), **{CACHE_NAME: cache})


class OnnxGPT1(OnnxModel, GenerationMixin):
    """A GPT-1: `forward` and `generate()` are those of the library for `GPT1ForCausalLM`, without gradients."""

    def __init__(self, folder: str | Path):
        super().__init__(folder, MODEL_FILE)

    @understand_arguments(RecurrentState, also=("use_cache",))
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: RecurrentState | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Returns logits, (B, T, V), of ids, (B, T), and the cache; the mask, (B, P + T), covers the tokens before."""
        cache = self.graph.start(len(input_ids), {}) if cache is None else cache
        ones = torch.ones(len(input_ids), cache.seen_tokens + input_ids.shape[1], dtype=torch.long)
        mask = ones if attention_mask is None else attention_mask.long()
        logits = self.graph.advance(cache, input_ids, {"attention_mask": mask})
        return CausalLMOutputWithPast(logits=logits, **{CACHE_NAME: cache})
