"""A tiny GPT-1 whose weights are far from symmetric."""

import torch
from torch import nn

from gpt1_scratch import GPT1Config, GPT1ForCausalLM

PADDING = 0


def tiny_model(dropout: float = 0.0, **settings) -> GPT1ForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 24, "num_hidden_layers": 2}
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), dropout)
    config = GPT1Config(**{**sizes, "num_attention_heads": 3, "pad_token_id": PADDING, **rates, **settings})
    model = GPT1ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # far from symmetric, so that a wrong term shows
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
