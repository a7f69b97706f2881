"""The script that runs transformers' own tests: its behaviour offline and with skipped tests, without running them."""

import io
import tarfile

import library_tests
import pytest


def source_distribution(folder, version, stated_version, tests):
    """Makes a file like the one that pip downloads, with the metadata that pip reads."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: transformers\nVersion: {stated_version}\n",
        "setup.py": f"import setuptools\nsetuptools.setup(name='transformers', version='{stated_version}')\n",
        **tests,
    }
    with tarfile.open(folder / f"transformers-{version}.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"transformers-{version}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Makes pip look for packages in one folder only."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_without_the_distribution_nothing_runs_and_the_reason_is_printed(index, capsys):
    assert library_tests.main([]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Skipped: pip cannot download transformers")
    assert not (index.parent / "cache").exists()


def test_a_version_other_than_the_pinned_one_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(library_tests, "pinned_version", lambda: "0.0.1")
    assert library_tests.main([]) == 0
    assert "Skipped: the tests of transformers 0.0.1 fit that version alone" in capsys.readouterr().out


def test_the_tests_are_taken_out_of_the_distribution_once(index, tmp_path):
    pytest.importorskip("setuptools")
    tests = {"tests/test_modeling_common.py": "value = 1\n", "src/transformers/__init__.py": ""}
    source_distribution(index, "0.0.1", "0.0.1", tests)
    folder = library_tests.fetch_tests("0.0.1", tmp_path / "cache")
    package = folder / library_tests.PACKAGE
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "test_modeling_common.py"]
    assert list(folder.iterdir()) == [package] and list((tmp_path / "cache").iterdir()) == [folder]
    (index / "transformers-0.0.1.tar.gz").unlink()
    assert library_tests.fetch_tests("0.0.1", tmp_path / "cache") == folder


def test_a_distribution_without_the_tests_is_refused(index, tmp_path):
    pytest.importorskip("setuptools")
    source_distribution(index, "0.0.1", "0.0.1", {"tests/test_other.py": ""})
    with pytest.raises(library_tests.NotAvailable, match="holds no tests"):
        library_tests.fetch_tests("0.0.1", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_skips_are_explained_by_the_table_or_by_ourselves():
    elsewhere, ours = "/cache/test_modeling_common.py", str(library_tests.TESTS / "library_gpt1.py")
    assert library_tests.why_skipped(elsewhere, "test requires accelerator") == "needs a GPU"
    assert library_tests.why_skipped(elsewhere, "Model does not support output_attentions") is None
    assert library_tests.why_skipped(ours, "for a reason of ours") == "ours"


@pytest.mark.parametrize(
    "reason, code", [("test requires accelerator", pytest.ExitCode.OK), ("whatever", pytest.ExitCode.TESTS_FAILED)]
)
def test_a_skip_that_nobody_explained_fails_the_run(tmp_path, capsys, reason, code):
    file = tmp_path / f"test_{tmp_path.name}.py"  # a module's name serves once
    file.write_text(f"import pytest\n\ndef test_one():\n    pytest.skip({reason!r})\n\ndef test_two():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # not the settings of this run
    options = ["-q", "-p", "no:cacheprovider", str(file)]
    assert pytest.main(options, plugins=[library_tests.SkipReport()]) == code
    assert ("FAILED: skipped for no reason" in capsys.readouterr().out) == (code != pytest.ExitCode.OK)
