"""Streams: every row once, split over processes and workers, resumed from an exact position, broken shards named."""

import copy
import gzip
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from datasets import Dataset, IterableDataset

from gpt1_scratch.pretraining import corpora
from gpt1_scratch.pretraining.corpora import load_texts
from papers_to_gpt.engine.shard_reader import ShardReader, rows_of_stream
from papers_to_gpt.engine.streaming import StreamBatches
from seq2seq_scratch.data.corpora import load_parallel_data


def rows_of_shards(shards):
    """Each shard is a first row and a number of rows."""
    for first, size in shards:
        for index in range(first, first + size):
            yield {"index": index, "length": 3 + index * 7 % 11}


def stream_of(sizes):
    starts = np.cumsum([0, *sizes]).tolist()
    shards = list(zip(starts, sizes, strict=False))
    return IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": shards})


def two_by_two(rows, left_over):
    """Joins rows two by two across calls, as packing does with tokens: a lost or repeated row shifts the rest."""
    indices = [*(left_over or []), *rows["index"]]
    lengths = 3 + np.array(indices) * 7 % 11
    whole = len(indices) // 2 * 2
    examples = [{"index": indices[i : i + 2], "length": int(lengths[i : i + 2].sum())} for i in range(0, whole, 2)]
    return examples, indices[whole:]


def collate(examples):
    return {"index": torch.tensor([example["index"] for example in examples])}


def length_of(example):
    return (example["length"],)


SIZES = (60, 35, 1, 50, 42)


def make(sizes=SIZES, **options):
    options = {
        "max_tokens_per_batch": 64,
        "seed": 3,
        "window": 20,
        "chunk_size": 7,
        "say": str,
    } | options
    return StreamBatches(stream_of(sizes), two_by_two, length_of, collate, **options)


def indices(update):
    return [(batch.index, batch.weight, batch.tensors["index"].tolist() if batch.weight else None) for batch in update]


def seen_in(updates):
    return sorted(index for update in updates for _, _, pairs in update for pair in pairs or [] for index in pair)


class InLockstep:
    """What joins processes that run as threads of this one."""

    def __init__(self, processes):
        self.parts, self.barrier = [None] * processes, threading.Barrier(processes, timeout=60)

    def gather(self, process, part):
        self.parts[process] = copy.deepcopy(part)  # a process shares no memory with another
        self.barrier.wait()
        together = [item for part in self.parts for item in part]
        self.barrier.wait()
        return together

    def run(self, function):
        def start(process):
            gather = partial(self.gather, process)
            return function(
                process_index=process,
                num_processes=len(self.parts),
                gather=gather,
                is_any_true=lambda condition: any(gather([condition])),
            )

        with ThreadPoolExecutor(len(self.parts)) as pool:
            return list(pool.map(start, range(len(self.parts))))


def run(processes, epochs, batches_per_update=4, state=None, begin=(0, 0), **options):
    """Every process's updates, each with the state behind it as a checkpoint holds it."""

    def one(**process):
        batches = make(**options, **process)
        epoch, skip = begin
        updates, place = [], state
        while epoch < epochs:
            for number, update in enumerate(batches.updates(epoch, batches_per_update, skip, place), skip + 1):
                saved = json.loads(json.dumps(batches.state_dict()))
                updates.append((epoch, number, indices(update), saved))
            epoch, skip, place = epoch + 1, 0, None
        return updates

    return InLockstep(processes).run(one)


def without_state(updates):
    return [update[:3] for update in updates]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_resumes_with_the_same_batches(processes, workers):
    whole = run(processes, epochs=2, num_workers=workers)
    assert len(whole[0]) > 12
    # Early, within the first epoch, at its last update and within the second epoch.
    first = sum(epoch == 0 for epoch, *_ in whole[0])
    for done in [1, first // 2, first, first + 2] if workers else range(1, len(whole[0]), 2):
        epoch, number, _, state = whole[0][done - 1]
        parts = run(processes, epochs=2, num_workers=workers, state=state, begin=(epoch, number))
        for part, updates in zip(parts, whole, strict=True):
            assert without_state(part) == without_state(updates[done:]), done


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2)])
@pytest.mark.parametrize("sizes", [SIZES, (150,), (1, 1, 1, 1, 1, 1, 120)])
def test_every_row_of_a_stream_is_read_once_an_epoch(processes, workers, sizes):
    parts = run(processes, epochs=1, num_workers=workers, sizes=sizes)
    assert len({len(part) for part in parts}) == 1  # or one process would wait for another
    seen = seen_in([update for part in parts for _, _, update, _ in part])
    # Each reader may leave one row over, which joins no other.
    readers = processes * max(1, workers)
    assert len(set(seen)) == len(seen) >= sum(sizes) - readers


