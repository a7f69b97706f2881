"""Runs transformers' own tests on every model, config and tokenizer of ours.

    python tests/library_tests.py [options of pytest]

The tests come from the source distribution of the version that `constraints.txt` pins, downloaded by pip once and kept
in the user's cache; `tests/library/` applies them. Where the distribution cannot be had, nothing runs, the reason is
printed and the exit code is 0. It is not part of the suite that `python -m pytest` runs, which needs no network.

A skipped test must be one that `EXPECTED_SKIPS` gives the reason for, or one of ours that says so itself: any other
one fails the run.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The distribution calls it `tests`, as half of all projects do.
PACKAGE = "transformers_tests"
TESTS = Path(__file__).with_name("library")

# Reasons that the library itself gives for a skip, and why there is nothing to test for us.
EXPECTED_SKIPS = {
    r"test requires (multiple accelerators|accelerator|MPS)": "needs a GPU",
    r"test requires (Flash Attention.*|the kernels library|deepspeed)": "needs a GPU and a package for it",
    r"(Model|This model) is not (a )?composite( model\.)?|No subconfigs so the test does not make sense": (
        "for models made of models, each with a config"
    ),
    # The reason of a test of composite models too, worded like this in the library.
    r"\w+ does not support SDPA|Model architecture does not support attentions": (
        "for models made of models, or with scaled dot-product attention"
    ),
    r".*(RoPE|base_model_class).*": "for rotary positions, which came later",
    r".*sparse experts.*|.*router_logits.*|.*grouped_mm": "for mixtures of experts",
    r"Model does not support sliding window mask": "for attention in windows",
    r"No conversion found for .*": "for models whose weights are converted while they are loaded",
    r".* no _keep_in_fp32_modules .*|No `_keep_in_fp32_modules_strict` defined": (
        "no part of our models has to stay in fp32"
    ),
    r"Do not take a cache as input to forward": "heads for tasks read whole sequences",
    r"Model does not output attentions": "the LSTM encoder-decoder has none",
    r"Model does not have a TP plan\.": "the models fit into one device and name no plan to be spread over several",
    r"Model does not have position embeddings": "learned positions end where training ended; nothing resizes them",
    r"No (sequence-to-sequence|decoder-only) language modeling head to check": "for the other kind of model",
    r"\w+ does not propagate hidden states correctly or uses another name": "for models with one stack of layers",
    r"Not returning cache or non standard Cache": "for keys and values; a recurrent translator caches its state",
    r"This model doesn't use `inputs_embeds`": "the translators read tokens alone",
}


class NotAvailable(Exception):
    """The library's tests cannot be had here, for the reason given."""


