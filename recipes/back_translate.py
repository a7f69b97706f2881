"""Makes training pairs of sentences and their translations: a reverse model's as sources, or a model's own as targets.

python recipes/back_translate.py runs/reverse --input_file mono.de --output_file pairs.parquet --do_sample true
python recipes/back_translate.py runs/reverse --input_file mono.de --output_file pairs.tsv --num_beams 5 --tag "<BT>"
python recipes/back_translate.py runs/mine --direction forward --input_file train.parquet --output_file own.parquet
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.back_translation import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.translation.back_translation import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
