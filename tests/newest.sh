#!/usr/bin/env bash
# Runs the core set of tests (tests/core_set.txt) with the newest releases there are, whatever setup.cfg allows.
#     [TORCH=2.13.0] tests/newest.sh [options of pytest]
# TORCH names a version of torch; left out, pip takes the newest that it finds.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
# shellcheck disable=SC1091
. "$environment/bin/activate"

# The names alone. The project is installed without its requirements, as pip would keep to their ranges.
python - > "$environment/newest.txt" <<'PYTHON'
import configparser
import os
import re

settings = configparser.ConfigParser()
settings.read("setup.cfg")
for line in settings["options"]["install_requires"].split():
    name = re.match(r"[\w.-]+", line)[0]
    print(f"torch=={os.environ['TORCH']}" if name == "torch" and os.environ.get("TORCH") else name)
PYTHON
pip install --quiet --disable-pip-version-check --upgrade -r "$environment/newest.txt" pytest pytest-xdist tensorboard
pip install --quiet --disable-pip-version-check --no-deps -e .
pip freeze | grep -iE "^(torch|transformers|tokenizers|datasets|accelerate|evaluate|huggingface.hub|numpy|safetensors)=="
python -m pytest @tests/core_set.txt "$@"
