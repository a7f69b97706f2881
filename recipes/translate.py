"""Translates lines with trained models: from a file or standard input to standard output, or at a prompt.

python recipes/translate.py --model_name_or_path runs/numbers_bahdanau < numbers.en > numbers.de
python recipes/translate.py --model_name_or_path runs/numbers_bahdanau --num_return_sequences 5 --num_beams 5
python recipes/translate.py --model_name_or_path runs/numbers_1 runs/numbers_2 < numbers.en > numbers.de
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.decoding import parse_translation as parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.translation.decoding import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
