"""Heads for tasks over GPT-1: classes, numbers and multiple choice (section 3.3 of the paper).

Dimensions: as in `modeling_gpt1.py`; L labels of a task, K choices, N sequences that are read.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    MultipleChoiceModelOutput,
    SequenceClassifierOutputWithPast,
)
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_gpt1 import GPT1Config
from .dropout import dropout
from .library_arguments import understand_arguments
from .modeling_gpt1 import GPT1Model, GPT1PreTrainedModel, only_one
from .token_loss import IGNORE_INDEX, divide_by_items, linear_cross_entropy, next_tokens, refuse_external_loss

NO_AUXILIARY_LOSS = "auxiliary_loss_weight would have no effect, unless it is 0"


def reading_order(attended: torch.BoolTensor, delimiters: torch.BoolTensor | None = None) -> torch.LongTensor:
    """In what order a row's tokens are read, as indices to gather them with; padding comes last.

    Args:
        attended: (B, T), false for padding, on either side.
        delimiters: (B, T), true for delimiters, to read pairs in both orders.

    Returns:
        (B, 1, T), the row's own order; or (B, 2, T) with a second one, which makes
        `[start] b [delimiter] a [extract]` of `[start] a [delimiter] b [extract]`. The first delimiter counts; a row
        that has none is read twice as it is.
    """
    own_order = order_by_rank((~attended).long(), ranks=2)
    if delimiters is None:
        return own_order[:, None]
    place = attended.cumsum(dim=1)  # 1 at the first token
    delimiters = delimiters & attended
    delimiters_so_far = delimiters.cumsum(dim=1)
    rank = torch.where(delimiters_so_far == 0, 3, 1)  # text a, and text b before it
    rank = rank.masked_fill(delimiters & (delimiters_so_far == 1), 2)
    rank = rank.masked_fill(place == 1, 0)
    rank = rank.masked_fill(place == place[:, -1:], 4)
    rank = rank.masked_fill(~attended, 5)
    return torch.stack((own_order, order_by_rank(rank, ranks=6)), dim=1)


def order_by_rank(rank: torch.LongTensor, ranks: int) -> torch.LongTensor:
    """Returns the stable `argsort` of (B, T) integers below `ranks`, (B, T), by counting: ONNX has no stable sort."""
    members = rank[:, None] == torch.arange(ranks, device=rank.device)[:, None]  # (B, ranks, T)
    # The number of tokens with a lower rank, or with the same rank further left.
    places = members.flatten(1).cumsum(dim=1).view_as(members).gather(1, rank[:, None])[:, 0] - 1
    positions = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    return torch.zeros_like(rank).scatter(1, places, positions)


class Reading(NamedTuple):
    """What a head has to work with: N sequences, padded at the end."""

    outputs: BaseModelOutputWithPast  # the backbone's, (N, T, D)
    extracted: torch.Tensor  # (N, D), the state at each sequence's last token
    tokens: torch.LongTensor | None  # (N, T), -100 for padding; None where embeddings were given in their place


class GPT1TaskModel(GPT1PreTrainedModel):
    """What the heads for tasks share: reading whole sequences, a linear layer, and the joint loss.

    The state is read at a sequence's last token, wherever padding stands: `<extract>`, which the template of
    `add_task_template` in `tokenization.py` puts there. The linear layer has a bias, as in the published code;
    equation 3 of the paper has none. It has a name of its own in each head, so that no checkpoint's scores of choices
    are taken for scores of classes.
    """

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        # What is given to `from_pretrained` reaches the config after it has checked itself.
        config.validate_both_orders()
        self.model = GPT1Model(config)

    def _read(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
        both_orders: bool = False,
        **kwargs: Any,
    ) -> Reading:
        """Runs the backbone over B sequences, or over 2 B if `both_orders`, a sequence's two orders side by side."""
        given = only_one(input_ids, inputs_embeds)
        if attention_mask is not None:
            attended = attention_mask.bool()
        elif input_ids is None or self.config.pad_token_id is None:
            attended = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        else:
            attended = input_ids != self.config.pad_token_id
        delimiters = None
        if both_orders:
            if input_ids is None:
                raise ValueError("both_orders looks for the delimiter among the tokens: give input_ids.")
            delimiters = input_ids == self.config.delimiter_token_id
        order = reading_order(attended, delimiters)  # (B, 1 or 2, T)
        batch, orders, length = order.shape
        row = torch.arange(batch, device=order.device)[:, None, None]
        sequences = given[row, order].flatten(0, 1)
        if position_ids is not None:  # belong to places, so they are the same in both orders
            position_ids = position_ids.expand(batch, -1)[row, order[:, :1]].expand(-1, orders, -1).flatten(0, 1)
        # With padding behind the tokens the causal mask alone keeps it out of sight.
        outputs = self.model(
            **{"inputs_embeds" if input_ids is None else "input_ids": sequences},
            position_ids=position_ids,
            use_cache=False,
            **kwargs,
        )
        lengths = attended.sum(dim=1).clamp(min=1).repeat_interleave(orders)
        # Not len(), which torch.export would take for a constant.
        extracted = outputs.last_hidden_state[torch.arange(lengths.shape[0], device=lengths.device), lengths - 1]
        extracted = extracted.to(self.dtype)
        padding = torch.arange(length, device=lengths.device) >= lengths[:, None]
        return Reading(outputs, extracted, None if input_ids is None else sequences.masked_fill(padding, IGNORE_INDEX))

    def _apply_linear(self, layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        # Not under autocast: scores with the three digits of bfloat16 would tie.
        with torch.autocast(states.device.type, enabled=False):
            return layer(states)

    def _joint_loss(
        self,
        task_losses: torch.Tensor,
        counted: torch.BoolTensor,
        reading: Reading,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Task loss and, in training, `auxiliary_loss_weight` times the language model's (equation 5 of the paper).

        The language model's loss of an example is the mean over the tokens of a sequence, special ones included, and
        then over the example's sequences, as in the published code.

        Args:
            task_losses: (B,), 0 for examples that do not count.
            counted: (B,) which examples count.
            reading: of the examples' sequences, the same number for each.
            num_items_in_batch: the number of examples that count in the whole update; left out, in this batch.
        """
        loss = task_losses.sum()
        weight = self.config.auxiliary_loss_weight
        if self.training and weight:
            if reading.tokens is None or not self.config.tie_word_embeddings:
                raise ValueError(
                    f"auxiliary_loss_weight is {weight}: the language model's loss predicts the tokens of input_ids "
                    "with a softmax that is tied to their table. Give input_ids, and to a model with "
                    "tie_word_embeddings; or set auxiliary_loss_weight to 0."
                )
            targets = next_tokens(reading.tokens)  # (N, T)
            sequences_per_example = len(targets) // len(counted)
            tokens_per_sequence = (targets != IGNORE_INDEX).sum(dim=1).clamp(min=1)
            weights = counted.repeat_interleave(sequences_per_example) * weight / sequences_per_example
            loss = loss + linear_cross_entropy(
                reading.outputs.last_hidden_state.flatten(0, 1),
                self.model.tokens_embed.weight,
                targets.flatten(),
                (weights / tokens_per_sequence)[:, None].expand_as(targets).flatten(),
            )
        return divide_by_items(loss, counted, num_items_in_batch)


class GPT1ForSequenceClassification(GPT1TaskModel):
    """GPT-1 with a linear layer over a text or a pair of texts: classes, several labels at once, or numbers.

    With the config's `both_orders`, for pairs without an order of their own, it reads a pair in both and adds the two
    states before the linear layer (section 3.3 of the paper).
    """

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @understand_arguments()
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Scores a batch of sequences.

        Args:
            input_ids: (B, T) tokens, the last of each `<extract>`.
            attention_mask: (B, T) with 0 for padding, on either side; by default the tokens that are not
                `pad_token_id`.
            position_ids: (B, T), by default counted from the first token, whichever side the padding is on.
            inputs_embeds: (B, T, D) in place of `input_ids`; not with both orders or the auxiliary loss.
            labels: (B,) classes, `-100` for examples that do not count; (B, L) floats of 0 and 1 where several labels
                may hold; (B,) or (B, L) numbers for regression. Which of them, `config.problem_type` says; `None` is
                replaced by what the first labels show.
            use_cache: has no effect: a head reads whole sequences. Trainers that serve every model pass it.
            num_items_in_batch: the number of examples in the whole update. The summed loss is divided by it, so that
                gradients over accumulated batches and several processes add up to one large batch's. Left out, the
                loss is the mean over the batch's examples that count.

        Returns:
            The loss if there are labels: cross-entropy, the labels' mean binary cross-entropy, or the mean squared
            error; in training mode with the auxiliary loss. The scores (B, L) as logits. Hidden states and attention
            weights, if asked for, are of the sequences as they are read: padding last, both orders side by side.
        """
        both_orders = self.config.both_orders
        reading = self._read(input_ids, attention_mask, position_ids, inputs_embeds, both_orders, **kwargs)
        states = reading.extracted.unflatten(0, (-1, 2 if both_orders else 1)).sum(dim=1)  # (B, D)
        logits = self._apply_linear(
            self.score, dropout(states, self.config.classifier_dropout, self.training)
        )  # (B, L)
        loss = None
        if labels is not None:
            task_losses, counted = self._task_losses(logits.float(), labels)
            loss = self._joint_loss(task_losses, counted, reading, num_items_in_batch)
        elif self.training and self.config.auxiliary_loss_weight:
            refuse_external_loss(num_items_in_batch, NO_AUXILIARY_LOSS)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=reading.outputs.hidden_states,
            attentions=reading.outputs.attentions,
        )

    def _task_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.BoolTensor]:
        """(B,) losses, and which of them count."""
        config = self.config
        if config.problem_type is None:
            # Kept, as the library's models do, for a pipeline to know what the scores are.
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.is_floating_point():
                config.problem_type = "multi_label_classification"
            else:
                config.problem_type = "single_label_classification"
        if config.problem_type == "single_label_classification":
            labels = labels.view(-1).long()
            losses = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
            return losses, labels != IGNORE_INDEX
        labels = labels.view(logits.shape).float()
        if config.problem_type == "regression":
            losses = nn.functional.mse_loss(logits, labels, reduction="none")
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return losses.mean(dim=1), torch.ones(len(labels), dtype=torch.bool, device=labels.device)


