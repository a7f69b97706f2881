"""Trains one of the translation models from scratch, scores it and saves it for `from_pretrained`.

python recipes/train_translation.py recipes/presets/numbers/bahdanau.yaml
python recipes/train_translation.py PRESET.yaml --learning_rate 3e-4 --output_dir runs/mine
accelerate launch recipes/train_translation.py PRESET.yaml
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.translation import parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.translation.training import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
