"""An ensemble of translators (Sutskever, Vinyals and Le 2014, section 3.6 and table 1).

At every step, each of K models predicts the next token, and the ensemble's prediction is the mean of the predictions:

    P(y_t | x, y_1 ... y_{t-1}) = 1/K sum_k P_k(y_t | x, y_1 ... y_{t-1})

Probabilities are averaged and not logits, because each model may add a constant of its own to its logits. The search
is that of `BeamSearchGenerationMixin`. All models extend the same hypotheses, and each has its own encoder output and
cache.

Dimensions: B batch, S source length, T target length, V target vocabulary, K models.
"""

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from ..beam_search import BeamSearchGenerationMixin
from ..library_arguments import CACHE_NAME, understand_arguments
from ..plain_forms import plain_forms_are_on
from .mean_by_rows import log_mean_by_rows

# What all models of an ensemble must agree on, because they read and predict the same token ids.
SHARED_SETTINGS = ("vocab_size", "decoder_vocab_size", "pad_token_id", "eos_token_id", "decoder_start_token_id")


class EnsembleConfig(PreTrainedConfig):
    """What `generate()` reads of an ensemble: the sizes of the vocabularies and the special tokens."""

    model_type = "seq2seq_ensemble"
    vocab_size: int | None = None
    decoder_vocab_size: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    use_cache: bool = True


@dataclass
class EnsembleEncoderOutput(ModelOutput):
    """What the models' encoders have computed of the sources.

    Args:
        encoder_outputs: the output of each model's encoder, K of them. While beams are searched, a model may have one
            row for each source or one for each hypothesis.
        attention_masks: the mask that goes with each, with the same number of rows, or None.
    """

    encoder_outputs: tuple[ModelOutput, ...] | None = None
    attention_masks: tuple[torch.Tensor | None, ...] | None = None

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """The first model's states, (B, S, ...), of which the library reads the number of sources."""
        return self.encoder_outputs[0].last_hidden_state

    def arguments(self) -> list[dict[str, Any]]:
        """Returns the arguments `encoder_outputs` and `attention_mask` of each model."""
        pairs = zip(self.encoder_outputs, self.attention_masks, strict=True)
        return [{"encoder_outputs": outputs, "attention_mask": mask} for outputs, mask in pairs]

    @classmethod
    def join(cls, arguments: Sequence[dict[str, Any]]) -> "EnsembleEncoderOutput":
        """Returns the output that has the given arguments of each model."""
        return cls(*(tuple(each[name] for each in arguments) for name in ("encoder_outputs", "attention_mask")))


class EnsembleCache(Cache):
    """The caches of all models, as one cache of the library.

    `EnsembleForSeq2SeqLM._reorder_cache` reorders it, because each model knows how to reorder its own.

    Args:
        caches: the cache of each model, K of them.
    """

    is_compileable = False
    # The library passes the whole prefix to layers of linear attention. These caches take new tokens only.
    is_linear = (False,)

    def __init__(self, caches: Sequence[Cache]):
        super().__init__(layers=[])
        self.caches = tuple(caches)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.caches[0].get_seq_length()


class EnsembleEncoder(nn.Module):
    """Runs the encoders of all models."""

    main_input_name = "input_ids"  # generate() reads this

    def __init__(self, models: nn.ModuleList):
        super().__init__()
        self.models = models

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> EnsembleEncoderOutput:
        """Encodes the source; arguments as in `EnsembleForSeq2SeqLM.forward`."""
        refuse_inner_states(kwargs)
        outputs = tuple(model.get_encoder()(input_ids, attention_mask) for model in self.models)
        return EnsembleEncoderOutput(outputs, (attention_mask,) * len(outputs))


