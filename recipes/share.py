"""Shares a trained model: checks its folder, pushes it to the Hub in one commit, downloads it again and compares.

python recipes/share.py runs/numbers_bahdanau
python recipes/share.py runs/numbers_bahdanau --hub_model_id user/name --hub_private_repo true
python recipes/share.py runs/numbers_onnx --hub_model_id user/name
python recipes/share.py runs/numbers_bahdanau --refresh_code true
python recipes/share.py runs/numbers_bahdanau/checkpoint-100 --consolidate_to runs/model

The last form makes a model of a checkpoint of an FSDP2 run, to which each process has written its share of the
weights.

The folder of an export is checked in its engine. Without hub_model_id the script only checks, and needs no network.
The token is that of HF_TOKEN in the environment, or of `hf auth login`.
"""

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.hub import parse_sharing as parse


def main() -> None:
    (settings,) = parse(description=__doc__.splitlines()[0])
    # After parsing: these imports take seconds.
    from papers_to_gpt.publishing.sharing import run

    run(settings)


if __name__ == "__main__":
    run_script(main)
