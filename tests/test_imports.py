"""Every module can be imported on systems without Linux's modules and files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Other people's packages come first, as they may use what is taken away then.
IMPORT_ALL = """
import ctypes, importlib, sys
import accelerate, datasets, evaluate, huggingface_hub, langcodes, sacrebleu, sacremoses
import sklearn.metrics, torch, transformers, yaml
import torch.utils._python_dispatch, transformers.generation, transformers.pipelines

def missing(*arguments, **keywords):
    raise OSError("this system has no such library")

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("resource", "fcntl"):
            raise ModuleNotFoundError(name)

def refuse_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(arguments[0])

for name in ("resource", "fcntl"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing)
ctypes.CDLL = missing
sys.addaudithook(refuse_proc)
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name)
"""


def names_below(folder, prefix=""):
    """Yields the names of all modules in a folder."""
    for path in sorted(folder.rglob("*.py")):
        parts = [*path.relative_to(folder).parent.parts, *([] if path.stem == "__init__" else [path.stem])]
        if prefix or parts:
            yield ".".join([*([prefix] if prefix else []), *parts])


def test_every_module_is_imported_without_modules_and_files_of_linux():
    names = [name for package in ("seq2seq_scratch", "gpt1_scratch") for name in names_below(ROOT / package, package)]
    names += names_below(ROOT / "recipes", "papers_to_gpt")
    assert len(names) > 50
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == names