def pinned_version() -> str:
    """The version of transformers in `constraints.txt`."""
    return re.search(r"^transformers==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]


def fetch_tests(version: str, cache: Path) -> Path:
    """The folder that holds the library's tests as a package, downloaded if it is not there.

    Args:
        version: of transformers.
        cache: a folder that may not exist yet.

    Raises:
        NotAvailable: pip cannot download the distribution, or it is not what it should be.
    """
    folder = cache / f"transformers-{version}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as download:
        # pip asks a source distribution for its metadata; with the setuptools at hand it need not install one for it.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", "transformers", "--retries", "1", "--dest", download, f"transformers=={version}"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise NotAvailable(f"pip cannot download transformers {version}: {result.stderr.strip()[-500:]}")
        (archive,) = Path(download).iterdir()
        name = f"transformers-{version}"
        with tarfile.open(archive) as distribution:
            information = distribution.extractfile(f"{name}/PKG-INFO").read().decode()
            if f"\nVersion: {version}\n" not in information:
                raise NotAvailable(f"{archive.name} is not transformers {version}.")
            members = [
                member for member in distribution.getmembers() if re.fullmatch(rf"{name}/tests/\w+\.py", member.name)
            ]
            distribution.extractall(download, members, filter="data")
        tests = Path(download, name, "tests")
        if not (tests / "test_modeling_common.py").exists():
            raise NotAvailable(f"The source distribution of transformers {version} holds no tests.")
        (tests / "__init__.py").touch()
        tests.rename(tests.with_name(PACKAGE))
        # Under its final name only when complete: an interrupted copy must not be taken for the tests.
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as complete:
            shutil.copytree(Path(download, name, PACKAGE), Path(complete, name, PACKAGE))
            Path(complete, name).rename(folder)
    return folder


def make_importable(folder: Path) -> None:
    """Puts the library's tests on the path, with stand-ins for the modules that the distribution leaves out.

    `generation/test_utils.py` and `exporters/test_export.py` are in the repository alone: generation and export are
    tested by our own suite.
    """
    sys.path.insert(0, str(folder))
    absent = {
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        # Settings of any config, none at its default.
        "utils.test_configuration_utils": {
            "config_common_kwargs": {
                "architectures": ["AnyModel"],
                "chunk_size_feed_forward": 5,
                "dtype": "float16",
                "id2label": {0: "one", 1: "two", 2: "three"},
                "label2id": {"one": 0, "two": 1, "three": 2},
                "output_attentions": True,
                "output_hidden_states": True,
                "problem_type": "regression",
                "return_dict": False,
            }
        },
    }
    for name, contents in absent.items():
        parent, module = name.split(".")
        for path in (f"{PACKAGE}.{parent}", f"{PACKAGE}.{parent}.{module}"):
            sys.modules[path] = types.ModuleType(path)
        vars(sys.modules[f"{PACKAGE}.{name}"]).update(contents)


def why_skipped(path: str, reason: str) -> str | None:
    """What there is to say about a skip, `None` if it has to be looked into."""
    if Path(path).is_relative_to(TESTS):
        return "ours"
    matching = (why for pattern, why in EXPECTED_SKIPS.items() if re.fullmatch(pattern, reason))
    return next(matching, None)


class SkipReport:
    """A pytest plugin that tells why tests were skipped, and fails the run for a reason that nobody wrote down."""

    def __init__(self):
        self.skipped = Counter()

    def pytest_configure(self, config: pytest.Config) -> None:
        for mark in ("torch_compile", "flash_attn", "flash_attn_3", "flash_attn_4"):
            config.addinivalue_line("markers", f"{mark}_test: of the library's tests")
        for mark in ("accelerate_tests", "is_training_test", "slow"):
            config.addinivalue_line("markers", f"{mark}: of the library's tests")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            path, _, reason = report.longrepr
            reason = reason.removeprefix("Skipped: ")
            self.skipped[reason, why_skipped(path, reason)] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if any(why is None for _, why in self.skipped) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("skipped, and why")
        by_reason = Counter()
        for (reason, why), count in self.skipped.items():
            if why is None:
                terminalreporter.write_line(f"FAILED: skipped for no reason that EXPECTED_SKIPS knows: {reason}")
            by_reason[reason if why in (None, "ours") else why] += count
        for reason, count in by_reason.most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")


def main(arguments: list[str]) -> int:
    version, installed = pinned_version(), importlib.metadata.version("transformers")
    if installed != version:
        print(f"Skipped: the tests of transformers {version} fit that version alone, and {installed} is installed.")
        return 0
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "papers-to-gpt")
    try:
        make_importable(fetch_tests(version, cache))
    except NotAvailable as reason:
        print(f"Skipped: {reason}")
        return 0
    # Nothing here needs the Hub: what asks it all the same is to fail at once.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Slow with the models of the library, not with ours.
    os.environ["RUN_SLOW"] = "1"
    files = [str(path) for path in sorted(TESTS.glob("library_*.py"))]
    # In this process, which has the stand-ins, and not in those of pytest-xdist that setup.cfg asks for.
    options = ["-q", "-rfE", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider"]
    return pytest.main([*options, *files, *arguments], plugins=[SkipReport()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
