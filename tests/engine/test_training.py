"""The training loop: exact gradients under accumulation, exact resume, limits, checkpoints, the final model."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_training import assert_same_weights, collate, log_of, tiny_model, weights_of

from papers_to_gpt.engine.batching import LocalBatch
from papers_to_gpt.engine.checkpointing import average_weights, checkpoints_in, load_weights
from papers_to_gpt.engine.log_window import TokenCounts
from papers_to_gpt.engine.skipped_updates import SkippedUpdates
from seq2seq_scratch import RNNSeq2SeqForConditionalGeneration


def test_accumulated_batches_give_the_gradient_of_one_large_batch(make_trainer, examples):
    model = tiny_model(dropout=0.0)
    trainer = make_trainer(model, optimization={"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Batches of unequal token counts: a mean of means would weigh their tokens differently.
    groups = [examples[:3], examples[3:20], examples[20:25]]
    trainer._update([LocalBatch(collate(group), index) for index, group in enumerate(groups)])
    reference = tiny_model(dropout=0.0)
    reference(**collate(examples[:25])).loss.backward()
    for name, parameter in model.named_parameters():
        gradient = before[name] - parameter.detach()
        torch.testing.assert_close(gradient, dict(reference.named_parameters())[name].grad, atol=1e-6, rtol=1e-4)


def test_targets_are_drawn_by_update_and_index_before_they_are_counted(make_trainer, examples):
    draws = []

    def draw_targets(batch):
        draws.append(torch.rand(1).item())
        return batch | {"labels": batch["labels"].index_fill(0, torch.tensor([0]), -100)}

    groups = [examples[:3], examples[3:8], examples[8:12]]
    counted = sum(len(example["labels"]) for group in groups for example in group[1:])
    whole = make_trainer(hooks={"draw_targets": draw_targets})
    whole._update([LocalBatch(collate(group), index) for index, group in enumerate(groups)])
    assert whole.progress.target_tokens == counted
    # What the second of two processes has of the same update, whatever it drew before.
    torch.manual_seed(5)
    share = make_trainer(hooks={"draw_targets": draw_targets})
    share._update([LocalBatch(collate(groups[1]), 1)])
    share._update([LocalBatch(collate(groups[1]), 1)])
    first, second, third, of_share, of_next_update = draws
    assert of_share == second and len({first, second, third, of_next_update}) == 4


@pytest.mark.parametrize(
    ("accumulation", "optim"), [(1, "adamw"), (3, "adamw"), (1, "muon"), (1, "adadelta"), (1, "sgd")]
)
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


def test_checkpoints_by_the_clock_change_nothing(make_trainer):
    options = {"average_last_checkpoints": 2, "save_total_limit": 2}
    make_trainer(folder="whole", **options).train()
    trainer = make_trainer(folder="often", save_minutes=1e-9, **options)
    saved = []
    save = trainer.writer.save
    trainer.writer.save = lambda progress, scheduled: (saved.append(progress.update), save(progress, scheduled))
    trainer.train()
    assert saved == list(range(1, 13))
    assert_same_weights(weights_of(trainer.output_dir), weights_of(Path(trainer.output_dir).parent / "whole"))
    assert not list(Path(trainer.output_dir).glob("recovery-*"))


def test_batches_of_weight_zero_add_nothing(make_trainer, examples):
    results = []
    for copies in (1, 3):
        trainer = make_trainer(tiny_model(dropout=0.0))
        batch = collate(examples[:5])
        trainer._update([LocalBatch(batch, 0), *[LocalBatch(batch, index, weight=0) for index in range(1, copies)]])
        results.append((trainer.raw_model.state_dict(), trainer.window.state_dict(trainer.accelerator)))
    assert_same_weights(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_dropout_follows_from_seed_update_and_batch(make_trainer, examples):
    def first_loss(seed=42, update=0, index=0, drawn_before=0):
        trainer = make_trainer(tiny_model(dropout=0.5), seed=seed)
        trainer.progress.update = update
        torch.rand(drawn_before)
        trainer._update([LocalBatch(collate(examples[:5]), index)])
        return trainer.window.values(trainer.accelerator, "target_tokens")["loss"]

    assert first_loss() == first_loss(drawn_before=7)
    assert len({first_loss(), first_loss(seed=1), first_loss(update=1), first_loss(index=1)}) == 4


def test_clipping_bounds_the_gradient(make_trainer):
    model = tiny_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = make_trainer(model, optimization={"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e-3})
    trainer._update([LocalBatch(next(trainer.batches.epoch(0)), 0)])
    assert trainer.window.values(trainer.accelerator, "target_tokens")["gradient_norm"] > 1e-3
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


@pytest.mark.parametrize("metric", ["loss", "weighted_loss", "perplexity", "word_perplexity", "bits_per_byte"])
def test_losses_perplexities_and_bits_are_better_when_lower(make_trainer, metric):
    scores = iter([3.0, 1.0, 7.0])
    trainer = make_trainer(evaluate=lambda model: {metric: next(scores)}, metric_for_best_model=metric)
    assert trainer.train()["best_update"] == 8


def test_a_score_that_is_not_a_number_is_worse_than_any_other(make_trainer):
    scores = iter([float("nan"), 3.0, float("nan")])
    assert make_trainer(evaluate=lambda model: {"loss": next(scores)}).train()["best_update"] == 8


def test_without_eval_steps_every_epoch_is_evaluated_at_its_end(make_trainer):
    trainer = make_trainer(max_steps=None, num_train_epochs=3, eval_steps=None, save_total_limit=0)
    updates = len(list(trainer.batches.epoch(0)))
    assert trainer.train()["train_epochs"] == 3
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


def test_a_time_limit_that_is_over_at_once_leaves_one_update_and_a_model(make_trainer):
    trainer = make_trainer(max_train_minutes=1e-9)
    results = trainer.train()
    assert results["train_updates"] == results["best_update"] == 1 and results["train_planned_updates"] == 12
    assert_same_weights(weights_of(trainer.output_dir), weights_of(trainer.output_dir / "checkpoint-1"))


def test_averaged_model_is_the_mean_of_the_last_checkpoints(make_trainer):
    trainer = make_trainer(average_last_checkpoints=3, save_total_limit=3, save_steps=2)
    results = trainer.train()
    assert results["averaged_checkpoints"] == ["checkpoint-8", "checkpoint-10", "checkpoint-12"]
    parts = [weights_of(trainer.output_dir / name) for name in results["averaged_checkpoints"]]
    for name, tensor in weights_of(trainer.output_dir).items():
        torch.testing.assert_close(tensor, torch.stack([part[name] for part in parts]).mean(dim=0))


def test_the_mean_leaves_out_checkpoints_behind_the_end_of_a_resumed_run(make_trainer, tmp_path):
    options = {"average_last_checkpoints": 2, "save_total_limit": 3}
    make_trainer(**options).train()
    options |= {"max_steps": 8, "resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-8")}
    assert make_trainer(**options).train()["averaged_checkpoints"] == ["checkpoint-4", "checkpoint-8"]


def test_averaging_keeps_the_dtype_and_sums_in_fp32(tmp_path):
    values = [1.0, 1.0, 1.0078125]
    for index, value in enumerate(values):
        (tmp_path / str(index)).mkdir()
        save_file({"w": torch.full((2,), value, dtype=torch.bfloat16)}, tmp_path / str(index) / "model.safetensors")
    average_weights([tmp_path / str(index) for index in range(3)], tmp_path)
    mean = weights_of(tmp_path)["w"]
    assert mean.dtype == torch.bfloat16
    assert mean[0] == torch.tensor(sum(values) / 3).bfloat16()


def make_losses_nan(model, when):
    """Multiplies the training loss by NaN where `when()` is true."""

    def multiply(module, _, output):
        if module.training and when():
            output.loss = output.loss * float("nan")

    model.register_forward_hook(multiply)
    return model


@pytest.mark.parametrize("optim", ["adamw", "sgd", "adadelta", "muon"])
def test_an_update_that_is_not_finite_is_as_if_it_had_not_been(make_trainer, optim, capsys):
    kept = []
    for nan_at in (None, 5):
        model = tiny_model()
        trainer = make_trainer(model, optimization={"optim": optim, "max_grad_norm": 0.0})
        make_losses_nan(model, lambda progress=trainer.progress, nan_at=nan_at: progress.update == nan_at)
        for update, group in enumerate(trainer.batches.updates(0, 1)):
            if nan_at is None and update == 5:
                trainer.progress.update += 1  # never computed
                continue
            trainer._update(group)
            if nan_at == update:
                trainer._check_skipped(group)
            if update == 7:
                break
        states = {
            f"{index}/{name}": value
            for index, state in enumerate(trainer.optimizer.optimizer.state.values())
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        kept.append((model.state_dict(), states, trainer.window.values(trainer.accelerator, "tokens")["loss"]))
    assert_same_weights(kept[0][0], kept[1][0])
    assert_same_weights(kept[0][1], kept[1][1])
    assert kept[0][2] == kept[1][2]
    assert "Update 6 is skipped: the loss of batch 1 (examples " in capsys.readouterr().err


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too(make_trainer, examples, capsys):
    model = tiny_model(dropout=0.0)
    model.register_forward_hook(lambda module, _, output: setattr(output, "loss", output.loss + float("inf")))
    trainer = make_trainer(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    group = [LocalBatch(collate(examples[:5]), 0)]
    trainer._update(group)
    trainer._check_skipped(group)
    assert_same_weights(before, model.state_dict())
    assert "Update 1 is skipped: the loss of batch 1 is not finite" in capsys.readouterr().err


def test_fused_optimizers_skip_a_step_on_the_device(make_trainer):
    # The path of GPUs, whose kernels exist on CPU as well.
    trainer = make_trainer(tiny_model())
    groups = trainer.batches.updates(0, 1)
    trainer._update(next(groups))
    before = {name: tensor.clone() for name, tensor in trainer.raw_model.state_dict().items()}
    optimizer = trainer.optimizer.optimizer
    assert optimizer._step_supports_amp_scaling
    optimizer.found_inf = torch.tensor(1.0)
    trainer._update(next(groups))
    assert_same_weights(before, trainer.raw_model.state_dict())


@pytest.mark.parametrize(("device", "skipped_by"), [("cuda", "the kernels"), ("mps", "the loop")])
def test_a_step_is_left_to_kernels_only_where_they_read_that_the_gradient_is_not_finite(device, skipped_by):
    """Those of MPS take `found_inf` and compute with the gradient all the same."""
    fused, steps = SimpleNamespace(_step_supports_amp_scaling=True), []
    optimizer = SimpleNamespace(optimizer=fused, step=lambda: steps.append(fused.found_inf.item()))
    norm = SimpleNamespace(device=torch.device(device), isfinite=lambda: torch.tensor(False))
    SkippedUpdates(torch.device("cpu"), limit=1).step(optimizer, norm)
    assert steps == ([1.0] if skipped_by == "the kernels" else [])


def test_a_run_stops_after_too_many_skipped_updates_and_keeps_its_checkpoints(make_trainer):
    model = make_losses_nan(tiny_model(), lambda: trainer.progress.update >= 4)
    trainer = make_trainer(model, eval_steps=2, save_total_limit=0, logging_steps=3, max_skipped_updates=3)
    with pytest.raises(ValueError, match=r"3 updates in a row were skipped, the last is update 7.*learning_rate"):
        trainer.train()
    assert [path.name for path in checkpoints_in(trainer.output_dir)] == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    for path in checkpoints_in(trainer.output_dir):
        assert all(tensor.isfinite().all() for tensor in weights_of(path).values())
    assert [line.get("skipped_updates") for line in log_of(trainer.output_dir) if line["kind"] == "train"] == [None, 2]


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
        (
            {"average_last_checkpoints": 5, "save_total_limit": 0},
            "a run of 12 updates .* every 4 writes 3. Average fewer",
        ),
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


def test_a_lack_of_memory_names_the_batch_and_the_settings(make_trainer):
    trainer = make_trainer()
    trainer.raw_model.register_forward_pre_hook(lambda module, inputs: torch.empty(2**55))
    with pytest.raises(ValueError, match=r"memory for update 1, .* \d+ rows of \d+ tokens.*max_tokens_per_batch"):
        trainer.train()


def test_a_missing_best_checkpoint_is_said_at_resume(make_trainer, capsys):
    scores = iter([1.0, 3.0, 2.5, 2.0])
    trainer = make_trainer(max_steps=8, evaluate=lambda model: {"loss": next(scores)})
    trainer.train()
    shutil.rmtree(Path(trainer.output_dir) / "checkpoint-4")
    resumed = make_trainer(resume_from_checkpoint="last", evaluate=lambda model: {"loss": next(scores)})
    assert resumed.train()["best_update"] == 12
    out = capsys.readouterr().out
    assert "checkpoint-4, the best checkpoint so far, is missing" in out and "eval 8/12  loss 2.5" in out


def test_time_that_is_used_up_stays_used_up(make_trainer, capsys):
    options = {"max_steps": 10**6, "eval_steps": 10**6, "max_train_minutes": 0.003}
    updates = make_trainer(**options).train()["train_updates"]
    capsys.readouterr()
    assert make_trainer(resume_from_checkpoint="last", **options).train()["train_updates"] == updates
    assert "max_train_minutes (0.003) is used up" in capsys.readouterr().out


def test_an_average_of_fewer_checkpoints_than_asked_is_said(make_trainer, capsys):
    trainer = make_trainer(average_last_checkpoints=3, save_total_limit=3)
    trainer.train()
    shutil.rmtree(Path(trainer.output_dir) / "checkpoint-4")
    capsys.readouterr()
    options = {"average_last_checkpoints": 3, "save_total_limit": 3, "resume_from_checkpoint": "last"}
    assert make_trainer(**options).train()["averaged_checkpoints"] == ["checkpoint-8", "checkpoint-12"]
    assert "the run has only 2 checkpoints" in capsys.readouterr().out
