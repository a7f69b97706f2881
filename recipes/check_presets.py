"""Runs presets and compares each with the number that it expects: a table, and status 1 if one is not as expected.

    python recipes/check_presets.py --minutes 60
    python recipes/check_presets.py --minutes 240 --data_dir data
    python recipes/check_presets.py numbers/bahdanau stories/sentiment

The presets with the fewest stated minutes come first. A fine-tuning preset needs the model of another preset, which is
then trained before it. The same command continues after an interruption.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.preset_checking import parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.benchmarks.preset_checks import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
