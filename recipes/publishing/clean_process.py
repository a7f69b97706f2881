"""Checks a shared model in a clean process: one that has the model's folder, but not this repository's packages.

Imported, this file starts such a process and compares its results with those of a model in memory. Run as a script, it
is that process: it reads a job from standard input and imports nothing of this repository.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

PROBE_TEXT = "Once there were two friends, one of 342 little houses. Ein kleines Haus am Meer."
PROBE_LENGTH = 16
TARGET_TOKENIZER = "target_tokenizer"

# Summing the same products in another order changes results by less than this; a wrong weight changes them by more.
TOLERANCE = 1e-4


def auto_class_of(config: PreTrainedConfig) -> str | None:
    """Returns the auto class whose entry in a configuration's auto_map is its architecture; None if there is none.

    A model of the library itself has no auto_map.
    """
    (architecture,) = config.architectures or [None]
    for auto_class, reference in (getattr(config, "auto_map", None) or {}).items():
        # For a model on the Hub the reference starts with the model's id: "user/name--modeling_x.Class".
        if isinstance(reference, str) and reference.rpartition(".")[2] == architecture:
            return auto_class
    of_library = {
        "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    classes = (auto for auto, names in of_library.items() if names.get(config.model_type) == architecture)
    return None if architecture is None else next(classes, None)


def load_complete(auto_class: Any, source: str | Path, **arguments: Any) -> PreTrainedModel:
    """Calls `from_pretrained` and refuses weights that are missing, unexpected or of another shape.

    The library only warns about most of these and initializes the missing weights at random.

    Raises:
        ValueError: if the weights do not fit `config.json`.
    """
    model, report = auto_class.from_pretrained(
        source, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **arguments
    )
    unsuitable = {kind: sorted(map(str, keys))[:3] for kind, keys in report.items() if keys}
    if unsuitable:
        raise ValueError(
            f"{source}: the weights are not those of its config.json: {unsuitable}. Put the weights and the "
            "config.json of the same model into the folder."
        )
    return model


@torch.inference_mode()
def probe_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str, torch.Tensor]:
    """Runs a model on ids spread over its vocabulary, and its tokenizers on a fixed text.

    Returns:
        The results by name: `logits` in fp32 (for a model without a head, its last hidden state), `tokens` (T,) and,
        with a target tokenizer, `target_tokens` (T,).
    """
    model.eval()
    config = model.config
    length = min(PROBE_LENGTH, getattr(config, "max_position_embeddings", PROBE_LENGTH))
    ids = torch.linspace(0, config.vocab_size - 1, length).long()[None]
    if type(model).__name__.endswith("ForMultipleChoice"):
        ids = torch.stack([ids, ids.flip(1)], dim=1)  # (1, 2, T)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        target_size = getattr(config, "decoder_vocab_size", None) or config.vocab_size
        inputs["decoder_input_ids"] = torch.linspace(0, target_size - 1, length).long()[None]
        inputs["decoder_input_ids"][:, 0] = config.decoder_start_token_id
    outputs = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
    logits = outputs.last_hidden_state if outputs.get("logits") is None else outputs.logits
    probe = {"logits": logits.float().cpu().contiguous()}
    for name, each in (("tokens", tokenizer), ("target_tokens", target_tokenizer)):
        if each is not None:
            probe[name] = torch.tensor(each(PROBE_TEXT).input_ids)
    return probe


def probe_in_clean_process(
    sources: Sequence[str | Path],
    hidden_packages: Sequence[str],
    revision: str | None = None,
    offline: bool = False,
) -> list[dict[str, torch.Tensor]]:
    """Runs `probe_model` on several models in one new process, which loads them with the code in their folders.

    The process starts in an empty folder, with an empty Hub cache, and cannot import `hidden_packages`.

    Args:
        sources: folders, or ids of models on the Hub.
        hidden_packages: names of packages whose import fails in the process.
        revision: the branch, tag or commit of the models on the Hub.
        offline: True if the process must not contact the Hub.

    Returns:
        What `probe_model` returns for each source.

    Raises:
        ValueError: if a model does not load in that process; the message gives the reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        empty, cache, target = (Path(scratch, name) for name in ("empty", "cache", "probes"))
        for folder in (empty, cache, target):
            folder.mkdir()
        job = {
            "sources": [str(source.resolve()) if isinstance(source, Path) else source for source in sources],
            "revision": revision,
            "hidden_packages": list(hidden_packages),
            "target": str(target),
        }
        caches = {f"HF_{kind}_CACHE": str(cache / kind.lower()) for kind in ("HUB", "MODULES", "XET")}
        environment = {**os.environ, **caches} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
        # -P keeps the folder of this script, which holds modules of this repository, out of the import path.
        command = [sys.executable, "-P", str(Path(__file__).resolve())]
        process = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, cwd=empty, env=environment
        )
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["the process gave no reason"])[-1]
            raise ValueError(
                f"{', '.join(map(str, sources))} does not load where {', '.join(hidden_packages)} is missing: {reason}"
            )
        return [load_file(target / f"{number}.safetensors") for number in range(len(sources))]


def compare_probes(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: str) -> None:
    """Raises ValueError if two results of `probe_model` differ by more than rounding.

    Args:
        found, expected: the results to compare.
        where: says in the message where `found` was computed.
    """
    for name in expected:
        if name not in found or found[name].shape != expected[name].shape:
            raise ValueError(f"{where}: its {name} have another shape than those of the local model.")
        difference = (found[name].double() - expected[name].double()).abs().max().item()
        # "not <=" rather than ">", so that a difference of nan fails too.
        if not difference <= TOLERANCE * max(1.0, expected[name].double().abs().max().item()):
            raise ValueError(f"{where}: its {name} differ from those of the local model by up to {difference:.3g}.")


def _main() -> None:
    job = json.load(sys.stdin)
    for name in job["hidden_packages"]:
        sys.modules[name] = None  # makes its import fail, as if it were not installed
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    remote = {"revision": job["revision"], "trust_remote_code": True}
    for number, source in enumerate(job["sources"]):
        auto_class = getattr(transformers, auto_class_of(AutoConfig.from_pretrained(source, **remote)))
        model = load_complete(auto_class, source, **remote)
        tokenizer, target_tokenizer = AutoTokenizer.from_pretrained(source, **remote), None
        # A model whose source and target share a vocabulary has no such folder. Loading from a missing one would raise
        # a ValueError that cannot be told from others, so its presence is checked first.
        if cached_file(
            source,
            "tokenizer_config.json",
            subfolder=TARGET_TOKENIZER,
            revision=job["revision"],
            _raise_exceptions_for_missing_entries=False,
        ):
            # Without `config` the library looks for a config.json in the subfolder, which fails without a network.
            target_tokenizer = AutoTokenizer.from_pretrained(
                source, subfolder=TARGET_TOKENIZER, config=model.config, **remote
            )
        save_file(probe_model(model, tokenizer, target_tokenizer), Path(job["target"], f"{number}.safetensors"))


if __name__ == "__main__":
    _main()
