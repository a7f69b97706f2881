"""Compares our models with their peers in one run, side by side: training and decoding speed, padding, memory.

    python recipes/benchmark.py --train_file train.parquet --validation_file validation.parquet \\
        --test_file test.parquet --source_language de --target_language en --nanogpt_dir nanoGPT
    python recipes/benchmark.py --sections gpt_training gpt_generation gpt_finetuning

Every measurement runs in a new process, on the CPU, or on a GPU with `--device cuda`. Contenders take turns, round
after round, so that changes in the machine's load affect all of them; the table has medians. It also shows how many
cores other processes kept busy during each measurement. Unless that number is about zero, trust the rates per second
of CPU time and those with one thread (`--threads 1`): threads that wait for each other lose far more than their share
of the time. Peers that are not installed are skipped with a note.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.benchmarking import parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.benchmarks.comparison import run

    run(*settings)


if __name__ == "__main__":
    run_script(main)
