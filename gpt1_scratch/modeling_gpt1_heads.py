"""Heads for tasks over GPT-1: classification, regression and multiple choice (sections 3.2 and 3.3 of the paper).

Fine-tuning adds one linear layer. It turns h, the last block's state at the last token, into scores (equation 3)

    P(y | x^1, ..., x^m) = softmax(h_n^m W_y)

and maximises the likelihood of the labels (equation 4), together with the language model's objective L1 on the texts
of the task, with weight lambda, the config's `auxiliary_loss_weight` (equation 5)

    L2(C) = sum_(x,y) log P(y | x^1, ..., x^m)
    L3(C) = L2(C) + lambda L1(C)

The model reads one sequence of tokens, so the inputs of each task are written as such (figure 1):

    classification   [start] text [extract]                            -> GPT-1 -> h -> linear -> softmax

    entailment       [start] premise [delimiter] hypothesis [extract]  -> GPT-1 -> h -> linear -> softmax

    similarity       [start] text 1 [delimiter] text 2 [extract]       -> GPT-1 -> h --.
                                                                                      (+) -> linear -> softmax
                     [start] text 2 [delimiter] text 1 [extract]       -> GPT-1 -> h --'

    multiple choice  [start] context [delimiter] answer 1 [extract]    -> GPT-1 -> h -> linear --.
                     [start] context [delimiter] answer 2 [extract]    -> GPT-1 -> h -> linear ---- softmax
                     [start] context [delimiter] answer K [extract]    -> GPT-1 -> h -> linear --'

`GPT1ForSequenceClassification` serves the first three, `GPT1ForMultipleChoice` the last. Only the embeddings of the
three special tokens and W_y are new.

Dimensions: as in `modeling_gpt1.py`; L labels of a task, K choices, N sequences that the backbone reads.
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
    """Returns the order in which the backbone reads the tokens of each row, as indices; padding comes last.

    Args:
        attended: (B, T), false for padding, which may be on either side.
        delimiters: (B, T), true for delimiters, in order to read pairs in both orders.

    Returns:
        (B, 1, T), the row's own order; with `delimiters`, (B, 2, T), the second of which turns
        `[start] a [delimiter] b [extract]` into `[start] b [delimiter] a [extract]`. The first delimiter counts. A row
        without one is read twice as it is.
    """
    own_order = order_by_rank((~attended).long(), ranks=2)
    if delimiters is None:
        return own_order[:, None]
    position = attended.cumsum(dim=1)  # B T: 1 at the first token
    delimiters = delimiters & attended
    delimiters_so_far = delimiters.cumsum(dim=1)  # B T
    rank = torch.where(delimiters_so_far == 0, 3, 1)  # text a third, text b first
    rank = rank.masked_fill(delimiters & (delimiters_so_far == 1), 2)  # the delimiter between them
    rank = rank.masked_fill(position == 1, 0)  # [start]
    rank = rank.masked_fill(position == position[:, -1:], 4)  # [extract]
    rank = rank.masked_fill(~attended, 5)  # padding
    return torch.stack((own_order, order_by_rank(rank, ranks=6)), dim=1)  # B 2 T


def order_by_rank(rank: torch.LongTensor, ranks: int) -> torch.LongTensor:
    """Returns the stable `argsort` of (B, T) integers below `ranks`, (B, T), by counting: ONNX has no stable sort."""
    members = rank[:, None] == torch.arange(ranks, device=rank.device)[:, None]  # B ranks T
    # The number of tokens with a lower rank, or with the same rank further left.
    places = members.flatten(1).cumsum(dim=1).view_as(members).gather(1, rank[:, None])[:, 0] - 1  # B T
    positions = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    return torch.zeros_like(rank).scatter(1, places, positions)


class Reading(NamedTuple):
    """The backbone's results for N sequences with padding at the end.

    Attributes:
        outputs: those of the backbone; the last hidden states are (N, T, D).
        extracted: (N, D), the state at the last token of each sequence.
        tokens: (N, T) with -100 for padding; `None` if the caller gave embeddings.
    """

    outputs: BaseModelOutputWithPast
    extracted: torch.Tensor
    tokens: torch.LongTensor | None


class GPT1TaskModel(GPT1PreTrainedModel):
    """The base class of heads: runs the backbone over whole sequences and computes the joint loss.

    A head reads the state at the last token of a sequence, which is `<extract>` if the tokenizer has the template of
    `add_task_template` in `tokenization.py`. Padding may be on either side. The linear layer has a bias, as in the
    published code, although equation 3 has none. The attribute that holds it has another name in each head, so that
    weights which score choices never load as weights which score classes.
    """

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        # from_pretrained sets its keyword arguments on the config after the config has validated itself.
        config.validate_both_orders()
        config.validate_auxiliary_loss_weight()
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
        """Runs the backbone over N = B sequences, or N = 2 B with `both_orders`, both orders of a row side by side."""
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
                raise ValueError("both_orders needs input_ids, because it looks for the delimiter among the tokens.")
            delimiters = input_ids == self.config.delimiter_token_id
        order = reading_order(attended, delimiters)  # B orders T
        batch, orders, length = order.shape
        row = torch.arange(batch, device=order.device)[:, None, None]
        sequences = given[row, order].flatten(0, 1)  # B T ... -> N T ...
        if position_ids is not None:  # the positions of both orders are the same
            position_ids = position_ids.expand(batch, -1)[row, order[:, :1]].expand(-1, orders, -1).flatten(0, 1)
        lengths = attended.sum(dim=1).clamp(min=1).repeat_interleave(orders)
        padding = torch.arange(length, device=lengths.device) >= lengths[:, None]  # N T
        # The padding is at the end now, so the causal mask alone hides it from the tokens.
        outputs = self.model(
            **{"inputs_embeds" if input_ids is None else "input_ids": sequences},
            attention_mask=None if self.model.is_causal else (~padding).long(),
            position_ids=position_ids,
            use_cache=False,
            **kwargs,
        )
        # shape[0] and not len(), which torch.export treats as a constant.
        extracted = outputs.last_hidden_state[torch.arange(lengths.shape[0], device=lengths.device), lengths - 1]
        extracted = extracted.to(self.dtype)  # N D
        return Reading(outputs, extracted, None if input_ids is None else sequences.masked_fill(padding, IGNORE_INDEX))

    def _apply_linear(self, layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        # Outside of autocast: scores in bfloat16, with its three digits, would often be equal.
        with torch.autocast(states.device.type, enabled=False):
            return layer(states)

    def _joint_loss(
        self,
        task_losses: torch.Tensor,
        counted: torch.BoolTensor,
        reading: Reading,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Computes equation 5, negated and averaged: in training, adds the weighted loss of the language model.

        The language model's loss of an example is the mean over the tokens of a sequence, special tokens included,
        and then over the sequences of the example, as in the published code.

        Args:
            task_losses: (B,), 0 for examples that do not count.
            counted: (B,), true for examples that count.
            reading: of the same number of sequences for each example, N = B x that number.
            num_items_in_batch: the number of examples that count in the whole update; by default, in this batch.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: the auxiliary loss is on, but the model has no tied softmax or was given embeddings.
        """
        loss = task_losses.sum()
        weight = self.config.auxiliary_loss_weight
        if self.training and weight:
            if reading.tokens is None or not self.config.tie_word_embeddings:
                raise ValueError(
                    f"auxiliary_loss_weight is {weight}, so the language model's loss predicts the tokens of "
                    "input_ids with the table of token embeddings. Give input_ids, to a model with "
                    "tie_word_embeddings, or set auxiliary_loss_weight to 0."
                )
            targets = next_tokens(reading.tokens)  # N T
            sequences_per_example = len(targets) // len(counted)
            tokens_per_sequence = (targets != IGNORE_INDEX).sum(dim=1).clamp(min=1)  # N
            weights = counted.repeat_interleave(sequences_per_example) * weight / sequences_per_example  # N
            loss = loss + linear_cross_entropy(
                reading.outputs.last_hidden_state.flatten(0, 1),
                self.model.tokens_embed.weight,
                targets.flatten(),
                (weights / tokens_per_sequence)[:, None].expand_as(targets).flatten(),
            )
        return divide_by_items(loss, counted, num_items_in_batch)


