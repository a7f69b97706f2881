"""Converts published GPT-1 weights to ours and back: a checkpoint of transformers' `openai-gpt`, or one of ours.

python recipes/convert_openai_gpt.py openai-community/openai-gpt runs/gpt1_published
python recipes/convert_openai_gpt.py runs/mine runs/mine_openai --to openai-gpt
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.conversion import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.conversion import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
