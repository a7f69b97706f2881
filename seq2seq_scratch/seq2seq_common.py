"""What the translation models must agree on: the shifted target, the loss, source alignment, recurrent decoding.

Dimensions: B batch, S source length, T target length, N target tokens that count, V target vocabulary, D model size,
H recurrent state size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .beam_search import BeamSearchGenerationMixin
from .file_modes import SavedWithUmask
from .library_arguments import CACHE_NAME, understand_arguments

IGNORE_INDEX = -100

# Rows of logits alive at once in the loss: enough to keep the matrix products at full speed, few enough that the
# passes over them partly run in a CPU's cache.
LOGIT_ROWS_PER_CHUNK = 512


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """The decoder's input for teacher forcing: the target moved one place to the right.

    Args:
        labels: (B, T) target token ids, `-100` where nothing is to be predicted.
        pad_token_id: takes the place of `-100`, which no embedding table holds.
        decoder_start_token_id: stands before the first target token.

    Returns:
        (B, T) decoder input ids.
    """
    shifted = labels.new_full(labels.shape, decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE_INDEX, pad_token_id)


def align_left(attention_mask: torch.Tensor, reverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Where to gather from so that every row's real tokens stand at its start, whichever side the padding is on.

    Args:
        attention_mask: (B, S) with 1 for real tokens and 0 for padding.
        reverse: gives the real tokens in reverse order; padding still follows them.

    Returns:
        (B, S) indices for `torch.gather` along the sequence, and (B,) source lengths, at least 1 so that a row of
        nothing but padding still has a last state.
    """
    # Counted rather than sorted: ONNX has no stable sort.
    real = attention_mask.bool()
    real_so_far = real.cumsum(dim=1)
    count = real_so_far[:, -1:]
    positions = torch.arange(real.shape[1], device=real.device)
    steps = torch.where(
        real, count - real_so_far if reverse else real_so_far - 1, count + positions - real_so_far
    )  # (B, S) position to place in the result
    return inverse_permutation(steps), attention_mask.sum(dim=1).clamp(min=1)


def inverse_permutation(permutation: torch.Tensor) -> torch.Tensor:
    """Where each index stands in the permutations (..., S) of 0 to S - 1: `argsort` without sorting."""
    indices = torch.arange(permutation.shape[-1], device=permutation.device).expand_as(permutation)
    return torch.zeros_like(permutation).scatter(-1, permutation, indices)


