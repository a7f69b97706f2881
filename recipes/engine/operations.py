"""How much a translator computes, counted from its weights."""

from torch import nn
from transformers import PreTrainedModel


def count_multiplied_weights(model: PreTrainedModel) -> tuple[int, int]:
    """Returns the numbers of weights in matrices that vectors of the source and of the target are multiplied by.

    A table of embeddings is only looked up, unless it is also the matrix of the softmax. The decoder counts for the
    target, also its keys and values of the source, of which there are about as many.
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


def training_flops(model: PreTrainedModel, source_tokens: int, target_tokens: int) -> float:
    """Returns the floating-point operations of training on some tokens, forward and backward.

    They are 6 for each multiplied weight and token of its side: a product and a sum in the forward pass, and twice as
    many in the backward pass (Kaplan et al. 2020, section 2.1). The products of queries with keys are left out: there
    are few in sentences. Vaswani et al. 2017 (section 6.1) estimate otherwise: the time of the training, times the
    number of GPUs, times the operations in a second that a GPU sustains.
    """
    source, target = count_multiplied_weights(model)
    return 6 * (source * source_tokens + target * target_tokens)
