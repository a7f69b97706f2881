"""A Hub for the tests of sharing."""

import huggingface_hub.constants
import pytest
from hub_server import WRITE_TOKEN, LoopbackHub


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
