"""Draws the pictures of the guided readings again.

python recipes/illustrate.py
python recipes/illustrate.py --pictures alignment heads --models_dir runs

Most pictures need no trained model; the command names the model that is missing for the others, and what trains it.
It needs matplotlib (pip install matplotlib).
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.illustration import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.illustrations.drawing import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
