"""Saved tiny models, and scripts that run in this process, for the tests of exports."""

import sys
from pathlib import Path

import torch
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt import score_translation
from papers_to_gpt.settings.arguments import run_script
from seq2seq_scratch.tokenization import end_of_sentence, save_tokenizers

SOURCES = ["word4 word5", "word9", "word7 word12 word6 word15 word8", "word11 word4 word4"]


def ending_tokenizer():
    """A tokenizer of translators, which ends a sentence with `</s>`."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = end_of_sentence(tokenizer.eos_token_id)
    return tokenizer


def scaled_model(name, scale, **settings):
    model = tiny_model(name, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def save_translator(folder, name="transformer", separate=False, scale=1.0, **settings):
    scaled_model(name, scale, **settings).save_pretrained(folder)
    source = ending_tokenizer()
    save_tokenizers(folder, source, ending_tokenizer() if separate else source)
    return str(folder)


def save_gpt1(folder, name="causal_lm", scale=1.0, **settings):
    model = scaled_model(name, scale, **settings)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model, str(folder)


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"recipes/{script.__name__.rpartition('.')[2]}.py", *map(str, arguments)])
    try:
        run_script(script.main)
    except SystemExit as stop:
        return stop.code
    return 0


def scored_translations(monkeypatch, folder, model, *options):
    """Runs score_translation.py with two numbers of beams and returns the translations that it writes."""
    scores = folder / f"scores_of_{Path(model).name}"
    rows = "".join(f"{source}\t{source}\n" for source in SOURCES)
    (folder / "test.tsv").write_text(f"en\tde\n{rows}")
    arguments = ["--model_name_or_path", model, "--test_file", folder / "test.tsv", "--output_dir", scores]
    arguments += ["--source_column", "en", "--target_column", "de", "--max_new_tokens", 6, "--num_beams", 1, 3]
    assert run(score_translation, monkeypatch, *arguments, *options) in (0, None)
    return {path.name: path.read_text() for path in scores.glob("*.txt")}
