"""Passes the generation settings that a model was saved with to CTranslate2, and refuses those that it does not have.

onnxruntime needs nothing of this: there, the library's own `generate()` applies every setting.
"""

from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from papers_to_gpt.exporting.ctranslate2_engine import sampling_options

# Settings that CTranslate2 does not have, by the values with which they change nothing besides None.
LACKING: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": (),
    "constraints": (),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "max_time": (),
    "min_p": (0.0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "top_h": (1.0,),
    "typical_p": (1.0,),
    "watermarking_config": (),
}

# Settings that CTranslate2 has, in another form with beams: it changes logits, and the library log-probabilities.
PASSED: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "repetition_penalty": (1.0,),
    "suppress_tokens": ([],),
}

# Settings of the search itself.
OF_THE_SEARCH: dict[str, tuple[Any, ...]] = {"num_beams": (1,), "do_sample": (False,)}

# The library samples from this many tokens if the model was saved with do_sample but without top_k.
TOP_K_OF_THE_LIBRARY = 50


def _set_in(config: GenerationConfig, names: dict[str, tuple[Any, ...]]) -> list[str]:
    return [name for name, idle in names.items() if getattr(config, name, None) not in (None, *idle)]


@dataclass(frozen=True)
class SavedGeneration:
    """The generation settings of an export that CTranslate2 applies.

    Attributes:
        options: arguments of CTranslate2 that are the same for every text.
        min_length: number of tokens, those of the prompt included, that must come before the end token.
        min_new_tokens: number of new tokens that must come before the end token.
    """

    options: dict[str, Any] = field(default_factory=dict)
    min_length: int = 0
    min_new_tokens: int = 0

    @classmethod
    def of(cls, config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> "SavedGeneration":
        """Returns the settings of a generation_config.json.

        Args:
            config: the saved settings.
            tokenizer: names the tokens for CTranslate2.

        Raises:
            ValueError: CTranslate2 does not have a setting that changes the text.
        """
        if lacking := _set_in(config, LACKING):
            raise ValueError(
                f"The generation_config.json of the model sets {' and '.join(lacking)}, which CTranslate2 does not "
                "have. Take the setting out of the file, or export to onnx, which has all of them."
            )
        options: dict[str, Any] = {}
        for name in ("repetition_penalty", "no_repeat_ngram_size"):
            if _set_in(config, {name: PASSED[name]}):
                options[name] = getattr(config, name)
        suppressed = [*(config.bad_words_ids or []), *([token] for token in config.suppress_tokens or [])]
        if suppressed:
            options["suppress_sequences"] = [tokenizer.convert_ids_to_tokens(ids) for ids in suppressed]
        return cls(options, config.min_length or 0, config.min_new_tokens or 0)

    def shortest(self, prompt_length: int) -> int:
        """Returns how many new tokens must come before the end token, at least, after a prompt of that length."""
        return max(0, self.min_length - prompt_length, self.min_new_tokens)


def saved_sampling(config: GenerationConfig, vocabulary: int) -> dict[str, Any]:
    """Returns CTranslate2's options for sampling as a model was saved; see `sampling_options`."""
    top_k = TOP_K_OF_THE_LIBRARY if config.top_k is None else config.top_k
    return sampling_options(vocabulary, config.temperature, top_k, config.top_p)


def describe_greedy_search(config: GenerationConfig) -> str:
    """Returns a paragraph that says which saved settings code without them leaves out; empty if there are none.

    Args:
        config: the saved settings.
    """
    left_out = _set_in(config, OF_THE_SEARCH | PASSED | LACKING)
    if not left_out:
        return ""
    return (
        "This code takes the most probable token at every step. It leaves out settings that the model was saved with, "
        f"in `generation_config.json`: {', '.join(f'`{name}`' for name in left_out)}. So its output may differ from "
        "that of the model, and of the command above.\n\n"
    )


def describe_differences(config: GenerationConfig, has_prompts: bool) -> str:
    """Returns sentences, after a space, on what saved settings that are passed do in another way than in the model.

    Args:
        config: the saved settings.
        has_prompts: True for a model that continues prompts.
    """
    passed = _set_in(config, PASSED)
    if not passed:
        return ""
    prompts = " CTranslate2 does not look at the first token of a prompt." if has_prompts else ""
    return (
        f" The model was saved with {' and '.join(passed)}. The scripts of this project apply this to the export as "
        "to the model, but with beams the texts may differ: CTranslate2 changes logits, the model log-probabilities."
        f"{prompts}"
    )
