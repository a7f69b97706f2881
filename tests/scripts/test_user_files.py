"""The same file gives the same rows, or the same error, in every recipe: one table of files, for all loaders."""

import errno
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from gpt1_scratch.data import text_lines as gpt1_text_lines
from gpt1_scratch.data.text_lines import FilePlace
from gpt1_scratch.finetuning.tables import read_table
from gpt1_scratch.finetuning.tasks import Task
from gpt1_scratch.pretraining.corpora import load_texts
from papers_to_gpt.engine import durable_files
from papers_to_gpt.gpt1 import generation
from papers_to_gpt.gpt1.classification import groups_of_texts
from papers_to_gpt.settings.generation import GenerationSettings
from seq2seq_scratch.data import text_lines
from seq2seq_scratch.data.corpora import load_parallel_data

ROOT = Path(__file__).parents[2]
TASK = Task("own", "classification", ("text",), ("x", "y"), ("accuracy",))
LONG = "good " * 40_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")


def parquet_bytes(columns):
    buffer = io.BytesIO()
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def translation(path):
    arguments = {"source_language": "en", "target_language": "de", "validation_size": 0}
    columns = {"source_column": "text", "target_column": "label"}
    for streaming in (False, True):
        train = load_parallel_data(train_file=str(path), streaming=streaming, **arguments, **columns)["train"]
        rows = [(row["source"], row["target"]) for row in train]
    return rows


def pretraining(path):
    texts = load_texts(path)["text"][:]
    assert [row["text"] for row in load_texts(path, streaming=True)] == texts
    return texts


def finetuning(path):
    table = read_table(path)
    return list(zip(table.values("text"), table.values("label"), strict=True))


def classification(path):
    return [text for group in groups_of_texts(TASK, str(path), 0, FilePlace()) for (text,) in group]


LOADERS = {"translation": 2, "pretraining": 1, "finetuning": 2, "classification": 1}

# Words that readers of tables like to take for missing values or for numbers.
WORDS = ["NA", "null", "None", "nan", "n/a", "NULL", "-", "12", "007", "1e5", "true", "2020-01-01", "#", "\\N", "'"]
# Characters that readers of lines like to take for the end of one.
SEPARATORS = ["a\x0cb", "a\x0bb", "a\x1cb", "a\x1eb", "a\x85b", "a\u2028b", "a\u2029b", "a\rb", "a\x00b", "a\ufeffb"]

