"""How much a translator computes, counted from its weights."""

from torch import nn
from transformers import PreTrainedModel


def count_multiplied_weights(model: PreTrainedModel) -> tuple[int, int]:
    """Returns the numbers of weights in matrices that vectors of the source and of the target are multiplied by.

    A table of embeddings is only looked up, unless it is also the matrix of the softmax. Training takes 6 operations
    for each such weight and token of its side (Kaplan et al. 2020). The products of queries with keys are left out:
    there are few in sentences.
    """
    softmax = model.get_output_embeddings().weight
    others = {id(softmax), *(id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding))}
    encoder = {id(weight) for weight in model.get_encoder().parameters()}
    source, target = 0, softmax.numel()
    for weight in model.parameters():
        if weight.dim() > 1 and id(weight) not in others:
            if id(weight) in encoder:
                source += weight.numel()
            else:
                target += weight.numel()
    return source, target
