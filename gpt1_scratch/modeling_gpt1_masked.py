"""GPT-1's blocks with BERT's objective (Devlin et al. 2018, section 3.1): predict masked tokens from both sides.

Of the tokens u_1 ... u_n, 15 % are chosen, M, and most of them are replaced by `<mask>`. Every position attends to the
whole text with its replacements u~, and the model is trained to maximise

    L(U) = sum_(i in M) log P(u_i | u~_1, ..., u~_n)

`pretraining/masking.py` chooses the tokens. Embeddings, blocks and softmax are those of `modeling_gpt1.py`, so both
objectives are compared on the same model. BERT's other changes (segments, next-sentence prediction, reading out the
first token) are not made.

Dimensions: as in `modeling_gpt1.py`.
"""

from typing import Any, Unpack

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.utils import TransformersKwargs, can_return_tuple

from .bidirectional_attention import USE_CAUSAL
from .configuration_gpt1 import GPT1Config
from .library_arguments import understand_arguments
from .modeling_gpt1 import GPT1Model, GPT1PreTrainedModel
from .token_loss import target_loss


class GPT1ForMaskedLM(GPT1PreTrainedModel):
    """A bidirectional GPT-1 that predicts masked tokens, by a softmax over h_n W_e^T.

    Raises:
        ValueError: the config's `attention` is causal.
    """

    _tied_weights_keys = {"lm_head.weight": "model.tokens_embed.weight"}

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        if config.attention == "causal":
            raise ValueError(
                "attention is 'causal', so the model predicts the next token and not the masked ones. Load it as "
                "GPT1ForCausalLM (AutoModelForCausalLM), or set attention to 'bidirectional' and train it."
            )
        self.model = GPT1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @understand_arguments()
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predicts the token at every position.

        Args:
            input_ids: (B, T) tokens, some of them replaced by the mask token.
            attention_mask, position_ids, inputs_embeds: as in `GPT1Model.forward`.
            labels: (B, T), the original token at the chosen positions, and `-100` elsewhere. They are not shifted.
            use_cache: unused, because there is no cache; trainers for all kinds of models pass it.
            num_items_in_batch: the number of labels in the whole update; see `next_token_loss`.

        Returns:
            The loss if labels are given; the logits, (B, T, V), or `None` in training mode with labels, because the
            loss never holds all logits; hidden states, (B, T, D) each, and attention weights, (B, H, T, T) each, if
            requested.

        Raises:
            ValueError, TypeError: as `GPT1Model.forward`.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        if labels is not None:
            loss = target_loss(hidden_states, self.lm_head, labels, num_items_in_batch)
        if not (labels is not None and self.training):
            logits = self.lm_head(hidden_states)  # B T D -> B T V
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def generate(self, *args: Any, **kwargs: Any) -> None:
        """Raises a ValueError: the model predicts masked tokens and does not continue text."""
        raise ValueError(USE_CAUSAL)


__all__ = ["GPT1ForMaskedLM"]