def log_mean_probability(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Computes log 1/K sum_k P_k, the logarithm of the mean of the models' probabilities.

    Args:
        logits: those of each model, K times (..., V).

    Returns:
        (..., V) in fp32; finite where the logits are, also for probabilities that fp32 would round to 0.
    """
    if not plain_forms_are_on():
        log_mean = log_mean_by_rows(logits)
        if log_mean is not None:
            return log_mean
    log_probabilities = (torch.log_softmax(each.float(), dim=-1) for each in logits)
    return functools.reduce(torch.logaddexp, log_probabilities) - math.log(len(logits))


def refuse_inner_states(arguments: dict[str, Any]) -> None:
    """Raises ValueError if attention weights or hidden states are asked for, of which each model has its own."""
    for name in ("output_attentions", "output_hidden_states"):
        if arguments.get(name):
            raise ValueError(f"{name} is set, but an ensemble has none of its own. Ask one of its models.")


class EnsembleForSeq2SeqLM(PreTrainedModel, BeamSearchGenerationMixin):
    """Several translators that decode together: `forward` and `generate()` use the mean of their probabilities.

    It is for decoding and scoring only, so it has no loss, and the models are put into evaluation mode. They are not
    copied. `generation_config` is a copy of the first model's.

    Args:
        models: translators of this package, of any types, that share one vocabulary. They may have been trained from
            different seeds or on different data; `load_ensemble` also compares their tokenizers.

    Raises:
        ValueError: there is no model, one of them is no translator of this package, or they differ in
            `SHARED_SETTINGS`.
    """

    config_class = EnsembleConfig
    main_input_name = "input_ids"
    # The recurrent states of some models cannot be cut back to an earlier position, as assisted decoding would need.
    _is_stateful = True
    logits_are_log_probabilities = True

    def __init__(self, models: Sequence[PreTrainedModel]):
        check_models(models)
        first = models[0].config
        names = (*SHARED_SETTINGS, "bos_token_id")
        # No `post_init`: it would initialise the models' weights again.
        super().__init__(EnsembleConfig(**{name: _setting(first, name) for name in names}))
        self.models = nn.ModuleList(models)
        self.generation_config = copy.deepcopy(models[0].generation_config)
        self.eval()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tells `generate()` not to create a key-value cache, because each model creates its own."""
        return False

    def get_encoder(self, modality: str | None = None) -> EnsembleEncoder:
        return EnsembleEncoder(self.models)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises ValueError: an ensemble is made of saved models, and has no folder of its own."""
        raise ValueError("An ensemble is not saved as one model. Save each of its models into a folder of its own.")

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's input for teacher forcing, (B, T), from labels, (B, T)."""
        return self.models[0].prepare_decoder_input_ids_from_labels(labels)

    @understand_arguments(EnsembleCache)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: EnsembleEncoderOutput | None = None,
        cache: EnsembleCache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predicts every target token from the source and the target tokens before it.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S), 1 for source tokens and 0 for padding; by default `pad_token_id` is padding.
            decoder_input_ids: (B, T) target tokens so far; with a cache, those that follow it.
            decoder_attention_mask: (B, T), 1 for tokens; padding may only follow them.
            encoder_outputs: the encoders' output for the source, in place of `input_ids` and `attention_mask`.
            cache: the models' caches of earlier target tokens.
            use_cache: whether to return the caches; by default the config's.
            kwargs: arguments of the library that these models have no use for.

        Returns:
            `logits`, (B, T, V) in fp32: the logarithm of the mean of the models' probabilities, whose softmax it is
            too. And the `cache`, if asked for.

        Raises:
            ValueError: attention weights or hidden states are asked for.
        """
        refuse_inner_states(kwargs)
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids, attention_mask)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        caches = [None] * len(self.models) if cache is None else cache.caches
        logits, new_caches = [], []
        for model, source, model_cache in zip(self.models, encoder_outputs.arguments(), caches, strict=True):
            outputs = model(
                **source,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                cache=model_cache,
                use_cache=use_cache,
                return_dict=True,
            )
            logits.append(outputs.logits)
            new_caches.append(outputs.get(CACHE_NAME))
        log_mean = log_mean_probability(logits)
        return Seq2SeqLMOutput(logits=log_mean, **{CACHE_NAME: EnsembleCache(new_caches) if use_cache else None})

    # The searches call the next three methods. Each model treats its own part of the arguments as in its own search:
    # one may keep a row for each source, where another has a row for each hypothesis.

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = True,
        input_ids: torch.Tensor | None = None,
        encoder_outputs: EnsembleEncoderOutput | None = None,
        attention_mask: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeats the target for every beam, and the sources as each model needs them.

        The mask leaves the arguments, because `encoder_outputs` has it for each model.
        """
        expanded = [
            model._expand_inputs_for_generation(expand_size, is_encoder_decoder, **source)[1]
            for model, source in zip(self.models, encoder_outputs.arguments(), strict=True)
        ]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | {"encoder_outputs": EnsembleEncoderOutput.join(expanded)}

    def _reorder_cache(self, cache: EnsembleCache, rows: torch.Tensor) -> EnsembleCache:
        """Gives every hypothesis the caches of the one that it continues; rows that are not named are dropped."""
        return EnsembleCache(
            model._reorder_cache(of_model, rows) for model, of_model in zip(self.models, cache.caches, strict=True)
        )

    def _keep_sentences(
        self, sentences: torch.Tensor, beams: int, encoder_outputs: EnsembleEncoderOutput, **model_kwargs: Any
    ) -> dict[str, Any]:
        """Returns the model arguments that belong to the sources of some sentences."""
        cache = model_kwargs.get(CACHE_NAME)
        caches = [None] * len(self.models) if cache is None else cache.caches
        kept = [
            model._keep_sentences(sentences, beams, **source, **{CACHE_NAME: of_model})
            for model, source, of_model in zip(self.models, encoder_outputs.arguments(), caches, strict=True)
        ]
        return {"encoder_outputs": EnsembleEncoderOutput.join(kept)}


def _setting(config: PreTrainedConfig, name: str) -> Any:
    """Returns one of `SHARED_SETTINGS`; a model without a vocabulary size of its target has that of its source."""
    value = getattr(config, name, None)
    return config.vocab_size if value is None and name == "decoder_vocab_size" else value


def check_models(models: Sequence[PreTrainedModel]) -> None:
    """Raises ValueError unless the models can be an ensemble; see `EnsembleForSeq2SeqLM`."""
    if not models:
        raise ValueError("An ensemble needs at least one model.")
    names = [model.name_or_path or f"model {number}" for number, model in enumerate(models, start=1)]
    for name, model in zip(names, models, strict=True):
        # An attribute and not `isinstance`, because the code that a checkpoint carries has its own copy of the class.
        if not getattr(model, "beams_carry_scores", False):
            raise ValueError(
                f"{name} is a {type(model).__name__}. An ensemble needs translators of this package: models of the "
                "types rnn_seq2seq, bahdanau and transformer_seq2seq."
            )
        for setting in SHARED_SETTINGS:
            of_first, found = _setting(models[0].config, setting), _setting(model.config, setting)
            if found != of_first:
                raise ValueError(
                    f"{setting} is {of_first} in {names[0]} and {found} in {name}, but the models of an ensemble must "
                    "share one vocabulary. Train them with the same tokenizer (tokenizer_name)."
                )
