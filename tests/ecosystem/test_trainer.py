"""The library's own `Trainer` and `Seq2SeqTrainer` on every model, against losses written out."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_models import MODELS, PAD, TRANSLATORS, tiny_batch, tiny_collator, tiny_examples, tiny_model, tiny_tokenizer
from torch.nn import functional
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def make_trainer(tmp_path):
    """Returns a trainer for one step of plain gradient descent with learning rate 1."""

    def make(name, model, trainer_class=Trainer, arguments_class=TrainingArguments, metrics=None, **settings):
        settings = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_steps": 1} | settings
        settings |= {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0}
        arguments = arguments_class(
            str(tmp_path), use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, **settings
        )
        return trainer_class(
            model,
            arguments,
            data_collator=tiny_collator(name, model),
            train_dataset=tiny_examples(name),
            eval_dataset=tiny_examples(name),
            processing_class=tiny_tokenizer(),
            compute_metrics=metrics,
        )

    return make


def next_token_losses(model, input_ids, attention_mask):
    """Computes the losses of GPT-1 from the logits of all positions, (B, T - 1), and which of them count."""
    hidden_states = model.model(input_ids, attention_mask=attention_mask).last_hidden_state
    logits = hidden_states @ model.model.tokens_embed.weight.T
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), input_ids[:, 1:], reduction="none")
    return losses, attention_mask[:, 1:].float()


def written_out_loss(name, model, batch, smoothing=0.0):
    """Computes the loss of a whole batch from logits, as the papers define it."""
    labels = batch["labels"]
    if name in TRANSLATORS:
        start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
        decoder_input_ids = torch.cat([start, labels[:, :-1]], dim=1)
        decoder_input_ids = decoder_input_ids.masked_fill(decoder_input_ids == -100, PAD)
        source = {key: batch[key] for key in ("input_ids", "attention_mask")}
        logits = model(**source, decoder_input_ids=decoder_input_ids).logits
        return functional.cross_entropy(logits.transpose(1, 2), labels, label_smoothing=smoothing)
    if name == "masked_lm":
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return functional.cross_entropy(logits.transpose(1, 2), labels)
    if name == "causal_lm":
        losses, counted = next_token_losses(model, batch["input_ids"], batch["attention_mask"])
        return (losses * counted).sum() / counted.sum()
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    if model.config.auxiliary_loss_weight and model.training:
        losses, counted = next_token_losses(
            model, batch["input_ids"].flatten(0, -2), batch["attention_mask"].flatten(0, -2)
        )
        loss = loss + 0.5 * ((losses * counted).sum(dim=1) / counted.sum(dim=1)).mean()
    return loss


def stepped(name, smoothing=0.0, **settings):
    """Returns the parameters after one step along the gradient of `written_out_loss`."""
    model = tiny_model(name, **settings).train()
    model.zero_grad()
    written_out_loss(name, model, tiny_batch(name), smoothing).backward()
    return {key: parameter.detach() - parameter.grad for key, parameter in model.named_parameters()}


def assert_parameters(model, expected):
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[key], atol=2e-6, rtol=1e-4, msg=lambda m, k=key: k + m)


ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_that_of_the_loss_written_out_in_one_batch_or_four(name, make_trainer):
    expected = stepped(name)
    for settings in ({}, ACCUMULATED):
        model = tiny_model(name)
        make_trainer(name, model, **settings).train()
        assert_parameters(model, expected)


@pytest.mark.parametrize(
    ("problem_type", "loss_of"),
    [
        ("multi_label_classification", functional.binary_cross_entropy_with_logits),
        ("regression", functional.mse_loss),
    ],
)
def test_a_step_with_several_labels_an_example_is_that_of_their_mean_loss(problem_type, loss_of, make_trainer):
    settings = {"problem_type": problem_type, "auxiliary_loss_weight": 0.0}
    labels = [[float(row % 3 == label) for label in range(3)] for row in range(8)]
    model, batch = tiny_model("classification", **settings).train(), tiny_batch("classification")
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss_of(logits, torch.tensor(labels)).backward()
    expected = {key: parameter.detach() - parameter.grad for key, parameter in model.named_parameters()}
    for accumulation in ({}, ACCUMULATED):
        model = tiny_model("classification", **settings)
        trainer = make_trainer("classification", model, **accumulation)
        trainer.train_dataset = [
            {**example, "label": row} for example, row in zip(tiny_examples("classification"), labels, strict=True)
        ]
        trainer.train()
        assert_parameters(model, expected)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_gives_the_loss_over_tokens_and_the_logits(name, make_trainer):
    model, batch = tiny_model(name), tiny_batch(name)
    trainer = make_trainer(name, model)
    prediction = trainer.predict(tiny_examples(name))
    with torch.no_grad():
        assert prediction.metrics["test_loss"] == pytest.approx(float(written_out_loss(name, model, batch)), rel=1e-5)
        logits = model(**batch).logits
    assert isinstance(prediction.predictions, np.ndarray)
    np.testing.assert_allclose(prediction.predictions, logits.numpy(), atol=1e-5)
    np.testing.assert_array_equal(prediction.label_ids, batch["labels"].numpy())


@pytest.mark.parametrize("name", TRANSLATORS)
def test_seq2seq_trainer_translates_while_it_evaluates(name, make_trainer):
    seen = []
    model, batch = tiny_model(name), tiny_batch(name)
    trainer = make_trainer(
        name,
        model,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        metrics=lambda prediction: seen.append(prediction) or {"count": len(prediction.predictions)},
        predict_with_generate=True,
        generation_max_length=9,
        generation_num_beams=3,
    )
    metrics = trainer.evaluate()
    source = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model.generate(**source, max_length=9, num_beams=3)
        loss = float(written_out_loss(name, model, batch))
    assert metrics["eval_count"] == 8 and metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)
    predictions = seen[0].predictions[:, : expected.shape[1]]
    np.testing.assert_array_equal(predictions, expected.numpy())
    assert (seen[0].predictions[:, expected.shape[1] :] == PAD).all()
    trainer.train()
    assert_parameters(model, stepped(name))


@pytest.mark.parametrize("name", [*TRANSLATORS, "classification", "multiple_choice"])
def test_label_smoothing_of_the_trainer_is_that_of_the_loss_written_out(name, make_trainer):
    settings = {} if name in TRANSLATORS else {"auxiliary_loss_weight": 0.0}
    expected = stepped(name, smoothing=0.2, **settings)
    model = tiny_model(name, **settings)
    make_trainer(name, model, label_smoothing_factor=0.2, **ACCUMULATED).train()
    assert_parameters(model, expected)


@pytest.mark.parametrize(
    ("name", "expected"), [("causal_lm", "labels would not be shifted"), ("classification", "auxiliary_loss_weight")]
)
def test_label_smoothing_that_would_train_something_else_is_refused(name, expected, make_trainer):
    with pytest.raises(ValueError, match=f"label_smoothing_factor {expected}"):
        make_trainer(name, tiny_model(name), label_smoothing_factor=0.2).train()


def test_a_loss_function_of_ones_own_gets_the_logits(make_trainer):
    model = tiny_model("causal_lm")
    model.accepts_loss_kwargs = False
    trainer = make_trainer("causal_lm", model, **ACCUMULATED)
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: (
        functional.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="sum")
        / num_items_in_batch
    )
    trainer.train()
    assert_parameters(model, stepped("causal_lm"))
