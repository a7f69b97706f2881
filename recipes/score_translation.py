"""Translates a test set with trained models, scores it, and writes the hypotheses and scores.

    python recipes/score_translation.py --model_name_or_path runs/multi30k_bahdanau --num_beams 1 5 \\
        --test_file test.parquet --source_language de --target_language en
    python recipes/score_translation.py --compare runs/one runs/other --test_file test.parquet --target_language en
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.decoding import parse_scoring as parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.translation.scoring import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
