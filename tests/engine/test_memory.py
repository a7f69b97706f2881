"""How training treats memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from papers_to_gpt.engine import memory
from papers_to_gpt.engine.hardware import processor_has_bf16

RECIPES = Path(__file__).parents[2] / "recipes"

# Prints the page faults of creating and freeing tensors of 50 MB, and how many MB return_freed_memory gives back.
FAULTS = """
import resource, sys
import torch
from papers_to_gpt.engine.memory import keep_freed_memory, return_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
def make():
    for _ in range(20):
        torch.ones(12_500_000)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def held():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * resource.getpagesize() / 1e6
make()
before = faults()
make()
new = faults() - before
holding = held()
return_freed_memory()
print(new, holding - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with freed memory")
def test_freed_memory_is_used_again_until_it_is_returned():
    results = {}
    for argument in ("default", "keep"):
        command = [sys.executable, "-c", FAULTS, argument]
        output = subprocess.run(command, cwd=RECIPES, capture_output=True, text=True, check=True).stdout
        results[argument] = [float(number) for number in output.split()]
    assert results["default"][0] > 20 * results["keep"][0] + 1000
    assert results["keep"][1] > 45 > 5 > results["default"][1]


def test_without_glibc_the_functions_do_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.keep_freed_memory()
    memory.return_freed_memory()


# Multiplies matrices of six shapes, twice each; oneDNN prints a line for each product that it compiles.
PRODUCTS = """
import sys
from papers_to_gpt.engine.hardware import keep_compiled_code
keep_compiled_code(int(sys.argv[1]))
import torch
for rows in 2 * [16, 17, 18, 19, 20, 21]:
    torch.ones(rows, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
"""


@pytest.mark.skipif(not processor_has_bf16(use_cpu=True), reason="the processor computes this without oneDNN")
def test_compiled_code_is_kept_for_as_many_shapes_as_asked():
    compiled = {}
    for kept in (2, 64):
        command = [sys.executable, "-c", PRODUCTS, str(kept)]
        environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
        output = subprocess.run(
            command, cwd=RECIPES, capture_output=True, text=True, check=True, env=environment | {"ONEDNN_VERBOSE": "2"}
        ).stdout
        compiled[kept] = output.count("cache_miss")
    assert compiled == {2: 12, 64: 6}