def test_workers_change_no_batch_of_a_resumed_run():
    (whole,) = run(1, epochs=2, num_workers=2)
    epoch, number, _, state = whole[4]
    (part,) = run(1, epochs=2, num_workers=0, state=state, begin=(epoch, number))
    assert without_state(part) == without_state(whole[5:])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 2), (2, 3)])
def test_a_run_goes_on_with_the_same_batches_on_another_number_of_processes(before, after):
    def together(parts):
        """All batches of each update, without the copies of weight 0."""
        updates = zip(*map(without_state, parts), strict=True)
        return [
            (shares[0][:2], sorted(batch for _, _, batches in shares for batch in batches if batch[1]))
            for shares in updates
        ]

    whole = run(before, epochs=2)
    epoch, number, _, state = whole[0][4]
    parts = run(after, epochs=2, state=state, begin=(epoch, number))
    assert together(parts) == together(whole)[5:]
    assert len({len(update[2]) for part in parts for update in part}) == 1


def test_every_epoch_has_another_order():
    lines = []
    (updates,) = run(1, epochs=3, say=lines.append, sizes=(40, 40))
    epochs = [[update for epoch, _, update, _ in updates if epoch == number] for number in range(3)]
    assert seen_in(epochs[0]) == seen_in(epochs[1]) == seen_in(epochs[2]) == list(range(80))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [line for line in lines if "begins again" in line] == [
        "The stream is shorter than the run: it begins again, every time in another order."
    ]


def test_batches_of_a_window_have_rows_of_similar_length():
    """At most 64 tokens a batch, padding included, of pairs of 6 to 26 tokens."""
    (updates,) = run(1, epochs=1, window=200)
    used = slots = 0
    for _, _, update, _ in updates:
        for _, _, pairs in update:
            lengths = [sum(3 + index * 7 % 11 for index in pair) for pair in pairs]
            assert len(lengths) == 1 or len(lengths) * max(lengths) <= 64
            used, slots = used + sum(lengths), slots + len(lengths) * max(lengths)
    assert used / slots > 0.9


def test_how_a_stream_is_split_is_said():
    lines = []
    make(num_processes=2, num_workers=1, sizes=(30,), say=lines.append).updates(0, 2).__next__()
    make(num_processes=2, sizes=SIZES, say=lines.append).updates(0, 2).__next__()
    make(num_processes=2, sizes=(20, 20), say=lines.append).updates(0, 2).__next__()
    assert [re.search(r"left over \((\w+)\)", line)[1] for line in lines] == ["all", "1"]


def test_a_state_of_other_shards_and_a_missing_one_are_refused():
    (updates,) = run(1, epochs=1)
    with pytest.raises(ValueError, match="has 2 shards, but had 5"):
        run(1, epochs=1, state=updates[0][3], begin=(0, 1), sizes=(60, 35))
    with pytest.raises(ValueError, match="holds no position"):
        run(1, epochs=1, begin=(0, 1))


def test_a_process_without_examples_is_refused():
    def first(process):
        alone = make((40, 1), process_index=process, num_processes=2, is_any_true=lambda condition: True)
        return next(alone.updates(0, 2))

    # The seed decides which process has the shard of one row, which joins no other.
    for process in range(2):
        try:
            first(process)
        except ValueError as error:
            assert f"Process {process} has no example" in str(error)
            break
    else:
        pytest.fail("Neither process is without an example.")


def write_shards(folder, count=4, rows=30):
    """JSON lines, with the indices of `rows_of_shards`."""
    paths = [folder / f"part-{number}.jsonl" for number in range(count)]
    for number, path in enumerate(paths):
        lines = [json.dumps({"text": f"row {index}"}) for index in range(number * rows, (number + 1) * rows)]
        path.write_text("".join(line + "\n" for line in lines))
    return paths


