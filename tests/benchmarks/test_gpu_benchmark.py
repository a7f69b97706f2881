"""The benchmark on a GPU, for which a stand-in waits and measures: no test needs one."""

import itertools
import subprocess
import time

import pytest
import torch

from papers_to_gpt.benchmarks import common, comparison, gpts, marian
from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload
from seq2seq_scratch import TransformerConfig, TransformerForConditionalGeneration


@pytest.fixture
def gpu(monkeypatch):
    """Stands in for a GPU: says how often it was waited for, each time for 0.05 s, and that it held 3 GB."""
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(time.sleep(0.05)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3e9)
    return waits


def test_the_clock_waits_for_what_a_gpu_has_queued_and_measures_its_memory(gpu):
    watch = Stopwatch(between_updates=lambda: None, device="cuda")
    for _ in watch.over(itertools.count(), Workload(warm_up_updates=2, updates=3), lambda batch: (1, 0, 0)):
        pass
    # Before and after each update that is clocked, and at the end; only the waits after it are a part of it.
    assert len(gpu) == 1 + 2 * 3 + 1
    assert watch.clocked["seconds"] >= 4 * 0.05 and watch.clocked["peak_memory_gb"] == 3


def test_the_utilization_of_a_gpu_is_by_the_clock_and_that_of_a_cpu_by_its_own_seconds(gpu):
    clocked = {"seconds": 4.0, "cpu_seconds": 2.0}
    for device, expected in (("cuda", 25), ("cpu", 50)):
        peak = gpts.MatrixPeak(64)
        peak.device = device
        peak.measure()
        assert (peak.seconds >= 0.05) == (device == "cuda")  # it waited for the products
        assert peak.utilization(peak.rate, clocked) == {"model_flops_utilization_percent": pytest.approx(expected)}


@pytest.mark.parametrize("tied", [True, False])
def test_the_operations_of_a_translator_are_those_of_its_matrices(tied):
    config = TransformerConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=32,
        tie_word_embeddings=tied,
        share_encoder_decoder_embeddings=tied,
        decoder_vocab_size=40,
    )
    models = [TransformerForConditionalGeneration(config), *([marian.marian_of_size(config)] if tied else [])]
    per_source, per_target = 2 * (4 * 16**2 + 2 * 16 * 24), 8 * 16**2 + 2 * 16 * 32 + 16 * 40
    for model in models:
        assert common.training_flops(model, 3, 5) == 6 * (3 * per_source + 5 * per_target)


def test_only_measurements_on_the_cpu_hide_the_gpu(monkeypatch, tmp_path):
    seen = []

    def start(command, env, **options):
        seen.append(env.get("CUDA_VISIBLE_DEVICES"))
        return subprocess.CompletedProcess(command, 0, stdout="{}", stderr="")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(subprocess, "run", start)
    for device in ("cpu", "cuda"):
        comparison.run_one(comparison.table()[0], Workload(device=device), tmp_path, threads=1)
    assert seen == ["", "0"]


def test_on_a_gpu_compiled_translators_are_measured_and_what_runs_on_the_cpu_is_not():
    work = Workload(device="cuda", nanogpt_dir="nanoGPT")
    rows = {row.key.partition(": ")[2]: row for row in comparison.table(work)}
    new = set(rows) - {row.key.partition(": ")[2] for row in comparison.table()}
    assert new == {"Transformer: ours, bf16, compiled", "Transformer: MarianMTModel, bf16, compiled"}
    measured = {name for name, row in rows.items() if row.missing(work) is None}
    assert new | {"no dropout, bf16: nanoGPT, compiled", "greedy: MarianMTModel, fp32"} < measured
    assert not any("CTranslate2" in name or "llama" in name or "eole" in name for name in measured)
