"""Lines with nothing to see: an empty line out wherever a line stands for an answer, and left out of training."""

import io
import sys
from pathlib import Path

import pytest
import torch

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, GPT1ForSequenceClassification
from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.finetuning.tasks import Task, config_of_task
from gpt1_scratch.pretraining.packing import tokenize_texts
from gpt1_scratch.tokenization import add_task_template
from gpt1_scratch.tokenization import train_tokenizer as train_gpt1_tokenizer
from papers_to_gpt import classify, generate_text, score_translation, translate
from papers_to_gpt.gpt1 import classification
from seq2seq_scratch import BahdanauConfig, BahdanauForConditionalGeneration
from seq2seq_scratch.data.batches import tokenize_parallel
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

# Spaces, control characters, characters of format, and letters and marks that are drawn as nothing.
INVISIBLE = (
    *("", " ", "\t", "\x0b\x0c", "\u2028", "\u3000", "\xa0"),
    *("\x00", "\x1a", "\x7f", "\x85"),
    *("\u200b", "\xad", "\ufeff", "\u200f\u202e", "\u2060", "\U000e0001"),
    *("\u3164", "\u2800", "\ufe0f", "\u034f"),
)
TEXTS = ["the dog ran home", "a cat and a dog", "."]
LINES = [line for pair in zip(TEXTS * len(INVISIBLE), INVISIBLE, strict=False) for line in pair]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 3, kind="bpe", vocab_size=300)
    config = BahdanauConfig(
        **{"embedding_size": 8, "hidden_size": 8, "attention_size": 6, "maxout_size": 5},
        **{"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer), "share_vocabulary": True},
        **{"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id},
        **{"eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.bos_token_id},
    )
    model = BahdanauForConditionalGeneration(config)
    model.generation_config.update(max_new_tokens=3, num_beams=1, suppress_tokens=[tokenizer.eos_token_id])
    folder = tmp_path_factory.mktemp("translator")
    model.save_pretrained(folder)
    save_tokenizers(folder, tokenizer, tokenizer)
    return folder


@pytest.fixture(scope="module", params=["classes", "number"])
def classifier(request, tmp_path_factory):
    labels = ("x", "y") if request.param == "classes" else None
    return save_gpt1(tmp_path_factory.mktemp("classifier"), GPT1ForSequenceClassification, labels)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return save_gpt1(tmp_path_factory.mktemp("language_model"), GPT1ForCausalLM)


def save_gpt1(folder, model_class, labels=None):
    torch.manual_seed(0)
    tokenizer = add_task_template(train_gpt1_tokenizer(TEXTS * 3, merges=20))
    task = Task("own", "classification", ("text",), labels, ("accuracy",))
    config = GPT1Config(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32},
        **{"vocab_size": len(tokenizer), "delimiter_token_id": tokenizer.sep_token_id},
        **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")},
        **(config_of_task(task) if model_class is GPT1ForSequenceClassification else {}),
    )
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script on the lines in a file; gives the lines that it prints."""
    (tmp_path / "lines.txt").write_bytes("".join(f"{line}\n" for line in LINES).encode())

    def start(script, setting, *arguments):
        file = tmp_path / "lines.txt"
        monkeypatch.setattr(sys, "argv", ["script", f"--{setting}={file}", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out.removesuffix("\n").split("\n")

    return start


@pytest.mark.parametrize("line", INVISIBLE)
def test_nothing_is_visible_alone_and_something_beside_a_letter(line):
    assert not has_visible_text(line)
    assert has_visible_text(f"{line}a") and has_visible_text(f"好{line}")


def test_translations(run, translator):
    lines = run(translate, "input_file", "--model_name_or_path", translator)
    assert [bool(line) for line in lines] == [True, False] * len(INVISIBLE)
    lines = run(
        *(translate, "input_file", "--model_name_or_path", translator),
        *("--num_beams", 2, "--num_return_sequences", 2, "--with_scores", "true"),
    )
    assert [line.split("\t")[0] for line in lines] == [str(number // 2) for number in range(2 * len(LINES))]
    assert [line.split("\t")[2] for line in lines if int(line.split("\t")[0]) % 2] == [""] * 2 * len(INVISIBLE)


def test_predictions(run, classifier):
    header, *lines = (line.split("\t") for line in run(classify, "input_file", "--model_name_or_path", classifier))
    assert [line[0] for line in lines] == [str(number) for number in range(len(LINES))]
    nothing = ["no text", ""] if len(header) == 3 else [""]
    assert [line[1:] == nothing for line in lines] == [False, True] * len(INVISIBLE)


def test_predictions_of_a_pipe_are_those_of_a_file(run, classifier, monkeypatch, capsys):
    expected = run(classify, "input_file", "--model_name_or_path", classifier)
    content = "".join(f"{line}\n" for line in LINES).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    monkeypatch.setattr(classification, "LINES_AT_A_TIME", 7)
    monkeypatch.setattr(sys, "argv", ["classify.py", "--model_name_or_path", str(classifier)])
    classify.main()
    assert capsys.readouterr().out.splitlines() == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
    with pytest.raises(ValueError, match="The input has no line"):
        classify.main()


def test_predictions_of_typed_lines_have_one_head_and_are_numbered(classifier, monkeypatch, capsys):
    typed = iter(TEXTS)

    def type_line(prompt):
        for line in typed:
            return line
        raise EOFError

    monkeypatch.setattr(classification, "is_terminal", lambda stream: True)
    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr(sys, "argv", ["classify.py", "--model_name_or_path", str(classifier)])
    classify.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", "0", "1", "2"]


def test_continuations(run, language_model):
    arguments = ("--model_name_or_path", language_model, "--max_new_tokens", 2, "--seed", 1)
    for extra, copies in ((), 1), (("--num_return_sequences", 2), 2):
        lines = run(generate_text, "prompt_file", *arguments, *extra)
        expected = [True] * copies + [False] * copies
        assert [bool(line) for line in lines] == expected * len(INVISIBLE)


def test_scores(translator, tmp_path, monkeypatch):
    for side in ("en", "de"):
        Path(f"{tmp_path}/test.{side}").write_bytes("".join(f"{line}\n" for line in LINES).encode())
    arguments = ["--test_file", tmp_path / "test", "--model_name_or_path", translator, "--output_dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["script", "--num_beams", "1", *map(str, arguments)])
    score_translation.main()
    lines = (tmp_path / "test_beam1_hypotheses.txt").read_text().removesuffix("\n").split("\n")
    assert [bool(line) for line in lines] == [True, False] * len(INVISIBLE)


def test_training_pairs(tmp_path):
    tokenizer = train_tokenizer(TEXTS * 3, kind="bpe", vocab_size=300)
    rows = [(text, text) for text in TEXTS]
    rows += [(line, "text") for line in INVISIBLE] + [("text", line) for line in INVISIBLE]
    for side, lines in zip(("en", "de"), zip(*rows, strict=True), strict=True):
        Path(f"{tmp_path}/train.{side}").write_bytes("".join(f"{line}\n" for line in lines).encode())
    for streaming in (False, True):
        pairs = load_parallel_data(
            train_file=f"{tmp_path}/train",
            source_language="en",
            target_language="de",
            streaming=streaming,
            validation_size=0,
        )["train"]
        kept, report = tokenize_parallel(pairs, tokenizer, tokenizer, max_source_length=99, max_target_length=99)
        assert [row["labels"] for row in kept] == tokenizer(TEXTS)["input_ids"]
        assert f"{2 * len(INVISIBLE)} with a side without text" in str(report)


def test_training_rows(tmp_path):
    file = tmp_path / "train.tsv"
    lines = [line for line in INVISIBLE if "\t" not in line]
    rows = [(text, "xyx"[index]) for index, text in enumerate(TEXTS)] + [(line, "x") for line in lines]
    file.write_bytes(b"text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows).encode())
    _, splits = load_task(train_file=file, validation_file=file)
    for split in splits.values():
        assert split.texts == [(text,) for text in TEXTS]
        assert split.notes[0].startswith(f"{len(lines)} rows are left out: no text in the column 'text' in rows 4, 5")


def test_rows_to_pretrain_on():
    from datasets import Dataset

    tokenizer = train_gpt1_tokenizer(TEXTS * 3, merges=20)
    tokenized = tokenize_texts(Dataset.from_dict({"text": [*INVISIBLE, *TEXTS, None]}), tokenizer)
    assert [bool(ids) for ids in tokenized["input_ids"]] == [False] * len(INVISIBLE) + [True] * len(TEXTS) + [False]
