"""Trains a preset from two revisions in turns, and compares their losses, bit by bit, their speed and their memory.

    python recipes/benchmarks/compare.py main HEAD
    python recipes/benchmarks/compare.py v0.1 HEAD --preset stories/gpt1_mini --updates 50 --rounds 5
    python recipes/benchmarks/compare.py HEAD~3 HEAD --preset multi30k/transformer \\
        --arguments="--train_file data/multi30k/train.parquet --validation_file data/multi30k/validation.parquet"

Each revision is checked out into a temporary folder, which is removed at the end. The runs share one vocabulary.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.comparing import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.benchmarks.revisions import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