def cut_gzip(path):
    with_more = gzip.compress(b"".join(json.dumps({"text": f"row {i} {i**9}"}).encode() + b"\n" for i in range(900)))
    path.with_suffix(".jsonl.gz").write_bytes(with_more[: len(with_more) // 2])
    path.unlink()
    return r"part-2.jsonl.gz cannot be read after [\d,]+ bytes: Compressed file ended"


def break_line(path):
    lines = path.read_text().splitlines()
    lines[19] = lines[19][:-2]
    path.write_text("\n".join(lines) + "\n")
    return r"part-2.jsonl, line 20: not valid JSON at column"


def break_encoding(path):
    path.write_bytes(path.read_bytes().replace(b"row 77", b"row \xe9"))
    return r"part-2.jsonl, line 18: byte 0xe9 at offset \d+ is not UTF-8"


BROKEN = {"a cut gzip file": cut_gzip, "a broken line": break_line, "a wrong byte": break_encoding}


def number_rows(rows, left_over):
    return [{"index": [int(text.split()[1])], "length": 4} for text in rows["text"]], None


def read_texts(paths, **options):
    options = {"max_tokens_per_batch": 16, "seed": 1, "window": 8, "chunk_size": 5, "say": str} | options
    return StreamBatches(load_texts(paths, streaming=True), number_rows, length_of, collate, **options)


def rows_in(updates):
    batches = [batch for update in updates for batch in update if batch.weight]
    return sorted(index for batch in batches for (index,) in batch.tensors["index"].tolist())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_shard_is_named_and_stops_the_run(tmp_path, damage, workers):
    paths = write_shards(tmp_path)
    message = BROKEN[damage](paths[2])
    batches = read_texts(sorted(tmp_path.iterdir()), num_workers=workers)
    with pytest.raises(ValueError, match=rf"^The stream cannot be read: shard 3 of 4.*{message}.*skip_broken"):
        list(batches.updates(0, 2))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_shard_is_skipped_by_choice_and_counted(tmp_path, damage, workers, capsys):
    paths = write_shards(tmp_path)
    message = BROKEN[damage](paths[2])
    lines = []
    batches = read_texts(sorted(tmp_path.iterdir()), num_workers=workers, skip_broken_shards=True, say=lines.append)
    seen = [rows_in(batches.updates(epoch, 2)) for epoch in range(2)]
    assert seen[0] == seen[1] and set(seen[0]) >= {*range(60), *range(90, 120)}
    assert re.search(f"skipped: shard 3 of 4.*{message}", capsys.readouterr().err)
    reports = [line.split(" (")[0] for line in lines if "broken" in line]
    assert reports == [f"Epoch {number}: broken shards that were skipped: 1" for number in (1, 2)]
    assert batches.results() == {"train_skipped_shards": 1}


def test_a_shard_that_is_gone_when_it_is_opened_is_named(tmp_path):
    paths = write_shards(tmp_path)
    batches = read_texts(paths)
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"shard 2 of 4: There is no file .*part-1.jsonl"):
        list(batches.updates(0, 2))


def test_a_broken_parquet_file_is_named(tmp_path):
    paths = [tmp_path / f"part-{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        Dataset.from_dict({"text": [f"row {number * 10 + index}" for index in range(10)]}).to_parquet(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"shard 2 of 3: .*part-1.parquet is not a parquet file"):
        list(read_texts(paths).updates(0, 2))
    # Read by the library, as data sets of the Hub are.
    rows = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train", streaming=True)
    with pytest.raises(ValueError, match=r"shard 2 of 3: .*(P|p)arquet"):
        list(rows_of_stream(rows, skip_broken_shards=False))
    assert len(list(rows_of_stream(rows, skip_broken_shards=True))) == 20


def test_skipped_shards_stay_counted_after_a_resume(tmp_path):
    paths = write_shards(tmp_path)
    break_line(paths[2])
    whole = read_texts(paths, skip_broken_shards=True)
    updates = [[rows_in([update]), whole.state_dict()] for update in whole.updates(0, 2)]
    rest = read_texts(paths, skip_broken_shards=True)
    resumed = [rows_in([update]) for update in rest.updates(0, 2, len(updates) - 1, updates[-2][1])]
    assert resumed == [rows for rows, _ in updates[-1:]]
    assert rest.results() == whole.results() == {"train_skipped_shards": 1}


@pytest.mark.parametrize("kind", ["arrow", "parquet", "mapped", "skipped and cut", "generator"])
def test_what_the_library_streams_resumes_at_every_chunk(tmp_path, kind):
    """Its own states are exact for what is streamed here; shuffle buffers would not be, and are not used."""
    data = Dataset.from_dict({"index": list(range(100))})
    if kind == "parquet":
        files = [tmp_path / f"{number}.parquet" for number in range(3)]
        for number, file in enumerate(files):
            data.shard(3, number).to_parquet(file, batch_size=10)
        stream = datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train", streaming=True)
    else:
        stream = data.to_iterable_dataset(num_shards=3)
    if kind == "mapped":
        stream = stream.map(lambda rows: {"index": [-index for index in rows["index"]]}, batched=True, batch_size=4)
    if kind == "skipped and cut":
        stream = stream.skip(10).take(70)
    if kind == "generator":
        stream = stream_of((34, 33, 33)).select_columns(["index"])
    check_every_position(stream)


def check_every_position(stream):
    """Whatever chunk reading ends behind, what resumes there gives the other chunks."""
    order = [*range(1, stream.num_shards), 0]
    for index, count in ((0, 1), (1, 2)):
        reader = ShardReader(stream, order, index, count, chunk_size=7)
        chunks = [(chunk, json.loads(json.dumps(reader.position()))) for chunk in reader]
        assert len(chunks) > 5
        for done, (_, position) in enumerate(chunks, 1):
            resumed = ShardReader(stream, order, index, count, chunk_size=7, position=position)
            assert [*resumed] == [chunk for chunk, _ in chunks[done:]], (count, done)


TEXTS = ['one, "two"', "a\tb", "zwölf", "", "line\nbreak"] * 5


def write_texts(path, texts):
    kind = path.name.partition(".")[2].removesuffix(".gz").removesuffix(".zst")
    if kind == "parquet":
        Dataset.from_dict({"text": texts}).to_parquet(path, batch_size=8)
        return
    if kind == "jsonl":
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    elif kind == "json":
        content = json.dumps([{"text": text} for text in texts])
    elif kind == "csv":
        content = "number,text\n" + "".join(
            f'{n},"{text.replace(chr(34), chr(34) * 2)}"\n' for n, text in enumerate(texts)
        )
    elif kind == "tsv":
        content = "number\ttext\n" + "".join(f"{n}\t{' '.join(text.split())}\n" for n, text in enumerate(texts))
    else:
        content = "".join(text.replace("\n", " ") + "\n" for text in texts)
    compress = {".gz": gzip.compress, ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}
    path.write_bytes(compress.get(path.suffix, bytes)(content.encode()))


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "txt.zst", "jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_files_of_every_kind_resume_at_every_chunk(tmp_path, kind, monkeypatch):
    for package in ("gpt1_scratch", "seq2seq_scratch"):
        monkeypatch.setattr(f"{package}.data.readers.ROW_CHUNK_SIZE", 6)
    paths = [tmp_path / f"{number}.{kind}" for number in range(3)]
    for number, path in enumerate(paths):
        write_texts(path, [f"{number} {text}" for text in TEXTS])
    check_every_position(load_texts(paths, streaming=True, row="line"))


def test_line_aligned_files_resume_at_every_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("seq2seq_scratch.data.readers.ROW_CHUNK_SIZE", 6)
    (tmp_path / "train.de").write_text("".join(f"das ist {number}\n" for number in range(60)))
    with gzip.open(tmp_path / "train.en.gz", "wt") as file:
        file.write("".join(f"this is number {number}\n" for number in range(60)))
    pairs = load_parallel_data(
        train_file=str(tmp_path / "train"),
        source_language="de",
        target_language="en",
        streaming=True,
        validation_size=5,
    )
    assert [pair["source"] for pair in pairs["validation"]] == [f"das ist {number}" for number in range(5)]
    check_every_position(pairs["train"])
    assert len(list(pairs["train"])) == 55


def test_the_rows_that_a_resumed_run_reads_do_not_grow_with_its_position(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt1_scratch.data.readers.ROW_CHUNK_SIZE", 10)
    read = []
    count_row = corpora._text_of_row
    monkeypatch.setattr(corpora, "_text_of_row", lambda *arguments: read.append(1) or count_row(*arguments))
    (path,) = write_shards(tmp_path, count=1, rows=2000)
    whole = read_texts([path])
    states = [whole.state_dict() for _ in whole.updates(0, 2)]
    assert len(states) > 200
    counts = []
    for done in range(5, len(states) - 10, 20):
        read.clear()
        next(read_texts([path]).updates(0, 2, done, states[done - 1]))
        counts.append(len(read))
    # A table of 10, a chunk of 5 and a window of 8, wherever it begins in them.
    assert max(counts) <= 50 and min(counts) >= 8


def test_a_folder_of_parts_is_a_stream_of_shards(tmp_path):
    for number in range(3):
        (tmp_path / f"part-{number}.de").write_text(f"Zeile {number}\n" * 4)
        (tmp_path / f"part-{number}.en").write_text(f"line {number}\n" * 4)
    load = partial(load_parallel_data, source_language="de", target_language="en", validation_size=0)
    stream = load(train_file=str(tmp_path), streaming=True)["train"]
    assert stream.num_shards == 3
    # What is held out is left out, also where each shard is read by itself.
    splits = load_parallel_data(
        train_file=str(tmp_path), source_language="de", target_language="en", streaming=True, validation_size=5
    )
    assert [pair["source"][-1] for pair in splits["validation"]] == list("00112")
    assert [len(list(splits["train"].shard(3, number))) for number in range(3)] == [2, 2, 3]
    assert list(stream) == list(load(train_file=str(tmp_path))["train"])