class RecurrentState(Cache):
    """What a recurrent decoder carries from one target position to the next, in the library's cache interface.

    A key-value cache grows with every token; a recurrent state is replaced. `generate()` asks a cache for its length
    and, in beam search, to reorder itself along the batch, so every tensor here is batch first.

    Args:
        tensors: by name, each (B, ...): the state itself and whatever depends on the source alone.
        seen_tokens: target positions consumed so far.
    """

    is_compileable = False
    # No layer of the library's linear attention, which would be handed the whole prefix again: only new tokens.
    is_linear = (False,)

    def __init__(self, tensors: dict[str, torch.Tensor], seen_tokens: int = 0):
        super().__init__(layers=[])
        self.tensors = tensors
        self.seen_tokens = seen_tokens

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def advance(self, steps: int, **tensors: torch.Tensor) -> None:
        """Replaces the named tensors after `steps` more target positions."""
        self.tensors.update(tensors)
        self.seen_tokens += steps

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen_tokens

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.tensors = {name: tensor.index_select(0, indices) for name, tensor in self.tensors.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.tensors = {name: tensor.repeat_interleave(repeats, dim=0) for name, tensor in self.tensors.items()}


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The precision of matrix products on `tensor`: autocast's where it is on, else the tensor's own."""
    device_type = tensor.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else tensor.dtype


def has_plain_weight(layer: nn.Module) -> bool:
    """Whether the layer is `nn.Linear` itself and its weight a plain tensor, so that the weight is all there is to it.

    False for the layer of an adapter or a quantiser, for one whose weight a quantiser has replaced by a tensor of its
    own kind, and for one whose weight is loaded as the layer is called.
    """
    return type(layer) is nn.Linear and not (layer.weight.is_meta or is_traceable_wrapper_subclass(layer.weight))


def effective_weight(layer: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """The matrix that a linear layer without a bias multiplies by, for loops that multiply without calling the layer.

    Where the weight is not plain (see `has_plain_weight`), the layer is applied to the identity matrix. The result
    includes what an adapter adds, is dequantised, and carries gradients to the parameters it is made of. An adapter's
    dropout then drops the same features in every row of the batch.

    Args:
        layer: with an attribute `in_features`.
        like: any tensor on the device and of the type of the layer's usual input without autocast.

    Returns:
        (out_features, in_features).
    """
    if has_plain_weight(layer):
        return layer.weight
    identity = torch.eye(layer.in_features, dtype=like.dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):  # as exact as a plain weight
        return layer(identity).T


class _QuickDropout(torch.autograd.Function):
    """Dropout on CPUs, from one random 64-bit word for every four numbers."""

    @staticmethod
    def forward(ctx: Any, numbers, probability):
        count = numbers.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(probability * 2**16)
        kept = words.view(torch.int16)[:count].ge_(dropped - 2**15)
        # 0 or 1 as an integer of the numbers' width: times their bit patterns, one quick pass; a Boolean mask is slow.
        kept = kept.to({2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()])
        ctx.scale = 2**16 / (2**16 - dropped)
        ctx.save_for_backward(kept.view(numbers.shape))
        return (numbers.contiguous().view(kept.dtype) * kept.view(numbers.shape)).view(numbers.dtype).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        (kept,) = ctx.saved_tensors
        return (gradient.contiguous().view(kept.dtype) * kept).view(gradient.dtype).mul_(ctx.scale), None


class Dropout(nn.Dropout):
    """Zeroes numbers with probability `p` in training and multiplies the others by 1 / (1 - p).

    On CPUs PyTorch's own draws one random number after another, a tenth of a training step. Here one 64-bit word
    decides on four, so `p` is rounded to a multiple of 2^-16.
    """

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return numbers
        if numbers.device.type != "cpu":
            return super().forward(numbers)
        return _QuickDropout.apply(numbers, self.p)


def _add_disagreement(log_probabilities: torch.Tensor, probabilities: torch.Tensor, weight: float) -> torch.Tensor:
    """R-Drop's term (see `target_token_loss`), summed; adds its gradient for the logits to `probabilities`.

    With p and q the two predictions of a token, r = log p - log q and KL(p|q) = sum(p r), the term is
    weight / 2 (KL(p|q) + KL(q|p)). Its gradient with respect to the logits of p is
    weight / 2 (p (r - KL(p|q)) + p - q), and with respect to those of q the same with p and q exchanged.

    Args:
        log_probabilities: (2 n, V), the two predictions of a token in adjacent rows. Overwritten: every pass over so
            many numbers counts, and so do the pages of a new tensor.
        probabilities: (2 n, V) likewise.
    """
    (p, q), (log_p, log_q) = (pairs.unflatten(0, (-1, 2)).unbind(1) for pairs in (probabilities, log_probabilities))
    log_ratio = log_p.sub_(log_q)
    difference = torch.sub(p, q, out=log_q)
    divergence, negative_reverse = (torch.linalg.vecdot(side, log_ratio)[:, None] for side in (p, q))
    for side, mean, factor in ((p, divergence, weight / 2), (q, negative_reverse - divergence, -weight / 2)):
        side.addcmul_(side, log_ratio.sub_(mean), value=factor).add_(difference, alpha=factor)
    return weight / 2 * (divergence - negative_reverse).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T + bias`, a block of rows at a time.

    The usual way keeps all logits, their fp32 copy and their gradient: three N x V tensors, the largest of a training
    step. Each row's gradient with respect to its logits, softmax - target, needs that row alone, so it is formed here
    while the row's logits exist and contracted at once to D columns. Backward then only scales.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, label_smoothing, r_drop_weight, dtype):
        needs_gradient = any(ctx.needs_input_grad)
        hidden_cast, weight_cast = hidden.to(dtype), weight.to(dtype)
        hidden_gradient = torch.empty_like(hidden_cast) if needs_gradient else None
        # Summed over chunks in fp32: low precision would lose the later chunks' share.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_gradient and bias is not None else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        vocabulary = weight.shape[0]
        bias_cast = None if bias is None else bias.to(dtype)
        # Fresh tensors of this size come from the system page by page, on CPUs at more than the cost of the arithmetic
        # in them; so every chunk works in the same ones.
        rows_at_once = min(LOGIT_ROWS_PER_CHUNK, hidden.shape[0])
        logits_buffer = hidden_cast.new_empty(rows_at_once, vocabulary)
        float_buffer = torch.empty_like(logits_buffer, dtype=torch.float32)
        pairs_buffer = torch.empty_like(float_buffer) if r_drop_weight else None
        weight_buffer = torch.empty_like(weight_cast) if needs_gradient else None
        for start in range(0, hidden.shape[0], LOGIT_ROWS_PER_CHUNK):
            rows = slice(start, start + LOGIT_ROWS_PER_CHUNK)
            target_column = targets[rows, None]
            logits, log_probabilities = (buffer[: target_column.shape[0]] for buffer in (logits_buffer, float_buffer))
            if bias is None:
                torch.mm(hidden_cast[rows], weight_cast.T, out=logits)
            else:
                torch.addmm(bias_cast, hidden_cast[rows], weight_cast.T, out=logits)
            torch.log_softmax(log_probabilities.copy_(logits), dim=-1, out=log_probabilities)
            loss -= (1 - label_smoothing) * log_probabilities.gather(1, target_column).sum()
            if label_smoothing:
                loss -= label_smoothing / vocabulary * log_probabilities.sum()
            if r_drop_weight:
                probabilities = torch.exp(log_probabilities, out=pairs_buffer[: target_column.shape[0]])
                loss += _add_disagreement(log_probabilities, probabilities, r_drop_weight)
            if needs_gradient:
                # d loss / d logits = softmax - (1 - epsilon) * one_hot - epsilon / V
                logits_gradient = probabilities if r_drop_weight else log_probabilities.exp_()
                if label_smoothing:
                    logits_gradient -= label_smoothing / vocabulary
                logits_gradient.scatter_add_(
                    1, target_column, torch.full_like(target_column, label_smoothing - 1, dtype=torch.float32)
                )
                if bias_gradient is not None:
                    bias_gradient += logits_gradient.sum(dim=0)
                logits_gradient = logits.copy_(logits_gradient)
                torch.mm(logits_gradient, weight_cast, out=hidden_gradient[rows])
                weight_gradient += torch.mm(logits_gradient.T, hidden_cast[rows], out=weight_buffer)
        if needs_gradient:
            ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
            ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient):
        gradients = [
            None if gradient is None else (gradient * loss_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def target_token_loss(
    hidden_states: torch.Tensor,
    output_projection: nn.Linear,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    r_drop_weight: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Label-smoothed cross-entropy over target tokens, without ever holding all logits.

    Label smoothing is the one of section 5.4 of "Attention Is All You Need" (from Szegedy et al. 2015): the target
    distribution is `1 - label_smoothing` on the right token plus `label_smoothing / V` on every token of the
    vocabulary, the right one included.

    Args:
        hidden_states: (B, T, D) what the output projection reads.
        output_projection: D to V, with or without a bias.
        labels: (B, T) target token ids; positions that hold `-100` do not count and cost nothing.
        label_smoothing: between 0 and 1.
        r_drop_weight: alpha of Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks"
            (https://arxiv.org/abs/2106.14448). Unless it is 0, the second half of the rows must repeat the first.
            Dropout gives every token two predictions p and q, and the loss of the pair grows by
            r_drop_weight / 2 (KL(p|q) + KL(q|p)), so that no prediction comes to depend on few units.
        num_items_in_batch: the number of target tokens in the whole update. The sum is divided by it, so that
            gradients over several accumulated batches and several processes add up to one large batch's. Left out,
            the loss is the mean over the tokens that count.

    Returns:
        The loss, a scalar in fp32.

    Raises:
        ValueError: R-Drop on an odd number of rows.
    """
    if r_drop_weight and len(labels) % 2:
        raise ValueError(
            f"r_drop_weight is {r_drop_weight}, but the batch has {len(labels)} rows: the second half must repeat the "
            "first."
        )
    counted = labels != IGNORE_INDEX
    hidden, targets = hidden_states[counted], labels[counted]  # (N, D), (N,)
    if r_drop_weight:
        # The two predictions of a token to adjacent rows, so that any even number of rows holds pairs.
        hidden = hidden.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        targets = targets[: targets.numel() // 2].repeat_interleave(2)
    if num_items_in_batch is None:
        num_items_in_batch = max(targets.numel(), 1)
    if not has_plain_weight(output_projection):
        # The logits of the layer itself are needed.
        logits = output_projection(hidden).float()
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
        if r_drop_weight:
            log_p, log_q = logits.log_softmax(dim=-1).unflatten(0, (-1, 2)).unbind(1)
            loss += r_drop_weight / 2 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
        return loss / num_items_in_batch
    dtype = product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        loss = _LinearCrossEntropy.apply(
            hidden, output_projection.weight, output_projection.bias, targets, label_smoothing, r_drop_weight, dtype
        )
    return loss / num_items_in_batch


@dataclass
class RecurrentDecoderOutput(ModelOutput):
    """One run of a recurrent decoder over T target positions.

    Args:
        features: (B, T, D) what the output projection reads.
        last_hidden_state: (B, T, H) the (top layer's) state after each position.
        state: (B, ...) everything the next position needs of the past.
        attention_weights: (B, 1, T, S) over source positions, of a decoder that attends; the library has a place for
            several heads.
    """

    features: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    state: torch.Tensor | None = None
    attention_weights: torch.Tensor | None = None


class RecurrentTranslationModel(SavedWithUmask, PreTrainedModel, BeamSearchGenerationMixin):
    """What the recurrent translators share: forward around encoder and decoder, cached state, two vocabularies.

    A subclass has three modules:

    - `encoder(input_ids, attention_mask)`: a ModelOutput with `last_hidden_state` (B, S, ...) and all that the
      decoder reads, each a batch-first tensor at the top level, so that `generate()` repeats it for every beam;
    - `decoder(decoder_input_ids, encoder_outputs, state)`: a `RecurrentDecoderOutput`; `state` None means the start;
    - `output_projection`: from the decoder's features to the target vocabulary.
    """

    main_input_name = "input_ids"
    _skip_keys_device_placement = ["cache", "past_key_values"]
    # A recurrent state cannot be cut back to an earlier position, which assisted decoding would need.
    _is_stateful = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """`generate()` must not hand in a key-value cache: forward makes the `RecurrentState`."""
        return False

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.output_projection

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.output_projection = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resizes source and target vocabulary alike, for models that use one tokenizer on both sides.

        Raises:
            ValueError: where the vocabularies differ in size, as one number cannot be right for both.
        """
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.get_input_embeddings()
        if self.config.vocab_size != self.config.decoder_vocab_size:
            raise ValueError(
                f"resize_token_embeddings cannot tell which vocabulary to resize: vocab_size is "
                f"{self.config.vocab_size}, decoder_vocab_size is {self.config.decoder_vocab_size}. Call "
                "resize_encoder_token_embeddings or resize_decoder_token_embeddings instead."
            )
        self.resize_decoder_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return self.resize_encoder_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    def resize_encoder_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resizes the source vocabulary; arguments as in `resize_token_embeddings`."""
        self.encoder.embed_tokens = self._get_resized_embeddings(
            self.encoder.embed_tokens, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.vocab_size = self.encoder.embed_tokens.num_embeddings
        return self.encoder.embed_tokens

    def resize_decoder_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resizes the target vocabulary, in embeddings and softmax; arguments as in `resize_token_embeddings`."""
        self.decoder.embed_tokens = self._get_resized_embeddings(
            self.decoder.embed_tokens, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.decoder_vocab_size = self.decoder.embed_tokens.num_embeddings
        self.output_projection = self._get_resized_lm_head(
            self.output_projection, self.config.decoder_vocab_size, mean_resizing=mean_resizing
        )
        self.tie_weights()
        return self.decoder.embed_tokens

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    @understand_arguments(RecurrentState)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        cache: RecurrentState | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        smoothing: float = 0.0,
        r_drop_weight: float = 0.0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predicts each target token from the source and the target tokens before it.

        Args:
            input_ids: (B, S) source token ids, padded on either side.
            attention_mask: (B, S) with 1 for real source tokens; left out, every token but `pad_token_id` is real.
            decoder_input_ids: (B, T) target tokens so far; left out, `labels` moved one place to the right.
            decoder_attention_mask: (B, T). Target padding may only follow the tokens, where it changes nothing.
            encoder_outputs: what `encoder` gave for the source, instead of `input_ids`. It knows its own mask.
            cache: the state after earlier target positions; `decoder_input_ids` then holds the new ones.
            labels: (B, T) target token ids to predict, `-100` where nothing is.
            use_cache: return the state as `cache`; default `config.use_cache`, off where there are labels.
            output_attentions: return `cross_attentions`, one tensor (B, 1, T, S) over source positions, from a model
                that attends.
            output_hidden_states: return the states of encoder (B, S, ...) and decoder (B, T, H), one tensor each.
            smoothing: label smoothing, see `target_token_loss`. The library's `Trainer` would take an argument with
                "label" in its name for a column of labels.
            r_drop_weight: see there too.
            num_items_in_batch: see `target_token_loss`.

        Returns:
            `loss`, a scalar, where there are labels, and `logits` (B, T, V), except in training with labels: the
            loss never holds them.

        Raises:
            ValueError: neither `decoder_input_ids` nor `labels` are given, or target padding stands before tokens.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None:
            raise ValueError("forward needs decoder_input_ids or labels; to translate, call generate()")
        if decoder_attention_mask is not None and (decoder_attention_mask.diff(dim=1) > 0).any():
            raise ValueError(
                "decoder_attention_mask has padding before target tokens, which a recurrent decoder would read; "
                "pad the target on the right"
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)

        decoded = self.decoder(decoder_input_ids, encoder_outputs, None if cache is None else cache["state"])
        if cache is not None:
            cache.advance(decoder_input_ids.shape[1], state=decoded.state)
        elif self.config.use_cache if use_cache is None else use_cache:
            cache = RecurrentState({"state": decoded.state}, seen_tokens=decoder_input_ids.shape[1])

        loss = None
        if labels is not None:
            loss = target_token_loss(
                decoded.features,
                self.output_projection,
                labels,
                label_smoothing=smoothing,
                r_drop_weight=r_drop_weight,
                num_items_in_batch=num_items_in_batch,
            )
        logits = None
        if labels is None or not self.training:
            logits = self.output_projection(decoded.features)
        cross_attentions = None
        if output_attentions and decoded.attention_weights is not None:
            cross_attentions = (decoded.attention_weights,)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: cache},
            decoder_hidden_states=(decoded.last_hidden_state,) if output_hidden_states else None,
            cross_attentions=cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=(encoder_outputs.last_hidden_state,) if output_hidden_states else None,
        )
