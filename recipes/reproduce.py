"""Measures the claims of the papers: one experiment for each table and figure, with a report and a verdict.

    python recipes/reproduce.py list
    python recipes/reproduce.py run reversed_source alignments
    python recipes/reproduce.py run sutskever2014
    python recipes/reproduce.py run core
    python recipes/reproduce.py run all --seeds 1 2 3
    python recipes/reproduce.py run ensembles --scale multi30k --train_file train.parquet \\
        --validation_file validation.parquet --test_file test.parquet --source_language de --target_language en
    python recipes/reproduce.py run table_5 --scale glue --data_dir glue --model_name_or_path runs/novels_gpt1_small

Models are trained by the recipes, once for all experiments that need them, and kept. The same command continues after
an interruption. Plots need matplotlib, which the extra `plots` installs.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.reproduction import parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.papers.reproduction import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
