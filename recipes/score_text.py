"""Gives the log-probability, perplexity and bits per byte of each line of a text by a trained GPT-1.

python recipes/score_text.py --model_name_or_path runs/stories_gpt1_mini --input_file lines.txt
python recipes/score_text.py --model_name_or_path runs/stories_gpt1_mini --with_tokens true < lines.txt
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.text_scoring import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.text_scoring import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
