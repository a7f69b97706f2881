"""Fine-tunes GPT-1 on tasks: those of GLUE and of the paper, small embedded ones, or your own files.

python recipes/finetune_gpt1.py recipes/presets/stories/sentiment.yaml
python recipes/finetune_gpt1.py --model_name_or_path runs/mini --train_file mine.csv --output_dir runs/mine
python recipes/finetune_gpt1.py recipes/presets/glue/gpt1.yaml --data_dir glue --task cola mrpc --seeds 1 2 3
python recipes/finetune_gpt1.py --compare runs/glue_gpt1 runs/glue_other
accelerate launch recipes/finetune_gpt1.py PRESET.yaml
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.finetuning import SeriesComparison, parse


def main() -> None:
    settings = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    if isinstance(settings[0], SeriesComparison):
        from papers_to_gpt.gpt1.series_comparison import run

        run(settings[0])
    else:
        from papers_to_gpt.gpt1.finetuning import run

        run(settings)


if __name__ == "__main__":
    run_script(main)
