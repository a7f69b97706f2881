"""Serves a page on which anyone can try trained models: translate, compare, continue text and classify.

python recipes/demo.py
python recipes/demo.py runs/numbers_bahdanau runs/numbers_transformer runs/stories_gpt1_mini
python recipes/demo.py --models_dir runs --port 8000

Without models it offers those of a folder. Only this machine reaches the page, and the page asks no other host for
anything. It needs Gradio and matplotlib (pip install gradio matplotlib), which the extra `demo` installs.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.demonstration import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take time.
    from papers_to_gpt.demonstration.serving import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
