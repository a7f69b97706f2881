"""Converts published GPT-1 weights to ours: a checkpoint of transformers' `openai-gpt` becomes a `GPT1ForCausalLM`.

python recipes/convert_openai_gpt.py openai-community/openai-gpt runs/gpt1_published
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.conversion import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: this import takes seconds.
    from gpt1_scratch.pretraining.convert_openai_gpt import convert

    convert(settings.source, settings.target)
    print(f"Wrote {settings.target}.")


if __name__ == "__main__":
    run_script(main)