GOOD = {
    "a.csv": (b"text,label\na,x\nb,y\n", [("a", "x"), ("b", "y")]),
    "A.CSV": (b"text,label\na,x\nb,y", [("a", "x"), ("b", "y")]),
    "bom.csv": ("\ufefftext,label\r\na,x\r\n\r\nb,y\r\n".encode(), [("a", "x"), ("b", "y")]),
    "spaces.csv": (b"text, label\na, x\n", [("a", " x")]),
    "quoted.csv": (b'text,label\n"a ""b"",\nc",x\n', [('a "b",\nc', "x")]),
    "words.csv": (
        "".join(f"{word},{word}\n" for word in ("text,label", *WORDS))
        .replace("text,label,text,label", "text,label")
        .encode(),
        [(word, word) for word in WORDS],
    ),
    "words.tsv": (
        ("text\tlabel\n" + "".join(f"{word}\t{word}\n" for word in WORDS)).encode(),
        [(w, w) for w in WORDS],
    ),
    "quotes.tsv": (b'text\tlabel\n"a\tx\n"b" c\ty\n', [('"a', "x"), ('"b" c', "y")]),
    "separators.csv": (
        ("text,label\n" + "".join(f"{text},x\n" for text in SEPARATORS)).encode(),
        [(text, "x") for text in SEPARATORS],
    ),
    "separators.tsv": (
        ("text\tlabel\r\n" + "".join(f"{text}\tx\r\n" for text in SEPARATORS)).encode(),
        [(text, "x") for text in SEPARATORS],
    ),
    "separators.jsonl": (
        "".join('{"text": "' + text + '", "label": "x"}\n' for text in ("a\x85b", "a\u2028b")).encode(),
        [("a\x85b", "x"), ("a\u2028b", "x")],
    ),
    "long.csv": (f"text,label\n{LONG},x\n".encode(), [(LONG, "x")]),
    "long.tsv": (f"text\tlabel\n{LONG}\tx\n".encode(), [(LONG, "x")]),
    "a.jsonl": (
        b'{"text": "2020-01-01", "label": "x"}\n\n{"label": "y", "text": "b"}',
        [("2020-01-01", "x"), ("b", "y")],
    ),
    "a.NDJSON": (b'{"text": "\\ud83d\\ude00", "label": "\\\\ud83d"}\n', [("\U0001f600", "\\ud83d")]),
    "list.json": (b'[\n{"text": "a", "label": "x"},\n {"text": "b", "label": "y"}]\n', [("a", "x"), ("b", "y")]),
    "lines.json": (b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n', [("a", "x"), ("b", "y")]),
    "a.parquet": (parquet_bytes({"text": ["a", "NA"], "label": ["x", "y"]}), [("a", "x"), ("NA", "y")]),
    "categories.parquet": (
        parquet_bytes({"text": pyarrow.array(["a", "b", "a"]).dictionary_encode(), "label": ["x", "y", "x"]}),
        [("a", "x"), ("b", "y"), ("a", "x")],
    ),
    "large.parquet": (
        parquet_bytes({"text": pyarrow.array(["a"], pyarrow.large_string()), "label": ["x"]}),
        [("a", "x")],
    ),
    "c*d [e]? {f} é.csv": (b"text,label\na,x\n", [("a", "x")]),
    "a::b.parquet": (parquet_bytes({"text": ["a"], "label": ["x"]}), [("a", "x")]),
}

BAD = {
    "empty.csv": (b"", "empty.csv is empty"),
    "header.csv": (b"text,label\n", "header.csv is empty"),
    "empty.jsonl": (b"\n \n", "empty.jsonl is empty"),
    "list.json": (b"[]", "list.json is empty"),
    "empty.parquet": (parquet_bytes({"text": [], "label": []}), "empty.parquet is empty"),
    "short.csv": (
        b"text,label\na,x\nb\n",
        r"short.csv, line 3: has 1 field, but the first line names 2 columns \(text, lab",
    ),
    "one.csv": (b'text\n"b, c",d\n', r"one.csv, line 2: has 2 fields, but the first line names 1 column \(text\)"),
    "open.csv": (
        b'text,label\na,x\n"b,y\nc,z\n',
        "open.csv, line 4: unexpected end of data, in the row that begins in line 3",
    ),
    "twice.csv": (b"text,label,text\na,x,b\n", "twice.csv names the column 'text' twice; it has text, label, text"),
    "twice.tsv": (b"text\tlabel\ttext\na\tx\tb\n", "twice.tsv names the column 'text' twice"),
    "twice.jsonl": (b'{"text": "a", "label": "x", "text": "b"}', "twice.jsonl, line 1 names the column 'text' twice"),
    "twice.parquet": (
        parquet_bytes(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["text", "label", "text"])),
        "twice.parquet names the column 'text' twice",
    ),
    "latin.csv": (
        "text,label\né,x\n".encode("latin-1"),
        "latin.csv, line 2: byte 0xe9 at offset 11 is not UTF-8",
    ),
    "utf16.tsv": ("text\tlabel\n".encode("utf-16"), "utf16.tsv, line 1: byte 0xff at offset 0"),
    "cut.jsonl": (b'{"text": "a", "label": "x"}\n{"text": \n', "cut.jsonl, line 2: not valid JSON at column"),
    "cut.json": (b'[{"text": "a", "label": "x"},\n{"text": ]', "cut.json, line 2: not valid JSON at column"),
    "number.jsonl": (b"5\n", "number.jsonl, line 1: holds int"),
    "list.jsonl": (b'["a"]\n', "list.jsonl, line 1: holds list with str. Each line must be one JSON object"),
    "half.jsonl": (
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": "\\udc00"}',
        r"half.jsonl, line 2: \\udc00 is half",
    ),
    "half.json": (
        b'[{"text": "a", "label": "x"},\n{"text": "\\uD83D", "label": "x"}]',
        r"half.json, line 2: \\ud83d is half",
    ),
    "deep.jsonl": (
        b'{"text": "a", "label": "x"}\n{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "deep.jsonl, line 2: the JSON has too many lists or objects inside each other. Each line",
    ),
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "deep.json: the JSON has too many lists"),
    "digits.jsonl": (
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": ' + b"9" * 5000 + b"}\n",
        "digits.jsonl, line 2: the JSON has an integer of more than 4,300 digits",
    ),
    "semicolons.csv": (
        b"text;label\na;x\n",
        "names one column, 'text;label'. Fields .* by commas, not by ';'",
    ),
    "commas.tsv": (
        b"text,label\na,x\n",
        "names one column, 'text,label'. Fields .* by tabs, not by ','",
    ),
    "inside.json": (
        b'{"data": [{"text": "a", "label": "x"}]}',
        "inside.json, line 1: an object holds the rows as the list 'data'",
    ),
    "carriage.csv": (b"text,label\ra,x\rb,y\r", "carriage.csv: the first line has carriage returns within it"),
    "carriage.tsv": (b"text\tlabel\ra\tx\rb\ty", "carriage.tsv: .* Convert the line ends to line feeds"),
    "wide.csv": (
        (",".join(f"c{number}" for number in range(500)) + "\na,b\n").encode(),
        "has 2 fields, but the first line names 500 columns .*c9 and 490 more",
    ),
    "cut.csv.gz": (gzip.compress(b"text,label\n" + b"abc,x\n" * 999)[:40], "cut.csv.gz cannot be read after"),
    "no.parquet": (b"PAR", "no.parquet is not a parquet file"),
    "no.csv.gz": (b"text,label\na,x\n", "no.csv.gz cannot be read"),
}


