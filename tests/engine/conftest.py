"""Training loops over a tiny translator."""

from pathlib import Path

import numpy as np
import pytest
from tiny_training import LENGTHS, collate, tiny_model

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings


@pytest.fixture(scope="module")
def examples():
    generator = np.random.default_rng(1)
    return [
        {"input_ids": generator.integers(4, 20, size=source), "labels": generator.integers(4, 20, size=target)}
        for source, target in LENGTHS
    ]


@pytest.fixture
def make_trainer(examples, tmp_path):
    def make(model=None, folder="run", optimization=None, evaluate=None, max_tokens=40, hooks=None, **settings):
        settings = {"max_steps": 12, "eval_steps": 4, "bf16": False, "use_cpu": True, "logging_steps": 3} | settings
        training = TrainingSettings(output_dir=str(tmp_path / folder), **settings)
        Path(training.output_dir).mkdir(exist_ok=True)
        model = model or tiny_model()
        accelerator = make_accelerator(training)
        return TrainingLoop(
            accelerator,
            model,
            LengthBucketBatches(examples, LENGTHS, collate, max_tokens_per_batch=max_tokens, seed=3),
            training,
            OptimizationSettings(**({"learning_rate": 0.01, "lr_scheduler_type": "constant"} | (optimization or {}))),
            evaluate=evaluate or (lambda model: {"loss": float(next(model.parameters()).abs().sum())}),
            save_model=model.save_pretrained,
            **(hooks or {}),
        )

    return make
