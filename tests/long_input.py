"""Measures the memory of translate.py over a million lines, and resumes it after it was killed twice.

    python tests/long_input.py [--lines 1000000] [--model FOLDER] [--folder FOLDER]

Prints the resident memory every tenth of the lines. Fails if the second half of the lines takes more than the first
half did, or if the file that was interrupted by SIGKILL differs from that of one run. Without `--model`, a small LSTM
is trained for it, by the preset numbers/rnn_seq2seq. The lines are the numbers from 0, in words.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from num2words import num2words

ALLOWED_GROWTH_MEGABYTES = 50
SECONDS_BETWEEN_SAMPLES = 2.0
SMALL = ["--embedding_size", "32", "--hidden_size", "64", "--num_hidden_layers", "1", "--max_steps", "300"]
COMMAND = [sys.executable, "-m", "papers_to_gpt"]


def write_lines(path: Path, count: int) -> None:
    """Writes the numbers from 0 to `count` in words, one on each line."""
    small = [num2words(number).replace("-", " ") for number in range(1000)]
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for number in range(count):
            thousands, rest = divmod(number, 1000)
            print(f"{small[thousands % 1000]} thousand {small[rest]}" if thousands else small[rest], file=file)


def resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def lines_done(output: Path) -> int:
    """Returns the number of lines that the record of an output says are done."""
    try:
        return json.loads(output.with_name(output.name + ".resume").read_text())["lines"]
    except FileNotFoundError:
        return 0


def translate(model: Path, lines: Path, output: Path, total: int, kill_at: float = 1.0) -> list[tuple[int, float]]:
    """Runs translate.py until it ends, or until a share of the lines is done and SIGKILL ends it.

    Returns:
        Pairs of the lines that were done and the resident memory in MB, every few seconds.
    """
    files = ["--model_name_or_path", model, "--input_file", lines, "--output_file", output]
    search = ["--num_beams", "1", "--max_new_tokens", "40", "--resume", "true"]
    samples: list[tuple[int, float]] = []
    started, shown = time.perf_counter(), lines_done(output) * 10 // total
    with subprocess.Popen([*COMMAND, "translate", *files, *search]) as running:
        while running.poll() is None:
            done = lines_done(output)
            samples.append((done, resident_megabytes(running.pid)))
            if done * 10 // total > shown:
                shown = done * 10 // total
                seconds = time.perf_counter() - started
                print(f"{done:10,} lines, {samples[-1][1]:5.0f} MB resident, {seconds:5.0f} s", flush=True)
            if kill_at < 1 and done > kill_at * total:
                running.kill()
                print(f"SIGKILL after {done:,} lines", flush=True)
                return samples
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if running.returncode:
        raise SystemExit(running.returncode)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, model, total = Path(name), arguments.model, arguments.lines
        if model is None:
            model = folder / "model"
            train = [*COMMAND, "train-translation", "numbers/rnn_seq2seq", *SMALL, "--output_dir", model]
            subprocess.run(train, check=True)
        lines = folder / "lines.txt"
        write_lines(lines, total)
        print("In one run:", flush=True)
        samples = translate(model, lines, folder / "whole.txt", total)
        print("Killed after a third and after two thirds, and resumed:", flush=True)
        for kill_at in (1 / 3, 2 / 3, 1):
            translate(model, lines, folder / "resumed.txt", total, kill_at)
        same = filecmp.cmp(folder / "whole.txt", folder / "resumed.txt", shallow=False)
        written = sum(1 for _ in open(folder / "whole.txt", "rb"))
    halves = [[size for done, size in samples if (done > total / 2) is second] for second in (False, True)]
    growth = max(halves[1]) - max(halves[0])
    print(f"{written:,} of {total:,} lines. The two files are {'the same' if same else 'NOT the same'}.")
    print(f"The second half took {growth:.0f} MB more than the first (at most {ALLOWED_GROWTH_MEGABYTES} MB).")
    if not same or written != total or growth > ALLOWED_GROWTH_MEGABYTES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
