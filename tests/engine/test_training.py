"""The training loop: exact gradients under accumulation, exact resume, limits, checkpoints, the final model."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.checkpointing import average_weights, checkpoints_in, load_weights
from papers_to_gpt.engine.training import TokenCounts, TrainingLoop, make_accelerator
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings
from seq2seq_scratch import RNNSeq2SeqConfig, RNNSeq2SeqForConditionalGeneration

LENGTHS = np.random.default_rng(0).integers(2, 7, size=(64, 2))


def collate(examples):
    def pad(key, value):
        rows = [torch.tensor(example[key]) for example in examples]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    inputs = pad("input_ids", 1)
    return {"input_ids": inputs, "attention_mask": (inputs != 1).long(), "labels": pad("labels", -100)}


@pytest.fixture(scope="module")
def examples():
    generator = np.random.default_rng(1)
    return [
        {"input_ids": generator.integers(4, 20, size=source), "labels": generator.integers(4, 20, size=target)}
        for source, target in LENGTHS
    ]


def tiny_model(dropout=0.2):
    torch.manual_seed(0)
    config = RNNSeq2SeqConfig(
        vocab_size=20, decoder_vocab_size=20, embedding_size=8, hidden_size=12, num_hidden_layers=2, dropout=dropout
    )
    return RNNSeq2SeqForConditionalGeneration(config)


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


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_accumulated_batches_give_the_gradient_of_one_large_batch(make_trainer, examples):
    model = tiny_model(dropout=0.0)
    trainer = make_trainer(model, optimization={"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Batches of unequal token counts: a mean of means would weigh their tokens differently.
    groups = [examples[:3], examples[3:20], examples[20:25]]
    trainer._update([collate(group) for group in groups])
    reference = tiny_model(dropout=0.0)
    reference(**collate(examples[:25])).loss.backward()
    for name, parameter in model.named_parameters():
        gradient = before[name] - parameter.detach()
        torch.testing.assert_close(gradient, dict(reference.named_parameters())[name].grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("accumulation", "optim"), [(1, "adamw"), (3, "adamw"), (1, "muon")])
def test_a_resumed_run_equals_an_uninterrupted_one(make_trainer, accumulation, optim):
    options = {"gradient_accumulation_steps": accumulation, "save_total_limit": 0, "eval_steps": 5}
    make_trainer = partial(make_trainer, optimization={"optim": optim})
    make_trainer(folder="whole", **options).train()
    make_trainer(folder="parts", **(options | {"max_steps": 5})).train()
    # A fresh model with other weights: everything must come from the checkpoint.
    other = tiny_model()
    torch.nn.init.zeros_(other.lm_head.weight)
    make_trainer(other, folder="parts", resume_from_checkpoint="last", **options).train()
    folder = Path(make_trainer(folder="parts").output_dir)
    assert_same_weights(weights_of(folder / "checkpoint-12"), weights_of(folder.parent / "whole" / "checkpoint-12"))
    logs = [
        [
            line["loss"]
            for line in map(json.loads, (folder.parent / run / "train_log.jsonl").open())
            if line["kind"] == "train"
        ]
        for run in ("whole", "parts")
    ]
    assert logs[0][-1] == logs[1][-1]


def test_clipping_bounds_the_gradient(make_trainer):
    model = tiny_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = make_trainer(model, optimization={"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e-3})
    _, norm, _ = trainer._update([next(trainer.batches.epoch(0))])
    assert norm > 1e-3
    step = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert step.norm() == pytest.approx(1e-3, rel=1e-3)


def test_best_checkpoint_becomes_the_model_and_rotation_keeps_it(make_trainer):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    trainer = make_trainer(max_steps=16, evaluate=lambda model: {"loss": next(scores)}, save_total_limit=1)
    results = trainer.train()
    assert results["best_update"] == 8 and results["best_loss"] == 1.0
    assert [path.name for path in checkpoints_in(trainer.output_dir)] == ["checkpoint-8", "checkpoint-16"]
    assert_same_weights(weights_of(trainer.output_dir), weights_of(trainer.output_dir / "checkpoint-8"))
    loaded = RNNSeq2SeqForConditionalGeneration.from_pretrained(trainer.output_dir)
    assert_same_weights(loaded.state_dict(), trainer.raw_model.state_dict())


def test_scores_other_than_losses_are_better_when_higher(make_trainer):
    scores = iter([3.0, 7.0, 2.0])
    trainer = make_trainer(evaluate=lambda model: {"loss": 1.0, "bleu": next(scores)}, metric_for_best_model="bleu")
    assert trainer.train()["best_update"] == 8


def test_without_eval_steps_every_epoch_is_evaluated_at_its_end(make_trainer):
    trainer = make_trainer(max_steps=None, num_train_epochs=3, eval_steps=None, save_total_limit=0)
    updates = len(list(trainer.batches.epoch(0)))
    trainer.train()
    assert [path.name for path in checkpoints_in(trainer.output_dir)] == [
        f"checkpoint-{epoch * updates}" for epoch in (1, 2, 3)
    ]


def test_early_stopping_counts_evaluations_without_improvement(make_trainer):
    scores = iter([1.0, 2.0, 3.0])
    trainer = make_trainer(max_steps=400, evaluate=lambda model: {"loss": next(scores)}, early_stopping_patience=2)
    assert trainer.train()["train_updates"] == 12


def test_time_limit_stops_with_an_evaluation_and_a_checkpoint(make_trainer):
    trainer = make_trainer(max_steps=10**6, eval_steps=10**6, max_train_minutes=0.005)
    results = trainer.train()
    assert 0 < results["train_updates"] < 10**6
    assert checkpoints_in(trainer.output_dir)[-1].name == f"checkpoint-{results['train_updates']}"


def test_averaged_model_is_the_mean_of_the_last_checkpoints(make_trainer):
    trainer = make_trainer(average_last_checkpoints=3, save_total_limit=3, save_steps=2)
    results = trainer.train()
    assert results["averaged_checkpoints"] == ["checkpoint-8", "checkpoint-10", "checkpoint-12"]
    parts = [weights_of(trainer.output_dir / name) for name in results["averaged_checkpoints"]]
    for name, tensor in weights_of(trainer.output_dir).items():
        torch.testing.assert_close(tensor, torch.stack([part[name] for part in parts]).mean(dim=0))


def test_averaging_keeps_the_dtype_and_sums_in_fp32(tmp_path):
    values = [1.0, 1.0, 1.0078125]
    for index, value in enumerate(values):
        (tmp_path / str(index)).mkdir()
        save_file({"w": torch.full((2,), value, dtype=torch.bfloat16)}, tmp_path / str(index) / "model.safetensors")
    average_weights([tmp_path / str(index) for index in range(3)], tmp_path)
    mean = weights_of(tmp_path)["w"]
    assert mean.dtype == torch.bfloat16
    assert mean[0] == torch.tensor(sum(values) / 3).bfloat16()


def test_a_non_finite_loss_stops_the_run_and_keeps_earlier_checkpoints(make_trainer):
    model = tiny_model()
    model.register_forward_hook(
        lambda module, _, output: setattr(
            output, "loss", output.loss * float("nan" if trainer.progress.update == 4 else 1)
        )
    )
    trainer = make_trainer(model, eval_steps=2, save_total_limit=0, logging_steps=6)
    with pytest.raises(ValueError, match=r"not finite at update 6 or up to \d updates before.*learning_rate"):
        trainer.train()
    assert [path.name for path in checkpoints_in(trainer.output_dir)] == ["checkpoint-2", "checkpoint-4"]
    for name in ("checkpoint-2", "checkpoint-4"):
        assert all(tensor.isfinite().all() for tensor in weights_of(trainer.output_dir / name).values())


def test_logged_rate_is_tokens_over_measured_seconds(make_trainer):
    trainer = make_trainer(logging_steps=12, eval_steps=12)
    results = trainer.train()
    line = json.loads((trainer.output_dir / "train_log.jsonl").read_text().splitlines()[0])
    assert line["target_tokens_per_second"] == pytest.approx(
        results["train_target_tokens"] / trainer.progress.train_seconds, rel=0.02
    )
    # The tokens of 12 updates, counted again from the batches themselves.
    batches, counted = [], 0
    for epoch in range(12):
        batches += list(trainer.batches.epoch(epoch))
    for batch in batches[:12]:
        counted += int((batch["labels"] != -100).sum())
    assert results["train_target_tokens"] == counted


def test_rates_bear_the_name_of_what_is_counted(make_trainer):
    trainer = make_trainer(
        hooks={"counted": "sentences", "count_tokens": lambda batch: TokenCounts(len(batch["labels"]), 1, 1)}
    )
    results = trainer.train()
    batches = [batch for epoch in range(12) for batch in trainer.batches.epoch(epoch)][:12]
    assert results["train_sentences"] == sum(len(batch["labels"]) for batch in batches)
    line = json.loads((trainer.output_dir / "train_log.jsonl").read_text().splitlines()[0])
    assert line["sentences_per_second"] > 0
    assert not [name for name in (*results, *line) if "tokens" in name]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": None}, "Neither max_steps nor num_train_epochs"),
        ({"max_steps": -5}, "max_steps is -5"),
        ({"average_last_checkpoints": 5, "save_total_limit": 2}, "save_total_limit keeps 2"),
        ({"average_last_checkpoints": 5, "save_total_limit": 0}, "a run of 12 updates .* every 4 writes 3"),
        ({"eval_steps": 0}, "eval_steps is 0"),
    ],
)
def test_impossible_settings_are_refused(make_trainer, settings, expected):
    with pytest.raises(ValueError, match=expected):
        make_trainer(**settings)


def test_an_unknown_metric_names_those_that_exist(make_trainer):
    with pytest.raises(ValueError, match=r"'bleu', which the evaluation does not report. It reports loss."):
        make_trainer(metric_for_best_model="bleu").train()


def test_resuming_needs_a_complete_checkpoint(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        make_trainer(resume_from_checkpoint="last").train()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it has no folder training_state"):
        make_trainer(resume_from_checkpoint=str(tmp_path / "empty")).train()


def test_weights_of_another_model_are_refused(tmp_path):
    model = tiny_model()
    save_file({"another.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds another model"):
        load_weights(model, tmp_path)


def test_an_interrupted_run_says_how_to_go_on(make_trainer):
    losses = iter([1.0])

    def interrupt_at_the_second(model):
        loss = next(losses, None)
        if loss is None:
            raise KeyboardInterrupt
        return {"loss": loss}

    with pytest.raises(KeyboardInterrupt, match="at update 8.*--resume_from_checkpoint last.*checkpoint-4"):
        make_trainer(evaluate=interrupt_at_the_second).train()
