"""The card of an export says under which terms it is used, and what it is made for, as its model's card does."""

import pytest
from exported_models import run, save_gpt1, save_translator
from huggingface_hub import ModelCard

from papers_to_gpt import export
from papers_to_gpt.exporting.source_cards import NO_CARD, add_source

PACKAGES = {"ctranslate2": ["ctranslate2"], "onnx": ["onnx", "onnxruntime", "onnxscript"], "openai-gpt": []}
LIBRARIES = {"ctranslate2": "ctranslate2", "onnx": "onnx", "openai-gpt": "transformers", "marian": "transformers"}
CARD = """---
language:
- en
- de
license: cc-by-nc-4.0
pipeline_tag: {task}
library_name: of the model
---

# A model

## Training data

Captions.

## Scores

| many |

## Limits

- It may invent.

## Licence

Not for {{money}}.
"""


@pytest.mark.parametrize("form", LIBRARIES)
@pytest.mark.parametrize("source", ["run", "run/checkpoint-9"])
def test_an_export_has_the_terms_and_limits_of_its_model(form, source, tmp_path, monkeypatch):
    for package in PACKAGES.get(form, ()):
        pytest.importorskip(package, reason=f"{package} is not installed; an extra of this project has it")
    translates = form in ("ctranslate2", "marian")
    if translates:
        save_translator(tmp_path / source, encoder_layers=1, decoder_layers=1)
    else:
        save_gpt1(tmp_path / source, num_hidden_layers=1, intermediate_size=32)
    task = "translation" if translates else "text-generation"
    (tmp_path / "run" / "README.md").write_text(CARD.format(task=task))
    monkeypatch.chdir(tmp_path)
    assert run(export, monkeypatch, source, "--format", form, "--output_dir", "exported") in (0, None)
    card = ModelCard.load(tmp_path / "exported" / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.language) == ("cc-by-nc-4.0", task, ["en", "de"])
    assert card.data.library_name == LIBRARIES[form] and card.data.base_model is None
    assert card.text.rstrip().endswith("- It may invent.\n\n## Licence\n\nNot for {money}.")
    assert "## Training data\n\nCaptions." in card.text and "many" not in card.text and "```python" in card.text


def test_a_model_without_a_card_leaves_its_terms_open(tmp_path):
    card = ModelCard(add_source("---\nlibrary_name: onnx\n---\n\n# exported\n", str(tmp_path)))
    assert card.data.library_name == "onnx" and card.data.license is None and NO_CARD in card.text


def test_a_model_of_the_hub_is_named_as_the_base(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(CARD.format(task="translation"))
    monkeypatch.setattr(
        "papers_to_gpt.exporting.source_cards.cached_file", lambda name, file, **settings: str(tmp_path / file)
    )
    card = ModelCard(add_source("---\nlibrary_name: onnx\n---\n\n# exported\n", "user/model"))
    assert card.data.base_model == "user/model" and card.data.license == "cc-by-nc-4.0"
