"""Continues text with a trained GPT-1 and prints each token as it is generated.

python recipes/generate_text.py --model_name_or_path runs/stories_gpt1_mini --prompt "Anna had a red kite ."
python recipes/generate_text.py --model_name_or_path runs/stories_gpt1_mini --prompt_file openings.txt
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.generation import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.generation import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
