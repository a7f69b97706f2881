"""A Hub and small models for the tests of sharing."""

import shutil

import huggingface_hub.constants
import pytest
from hub_server import WRITE_TOKEN, LoopbackHub
from shared_models import FAMILIES, tiny_model

from papers_to_gpt.publishing import shared_folder
from papers_to_gpt.publishing.clean_process import probe_model


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Starts a local Hub that this process and its children use, with a token that may write."""
    with LoopbackHub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        # The client reads its environment on import, which is past for this process and to come for its children.
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        # Keeps the address that it is first used with.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        yield hub


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Returns the folder of each family and the results of the model in memory."""
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("models") / family
        made[family] = folder, probe_model(*tiny_model(family, folder))
    return made


@pytest.fixture
def folder(originals, tmp_path):
    """Returns a copy of a small model's folder that a test may damage."""
    return shutil.copytree(originals["gpt1"][0], tmp_path / "model")


@pytest.fixture
def stranger_in_process(monkeypatch):
    """Runs the clean process's code in this process, which saves seconds in tests of other things."""

    def computed_here(sources, *arguments, **keywords):
        return [{} for _ in sources]

    monkeypatch.setattr(shared_folder, "probe_in_clean_process", computed_here)
    monkeypatch.setattr("papers_to_gpt.publishing.hub.probe_in_clean_process", computed_here)
    for module in ("papers_to_gpt.publishing.hub", "papers_to_gpt.publishing.shared_folder"):
        monkeypatch.setattr(f"{module}.compare_probes", lambda *arguments: None)
