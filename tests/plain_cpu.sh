#!/usr/bin/env bash
# Runs the core set of tests (tests/core_set.txt) as on a processor without AVX and AMX and with oneDNN off, with the
# packages that are installed.
#     tests/plain_cpu.sh [options of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."

# PyTorch's own kernels, MKL's products, and oneDNN's, where a new process that a test starts has it on.
export ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41
PYTHONPATH="$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" python -m pytest -p without_onednn @tests/core_set.txt "$@"
