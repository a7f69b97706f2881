"""A tiny GPT-1 with a head, and the tokens that frame its texts."""

import torch

from gpt1_scratch import GPT1Config, GPT1ForSequenceClassification

PADDING, START, DELIMITER, EXTRACT = 0, 57, 58, 59
SIZES = {
    "vocab_size": 61,
    "max_position_embeddings": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "pad_token_id": PADDING,
    "delimiter_token_id": DELIMITER,
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"), 0.0),
}


def tiny_head(head_class=GPT1ForSequenceClassification, **settings):
    torch.manual_seed(0)
    model = head_class(GPT1Config(**{**SIZES, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():  # far from symmetric, so that a wrong term shows
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