class GPT1ForSequenceClassification(GPT1TaskModel):
    """GPT-1 for a text or a pair of texts: one class, several labels, or numbers.

    If the config's `both_orders` is set, for pairs whose order has no meaning, the model reads a pair in both orders
    and adds the two states before the linear layer (section 3.3 of the paper).
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
        class_weights: torch.Tensor | None = None,
        class_weight_in_batch: torch.Tensor | float | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Computes the scores of a batch of texts or pairs of texts.

        Args:
            input_ids: (B, T) tokens, the last of each `<extract>`.
            attention_mask: (B, T) with 0 for padding, on either side; by default, tokens equal to `pad_token_id` are
                padding.
            position_ids: (B, T), by default counted from the first token that is not padding.
            inputs_embeds: (B, T, D), in place of `input_ids`; not with `both_orders` or the auxiliary loss.
            labels: (B,) classes, with `-100` for examples that do not count; (B, L) floats 0 and 1 if several labels
                can apply; (B,) or (B, L) numbers for regression. `config.problem_type` says which. If it is `None`,
                the first labels determine it.
            use_cache: unused, because a head reads whole sequences; trainers for all kinds of models pass it.
            num_items_in_batch: the number of labels in the whole update, as the library's Trainer counts them: of
                (B, L) labels, each example has L. The summed loss is divided by it, so that gradients over
                accumulated batches and several processes add up to those of one large batch. By default, the loss is
                the mean over the examples of the batch that count.
            class_weights: (L,) weights of the classes, as `weight` of `torch.nn.CrossEntropyLoss`: the loss of the
                task is the weighted mean over the examples, and that of the language model stays a plain mean. If
                several labels can apply, they are the `pos_weight` of `torch.nn.BCEWithLogitsLoss`.
            class_weight_in_batch: the sum of the weights of the examples' classes in the whole update, by which the
                weighted loss is divided if `num_items_in_batch` is given; by default, that of the batch.

        Returns:
            The loss if labels are given: cross-entropy, binary cross-entropy averaged over the labels, or mean squared
            error; in training mode plus the auxiliary loss. The scores, (B, L), as logits. If requested, hidden
            states, (N, T, D) each, and attention weights, (N, H, T, T) each, of the sequences as the backbone reads
            them: padding last, both orders side by side.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given, `both_orders` or the auxiliary
                loss lack `input_ids`, `num_items_in_batch` is given without labels while the auxiliary loss is on, or
                `class_weights` is given for regression, or for classes with only one of the two numbers of the update.
            TypeError: an argument is unknown.
        """
        both_orders = self.config.both_orders
        reading = self._read(input_ids, attention_mask, position_ids, inputs_embeds, both_orders, **kwargs)
        states = reading.extracted.unflatten(0, (-1, 2 if both_orders else 1)).sum(dim=1)  # N D -> B D
        logits = self._apply_linear(
            self.score, dropout(states, self.config.classifier_dropout, self.training)
        )  # B D -> B L
        loss = None
        if labels is not None:
            task_losses, counted = self._task_losses(logits.float(), labels, class_weights)
            if num_items_in_batch is not None:
                num_items_in_batch = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
            if class_weights is not None and self.config.problem_type == "single_label_classification":
                if (num_items_in_batch is None) != (class_weight_in_batch is None):
                    raise ValueError(
                        "class_weights needs num_items_in_batch and class_weight_in_batch together: the loss of the "
                        "task is divided by the second. Give both, or neither."
                    )
                if class_weight_in_batch is None:
                    class_weight_in_batch = class_weights[labels.view(-1)[counted]].sum()
                # Undoes the division by the number of examples below, which the language model's loss needs.
                items = counted.sum() if num_items_in_batch is None else num_items_in_batch
                task_losses = task_losses * (items / class_weight_in_batch)
            loss = self._joint_loss(task_losses, counted, reading, num_items_in_batch)
        elif self.training and self.config.auxiliary_loss_weight:
            refuse_external_loss(num_items_in_batch, NO_AUXILIARY_LOSS)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=reading.outputs.hidden_states,
            attentions=reading.outputs.attentions,
        )

    def _task_losses(
        self, logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.BoolTensor]:
        """Returns the loss of each example, (B,), and which examples count, (B,)."""
        config = self.config
        if config.problem_type is None:
            # The config keeps the result, as in the library's models, so that a pipeline knows what the scores are.
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.is_floating_point():
                config.problem_type = "multi_label_classification"
            else:
                config.problem_type = "single_label_classification"
        if config.problem_type == "single_label_classification":
            labels = labels.view(-1).long()
            losses = nn.functional.cross_entropy(
                logits, labels, class_weights, ignore_index=IGNORE_INDEX, reduction="none"
            )
            return losses, labels != IGNORE_INDEX
        labels = labels.view(logits.shape).float()
        if config.problem_type == "regression":
            if class_weights is not None:
                raise ValueError("class_weights is given, but problem_type is regression, which has no classes.")
            losses = nn.functional.mse_loss(logits, labels, reduction="none")
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, labels, reduction="none", pos_weight=class_weights
            )
        return losses.mean(dim=1), torch.ones(len(labels), dtype=torch.bool, device=labels.device)


