"""Writes the card of an export, whose lines run as they stand."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from papers_to_gpt.engine.model_folder import ENGINES
from papers_to_gpt.exporting.saved_generation import SavedGeneration, describe_greedy_search, saved_sampling
from papers_to_gpt.settings.commands import command
from seq2seq_scratch.tokenization import load_tokenizers

# The code of a card, by engine and kind of model. It needs neither this project's code nor PyTorch.
CODE = {
    ("ctranslate2", "translator"): """\
import ctranslate2
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = {folder}
source_tokenizer = AutoTokenizer.from_pretrained(folder)
target_tokenizer = {target}
translator = ctranslate2.Translator(folder)
tokens = source_tokenizer.convert_ids_to_tokens(source_tokenizer("A sentence.").input_ids)
result = translator.translate_batch([tokens], max_input_length=0, {options})[0]
ids = target_tokenizer.convert_tokens_to_ids(result.hypotheses[0])
print(target_tokenizer.decode(ids, skip_special_tokens=True))
""",
    ("ctranslate2", "language_model"): """\
import ctranslate2
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
generator = ctranslate2.Generator(folder)
tokens = tokenizer.convert_ids_to_tokens(tokenizer("Once upon a time").input_ids)
result = generator.generate_batch([tokens], sampling_topk=10, {options})[0]
print(tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True))
""",
    ("onnx", "translator"): """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

folder = {folder}
source_tokenizer = AutoTokenizer.from_pretrained(folder)
target_tokenizer = {target}
encoder, decoder = (onnxruntime.InferenceSession(f"{{folder}}/{{name}}.onnx") for name in ("encoder", "decoder"))
source = source_tokenizer("A sentence.", return_tensors="np")
arrays = encoder.run(None, {{name: source[name] for name in ("input_ids", "attention_mask")}})
state = {{each.name: array for each, array in zip(encoder.get_outputs(), arrays)}}
for each in decoder.get_inputs()[1:]:  # what the encoder does not give holds no tokens at first
    state.setdefault(each.name, np.zeros([1, *(0 if isinstance(size, str) else size for size in each.shape[1:])], "f"))
tokens = [GenerationConfig.from_pretrained(folder).decoder_start_token_id]
while len(tokens) < {limit} and (len(tokens) == 1 or tokens[-1] not in {ends}):
    state["input_ids"] = np.array([tokens[-1:]])
    logits, *arrays = decoder.run(None, {{each.name: state[each.name] for each in decoder.get_inputs()}})
    state |= {{each.name.replace("present", "past"): array for each, array in zip(decoder.get_outputs()[1:], arrays)}}
    tokens.append(int(logits[0, -1].argmax()))
print(target_tokenizer.decode(tokens, skip_special_tokens=True))
""",
    ("onnx", "language_model"): """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
tokens = new = tokenizer("Once upon a time").input_ids
state = {{}}
for each in model.get_inputs()[2:]:  # nothing was read before
    state[each.name] = np.zeros([1, *(0 if isinstance(size, str) else size for size in each.shape[1:])], np.float32)
while len(tokens) < {limit} and new[-1] not in {ends}:
    inputs = {{"input_ids": np.array([new]), "attention_mask": np.ones((1, len(tokens)), np.int64), **state}}
    logits, *arrays = model.run(None, inputs)
    state = dict(zip(state, arrays))
    new = [int(logits[0, -1].argmax())]
    tokens = tokens + new
print(tokenizer.decode(tokens, skip_special_tokens=True))
""",
}

LIBRARY_CODE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

folder = {folder}
source_tokenizer = AutoTokenizer.from_pretrained(folder)
target_tokenizer = {target}
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
ids = model.generate(**source_tokenizer(["A sentence.", "Another one."], padding=True, return_tensors="pt"))
print(target_tokenizer.decode(ids, skip_special_tokens=True))
"""

PACKAGES = {"ctranslate2": "ctranslate2 transformers", "onnx": "onnxruntime transformers"}

# Largest numbers of tokens of the cards' outputs: translations in CTranslate2, all in onnxruntime, and continuations.
LONGEST_TRANSLATION, LONGEST_IN_ONNX, LONGEST_TEXT = 256, 50, 40


def export_card(folder: Path, record: dict[str, Any], name: str, on_hub: bool = False) -> str:
    """Returns the README.md of an export.

    Args:
        folder: holds the export.
        record: the content of its `export.json`.
        name: what the lines of the card call it: the name that the folder gets, or its id on the Hub.
        on_hub: True for an id.
    """
    local = name.rpartition("/")[2] if on_hub else name
    engine, positions = record["engine"], record["positions"]
    defaults = GenerationConfig.from_pretrained(folder)
    limit = min(LONGEST_IN_ONNX, positions or LONGEST_IN_ONNX)
    values: dict[str, object] = {"limit": limit, "ends": ends_of(defaults)}
    if engine == "ctranslate2":
        options = ctranslate2_options(folder, record["kind"], positions, defaults)
        values["options"] = ", ".join(f"{each}={value!r}" for each, value in options.items())
    location = f"snapshot_download({name!r})" if on_hub else repr(name)
    code = with_tokenizers(CODE[engine, record["kind"]], folder, location, **values)
    if on_hub:
        code = code.replace(
            "from transformers import", "from huggingface_hub import snapshot_download\nfrom transformers import"
        )
    if record["kind"] == "translator":
        shell = f"echo 'A sentence.' | {command('translate', '--model_name_or_path', local)}"
    else:
        shell = command("generate_text", "--model_name_or_path", local, "--prompt", "Once upon a time")
    if on_hub:
        shell = f"hf download {name} --local-dir {local}\n{shell}"
    return f"""\
---
library_name: {engine}
---

# {Path(local).resolve().name}

An export of `{record["source"]}` ({record["model_type"]}) for {ENGINES[engine]}, in {record["quantization"]},
{"for texts of any length" if positions is None else f"with {positions} positions"}.

{record["compared"]}

```bash
{shell}
```

Without this project's code (`pip install {PACKAGES[engine]}`):

{describe_greedy_search(defaults) if engine == "onnx" else ""}```python
{code}```
"""


