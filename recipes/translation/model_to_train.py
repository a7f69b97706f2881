"""The model that a translator's training starts with: a new one, a given one, or that of a checkpoint."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from papers_to_gpt.engine.model_folder import TRANSLATOR, check_folder
from papers_to_gpt.engine.starting_model import (
    add_words,
    configuration_changes,
    configuration_of_resumed,
    freeze,
    grow_model,
    read_words,
)
from papers_to_gpt.settings.starting import StartingModelSettings
from papers_to_gpt.settings.translation import ModelChoice
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.data.text_lines import numbered_lines
from seq2seq_scratch.translation import load_translator


def load_starting_model(
    starting: StartingModelSettings, model_settings: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Returns the model that a run starts from and its tokenizers, with the entries of add_tokens on both sides.

    Raises:
        ValueError: if there is no such translator, or add_tokens cannot be added to its vocabulary.
    """
    check_folder(starting.init_from, kinds=(TRANSLATOR,))
    model, *tokenizers = load_translator(starting.init_from, starting.init_revision)
    words = read_words(starting.add_tokens, numbered_lines)
    is_shared = tokenizers[0] is tokenizers[1]
    source, of_source = add_words(tokenizers[0], words)
    target, of_target = (source, of_source) if is_shared else add_words(tokenizers[1], words)
    for word in of_source.known & of_target.known:
        raise ValueError(f"{words[word]}: {word!r} is in the model's vocabulary already. Remove the line.")
    changes = configuration_changes(model_settings)
    return grow_model(model, {"source": of_source, "target": of_target}, changes), source, target


def make_config(
    choice: ModelChoice,
    model_settings: Any,
    source_tokenizer: PreTrainedTokenizerFast | None = None,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedConfig:
    """Returns the model's configuration. Without tokenizers it only serves to check the settings.

    Raises:
        ValueError: if the settings make no model.
    """
    from_tokenizers = {}
    if source_tokenizer is not None and target_tokenizer is not None:
        from_tokenizers = {
            "vocab_size": len(source_tokenizer),
            "decoder_vocab_size": len(target_tokenizer),
            "pad_token_id": source_tokenizer.pad_token_id,
            "bos_token_id": target_tokenizer.bos_token_id,
            "eos_token_id": target_tokenizer.eos_token_id,
            "decoder_start_token_id": target_tokenizer.bos_token_id,
        }
        if hasattr(TRANSLATION_CONFIGS[choice.model_type], "share_vocabulary"):
            from_tokenizers["share_vocabulary"] = source_tokenizer is target_tokenizer
    try:
        return TRANSLATION_CONFIGS[choice.model_type](**vars(model_settings), **from_tokenizers)
    except StrictDataclassError as error:
        raise ValueError(f"{choice.model_type}: {error.__cause__ or error}.") from error


def prepare_model(
    model: PreTrainedModel | None,
    checkpoint: Path | None,
    settings: tuple[Any, ...],
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    """Returns the model to train, with the settings of its searches.

    Args:
        model: the model that the run starts from; None makes a new one, into which a resumed run loads its weights.
        checkpoint: the checkpoint that the run continues, or None.
        settings: the settings that `run` takes.
        source_tokenizer, target_tokenizer: give the sizes of the vocabularies. Their `model_max_length` is set to the
            number of positions if these are learned.
    """
    choice, model_settings, starting, _, _, decoding, *_ = settings
    if model is not None:
        config = model.config
    elif starting.init_from is not None:
        config = configuration_of_resumed(checkpoint, model_settings)
    else:
        config = make_config(choice, model_settings, source_tokenizer, target_tokenizer)
    if getattr(config, "position_embedding_type", None) == "learned":  # longer sources have no embeddings
        source_tokenizer.model_max_length = target_tokenizer.model_max_length = config.max_position_embeddings
    if model is None:
        model = AutoModelForSeq2SeqLM.from_config(config)
    freeze(model, starting.freeze or [])
    model.generation_config.update(max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams)
    if decoding.num_beams > 1:
        early_stopping = {"never": "never", "false": False, "true": True}[decoding.early_stopping]
        model.generation_config.update(length_penalty=decoding.length_penalty, early_stopping=early_stopping)
    return model
