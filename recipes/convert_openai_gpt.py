"""Converts published GPT-1 weights to ours: a checkpoint of transformers' `openai-gpt` becomes a `GPT1ForCausalLM`.

python recipes/convert_openai_gpt.py openai-community/openai-gpt runs/gpt1_published
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.conversion import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from transformers.utils import logging as transformers_logging

    from gpt1_scratch.pretraining.convert_openai_gpt import check_target, convert, find_checkpoint
    from papers_to_gpt.engine.durable_files import durable_folder

    transformers_logging.disable_progress_bar()
    check_target(settings.target)
    source = find_checkpoint(settings.source)
    with durable_folder(settings.target, "convert the checkpoint again") as folder:
        convert(source, folder)
    print(f"Wrote {settings.target}.")


if __name__ == "__main__":
    run_script(main)