def ends_of(defaults: GenerationConfig) -> list[int]:
    """Returns the ids of the tokens that end a text, by the saved settings."""
    ends = defaults.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def ctranslate2_options(folder: Path, kind: str, positions: int, defaults: GenerationConfig) -> dict[str, Any]:
    """Returns the arguments of CTranslate2 for a search as the model was saved, within its positions.

    A continuation is sampled, because a search would show how a small model repeats itself.

    Args:
        folder: holds the export.
        kind: "translator" or "language_model".
        positions: largest number of tokens of a text.
        defaults: the saved settings.
    """
    is_translator = kind == "translator"
    tokenizer = load_tokenizers(folder)[1] if is_translator else AutoTokenizer.from_pretrained(folder)
    saved = SavedGeneration.of(defaults, tokenizer)
    options: dict[str, Any] = {}
    if is_translator:
        of_model = [defaults.max_new_tokens, defaults.max_length and defaults.max_length - 1]
        limit = min([LONGEST_TRANSLATION, positions, *(value for value in of_model if value is not None)])
        beams = defaults.num_beams or 1
        options = {"beam_size": beams, "max_decoding_length": limit, "min_decoding_length": saved.shortest(1)}
        if beams > 1:
            options["length_penalty"] = 1.0 if defaults.length_penalty is None else defaults.length_penalty
        elif defaults.do_sample:
            options |= saved_sampling(defaults, len(tokenizer))
    else:
        options["max_length"] = min(LONGEST_TEXT, positions - 1)  # the engine counts all tokens but the first one
    if defaults.eos_token_id not in (None, tokenizer.eos_token_id):  # a word of the text may be an end
        options |= {"end_token": ends_of(defaults), "return_end_token": True}
    return options | saved.options


def openai_gpt_card(folder: Path, name: str, found: str = "") -> str:
    """Returns the README.md of a GPT-1 in the form of `openai-gpt`.

    Args:
        folder: holds the export.
        name: what the lines of the card call it: the name that the folder gets, or its id on the Hub.
        found: what the comparison with the model found.
    """
    positions = json.loads((folder / "config.json").read_text(encoding="utf-8"))["n_positions"]
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
---

# {Path(name).resolve().name}

A GPT-1 in the form of transformers' own `openai-gpt`, which loads without further code.

{found}

Texts have at most {positions} tokens, prompt included. The class counts padding as positions, so continue one text at
a time: in a batch, the shorter ones would be continued wrongly.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {name!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer("Once upon a time", return_tensors="pt")
ids = model.generate(**prompt, do_sample=True, top_k=10, max_new_tokens={min(LONGEST_TEXT, positions // 2)})
print(tokenizer.decode(ids[0], skip_special_tokens=True))
```

The library's pipeline for text generation works too, but leaves out the space between the prompt and the new text,
because a token of GPT-1 marks the end of a word.
"""


def library_card(folder: Path, name: str, source: str | None = None, found: str = "") -> str:
    """Returns the README.md of an export that is a translator of transformers.

    Args:
        folder: holds the export.
        name: what the lines of the card call it: the name that the folder gets, or its id on the Hub.
        source: the exported model; None if it is not known.
        found: what the comparison with the model found.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = with_tokenizers(LIBRARY_CODE, folder, repr(name))
    export = "An export" if source is None else f"An export of `{source}`"
    again = command("export", source or "MODEL", "--format", "ctranslate2", "--output_dir", "FOLDER")
    return f"""\
---
library_name: transformers
---

# {Path(name).resolve().name}

{export} as `{config["architectures"][0]}` of transformers, which loads it without
remote code (`pip install transformers torch`). Sources and translations have at most
{config["max_position_embeddings"]} tokens, and padding is on the right.

{found} With beams, the library normalizes scores by length in another way, so some translations differ from those of
the exported model.

Do not convert this folder with CTranslate2's own converter. It starts the decoder of Marian's models from zeros, not
from the embedding of a token, so it fails or translates wrongly; the other classes it does not convert. For that
engine, export the model itself: `{again}`.

```python
{code}```
"""


def with_tokenizers(code: str, folder: Path, name: str, **values: object) -> str:
    """Fills in how the tokenizers of a folder are loaded, and what names the folder in Python."""
    if (folder / "target_tokenizer").is_dir():
        target = 'PreTrainedTokenizerFast.from_pretrained(folder, subfolder="target_tokenizer")'
    else:
        target = "source_tokenizer"
        code = code.replace(", PreTrainedTokenizerFast", "")
    return code.format(folder=name, target=target, **values)
