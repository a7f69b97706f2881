"""A folder of tiny models for the tests of the page that shows them."""

import shutil
from pathlib import Path

from tiny_models import tiny_model, tiny_tokenizer

from gpt1_scratch.finetuning.tasks import Task, config_of_task
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

SOURCE, TARGET = "two dogs run", "zwei Hunde"
PROMPT = "word5 word6"
OWN = Task("own", "classification", ("first", "second"), ("bad", "good", "fair"), ("accuracy",))
RUN = """
settings:
  dataset_name: numbers
  source_language: en
  target_language: de
parameters: 1234
"""


def write_models(folder: Path) -> None:
    """Writes a model of each kind, a run that has not ended, and folders that are no models."""
    tokenizer = train_tokenizer([SOURCE, TARGET] * 3, kind="word", vocab_size=40)
    special = [number for number in tokenizer.all_special_ids if number != tokenizer.eos_token_id]
    for kind in ("rnn_seq2seq", "bahdanau", "transformer"):
        model = tiny_model(kind, vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer))
        model.generation_config.update(max_new_tokens=6, min_new_tokens=3, suppress_tokens=special)
        model.save_pretrained(folder / kind)
        save_tokenizers(folder / kind, tokenizer, tokenizer)
    (folder / "bahdanau" / "run.yaml").write_text(RUN)
    for name, settings in {"gpt1": {}, "gpt1_lstm": {"lstm_size": 8}}.items():
        tiny_model("causal_lm", **settings).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for update in (9, 10):
        shutil.copytree(folder / "gpt1", folder / "group" / "unfinished" / f"checkpoint-{update}")
    shutil.copytree(folder / "bahdanau", folder / "bahdanau" / "checkpoint-10")
    tiny_model("classification", **config_of_task(OWN)).save_pretrained(folder / "task")
    tiny_tokenizer().save_pretrained(folder / "task")
    shutil.copytree(folder / "gpt1", folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"cut")
    (folder / "plots").mkdir()
