"""Measures the memory of a stream over 2 GB of text that is made on the spot.

    python tests/stream_memory.py [--gigabytes 2] [--workers 0]

Prints the resident memory every 100 MB, and fails if the second half of the text takes more than the first half did.
The text is one file under many names, each of which is a shard of its own.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.packing import StreamPacker
from papers_to_gpt.engine.streaming import StreamBatches

MEGABYTE = 1_000_000
FILE_MEGABYTES = 50
BLOCK_SIZE = 64
# Long words, so that most of the time goes into reading and not into tokenising.
WORD = 40
ALLOWED_GROWTH_MEGABYTES = 50


def resident_megabytes() -> float:
    """Returns the resident memory of this process and its children."""
    pages = 0
    for process in [os.getpid(), *children_of(os.getpid())]:
        pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def write_file(path: Path) -> None:
    """Writes lines of 25 words, each of random letters, to a file of FILE_MEGABYTES."""
    letters = np.random.default_rng(0).integers(97, 123, FILE_MEGABYTES * MEGABYTE, dtype=np.uint8)
    letters[WORD - 1 :: WORD] = ord(" ")
    letters[25 * WORD - 1 :: 25 * WORD] = ord("\n")
    path.write_bytes(letters.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "0000.txt"
        write_file(first)
        for number in range(1, round(arguments.gigabytes * 1000 / FILE_MEGABYTES)):
            os.link(first, first.with_name(f"{number:04}.txt"))
        batches = StreamBatches(
            load_texts(folder, row="line", streaming=True),
            StreamPacker(tokenizer, BLOCK_SIZE),
            lambda block: (len(block["input_ids"]),),
            lambda blocks: {"input_ids": torch.from_numpy(np.stack([block["input_ids"] for block in blocks]))},
            max_tokens_per_batch=32 * BLOCK_SIZE,
            seed=0,
            window=1000,
            chunk_size=100,
            num_workers=arguments.workers,
        )
        started, read, curve = time.perf_counter(), 0, []
        for batch in batches.epoch(0):
            read += batch["input_ids"].numel() * WORD
            if read // (100 * MEGABYTE) > len(curve):
                curve.append(resident_megabytes())
                seconds = time.perf_counter() - started
                print(f"{read / MEGABYTE:6,.0f} MB read, {curve[-1]:5.0f} MB resident, {seconds:4.0f} s", flush=True)
    half = len(curve) // 2
    growth = max(curve[half:]) - max(curve[:half])
    print(f"The second half took {growth:.0f} MB more than the first (at most {ALLOWED_GROWTH_MEGABYTES} MB).")
    if growth > ALLOWED_GROWTH_MEGABYTES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
