"""A fixture of tests that load sentence pairs."""

import datasets
import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keeps what the datasets library stores in the folder of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
