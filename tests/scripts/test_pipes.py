"""Lines that come one by one are answered one by one, and files are read in parts."""

import io
import os
import subprocess
import sys

import pytest
import torch
from tiny_models import tiny_model

import gpt1_scratch.data.text_lines as gpt1_lines
import seq2seq_scratch.data.text_lines as seq2seq_lines
from papers_to_gpt import translate
from papers_to_gpt.translation import decoding
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

BOTH = pytest.mark.parametrize("module", [gpt1_lines, seq2seq_lines])


@pytest.fixture
def pipe(monkeypatch):
    """The writing end of a pipe that is standard input."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as stream, open(writing, "wb", buffering=0) as end:
        monkeypatch.setattr("sys.stdin", stream)
        yield end


@BOTH
def test_a_pipe_gives_the_lines_that_are_there(module, pipe):
    groups = module.groups_of_lines(None, 3, wait=0.05)
    pipe.write("\ufeffeins\r\n".encode())
    assert next(groups) == ["eins"]
    pipe.write(b"zwei\ndrei\nhal")
    assert next(groups) == ["zwei", "drei"]
    pipe.write(b"b\n" + b"viel\n" * 4)
    assert [next(groups), next(groups)] == [["halb", "viel", "viel"], ["viel", "viel"]]
    pipe.write("\u2028\n\nohne Ende".encode())
    pipe.close()
    assert list(groups) == [["\u2028", "", "ohne Ende"]]


@BOTH
def test_bytes_of_a_pipe_that_are_not_utf_8_are_named_after_the_lines_before_them(module, pipe):
    groups = module.groups_of_lines(None, 3, wait=0.05)
    pipe.write(b"eins\n")
    assert next(groups) == ["eins"]
    pipe.write(b"zw\xf6lf\n")
    with pytest.raises(ValueError, match="standard input, line 2: byte 0xf6 at offset 7 is not UTF-8"):
        next(groups)


@BOTH
@pytest.mark.parametrize("largest", [1, 2, 5, 100])
def test_a_file_and_a_stream_in_memory_are_read_in_parts(module, largest, tmp_path, monkeypatch):
    lines = [f"line {number}" for number in range(11)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    parts = [lines[start : start + largest] for start in range(0, len(lines), largest)]
    assert list(module.groups_of_lines(tmp_path / "lines.txt", largest)) == parts
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert list(module.groups_of_lines(None, largest)) == parts
    with open(tmp_path / "lines.txt") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert list(module.groups_of_lines(None, largest)) == parts


@BOTH
def test_an_empty_file_is_named_and_an_empty_pipe_has_no_lines(module, pipe, tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        list(module.groups_of_lines(tmp_path / "empty.txt", 3))
    pipe.close()
    assert list(module.groups_of_lines(None, 3)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_tokenizer(["two dogs run", "zwei Hunde rennen"] * 3, kind="bpe", vocab_size=300)
    model = tiny_model("bahdanau")
    sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = type(model)(type(model.config)(**{**model.config.to_diff_dict(), **sizes}))
    model.generation_config.update(max_new_tokens=4)
    model.save_pretrained(folder := tmp_path_factory.mktemp("translator"))
    save_tokenizers(folder, tokenizer, tokenizer)
    return folder


def test_each_line_is_translated_before_the_next_one_is_sent(folder):
    command = [sys.executable, "-m", "papers_to_gpt", "translate", "--model_name_or_path", folder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as running:
        answers = []
        for line in ("two dogs", "run", "dogs"):
            print(line, file=running.stdin, flush=True)
            answers.append(running.stdout.readline())
        rest, errors = running.communicate()
    assert (running.returncode, rest, errors) == (0, "", "")
    assert all(answer.endswith("\n") for answer in answers)


def test_parts_of_a_file_are_numbered_through(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "lines.txt").write_text("two dogs\nrun\n\ndogs run\ntwo\n")

    def run(*arguments):
        command = ["translate.py", "--model_name_or_path", folder, "--input_file", tmp_path / "lines.txt", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        translate.main()
        return capsys.readouterr().out

    arguments = ("--num_beams", 2, "--num_return_sequences", 2, "--bf16", "false")
    whole = [run(), run(*arguments)]
    monkeypatch.setattr(decoding, "LINES_AT_A_TIME", 2)
    assert [run(), run(*arguments)] == whole
    assert [line.split("\t")[0] for line in whole[1].splitlines()] == list("0011223344")
