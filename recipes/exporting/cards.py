"""Writes the card of an export, whose lines run as they stand."""

import json
from pathlib import Path
from typing import Any

from papers_to_gpt.settings.commands import command

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

GENERATOR_CODE = """\
import ctranslate2
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
generator = ctranslate2.Generator(folder)
tokens = tokenizer.convert_ids_to_tokens(tokenizer("Once upon a time").input_ids)
result = generator.generate_batch([tokens], max_length=40, sampling_topk=50)[0]
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
        target = "source_tokenizer"
        if (folder / "target_tokenizer").is_dir():
            target = 'PreTrainedTokenizerFast.from_pretrained(folder, subfolder="target_tokenizer")'
        code = TRANSLATOR_CODE.format(folder=repr(final), target=target, beams=defaults.get("num_beams") or 1)
        if target == "source_tokenizer":
            code = code.replace(", PreTrainedTokenizerFast", "")
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
