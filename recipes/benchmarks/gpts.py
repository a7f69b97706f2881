"""Language models for `benchmark.py`: our GPT-1, transformers' OpenAIGPT and GPT2, and nanoGPT.

All take the same plain training steps with PyTorch's fused AdamW; ours keeps freed memory as our training loop does.
For generation in bf16 the weights are in bf16.

Each function imports its own library, so that a measured process holds no other contender's code.
"""

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.workload import Stopwatch, wait_for
from papers_to_gpt.settings.benchmarking import Workload

PRODUCTS_BETWEEN_UPDATES = 4


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


def train_gpt(
    work: Workload,
    folder: Path,
    kind: str,
    dropout: float,
    compiled: bool = False,
    watch: Stopwatch | None = None,
    **sizes: int,
) -> dict[str, Any]:
    """Clocks updates on random tokens in bf16; `items` are the tokens read.

    Args:
        work: the sizes and the number of updates.
        folder: not used.
        kind: see `gpt`.
        dropout: every dropout rate.
        compiled: whether `torch.compile` compiles the model.
        watch: clocks the updates. Default: a new one, which compares them with the peak of matrix products.
        sizes: take the place of those of the workload.
    """
    work = replace(work, **sizes)
    if kind == "ours":
        from papers_to_gpt.engine.memory import keep_freed_memory

        keep_freed_memory()
    torch.manual_seed(42)
    model = gpt(work, kind, dropout).train().to(work.device)
    if kind == "gpt2":
        model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if compiled else model
    peak = None
    if watch is None:
        peak = MatrixPeak(device=work.device)
        watch = Stopwatch(between_updates=peak.measure, device=work.device)
    shape = work.gpt_batch_size, work.context
    batches = (torch.randint(work.gpt_vocab_size, shape, device=work.device) for _ in itertools.count())
    for tokens in watch.over(batches, work, lambda tokens: (tokens.numel(), 0, 0)):
        with torch.autocast(work.device, torch.bfloat16):
            # nanoGPT expects labels that are already shifted; the others shift them.
            loss = forward(tokens, tokens.roll(-1, 1))[1] if kind == "nanogpt" else forward(tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    result = watch.result(model)
    if peak is None:
        return result
    from papers_to_gpt.gpt1.objectives import training_flops_per_token

    with torch.device("meta"):
        flops_per_token = training_flops_per_token(gpt(work, "ours"), work.context)
    return result | peak.utilization(flops_per_token * result["items"], result)


class MatrixPeak:
    """The FLOPs of a large bf16 matrix product in a second, with which the utilization is computed.

    It is measured after each update, with the same threads, because the speed of a core changes while a benchmark
    runs. On the CPU both rates are those of CPU time, because other processes slow the updates more often than the few
    short products, so that wall-clock times of the two do not compare.

    Args:
        size: rows and columns of the matrix. Default: 2,048 on the CPU, where a product takes some hundredths of a
            second and reaches the rate of larger ones, and 8,192 on a GPU.
        device: where the updates are made.
    """

    def __init__(self, size: int | None = None, device: str = "cpu"):
        size = size or (2048 if device == "cpu" else 8192)
        self.device = device
        self.matrix = torch.randn(size, size, device=device).to(torch.bfloat16)  # zeros would be multiplied faster
        self.matrix @ self.matrix  # oneDNN compiles the product
        self.flops = self.seconds = 0.0

    @torch.no_grad()
    def measure(self) -> None:
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        wait_for(self.device)
        started = clock()
        for _ in range(PRODUCTS_BETWEEN_UPDATES):
            self.matrix @ self.matrix
        wait_for(self.device)
        self.seconds += clock() - started
        self.flops += PRODUCTS_BETWEEN_UPDATES * 2 * len(self.matrix) ** 3

    @property
    def rate(self) -> float:
        """The mean over all products."""
        return self.flops / self.seconds

    def utilization(self, flops: float, clocked: dict[str, Any]) -> dict[str, float]:
        """Returns the share of the peak that updates reach.

        Args:
            flops: those of all updates.
            clocked: what the stopwatch returned for them.
        """
        seconds = clocked["cpu_seconds" if self.device == "cpu" else "seconds"]
        return {"model_flops_utilization_percent": 100 * flops / seconds / self.rate}


@torch.inference_mode()
def generate(work: Workload, folder: Path, kind: str, batch_size: int, bf16: bool) -> dict[str, Any]:
    """Clocks greedy generation after random prompts, without an end token; `items` are generated tokens."""
    torch.manual_seed(42)
    model = gpt(work, kind).eval().to(work.device)
    if bf16:
        model.to(torch.bfloat16)
    prompt = torch.randint(work.gpt_vocab_size, (batch_size, work.prompt_tokens), device=work.device)
    for new_tokens in (min(8, work.new_tokens), work.new_tokens):
        watch = Stopwatch(device=work.device)
        watch.start()
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False
        )
        watch.stop()
        assert output.shape == (batch_size, work.prompt_tokens + new_tokens)
    watch.count(batch_size * work.new_tokens)
    return watch.result(model)
