"""Writes a model as ONNX graphs, in fp32 or with weights of 8 bits."""

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from transformers import PreTrainedModel

from gpt1_scratch import plain_forms as gpt1_plain_forms
from papers_to_gpt.exporting.onnx_graphs import CONFIG_FILE, ENCODER_FILE, Graph, graphs_of, without_tables
from seq2seq_scratch import plain_forms as seq2seq_plain_forms

# An ONNX file is one protobuf message, which has at most 2 GiB; 1 MiB is left for all but the weights.
LARGEST_FILE = 2**31 - 2**20

# Loggers of the exporter, whose warnings are about operators that no graph here has.
NOISY = ("torch.onnx", "onnxscript", "onnx_ir")


def write_graphs(model: PreTrainedModel, quantization: str, folder: Path) -> None:
    """Writes the graphs of a model and its configuration to a folder.

    Args:
        model: a translator or a GPT-1 that continues text, in fp32.
        quantization: "float32" or "int8".
        folder: an empty folder.

    Raises:
        ValueError: a graph is too large for a file.
    """
    with without_tables(model), gpt1_plain_forms(), seq2seq_plain_forms():
        for graph in graphs_of(model):
            write_graph(graph, folder / graph.file, quantization)
    # References to the model's code, which the folder does not have, and the path that the model was loaded from.
    left_out = ("auto_map", "custom_pipelines", "_name_or_path")
    config = {name: value for name, value in model.config.to_dict().items() if name not in left_out}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_graph(graph: Graph, path: Path, quantization: str) -> None:
    """Writes one graph. Raises ValueError if it is too large for a file."""
    size = sum(tensor.nbytes for tensor in {*graph.module.parameters(), *graph.module.buffers()})
    if size > LARGEST_FILE:
        raise ValueError(
            f"The weights of {path.name} have {size:,} bytes, and an ONNX file holds {LARGEST_FILE:,}. Export a "
            "smaller model."
        )
    with quiet_exporter():
        if quantization == "float32":
            export_graph(graph, path)
            return
        with tempfile.TemporaryDirectory() as scratch:
            export_graph(graph, Path(scratch, path.name))
            quantize(Path(scratch, path.name), path, finely=path.name == ENCODER_FILE)


def export_graph(graph: Graph, path: Path) -> None:
    """Writes one graph in fp32."""
    named: set[str] = set()
    arguments: dict[str, Any] = {}
    shapes: dict[str, Any] = {}
    for name, tensor in graph.inputs.items():
        # A dimension is named at its first input; the exporter infers where else it occurs.
        sizes = {axis: Dim.DYNAMIC if label in named else label for axis, label in graph.axes[name].items()}
        named.update(graph.axes[name].values())
        kind, _, part = name.partition(".")
        if part:  # one argument, a list
            arguments.setdefault(kind, []).append(tensor)
            shapes.setdefault(kind, []).append(sizes)
        else:
            arguments[name], shapes[name] = tensor, sizes
    with torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(arguments.values()),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=tuple(shapes.values()),
            dynamo=True,
            verbose=False,
        )
    exported = program.model.graph
    values = [*exported.inputs, *exported.initializers.values()]
    for node in exported.all_nodes():
        node.metadata_props.clear()  # stack traces, with paths of this machine
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
    program.save(path, external_data=False)


def quantize(source: Path, target: Path, finely: bool) -> None:
    """Writes a graph with its weights in int8. Activations are rounded to 8 bits as the graph runs.

    An encoder runs once, and every step reads what it computed, so its errors do not average out over the steps as
    those of the decoder do. It is therefore rounded finely.

    Args:
        source: the graph in fp32; another file is written beside it.
        target: the file to write.
        finely: if True, weights and activations of matrix products are scaled in blocks of 32 numbers, which takes
            longer in large batches. Otherwise, an activation has one scale for the whole batch, and weights have one
            for each output.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name(f"prepared_{source.name}")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    if finely:
        graph = ONNXModel(onnx.load(prepared))
        graph.replace_gemm_with_matmul()
        quantizer = MatMulNBitsQuantizer(graph.model, bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(prepared))
    # What is left: embeddings, the LSTM, and in a decoder the matrix products.
    quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, per_channel=True)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences the exporter's warnings inside the block; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