def write_and_load(folder, loader, name, content):
    (folder / name).write_bytes(content)
    return globals()[loader](folder / name)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", GOOD)
def test_every_recipe_reads_the_same_rows(tmp_path, loader, name):
    content, rows = GOOD[name]
    expected = rows if LOADERS[loader] == 2 else [text for text, _ in rows]
    assert write_and_load(tmp_path, loader, name, content) == expected


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", BAD)
def test_every_recipe_refuses_the_same_files_in_the_same_words(tmp_path, loader, name):
    content, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        write_and_load(tmp_path, loader, name, content)


COMPRESS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["a.csv", "words.tsv", "a.jsonl", "list.json", "a.parquet"])
@pytest.mark.parametrize("compression", ["gz", "zst", "GZ", "xz"])
def test_compressed_files_read_like_plain_ones(tmp_path, loader, name, compression):
    content, rows = GOOD[name]
    content = COMPRESS[compression.lower()](content)
    expected = rows if LOADERS[loader] == 2 else [text for text, _ in rows]
    assert write_and_load(tmp_path, loader, f"{name}.{compression}", content) == expected


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "list.json", "a.parquet"])
@pytest.mark.parametrize("damage", ["gz cut", "gz changed", "xz cut", "xz changed", "zst cut"])
def test_a_damaged_compressed_file_is_named(tmp_path, loader, name, damage):
    compression, kind = damage.split()
    content = COMPRESS[compression](GOOD[name][0])
    middle = len(content) // 2
    rest = b"" if kind == "cut" else bytes([content[middle] ^ 0x55]) + content[middle + 1 :]
    with pytest.raises(ValueError, match=rf"{name}\.{compression} cannot be read"):
        write_and_load(tmp_path, loader, f"{name}.{compression}", content[:middle] + rest)


