"""llama.cpp as a contender of `benchmark.py`, by the packages `xllamacpp`, which runs it, and `gguf`, its file format.

llama.cpp has no post-norm GPT-1. Its GPT-2 of the same sizes does the same work in another order; it has the random
weights of the `GPT2LMHeadModel` that is measured beside it, and generates the same tokens. They are written before the
rounds, in a process of their own. The texts are sequences of one server, in the process that is measured.

The wheels of `xllamacpp` for Linux use AVX2 at most. llama.cpp also has code for AVX-512 and AMX. A package that is
built on the machine can use it: `pip install --no-binary xllamacpp xllamacpp`, with CMake, a C++ compiler and Rust.
`processor_features` in the file of results says what was used.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.gpts import gpt
from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload

# Weights of GPT2LMHeadModel that have a row for every input; those in GGUF have one for every output.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def gguf_file(folder: Path, bf16: bool) -> Path:
    """Returns the path of the model with weights in bf16 or fp32."""
    return folder / f"gpt2-{'bf16' if bf16 else 'fp32'}.gguf"


def write_gguf(model: nn.Module, path: Path, bf16: bool) -> None:
    """Writes a `GPT2LMHeadModel` in llama.cpp's format.

    llama.cpp needs a vocabulary even if prompts are token ids. Its entries are <0>, <1> and so on.

    Args:
        model: in fp32, with tied embeddings.
        path: the file.
        bf16: whether matrices are in bf16. Vectors and positions stay in fp32, as with llama.cpp's own converter.
    """
    from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map
    from gguf.quants import quantize

    config = model.config
    writer = GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{number}>" for number in range(config.vocab_size)])
    writer.add_token_types([TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["< 0"])  # an empty list is taken as missing
    writer.add_eos_token_id(config.vocab_size - 1)
    names = get_tensor_name_map(MODEL_ARCH.GPT2, config.n_layer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        array = (tensor.T if name.endswith(TRANSPOSED) else tensor).contiguous().numpy()
        is_matrix = array.ndim == 2 and not name.endswith("wpe.weight")
        numbers = GGMLQuantizationType.BF16 if bf16 and is_matrix else GGMLQuantizationType.F32
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(new_name, quantize(array, numbers), raw_dtype=numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_gpt2(work: Workload, folder: Path, bf16: bool) -> dict[str, Any]:
    """Writes the GPT-2 whose generation is clocked, unless it is there."""
    if not gguf_file(folder, bf16).exists():
        torch.manual_seed(42)
        write_gguf(gpt(work, "gpt2"), gguf_file(folder, bf16), bf16)
    return {}


def start_server(path: Path, batch_size: int, context: int) -> Any:
    """Starts llama.cpp's server with a model.

    It uses as many threads as PyTorch does.

    Args:
        path: the file of the model.
        batch_size: number of sequences that it continues at the same time.
        context: positions of each sequence.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_parallel = batch_size
    settings.n_ctx = batch_size * context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.fit_params = settings.ui = False
    settings.verbosity = 0
    return xllamacpp.Server(settings)


def continue_prompts(server: Any, prompts: list[list[int]], new_tokens: int) -> list[str]:
    """Returns the most probable continuations, which the end token does not end, as texts like <7><40>."""
    request = {"prompt": prompts, "max_tokens": new_tokens, "ignore_eos": True, "cache_prompt": False}
    # The other samplers would read the whole vocabulary once more.
    greedy = {"samplers": ["top_k"], "top_k": 1}
    answer = server.handle_completions(request | greedy)
    return [choice["text"] for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]


def token_ids(text: str) -> list[int]:
    """Returns the tokens of a text like <7><40>."""
    return [int(number) for number in re.findall(r"<(\d+)>", text)]


def generate_llama_cpp(work: Workload, folder: Path, batch_size: int, bf16: bool) -> dict[str, Any]:
    """Clocks greedy generation after random prompts; `items` are generated tokens."""
    import xllamacpp

    server = start_server(gguf_file(folder, bf16), batch_size, work.context)
    torch.manual_seed(42)
    prompts = torch.randint(work.gpt_vocab_size, (batch_size, work.prompt_tokens)).tolist()
    for new_tokens in (min(8, work.new_tokens), work.new_tokens):
        watch = Stopwatch()
        watch.start()
        texts = continue_prompts(server, prompts, new_tokens)
        watch.stop()
        assert [len(token_ids(text)) for text in texts] == [new_tokens] * batch_size
    watch.count(batch_size * work.new_tokens)
    return watch.result(None) | {"processor_features": xllamacpp.get_system_info()}
