"""A pytest plugin that turns oneDNN off: `pytest -p without_onednn`, with this folder on the path."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.backends.mkldnn.set_flags(False)


def pytest_report_header(config: pytest.Config) -> str:
    return f"PyTorch's kernels: {torch.backends.cpu.get_cpu_capability()}, oneDNN: {torch.backends.mkldnn.enabled}"
