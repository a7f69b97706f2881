"""Language models for `benchmark.py`: our GPT-1, transformers' OpenAIGPT and GPT2, and nanoGPT.

All take the same plain training steps with PyTorch's fused AdamW; ours keeps freed memory as our training loop does.
For generation in bf16 the weights are in bf16.

Each function imports its own library, so that a measured process holds no other contender's code.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload


def gpt(work: Workload, kind: str, dropout: float = 0.0) -> nn.Module:
    """Returns a new model of the workload's size.

    Args:
        work: the sizes.
        kind: "ours", "openai-gpt", "gpt2" or "nanogpt".
        dropout: every dropout rate of the model.
    """
    sizes = {
        "vocab_size": work.gpt_vocab_size,
        "n_embd": work.gpt_hidden_size,
        "n_layer": work.gpt_layers,
        "n_head": work.gpt_heads,
    }
    if kind == "nanogpt":
        sys.path.insert(0, work.nanogpt_dir)
        from model import GPT, GPTConfig

        return GPT(GPTConfig(block_size=work.context, dropout=dropout, **sizes))
    if kind == "ours":
        from gpt1_scratch.configuration_gpt1 import GPT1Config
        from gpt1_scratch.modeling_gpt1 import GPT1ForCausalLM

        dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), dropout)
        return GPT1ForCausalLM(GPT1Config(max_position_embeddings=work.context, **sizes, **dropouts))
    from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    sizes |= {"n_positions": work.context} | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    if kind == "openai-gpt":
        return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes))
    # With an end token, generation would check for it after every token.
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def train_gpt(work: Workload, folder: Path, kind: str, dropout: float, compiled: bool = False) -> dict[str, Any]:
    """Clocks updates on random tokens in bf16; `items` are the tokens read."""
    if kind == "ours":
        from papers_to_gpt.engine.memory import keep_freed_memory

        keep_freed_memory()
    torch.manual_seed(42)
    model = gpt(work, kind, dropout).train()
    if kind == "gpt2":
        model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if compiled else model
    watch = Stopwatch()
    batches = (torch.randint(work.gpt_vocab_size, (work.gpt_batch_size, work.context)) for _ in itertools.count())
    for tokens in watch.over(batches, work, lambda tokens: (tokens.numel(), 0, 0)):
        with torch.autocast("cpu", torch.bfloat16):
            # nanoGPT expects labels that are already shifted; the others shift them.
            loss = forward(tokens, tokens.roll(-1, 1))[1] if kind == "nanogpt" else forward(tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    result = watch.result(model)
    return result | {"model_flops_utilization_percent": model_flops_utilization(work, result)}


def model_flops_utilization(work: Workload, result: dict[str, Any]) -> float:
    """Returns the FLOP/s of training in percent of those that a large bf16 matrix product reaches right after it."""
    from accelerate import Accelerator

    from papers_to_gpt.engine.reporting import measure_matrix_peak
    from papers_to_gpt.gpt1.objectives import training_flops_per_token

    with torch.device("meta"):
        flops_per_token = training_flops_per_token(gpt(work, "ours"), work.context)
    peak = measure_matrix_peak(Accelerator(cpu=True, mixed_precision="bf16"))
    return 100 * flops_per_token * result["items"] / result["seconds"] / peak


@torch.inference_mode()
def generate(work: Workload, folder: Path, kind: str, batch_size: int, bf16: bool) -> dict[str, Any]:
    """Clocks greedy generation after random prompts, without an end token; `items` are generated tokens."""
    torch.manual_seed(42)
    model = gpt(work, kind).eval()
    if bf16:
        model.to(torch.bfloat16)
    prompt = torch.randint(work.gpt_vocab_size, (batch_size, work.prompt_tokens))
    for new_tokens in (min(8, work.new_tokens), work.new_tokens):
        watch = Stopwatch()
        watch.start()
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False
        )
        watch.stop()
        assert output.shape == (batch_size, work.prompt_tokens + new_tokens)
    watch.count(batch_size * work.new_tokens)
    return watch.result(model)
