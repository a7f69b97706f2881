"""Checks an export for another engine before it is shared, and again when the Hub gives it back."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars

from papers_to_gpt.engine.model_folder import ENGINES, read_export
from papers_to_gpt.engine.reporting import CARD_FILE
from papers_to_gpt.exporting.cards import export_card
from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator
from papers_to_gpt.exporting.exported_folder import check_tokenizer
from papers_to_gpt.exporting.loading import open_export
from papers_to_gpt.exporting.onnx_models import OnnxGPT1, OnnxTranslator
from papers_to_gpt.exporting.verification import random_texts
from papers_to_gpt.publishing.hub import HubRepository, explain_hub_errors
from seq2seq_scratch.tokenization import load_tokenizers
from seq2seq_scratch.translation import translate

# Sample texts, and new tokens of each.
TEXTS, NEW_TOKENS = 4, 10


@dataclass(frozen=True)
class CheckedExport:
    """An export that passed `check_export_folder`.

    Attributes:
        folder: its path.
        engine: the engine that runs it.
        outputs: what it makes of sample texts.
    """

    folder: Path
    engine: str
    outputs: list[str]


def check_export_folder(folder: Path) -> CheckedExport:
    """Runs an export in its engine.

    Raises:
        ValueError: if a file or the engine is missing, or the export does not run; the message says what to do.
    """
    record = read_export(folder)
    check_tokenizer(folder)
    if not (folder / "generation_config.json").is_file():
        raise ValueError(f"{folder} has no generation_config.json. Export the model again.")
    for path in (each for each in folder.rglob("*") if each.is_symlink()):
        raise ValueError(f"{path} is a link, and links are not shared. Put a copy of what it points to in its place.")
    return CheckedExport(folder, ENGINES[record["engine"]], outputs_of(folder))


@torch.inference_mode()
def outputs_of(folder: Path) -> list[str]:
    """Returns what an export makes of sample texts by greedy search: translations, or token ids of continuations."""
    model, tokenizer = open_export(folder)
    texts = random_texts(tokenizer, TEXTS)
    search = {"num_beams": 1, "do_sample": False, "num_return_sequences": 1, "max_new_tokens": NEW_TOKENS}
    if isinstance(model, OnnxTranslator):
        return [best.text for best, *_ in translate(model, *load_tokenizers(folder), texts, **search)]
    if isinstance(model, ExportedTranslator):
        return [best.text for best, *_ in model.translate(texts, **search)]
    outputs = []
    for text in texts:
        ids = tokenizer(text).input_ids[: max(1, model.positions - NEW_TOKENS)]
        if isinstance(model, OnnxGPT1):
            prompt = torch.tensor([ids])
            rows = model.generate(prompt, attention_mask=torch.ones_like(prompt), **search).tolist()
        else:
            rows = model.generate(ids, NEW_TOKENS)
        outputs.append(" ".join(map(str, rows[0])))
    return outputs


def share_export(repository: HubRepository, checked: CheckedExport) -> None:
    """Pushes an export in one commit, downloads it again and compares what the two compute.

    Raises:
        ValueError: if the push is refused, or the downloaded export computes something else.
        OSError: if the Hub does not answer.
    """
    record = read_export(checked.folder)
    rewrite_code(checked.folder, export_card(checked.folder, record, repository.repo_id, on_hub=True))
    commit = repository.push(checked.folder, f"Export for {checked.engine}")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        with explain_hub_errors(repository.repo_id):
            downloaded = snapshot_download(repository.repo_id, revision=commit, cache_dir=scratch)
        if outputs_of(Path(downloaded)) != checked.outputs:
            raise ValueError(f"{repository.repo_id}, downloaded again, computes something else than {checked.folder}.")


def rewrite_code(folder: Path, fresh: str) -> None:
    """Replaces the first commands and the first code of an export's card; the rest stays as it is.

    Args:
        folder: holds the export. Without a card, it gets the new one.
        fresh: a card that names the export by its id on the Hub.
    """
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else fresh
    for language in ("bash", "python"):
        block = re.compile(rf"```{language}\n.*?```", re.DOTALL)
        new = block.search(fresh)
        if new is not None:
            text = block.sub(lambda _, new=new: new[0], text, count=1)
    path.write_text(text, encoding="utf-8")
