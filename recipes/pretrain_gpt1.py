"""Pre-trains GPT-1 from scratch on contiguous text: vocabulary, blocks, training, evaluation, samples.

python recipes/pretrain_gpt1.py recipes/presets/stories/gpt1_mini.yaml
python recipes/pretrain_gpt1.py PRESET.yaml --train_file books/ --validation_file held_out.txt --output_dir runs/mine
accelerate launch recipes/pretrain_gpt1.py PRESET.yaml
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.pretraining import parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.pretraining import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