def test_a_missing_text_is_empty_text_in_every_recipe(tmp_path):
    for name, content in (
        ("a.csv", b'text,label\n"",x\nb,y\n'),
        ("a.jsonl", b'{"text": null, "label": "x"}\n{"text": "b", "label": "y"}\n'),
        ("a.parquet", parquet_bytes({"text": [None, "b"], "label": ["x", "y"]})),
        ("b.parquet", parquet_bytes({"text": pyarrow.array([None, "b"]).dictionary_encode(), "label": ["x", "y"]})),
    ):
        (tmp_path / name).write_bytes(content)
        assert translation(tmp_path / name) == [("", "x"), ("b", "y")]
        assert pretraining(tmp_path / name) == ["", "b"]
        assert classification(tmp_path / name) == ["", "b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\ntext\na\n\r\n\nb\n"),
        ("quoted.csv", b'text\na\n""\n""\nb\n'),
        ("a.tsv", b"text\r\na\r\n\r\n\nb"),
    ],
)
def test_a_blank_line_of_the_only_column_is_an_empty_text(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert pretraining(tmp_path / name) == classification(tmp_path / name) == ["a", "", "", "b"]


@pytest.mark.parametrize("extension", ["csv", "tsv"])
def test_a_blank_line_where_a_translation_must_be_is_named(tmp_path, extension):
    (tmp_path / f"a.{extension}").write_text("translation\n\n")
    with pytest.raises(
        ValueError, match=rf"a.{extension}, line 2, translation '': not valid JSON .* must be a JSON object"
    ):
        load_parallel_data(train_file=str(tmp_path / f"a.{extension}"), source_language="en", target_language="de")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("blank", [b"", b"\r"])
def test_a_blank_line_between_rows_of_several_columns_is_no_row(tmp_path, loader, blank):
    for name, comma in (("a.csv", b","), ("a.tsv", b"\t")):
        lines = [blank, b"text,label", b"a,x", blank, blank, b"b,y", blank]
        rows = write_and_load(tmp_path, loader, name, b"\n".join(lines).replace(b",", comma) + b"\n")
        assert rows == ([("a", "x"), ("b", "y")] if LOADERS[loader] == 2 else ["a", "b"])


@pytest.mark.parametrize("loader", ["translation", "pretraining", "classification"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": 5, "label": "y"}\n'),
        ("b.jsonl", b'{"text": "a", "label": "x"}\n{"text": ["b"], "label": "y"}\n'),
        ("a.parquet", parquet_bytes({"text": [1, 2], "label": ["x", "y"]})),
    ],
)
def test_a_column_of_something_else_than_text_is_refused(tmp_path, loader, name, content):
    with pytest.raises(ValueError, match=rf"{name}.*text.* holds (int|list|int64)\b.*text"):
        write_and_load(tmp_path, loader, name, content)


def test_lines_of_text_are_the_same_lines_in_every_recipe(tmp_path):
    lines = ["good film\x0cpage two", "", "bad\u2028film", "next\x85line", "one\rtwo", "plain"]
    content = "\ufeff" + "\r\n".join(lines)
    for ending, compress in (("", bytes), (".gz", gzip.compress)):
        for side in ("en", "de"):
            (tmp_path / f"data.{side}{ending}").write_bytes(compress(content.encode()))
        (tmp_path / f"Data.TXT{ending}").write_bytes(compress(content.encode()))
        text = tmp_path / f"Data.TXT{ending}"
        for module in (text_lines, gpt1_text_lines):
            assert module.read_lines(text) == lines
        arguments = {"source_language": "en", "target_language": "de"}
        pairs = load_parallel_data(test_file=str(tmp_path / "data"), **arguments)["test"]
        assert pairs["source"][:] == pairs["target"][:] == lines
        assert load_texts(text, row="line")["text"][:] == lines
        assert load_texts(text)["text"][:] == ["\n".join(lines)]
        filled = [line or "-" for line in lines]
        text.write_bytes(compress("\n".join(filled).encode()))
        assert classification(text) == filled
        for side in ("en", "de"):
            (tmp_path / f"data.{side}{ending}").unlink()


def test_a_file_name_with_pattern_characters_names_that_file_only(tmp_path):
    for folder, word in (("c*d", "one"), ("cXd", "two"), ("[x]", "three"), ("x", "four"), ("a::b", "five")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.txt").write_text(word)
        assert load_texts(tmp_path / folder / "b.txt")["text"][:] == [word]
        assert load_texts(tmp_path / folder)["text"][:] == [word]
        (tmp_path / folder / "c.en").write_text(word)
        (tmp_path / folder / "c.de").write_text(word)
        pairs = load_parallel_data(test_file=f"{tmp_path / folder}/c", source_language="en", target_language="de")
        assert pairs["test"]["source"][:] == [word]


def test_a_folder_is_read_with_its_sub_folders_and_says_what_is_left_out(tmp_path, caplog):
    folder = tmp_path / "books"
    (folder / "more").mkdir(parents=True)
    for name in ("b.txt", "A.TXT", "more/c.md", "README.md", "more/readme.txt", "cover.jpg", ".hidden.txt"):
        (folder / name).write_text(name)
    assert load_texts(folder)["text"][:] == ["A.TXT", "b.txt", "more/c.md"]
    assert caplog.messages == [f"{folder} has files that are not read (3): README.md, cover.jpg, more/readme.txt"]


def test_linked_folders_are_read_and_a_loop_of_links_ends(tmp_path):
    for name in ("books", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "books" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "books" / "loop").symlink_to(tmp_path / "books")
    assert load_texts(tmp_path / "books")["text"][:] == ["books", "elsewhere"]


@pytest.mark.parametrize("module", [text_lines, gpt1_text_lines])
class TestPlaces:
    """Where text comes from and goes to."""

    def test_a_folder_is_no_file(self, module, tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path} is a folder. Name a file"):
            module.read_lines(tmp_path)

    def test_a_pipe_is_read(self, module, tmp_path):
        read, write = os.pipe()
        os.write(write, b"one\ntwo\n")
        os.close(write)
        assert module.read_lines(f"/dev/fd/{read}") == ["one", "two"]
        os.close(read)

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.ZST"])
    def test_what_is_written_is_read(self, module, tmp_path, name):
        with module.open_output(tmp_path / name) as output:
            print("gr\xf6\xdfer\n", file=output)
        assert module.read_lines(tmp_path / name) == ["gr\xf6\xdfer", ""]
        assert (tmp_path / name).read_bytes().startswith(b"gr") == (name == "a.txt")
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_a_full_disk_names_the_file(self, module):
        with pytest.raises(ValueError, match="The output file /dev/full cannot be written: No space left"):
            with module.open_output("/dev/full") as output:
                print("text", file=output)

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [
            (errno.EACCES, "Make the folder writable, or name another file"),
            (errno.EROFS, "Make the file system writable, or name another file"),
            (errno.ENOSPC, "Free space on the disk, or name another file"),
            (errno.EDQUOT, "Free space in the quota, or name another file"),
            (errno.ENAMETOOLONG, "Name another file"),
        ],
    )
    def test_the_remedy_fits_the_reason(self, module, number, remedy, tmp_path, monkeypatch):
        def refuse(path, compression):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(module, "_open_to_write", refuse)
        message = re.escape(f"a.txt cannot be written: {os.strerror(number)}. {remedy}.")
        with pytest.raises(ValueError, match=message), module.open_output(tmp_path / "a.txt"):
            pass

    def test_the_recipes_know_the_same_remedies(self, module):
        assert durable_files.REMEDIES.items() >= module.REMEDIES.items()

    def test_closed_streams_are_said(self, module, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        monkeypatch.setattr(sys, "stdout", None)
        assert not module.is_terminal(sys.stdin)
        with pytest.raises(ValueError, match="Standard input is closed"):
            module.read_lines(None)
        with pytest.raises(ValueError, match="Standard output is closed"), module.open_output(None):
            pass


def test_tables_of_other_columns_are_read_together_if_both_have_the_text(tmp_path):
    (tmp_path / "1.csv").write_text("text\na\n")
    (tmp_path / "2.CSV").write_text("body,text\nx,b\n")
    assert load_texts([tmp_path / "1.csv", tmp_path / "2.CSV"])["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match=r"1.csv, line 2 has no column 'body'; it has 'text'"):
        load_texts([tmp_path / "1.csv", tmp_path / "2.CSV"], text_column="body")


LINES = """
import sys
from {package}.data.text_lines import open_output, read_lines
with open_output(None) as output:
    for line in read_lines(None):
        print(line, file=output)
"""


@pytest.mark.parametrize("package", ["gpt1_scratch", "seq2seq_scratch"])
def test_standard_input_and_output_are_utf_8_in_every_locale(package):
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", LINES.format(package=package)]
    result = subprocess.run(command, input="\ufeffzw\xf6lf\r\n\u2028\n".encode(), capture_output=True, env=environment)
    assert result.stdout.decode() == "zw\xf6lf\n\u2028\n"
    result = subprocess.run(command, input=b"twelve\nzw\xf6lf\n", capture_output=True, env=environment)
    assert b"ValueError: standard input, line 2: byte 0xf6 at offset 9" in result.stderr


def test_prompts_are_read_like_lines(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffone\x85two\nthree".encode())
    settings = GenerationSettings("model", prompt_file=str(tmp_path / "prompts.txt"))
    assert list(generation.prompts(settings)) == ["one\x85two", "three"]
