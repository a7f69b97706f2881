"""Draws a model: alignments, attention heads, positions, probabilities of tokens, and training curves of runs.

python recipes/visualize.py runs/numbers_bahdanau "three hundred and forty-two"
python recipes/visualize.py runs/numbers_transformer "twelve" --pictures heads --layers 0 1 --attention cross
python recipes/visualize.py --runs runs/numbers_bahdanau runs/numbers_transformer

Each picture is written as PNG and as SVG. It needs matplotlib (pip install matplotlib).
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.visualization import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.visualization.drawing import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
