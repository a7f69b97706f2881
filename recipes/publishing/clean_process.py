"""What somebody gets who has nothing but the shared folder: a process without our packages loads it and computes.

Run as a script, this file reads a job from standard input and imports nothing of ours. Imported, it runs such a
process, and computes the same with a model at hand to compare.
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
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

PROBE_TEXT = "Once there were two friends, one of 342 little houses. Ein kleines Haus am Meer."
PROBE_LENGTH = 16
TARGET_TOKENIZER = "target_tokenizer"

# The same products in another order of summation differ by less; another weight, by more.
TOLERANCE = 1e-4


def auto_class_of(config: PreTrainedConfig) -> str | None:
    """The auto class under which a configuration's auto_map has the class that its weights were saved from."""
    (architecture,) = config.architectures or [None]
    for auto_class, reference in (getattr(config, "auto_map", None) or {}).items():
        # Of a model on the Hub the reference starts with its id: "user/name--modeling_x.Class".
        if isinstance(reference, str) and reference.rpartition(".")[2] == architecture:
            return auto_class
    return None


def load_whole(auto_class: Any, source: str | Path, **arguments: Any) -> PreTrainedModel:
    """`from_pretrained`, with an error for weights that are missing, superfluous or of another shape.

    The library itself only warns of most of that, and goes on with weights drawn at random.
    """
    model, report = auto_class.from_pretrained(
        source, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **arguments
    )
    unsuitable = {kind: sorted(map(str, keys))[:3] for kind, keys in report.items() if keys}
    if unsuitable:
        raise ValueError(f"{source}: the weights are not those of its config.json: {unsuitable}.")
    return model


@torch.inference_mode()
def computed_by(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str, torch.Tensor]:
    """What a model computes from ids spread over its vocabulary, and its tokenizers from a text.

    Returns:
        By name: `logits` (or the last hidden state of a model without a head), in fp32; `tokens` and, if there is a
        tokenizer for it, `target_tokens`, (T,) each.
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
    computed = {"logits": logits.float().cpu().contiguous()}
    for name, each in (("tokens", tokenizer), ("target_tokens", target_tokenizer)):
        if each is not None:
            computed[name] = torch.tensor(each(PROBE_TEXT).input_ids)
    return computed


def computed_elsewhere(
    sources: Sequence[str | Path],
    hidden_packages: Sequence[str],
    revision: str | None = None,
    offline: bool = False,
) -> list[dict[str, torch.Tensor]]:
    """`computed_by` each of several models in a process of its own, with the code that comes with them.

    It starts in an empty folder, with an empty cache of the Hub and without what `hidden_packages` names.

    Args:
        sources: folders, or ids of models on the Hub.
        revision: of the models on the Hub.
        offline: never ask the Hub.

    Raises:
        ValueError: if one does not load there; with the reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        empty, cache, target = (Path(scratch, name) for name in ("empty", "cache", "computed"))
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
        # -P: the folder of this script, which is that of the engine, is no place to import from.
        command = [sys.executable, "-P", str(Path(__file__).resolve())]
        process = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, cwd=empty, env=environment
        )
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(
                f"{', '.join(map(str, sources))} does not load where {', '.join(hidden_packages)} is missing: {reason}"
            )
        return [load_file(target / f"{number}.safetensors") for number in range(len(sources))]


def compare_computed(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: str) -> None:
    """Raises ValueError if two results of `computed_by` differ by more than rounding."""
    for name in expected:
        if name not in found or found[name].shape != expected[name].shape:
            raise ValueError(f"{where}: its {name} have another shape than those of the model here.")
        difference = (found[name].double() - expected[name].double()).abs().max().item()
        # A difference of nan is no agreement either.
        if not difference <= TOLERANCE * max(1.0, expected[name].double().abs().max().item()):
            raise ValueError(f"{where}: its {name} differ from those of the model here by up to {difference:.3g}.")


def _main() -> None:
    job = json.load(sys.stdin)
    for name in job["hidden_packages"]:
        sys.modules[name] = None  # an import of it fails, as where it is not installed
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    remote = {"revision": job["revision"], "trust_remote_code": True}
    for number, source in enumerate(job["sources"]):
        auto_class = getattr(transformers, auto_class_of(AutoConfig.from_pretrained(source, **remote)))
        model = load_whole(auto_class, source, **remote)
        tokenizer, target_tokenizer = AutoTokenizer.from_pretrained(source, **remote), None
        # Not there where source and target share one; the tokenizer's own error for that would be any ValueError.
        if cached_file(
            source,
            "tokenizer_config.json",
            subfolder=TARGET_TOKENIZER,
            revision=job["revision"],
            _raise_exceptions_for_missing_entries=False,
        ):
            # Without the configuration it would look for one in the subfolder, and give up where there is no network.
            target_tokenizer = AutoTokenizer.from_pretrained(
                source, subfolder=TARGET_TOKENIZER, config=model.config, **remote
            )
        save_file(computed_by(model, tokenizer, target_tokenizer), Path(job["target"], f"{number}.safetensors"))


if __name__ == "__main__":
    _main()
