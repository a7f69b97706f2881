"""Exports a trained model to a folder that another engine runs: CTranslate2, onnxruntime, a class of transformers.

python recipes/export.py runs/numbers_transformer --format ctranslate2 --output_dir runs/exported --quantization int8
python recipes/export.py runs/numbers_bahdanau --format onnx --output_dir runs/numbers_onnx
python recipes/export.py runs/stories_gpt1_mini --format openai-gpt --output_dir runs/served
python recipes/export.py runs/numbers_transformer --format pegasus --output_dir runs/numbers_pegasus
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.exporting import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.exporting.export import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
