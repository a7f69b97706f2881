"""Runs the ablations of the GPT-1 paper (table 5 and figure 2) and writes one table and one plot.

python recipes/ablate_gpt1.py recipes/presets/stories/entailment.yaml --output_dir runs/ablation
python recipes/ablate_gpt1.py recipes/presets/stories/entailment.yaml --lstm_model_name_or_path runs/stories_lstm_mini
python recipes/ablate_gpt1.py recipes/presets/glue/gpt1.yaml --data_dir glue --task cola sst2 --seeds 1 2 3

Every variant is a run of recipes/finetune_gpt1.py in a sub-folder of output_dir, and takes all of its settings.
The plot needs matplotlib, which the extra `plots` installs.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.finetuning import parse_ablation as parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.gpt1.ablation import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
