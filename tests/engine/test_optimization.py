"""Optimizers and learning-rate schedules against the papers' formulas and torch's own schedulers."""

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from papers_to_gpt.engine.optimization import make_optimizer, make_schedule
from papers_to_gpt.settings.training import OptimizationSettings


def schedule(total=100, model_size=None, **settings):
    return make_schedule(OptimizationSettings(**settings), total, model_size)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_schedules_equal_transformers(kind):
    ours = schedule(learning_rate=0.5, lr_scheduler_type=kind, warmup_steps=10)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    name = "constant_with_warmup" if kind == "constant" else kind
    options = {"scheduler_specific_kwargs": {"timescale": 10}} if kind == "inverse_sqrt" else {}
    theirs = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=100, **options)
    for update in range(1, 100):
        optimizer.step()
        theirs.step()  # theirs counts from 0, so after n steps it stands where our update n is
        assert ours(update) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)


def test_a_share_of_the_run_warms_up_as_in_training_arguments(tmp_path):
    for share, total in ((0.002, 804), (0.1, 95)):
        updates = TrainingArguments(output_dir=str(tmp_path), warmup_steps=share).get_warmup_steps(total)
        ours, theirs = (schedule(total=total, learning_rate=1.0, warmup_steps=steps) for steps in (share, updates))
        assert [ours(update) for update in range(1, total)] == [theirs(update) for update in range(1, total)]
        assert ours(updates) == 1.0


def test_noam_is_equation_3_and_peaks_after_warmup():
    rate = schedule(learning_rate=1.0, lr_scheduler_type="noam", warmup_steps=4000, model_size=512)
    for update in (1, 100, 4000, 100_000):
        assert rate(update) == pytest.approx(512**-0.5 * min(update**-0.5, update * 4000**-1.5))
    assert rate(4000) > max(rate(3999), rate(4001))


def test_halving_keeps_the_rate_then_halves_at_even_intervals():
    rate = schedule(learning_rate=0.7, lr_scheduler_type="halving", halving_start_step=50, halving_every_steps=5)
    assert [rate(update) for update in (1, 50, 51, 55, 56, 61)] == [0.7, 0.7, 0.35, 0.35, 0.175, 0.0875]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"lr_scheduler_type": "noam"}, "noam needs warmup_steps"),
        ({"lr_scheduler_type": "halving"}, "halving needs halving_every_steps"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        OptimizationSettings(**settings)


def test_schedules_to_zero_need_an_end():
    with pytest.raises(ValueError, match="lr_scheduler_type is linear, which ends with the run"):
        schedule(total=None, lr_scheduler_type="linear")


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adadelta", "muon"])
def test_every_optimizer_lowers_a_loss_and_decays_matrices_only(name):
    model = torch.nn.Linear(3, 2)
    settings = OptimizationSettings(optim=name, learning_rate=0.1, weight_decay=0.3)
    optimizer = make_optimizer(model, settings)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(model.weight): 0.3, id(model.bias): 0.0}
    inputs, targets = torch.randn(8, 3), torch.randn(8, 2)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_adamw_decay_is_decoupled_from_the_gradient():
    weight = torch.nn.Linear(2, 2, bias=False)
    before = weight.weight.detach().clone()
    optimizer = make_optimizer(weight, OptimizationSettings(optim="adamw", learning_rate=0.5, weight_decay=0.1))
    weight.weight.grad = torch.zeros_like(weight.weight)
    optimizer.step()
    torch.testing.assert_close(weight.weight.detach(), before * (1 - 0.5 * 0.1))


class TinyLanguageModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4)
        self.softmax = torch.nn.Linear(4, 7, bias=False)

    def get_output_embeddings(self):
        return self.softmax

    def forward(self, tokens):
        return self.softmax(self.layer(self.embedding(tokens)))


def take_steps(model, optimizers, steps=3):
    for step in range(steps):
        tokens = torch.tensor([[step, 1, 2, 3]])
        torch.nn.functional.cross_entropy(model(tokens)[0], tokens[0]).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_muon_is_torchs_for_matrices_of_layers_and_adamw_for_the_rest():
    ours, theirs = TinyLanguageModel(), TinyLanguageModel()
    settings = OptimizationSettings(optim="muon", learning_rate=0.01, weight_decay=0.1, adam_beta2=0.95)
    take_steps(ours, [make_optimizer(ours, settings)])
    tables = [theirs.embedding.weight, theirs.softmax.weight]
    adamw = [{"params": tables, "weight_decay": 0.1}, {"params": [theirs.layer.bias], "weight_decay": 0.0}]
    muon = torch.optim.Muon([theirs.layer.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    take_steps(theirs, [muon, torch.optim.AdamW(adamw, lr=0.01, betas=(0.9, 0.95))])
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference)


def test_a_rate_set_in_muons_groups_is_used_after_its_state_was_loaded_too():
    model = TinyLanguageModel()
    settings = OptimizationSettings(optim="muon", learning_rate=0.01)
    first, optimizer = make_optimizer(model, settings), make_optimizer(model, settings)
    take_steps(model, [first])
    optimizer.load_state_dict(first.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    take_steps(model, [optimizer])
    for parameter, value in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=0, atol=0)


def test_muon_needs_a_matrix_beside_the_embeddings():
    with pytest.raises(ValueError, match="muon, but the model has no matrix"):
        make_optimizer(torch.nn.Embedding(7, 4), OptimizationSettings(optim="muon"))
