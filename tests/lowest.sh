#!/usr/bin/env bash
# Runs the core set of tests (tests/core_set.txt) with the oldest versions that setup.cfg allows.
#     tests/lowest.sh [options of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
# shellcheck disable=SC1091
. "$environment/bin/activate"

python - > "$environment/lowest.txt" <<'PYTHON'
import configparser
import re

settings = configparser.ConfigParser()
settings.read("setup.cfg")
for line in settings["options"]["install_requires"].split():
    print(re.sub(r">=([^,]+).*", r"==\1", line))
PYTHON
cat "$environment/lowest.txt"
pip install --quiet --disable-pip-version-check -c "$environment/lowest.txt" -e . "pytest>=9,<10" "pytest-xdist>=3.8,<4" "tensorboard>=2.21,<3"
python -m pytest @tests/core_set.txt "$@"
