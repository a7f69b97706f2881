"""Writes a GPT-1 as transformers' own `openai-gpt`, which loads it without this project's code."""

from pathlib import Path

import torch
from transformers import OpenAIGPTLMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from gpt1_scratch.file_modes import give_umask_permissions
from gpt1_scratch.pretraining.convert_openai_gpt import to_openai_gpt
from papers_to_gpt.exporting.verification import Comparison, batches, check_logits, logit_differences, pad


def write_openai_gpt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model of the library with the numbers of a GPT-1, and a tokenizer that cuts to its positions.

    Args:
        model: a `GPT1ForCausalLM` whose configuration `formats_of` accepts.
        tokenizer: the model's.
        folder: an empty folder.
    """
    converted = to_openai_gpt(model)
    converted.generation_config = model.generation_config
    converted.save_pretrained(folder)
    give_umask_permissions(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def compare_openai_gpt(case: Comparison) -> str:
    """Loads an export without this project's code and compares its logits.

    Continuations are not compared: the library's class has no cache, and would take minutes.

    Args:
        case: a GPT-1 and the folder of its export.

    Returns:
        What was found, a sentence.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = OpenAIGPTLMHeadModel.from_pretrained(case.folder, dtype=torch.float32, use_safetensors=True).eval()
    (tokenizer,) = case.tokenizers
    positions = case.model.config.max_position_embeddings
    texts = [ids[:positions] for ids in tokenizer(list(case.texts), verbose=False)["input_ids"]]
    differences = []
    for rows in batches(len(texts)):
        ids, mask = pad(texts[rows])
        ours, theirs = (each(ids, attention_mask=mask).logits for each in (case.model, exported))
        differences.append(logit_differences(ours, theirs, mask))
    return check_logits(torch.cat(differences))