class GPT1ForMultipleChoice(GPT1TaskModel):
    """GPT-1 for multiple choice: one linear layer scores each of K sequences, and the softmax is over the K scores."""

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
        """Computes the scores of a batch of questions with K answers each.

        Args:
            input_ids: (B, K, T) tokens, the last of each sequence `<extract>`.
            attention_mask, position_ids: (B, K, T), as in `GPT1ForSequenceClassification.forward`.
            inputs_embeds: (B, K, T, D), in place of `input_ids`; not with the auxiliary loss.
            labels: (B,), the index of the right answer, with `-100` for examples that do not count.
            use_cache, num_items_in_batch: as in `GPT1ForSequenceClassification.forward`.

        Returns:
            The loss if labels are given, in training mode plus the auxiliary loss; the scores, (B, K), as logits; if
            requested, hidden states, (N, T, D) each, and attention weights, (N, H, T, T) each, of N = B x K sequences
            with padding last.

        Raises:
            ValueError, TypeError: as `GPT1ForSequenceClassification.forward`.
        """
        choices = only_one(input_ids, inputs_embeds).shape[1]
        given = (input_ids, attention_mask, position_ids, inputs_embeds)
        reading = self._read(*(None if tensor is None else tensor.flatten(0, 1) for tensor in given), **kwargs)
        states = reading.extracted.unflatten(0, (-1, choices))  # N D -> B K D
        # All choices share one dropout mask, as in the published code, so they are compared by the same features.
        kept = dropout(torch.ones_like(states[:, :1]), self.config.classifier_dropout, self.training)
        logits = self._apply_linear(self.choice_score, states * kept).squeeze(-1)  # B K D -> B K
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
