"""The signatures of the library's methods that the translators override or mirror; if one changes, review the code.

Each signature is the one that the code was written for, in versions 5.23 and 5.24 of transformers.
"""

import inspect

import pytest
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

from seq2seq_scratch.beam_search import BeamSearchGenerationMixin
from seq2seq_scratch.ensemble import EnsembleForSeq2SeqLM
from seq2seq_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.modeling_transformer import TransformerForConditionalGeneration, TransformerPreTrainedModel
from seq2seq_scratch.recurrent_common import RecurrentState, RecurrentTranslationModel

GENERATION = {
    "generate": "self inputs generation_config logits_processor stopping_criteria prefix_allowed_tokens_fn "
    "synced_gpus assistant_model streamer negative_prompt_ids negative_prompt_attention_mask custom_generate **kwargs",
    "_prepare_generation_config": "self generation_config **kwargs",
    "prepare_inputs_for_generation": f"self input_ids next_sequence_length {CACHE_NAME} attention_mask inputs_embeds "
    "is_first_iteration **kwargs",
    "_validate_generation_mode": "self generation_mode generation_config generation_mode_kwargs",
    "_sample": "self input_ids logits_processor stopping_criteria generation_config synced_gpus streamer "
    "**model_kwargs",
    "_beam_search": "self input_ids logits_processor stopping_criteria generation_config synced_gpus **model_kwargs",
    "_update_finished_beams": "self sequences topk_running_sequences beam_scores topk_log_probs beam_indices "
    "topk_running_beam_indices is_early_stop_heuristic_unsatisfied is_sent_finished next_token_hits_stopping_criteria "
    "top_num_beam_mask num_beams cur_len decoder_prompt_len length_penalty early_stopping",
    "_check_early_stop_heuristic": "is_early_stop_heuristic_unsatisfied running_beam_scores beam_scores "
    "is_sent_finished cur_len max_length decoder_prompt_len early_stopping length_penalty",
}
# The searches call these methods of the library.
CALLED = {
    "_prefill": "self input_ids generation_config model_kwargs is_first_iteration",
    "_update_model_kwargs_for_generation": "self outputs model_kwargs is_encoder_decoder num_new_tokens",
}
EXTENDED = [
    *((BeamSearchGenerationMixin, GenerationMixin, *signature) for signature in (GENERATION | CALLED).items()),
    *(
        (
            model_class,
            GenerationMixin,
            "_expand_inputs_for_generation",
            "self expand_size is_encoder_decoder input_ids **model_kwargs",
        )
        for model_class in (TransformerForConditionalGeneration, EnsembleForSeq2SeqLM)
    ),
    (EnsembleForSeq2SeqLM, PreTrainedModel, "get_encoder", "self modality"),
    (
        TransformerPreTrainedModel,
        PreTrainedModel,
        "get_correct_attn_implementation",
        "self requested_attention is_init_check",
    ),
    (
        RecurrentTranslationModel,
        PreTrainedModel,
        "resize_token_embeddings",
        "self new_num_tokens pad_to_multiple_of mean_resizing",
    ),
    (
        RecurrentTranslationModel,
        PreTrainedModel,
        "_get_resized_embeddings",
        "self old_embeddings new_num_tokens pad_to_multiple_of mean_resizing",
    ),
    (
        RecurrentTranslationModel,
        PreTrainedModel,
        "_get_resized_lm_head",
        "self old_lm_head new_num_tokens transposed mean_resizing",
    ),
    (RecurrentState, Cache, "get_seq_length", "self layer_idx"),
    (RecurrentState, Cache, "reorder_cache", "self beam_idx"),
    (RecurrentState, Cache, "batch_select_indices", "self indices"),
    (RecurrentState, Cache, "batch_repeat_interleave", "self repeats"),
]


@pytest.mark.parametrize(("ours", "library", "method", "written_for"), EXTENDED, ids=lambda value: str(value)[:40])
def test_the_signature_of_an_overridden_method_has_not_changed(ours, library, method, written_for):
    assert issubclass(ours, library)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(getattr(library, method)).parameters.values()
    found = " ".join(stars.get(parameter.kind, "") + parameter.name for parameter in parameters)
    assert found == written_for, (
        f"transformers has changed {library.__name__}.{method}: its parameters are now ({found}). Read what it does, "
        f"adapt {ours.__module__}, and then correct this test."
    )


def test_every_overridden_generation_method_is_compared():
    private = {name for name in vars(BeamSearchGenerationMixin) if hasattr(GenerationMixin, name)} - set(vars(object))
    assert private - {"__doc__", "__module__"} == set(GENERATION)
