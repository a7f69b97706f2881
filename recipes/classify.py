"""Predicts with a fine-tuned model: reads a file or standard input, writes a prediction and its probability per line.

python recipes/classify.py --model_name_or_path runs/mine --input_file texts.csv --output_file predictions.tsv
python recipes/classify.py --model_name_or_path runs/mine < texts.txt
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.classification import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.classification import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