class GPT1ForMultipleChoice(GPT1TaskModel):
    """GPT-1 that scores each of K sequences with one linear layer; the softmax runs over them."""

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.choice_score = nn.Linear(config.hidden_size, 1)
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
    ) -> MultipleChoiceModelOutput:
        """Scores a batch of questions, each with K answers.

        Args:
            input_ids: (B, K, T) tokens, the last of each sequence `<extract>`.
            attention_mask, position_ids: (B, K, T), as in `GPT1ForSequenceClassification.forward`.
            inputs_embeds: (B, K, T, D) in place of `input_ids`; not with the auxiliary loss.
            labels: (B,) the right answer's number, `-100` for examples that do not count.
            use_cache, num_items_in_batch: as in `GPT1ForSequenceClassification.forward`.

        Returns:
            The loss if there are labels, in training mode with the auxiliary loss; the scores (B, K) as logits; hidden
            states and attention weights if asked for, of B x K sequences with padding last.
        """
        choices = only_one(input_ids, inputs_embeds).shape[1]
        given = (input_ids, attention_mask, position_ids, inputs_embeds)
        reading = self._read(*(None if tensor is None else tensor.flatten(0, 1) for tensor in given), **kwargs)
        states = reading.extracted.unflatten(0, (-1, choices))  # (B, K, D)
        # One mask for all choices, as in the published code: they are compared by the same features.
        kept = dropout(torch.ones_like(states[:, :1]), self.config.classifier_dropout, self.training)
        logits = self._apply_linear(self.choice_score, states * kept).squeeze(-1)  # (B, K)
        loss = None
        if labels is not None:
            task_losses = nn.functional.cross_entropy(
                logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none"
            )
            loss = self._joint_loss(task_losses, labels != IGNORE_INDEX, reading, num_items_in_batch)
        elif self.training and self.config.auxiliary_loss_weight:
            refuse_external_loss(num_items_in_batch, NO_AUXILIARY_LOSS)
        return MultipleChoiceModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=reading.outputs.hidden_states,
            attentions=reading.outputs.attentions,
        )


__all__ = ["GPT1ForMultipleChoice", "GPT1ForSequenceClassification"]
