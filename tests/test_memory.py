"""How training treats memory."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"

# Prints how many pages the system had to bring for tensors of 50 MB that come and go.
FAULTS = """
import resource, sys
import torch
from engine.memory import return_freed_memory, use_memory_again
if "again" in sys.argv:
    use_memory_again()
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
    for argument in ("as it is", "again"):
        command = [sys.executable, "-c", FAULTS, argument]
        output = subprocess.run(command, cwd=RECIPES, capture_output=True, text=True, check=True).stdout
        results[argument] = [float(number) for number in output.split()]
    assert results["as it is"][0] > 20 * results["again"][0] + 1000
    assert results["again"][1] > 45 > 5 > results["as it is"][1]
