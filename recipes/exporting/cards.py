"""Writes the card of an export, whose lines run as they stand."""

import json
from pathlib import Path
from typing import Any

from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.exporting import ExportSettings

TRANSLATOR_CODE = """\
import ctranslate2
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = {folder}
source_tokenizer = AutoTokenizer.from_pretrained(folder)
target_tokenizer = {target}
translator = ctranslate2.Translator(folder)
tokens = source_tokenizer.convert_ids_to_tokens(source_tokenizer("A sentence.").input_ids)
result = translator.translate_batch([tokens], beam_size={beams}, max_input_length=0, min_decoding_length=0)[0]
ids = target_tokenizer.convert_tokens_to_ids(result.hypotheses[0])
print(target_tokenizer.decode(ids, skip_special_tokens=True))
"""

LIBRARY_CODE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

folder = {folder}
source_tokenizer = AutoTokenizer.from_pretrained(folder)
target_tokenizer = {target}
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
ids = model.generate(**source_tokenizer(["A sentence.", "Another one."], padding=True, return_tensors="pt"))
print(target_tokenizer.decode(ids, skip_special_tokens=True))
"""

GENERATOR_CODE = """\
import ctranslate2
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
generator = ctranslate2.Generator(folder)
tokens = tokenizer.convert_ids_to_tokens(tokenizer("Once upon a time").input_ids)
result = generator.generate_batch([tokens], max_length=40, sampling_topk=10)[0]
print(tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True))
"""


def write_export_card(folder: Path, final: str, record: dict[str, Any], found: str) -> None:
    """Writes README.md into an export.

    Args:
        folder: where the export is written.
        final: the name that the folder gets, for the commands.
        record: the content of its `export.json`.
        found: what the comparison with the model found.
    """
    if record["kind"] == "translator":
        defaults = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        code = _with_tokenizers(TRANSLATOR_CODE, folder, final, beams=defaults.get("num_beams") or 1)
        shell = f"echo 'A sentence.' | {command('translate', '--model_name_or_path', final)}"
    else:
        code = GENERATOR_CODE.format(folder=repr(final))
        shell = command("generate_text", "--model_name_or_path", final, "--prompt", "Once upon a time")
    text = f"""\
---
library_name: ctranslate2
---

# {Path(final).resolve().name}

An export of `{record["source"]}` ({record["model_type"]}) for CTranslate2, in {record["quantization"]}, with
{record["positions"]} positions.

{found}

```bash
{shell}
```

Without this project's code (`pip install ctranslate2 transformers`):

```python
{code}```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_library_card(folder: Path, settings: ExportSettings, found: str) -> None:
    """Writes README.md into an export that is a class of transformers.

    Args:
        folder: where the export is written.
        settings: name the model, the format and the folder's final name.
        found: what the comparison with the model found.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = f"""\
---
library_name: transformers
---

# {Path(settings.output_dir).resolve().name}

An export of `{settings.model_name_or_path}` as `{config["architectures"][0]}` of transformers, which loads it without
remote code (`pip install transformers torch`). Sources and translations have at most
{config["max_position_embeddings"]} tokens, and padding is on the right.

{found} With beams, the library divides scores by a power of the length of its own, so some translations differ from
those of the exported model.

```python
{_with_tokenizers(LIBRARY_CODE, folder, settings.output_dir)}```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _with_tokenizers(code: str, folder: Path, final: str, **values: object) -> str:
    """Fills in how the folder's tokenizers are loaded, and the name that it gets."""
    if (folder / "target_tokenizer").is_dir():
        target = 'PreTrainedTokenizerFast.from_pretrained(folder, subfolder="target_tokenizer")'
        return code.format(folder=repr(final), target=target, **values)
    code = code.replace(", PreTrainedTokenizerFast", "")
    return code.format(folder=repr(final), target="source_tokenizer", **values)
