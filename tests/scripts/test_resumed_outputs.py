"""Commands that are killed between or within groups of lines continue, and their file equals that of one run."""

import errno
import gzip
import json
import lzma
import os
import re
import subprocess
import sys

import pyarrow
import pytest
import torch
from exported_models import run as run_script
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt import classify, export, score_text, translate
from papers_to_gpt.engine import resumable_output
from papers_to_gpt.gpt1 import classification, text_scoring
from papers_to_gpt.translation import decoding
from seq2seq_scratch.data.text_lines import open_output, read_lines
from seq2seq_scratch.tokenization import save_tokenizers

LINES = [f"word{4 + number % 9} word{5 + number % 4} word{4 + number % 11}" for number in range(9)]
LINES[4] = ""


class Killed(BaseException):
    """Stands for SIGKILL: nothing may tidy up after it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    translator = tiny_model("transformer")
    translator.generation_config.update(max_new_tokens=4)
    translator.save_pretrained(folder / "translator")
    save_tokenizers(folder / "translator", tiny_tokenizer(), tiny_tokenizer())
    classifier = tiny_model("classification")
    task = {"name": "own", "kind": "classification", "columns": ["text"], "choices": [], "label_column": "label"}
    classifier.config.finetuning_task = task
    classifier.save_pretrained(folder / "classifier")
    tiny_model("causal_lm").save_pretrained(folder / "gpt1")
    for name in ("classifier", "gpt1"):
        tiny_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    """Runs a script in groups of two lines, by default into out.txt; `killed_in` and `within` are those of `kill`."""
    for module in (decoding, classification, text_scoring):
        monkeypatch.setattr(module, "LINES_AT_A_TIME", 2)
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")

    def start(*arguments, script=translate, model="translator", killed_in=None, within=False, **files):
        named = {"model_name_or_path": models / model, "input_file": tmp_path / "lines.txt"} | files
        named.setdefault("output_file", tmp_path / "out.txt")
        words = [word for name, value in named.items() for word in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", [str(word) for word in ("script", *words, *arguments)])
        with monkeypatch.context() as patch:
            if killed_in is not None:
                kill(patch, killed_in, within)
                with pytest.raises(Killed):
                    script.main()
            else:
                script.main()
        output = named["output_file"]
        return output.read_bytes() if killed_in is None else None

    return start


def kill(patch, count, within):
    """Ends the program in place of the group of a number, or of the record of a number, whose text is written."""
    calls = iter(range(100))
    name = "_write_record" if within else "end_group"
    original = getattr(resumable_output._ResumableFile, name)

    def write(self, *arguments, **keywords):
        if next(calls) == count:
            raise Killed
        return original(self, *arguments, **keywords)

    patch.setattr(resumable_output._ResumableFile, name, write)
    patch.setattr(resumable_output._ResumableFile, "leave", lambda self: None)


SCRIPTS = {
    "translations": (translate, "translator", ()),
    "n-best lists": (translate, "translator", ("--num_beams", 2, "--num_return_sequences", 2)),
    "drawn": (translate, "translator", ("--do_sample", "true", "--seed", 3)),
    "drawn by an export": (translate, "ctranslate2", ("--do_sample", "true", "--seed", 3)),
    "alignments": (translate, "translator", ("--with_alignments", "true")),
    "predictions": (classify, "classifier", ()),
    "scores": (score_text, "gpt1", ("--with_tokens", "true")),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_that_is_killed_twice_leaves_the_file_of_one_run(name, run, models, tmp_path, monkeypatch, capsys):
    script, model, arguments = SCRIPTS[name]
    if model == "ctranslate2":
        pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed; the extra `ctranslate2` has it")
        if not (models / model).exists():
            main = ["--format", model, "--output_dir", models / model]
            assert run_script(export, monkeypatch, models / "translator", *main) in (0, None)
        capsys.readouterr()
    settings = {"script": script, "model": model}
    expected = run(*arguments, **settings, output_file=tmp_path / "whole.txt")
    summary = capsys.readouterr().err
    run(*arguments, **settings, killed_in=1)
    run(*arguments, "--resume", "true", **settings, killed_in=2, within=True)
    assert not (tmp_path / "out.txt").exists()
    assert expected.startswith((tmp_path / "out.txt.partial").read_bytes())
    capsys.readouterr()
    assert run(*arguments, "--resume", "true", **settings) == expected
    errors = capsys.readouterr().err
    assert "out.txt.partial has 6 lines of an interrupted command; this" in errors and errors.endswith(summary)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.txt", "out.txt.resume"]


@pytest.mark.parametrize("kind", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_the_rows_of_a_table_are_continued_too(kind, run, tmp_path, monkeypatch):
    rows = [{"text": line} for line in LINES]
    monkeypatch.setattr("gpt1_scratch.data.readers.ROW_CHUNK_SIZE", 2)
    if kind == "rows.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / kind, row_group_size=5)
    elif kind == "rows.csv":
        (tmp_path / kind).write_text("text\n" + "".join(f'"{line}"\n' for line in LINES))
    else:
        lines = [json.dumps(row) for row in rows]
        (tmp_path / kind).write_text("\n".join(lines) if kind == "rows.jsonl" else f"[{','.join(lines)}]")
    settings = {"script": classify, "model": "classifier", "input_file": tmp_path / kind}
    expected = run(script=classify, model="classifier", output_file=tmp_path / "whole.txt")
    run(**settings, killed_in=2)
    assert run("--resume", "true", **settings) == expected


@pytest.mark.parametrize("extension", ["gz", "xz", "zst"])
def test_compressed_files_are_continued(extension, run, tmp_path):
    expected = run(output_file=tmp_path / "whole.txt").decode()
    whole = run(output_file=tmp_path / f"whole.{extension}")
    name = tmp_path / f"out.{extension}"
    run(output_file=name, killed_in=2, within=True)
    assert run("--resume", "true", output_file=name) == whole
    assert "".join(f"{line}\n" for line in read_lines(name)) == expected
    if extension != "zst":
        assert (gzip if extension == "gz" else lzma).decompress(whole).decode() == expected


def test_an_interrupted_output_is_neither_lost_nor_mixed_with_another(run, models, tmp_path, capsys):
    partial = tmp_path / "out.txt.partial"
    expected = run(output_file=tmp_path / "whole.txt")
    run(killed_in=2)
    kept = partial.read_bytes()

    with pytest.raises(ValueError, match="4 lines of an interrupted command. Set --resume true to .* --resume false"):
        run()
    with pytest.raises(ValueError, match="cannot continue: num_beams was None, is 3. Restore it"):
        run("--resume", "true", "--num_beams", 3)
    (tmp_path / "other.txt").write_text("\n".join(LINES[:8]) + "\n")
    with pytest.raises(ValueError, match="input_file was 9 rows, .* bytes, hash .*, is 8 rows"):
        run("--resume", "true", input_file=tmp_path / "other.txt")
    other = tiny_model("transformer")
    other.lm_head.weight.data[5, 0] += 0.5
    other.generation_config.update(max_new_tokens=4)
    other.save_pretrained(tmp_path / "other")
    save_tokenizers(tmp_path / "other", tiny_tokenizer(), tiny_tokenizer())
    with pytest.raises(ValueError, match=r"cannot continue: weights of the model was \w+, is \w+\. Restore"):
        run("--resume", "true", model_name_or_path=tmp_path / "other")
    partial.write_bytes(kept[:-1])
    with pytest.raises(ValueError, match=f"has {len(kept) - 1} bytes, but {len(kept)} bytes were written"):
        run("--resume", "true")
    partial.write_bytes(kept)
    assert not (tmp_path / "out.txt").exists() and partial.read_bytes() == kept

    capsys.readouterr()
    assert run("--resume", "false") == expected
    assert "out.txt.partial, with 4 lines of an interrupted command, is removed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.txt"]


def test_a_finished_output_says_so_and_is_not_written_again(run, tmp_path, capsys):
    expected = run("--resume", "true")
    stamp = os.stat(tmp_path / "out.txt").st_mtime_ns
    assert run("--resume", "true") == expected
    assert "out.txt is finished" in capsys.readouterr().err
    with pytest.raises(ValueError, match="num_beams was None, is 2"):
        run("--resume", "true", "--num_beams", 2)
    (tmp_path / "out.txt.resume").unlink()
    assert run("--resume", "true", script=score_text, model="gpt1") == expected
    assert "out.txt is finished" in capsys.readouterr().err
    assert os.stat(tmp_path / "out.txt").st_mtime_ns == stamp
    run()
    assert os.stat(tmp_path / "out.txt").st_mtime_ns != stamp


def test_an_end_between_the_last_line_and_the_final_name_loses_nothing(run, tmp_path, monkeypatch):
    expected = run(output_file=tmp_path / "whole.txt")
    with monkeypatch.context() as patch:
        patch.setattr("papers_to_gpt.engine.resumable_output.os.replace", lambda *paths: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run()
    assert run("--resume", "true") == expected
    assert not (tmp_path / "out.txt.partial").exists()


def test_an_error_keeps_the_groups_before_it_and_says_how_to_continue(run, tmp_path, capsys):
    (tmp_path / "lines.txt").write_bytes(b"word4\nword5\nz\xf6\n")
    with pytest.raises(ValueError, match="line 3: byte 0xf6"):
        run()
    assert "out.txt.partial has 2 finished lines. The same command" in capsys.readouterr().err
    assert (tmp_path / "out.txt.partial").read_bytes().count(b"\n") == 2
    (tmp_path / "lines.txt").write_bytes(b"word4\nz\xf6\n")
    with pytest.raises(ValueError, match="line 2: byte 0xf6"):
        run(output_file=tmp_path / "new.txt")
    assert list(tmp_path.glob("new*")) == []


def test_only_files_are_resumed(run, tmp_path):
    with pytest.raises(ValueError, match="resume is true, but output_file is not set"):
        translate.parse(["--model_name_or_path", "m", "--input_file", "a", "--resume", "true"])
    with pytest.raises(ValueError, match="output_file is /dev/null, which is not a regular file"):
        run("--resume", "true", output_file=type(tmp_path)("/dev/null"))


def test_a_file_that_is_read_or_written_is_not_overwritten_by_another(run, tmp_path):
    files = {"lines": tmp_path / "lines.txt", "terms": tmp_path / "terms.tsv", "out": tmp_path / "out.txt"}
    files["terms"].write_text("word4\tword5\n")
    (tmp_path / "again").symlink_to(tmp_path)
    terms = ("--terminology", files["terms"], "--terminology_report")
    report = tmp_path / "report.jsonl"
    for output, written, message in (
        (files["lines"], report, "input_file and output_file are both"),
        (files["terms"], report, "terminology and output_file are both"),
        (files["out"], tmp_path / "again" / "lines.txt", "input_file and terminology_report are both"),
        (files["out"], tmp_path / "again" / "out.txt", "output_file and terminology_report are both"),
    ):
        with pytest.raises(ValueError, match=f"{message} .*Name two files"):
            run(*terms, written, output_file=output)
    assert files["lines"].read_text() == "\n".join(LINES) + "\n"
    assert files["terms"].read_text() == "word4\tword5\n"


def test_two_commands_do_not_write_one_file(run, tmp_path):
    with resumable_output._locked(tmp_path / "out.txt"):
        with pytest.raises(ValueError, match="Another command is writing .*out.txt. Wait"):
            run()


@pytest.mark.long
def test_a_killed_process_is_continued_by_another(models, tmp_path):
    lines = [f"word{4 + number % 12}" for number in range(25_000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "papers_to_gpt", "translate", "--model_name_or_path", models / "translator"]
    command += ["--input_file", tmp_path / "lines.txt", "--num_beams", "1", "--max_new_tokens", "2", "--output_file"]
    record = tmp_path / "out.txt.resume"
    with subprocess.Popen([*command, tmp_path / "out.txt"]) as running:
        while not (record.exists() and json.loads(record.read_text())["lines"]):
            assert running.poll() is None
        running.kill()
    subprocess.run([*command, tmp_path / "out.txt", "--resume", "true"], check=True, stderr=subprocess.PIPE)
    subprocess.run([*command, tmp_path / "whole.txt"], check=True)
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_a_hash_of_a_model_changes_with_its_weights_configuration_and_tokenizer():
    model, tokenizer = tiny_model("transformer"), tiny_tokenizer()
    before = resumable_output.fingerprint_model(model, tokenizer)
    assert resumable_output.fingerprint_model(tiny_model("transformer"), tiny_tokenizer()) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.generation_config.num_beams = 7
    tokenizer.add_tokens(["new"])
    after = resumable_output.fingerprint_model(model, tokenizer)
    assert len(after) == 3 and all(after[name] != before[name] for name in after)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "Make the folder writable, or name another file"),
        (errno.EROFS, "Make the file system writable, or name another file"),
        (errno.ENOSPC, "Free space on the disk, or name another file"),
        (errno.ENAMETOOLONG, "Name another file"),
    ],
)
def test_the_remedy_for_an_output_file_fits_the_reason(number, remedy, tmp_path, monkeypatch):
    def refuse(lock, timeout):
        raise OSError(number, os.strerror(number), lock.lock_file)

    monkeypatch.setattr(resumable_output.FileLock, "acquire", refuse)
    (tmp_path / "lines.txt").write_text("a\n")
    files = str(tmp_path / "lines.txt"), str(tmp_path / "out.txt")
    message = re.escape(f"out.txt cannot be written: {os.strerror(number)}. {remedy}.")
    with pytest.raises(ValueError, match=message):
        with resumable_output.open_line_output(*files, None, dict, open_output):
            pass
