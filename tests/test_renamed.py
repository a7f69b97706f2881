"""Names of version 0.1 work for one release, with one warning that says the new name."""

import importlib
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import gpt1_scratch.renamed
import seq2seq_scratch.renamed

ROOT = Path(__file__).parents[1]
TABLES = [gpt1_scratch.renamed, seq2seq_scratch.renamed]
MODULES = [
    (f"{table.PACKAGE}.{old}", f"{table.PACKAGE}.{new}") for table in TABLES for old, new in table.MODULES.items()
]
NAMES = [
    (f"{table.PACKAGE}.{module}", name, f"{table.PACKAGE}.{new}")
    for table in TABLES
    for module, moved in table.NAMES.items()
    for name, new in moved.items()
]


@pytest.fixture
def forgotten(monkeypatch):
    """Forgets that an old name was used in this process."""

    def forget(old):
        monkeypatch.delitem(sys.modules, old, raising=False)

    return forget


@pytest.mark.parametrize(("old", "new"), MODULES)
def test_a_module_by_its_old_name_is_the_one_by_its_new_name(old, new, forgotten):
    forgotten(old)
    module = importlib.import_module(new)
    spec = module.__spec__
    with pytest.warns(FutureWarning, match=f"{old} is now {new}; the old name will be removed in version 0.3"):
        assert importlib.import_module(old) is module
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importlib.import_module(old) is module
    assert module.__spec__ is spec and module.__name__ == new and sys.modules[new] is module


@pytest.mark.parametrize(("old", "name", "new"), NAMES)
def test_what_moved_to_another_module_is_still_found_in_the_old_one(old, name, new):
    module = importlib.import_module(old)
    vars(module).pop(name, None)
    with pytest.warns(FutureWarning, match=f"{old}.{name} is now {new}.{name}"):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(new), name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(module, name) is found


def test_names_that_never_existed_raise_the_usual_error():
    with pytest.raises(ModuleNotFoundError, match="gpt1_scratch.nothing"):
        importlib.import_module("gpt1_scratch.nothing")
    with pytest.raises(AttributeError, match="module 'gpt1_scratch.modeling_gpt1' has no attribute 'nothing'"):
        _ = importlib.import_module("gpt1_scratch.modeling_gpt1").nothing


@pytest.mark.parametrize("module", ["gpt1_scratch.convert_openai_gpt", "gpt1_scratch.pretraining.convert_openai_gpt"])
def test_the_old_converter_names_the_commands(module):
    command = [sys.executable, "-m", module, "old", "new", "--to", "openai-gpt"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and "papers-to-gpt export MODEL --format openai-gpt" in result.stderr
    for name in re.findall("papers-to-gpt ([a-z-]+)", result.stderr):
        assert (ROOT / "recipes" / f"{name.replace('-', '_')}.py").is_file()


def test_both_packages_have_the_same_hook():
    hooks = [importlib.import_module(f"{table.PACKAGE}.renamed.hook") for table in TABLES]
    assert inspect.getsource(hooks[0]) == inspect.getsource(hooks[1])
