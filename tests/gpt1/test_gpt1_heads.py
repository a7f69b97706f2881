"""GPT-1's heads, against single runs and losses computed by hand."""

import pytest
import torch
from tiny_heads import DELIMITER, EXTRACT, PADDING, SIZES, START, tiny_head
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMultipleChoice, AutoModelForSequenceClassification

from gpt1_scratch import (
    GPT1Config,
    GPT1ForCausalLM,
    GPT1ForMultipleChoice,
    GPT1ForSequenceClassification,
    chunked_cross_entropy,
)
from gpt1_scratch.modeling_gpt1_heads import order_by_rank, reading_order

CLASSIFICATION, SIMILARITY, CHOICE = "classification", "similarity", "multiple choice"


def words(count: int, seed: int) -> list[int]:
    return torch.randint(1, 57, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def framed(*texts: list[int]) -> list[int]:
    pieces = [texts[0], *([DELIMITER, *text] for text in texts[1:])]
    return [START, *(token for piece in pieces for token in piece), EXTRACT]


PAIRS = [(words(3, 1), words(6, 2)), (words(5, 3), words(1, 4)), (words(2, 5), words(2, 6))]
# A delimiter within the second text is a word like another.
PAIRS[0][1][2] = DELIMITER
ROWS = [framed(*pair) for pair in PAIRS]
SWAPPED = [framed(second, first) for first, second in PAIRS]


def pad(rows: list[list[int]], side: str, length: int = 15) -> dict[str, torch.Tensor]:
    """Pads sequences to (B, length) tokens and a mask."""
    batch = {"input_ids": [], "attention_mask": []}
    for row in rows:
        padding, ones = [PADDING] * (length - len(row)), [1] * len(row)
        batch["input_ids"].append(row + padding if side == "right" else padding + row)
        batch["attention_mask"].append(ones + padding if side == "right" else padding + ones)
    return {name: torch.tensor(numbers) for name, numbers in batch.items()}


def state_at_the_end(model, row: list[int]) -> torch.Tensor:
    """Returns the state of the backbone at the end of one sequence without padding, (D,)."""
    return model.model(torch.tensor([row])).last_hidden_state[0, -1]


def mean_token_loss(model, row: list[int]) -> torch.Tensor:
    """Returns the mean loss over all next tokens of a sequence."""
    states = model.model(torch.tensor([row])).last_hidden_state[0]
    return functional.cross_entropy(states[:-1] @ model.model.tokens_embed.weight.T, torch.tensor(row[1:]))


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(params=["causal", "bidirectional"])
def attention(request, monkeypatch):
    monkeypatch.setitem(SIZES, "attention", request.param)


with_both_kinds_of_attention = pytest.mark.usefixtures("attention")


# Reading


@with_both_kinds_of_attention
@pytest.mark.parametrize("mask", ["given", "derived"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_state_at_the_last_token_is_read_wherever_padding_stands(side, mask):
    model, inputs = tiny_head(num_labels=3), pad(ROWS, side)
    if mask == "derived":
        del inputs["attention_mask"]
    expected = torch.stack([model.score(state_at_the_end(model, row)) for row in ROWS])
    assert expected.shape == (3, 3)
    torch.testing.assert_close(model(**inputs).logits, expected)


@with_both_kinds_of_attention
@pytest.mark.parametrize("side", ["left", "right"])
def test_given_positions_and_embeddings_are_read_in_the_same_places(side):
    model, inputs = tiny_head(auxiliary_loss_weight=0), pad(ROWS, side)
    expected = model(**inputs).logits
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(model(**inputs, position_ids=positions).logits, expected)
    assert not torch.allclose(model(**inputs, position_ids=positions + 3).logits, expected)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    mask = inputs["attention_mask"]
    torch.testing.assert_close(model(inputs_embeds=embeddings, attention_mask=mask).logits, expected)
    row = torch.tensor([ROWS[1]])
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(row)).logits, model(row).logits)


@with_both_kinds_of_attention
@pytest.mark.parametrize("side", ["left", "right"])
def test_both_orders_are_read_separately_and_their_states_added(side):
    model, inputs = tiny_head(both_orders=True), pad(ROWS, side)
    sums = [
        state_at_the_end(model, row) + state_at_the_end(model, other) for row, other in zip(ROWS, SWAPPED, strict=True)
    ]
    torch.testing.assert_close(model(**inputs).logits, model.score(torch.stack(sums)))
    # A text split at its first delimiter comes back when it is swapped twice, unless it holds another one.
    torch.testing.assert_close(model(**pad(SWAPPED[1:], side)).logits, model(**pad(ROWS[1:], side)).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_orders_are_those_that_lists_give(side):
    inputs = pad(ROWS, side)
    order = reading_order(inputs["attention_mask"].bool(), inputs["input_ids"] == DELIMITER)
    read = inputs["input_ids"][torch.arange(3)[:, None, None], order]
    assert read[:, 0].tolist() == pad(ROWS, "right")["input_ids"].tolist()
    assert read[:, 1].tolist() == pad(SWAPPED, "right")["input_ids"].tolist()
    assert torch.equal(order.sort(dim=2).values, torch.arange(15).expand(3, 2, -1))


def test_order_by_rank_is_the_stable_sort():
    rank = torch.randint(6, (50, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(order_by_rank(rank, ranks=6), rank.argsort(dim=1, stable=True))


@with_both_kinds_of_attention
def test_a_single_text_is_read_twice_as_it_is_in_both_orders():
    model, row = tiny_head(both_orders=True), framed(words(4, 1))
    expected = model.score(2 * state_at_the_end(model, row))
    torch.testing.assert_close(model(**pad([row], "left")).logits[0], expected)


@with_both_kinds_of_attention
@pytest.mark.parametrize("side", ["left", "right"])
def test_choices_are_scored_one_by_one_and_the_softmax_runs_over_them(side):
    model = tiny_head(GPT1ForMultipleChoice)
    inputs = {name: tensor.unflatten(0, (2, 3)) for name, tensor in pad([*ROWS, *SWAPPED], side).items()}
    labels = torch.tensor([2, 0])
    outputs = model(**inputs, labels=labels)
    expected = torch.stack([model.choice_score(state_at_the_end(model, row)) for row in [*ROWS, *SWAPPED]]).view(2, 3)
    torch.testing.assert_close(outputs.logits, expected)
    probabilities = expected.exp() / expected.exp().sum(1, keepdim=True)
    torch.testing.assert_close(outputs.loss, -(probabilities[0, 2].log() + probabilities[1, 0].log()) / 2)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    again = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(again.logits, expected)


def test_classifier_dropout_acts_in_training_alone_and_alike_on_all_choices():
    inputs = pad([ROWS[0]] * 4, "right")
    model = tiny_head(classifier_dropout=0.5)
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, tiny_head()(**inputs).logits)
    dropped = model.train()(**inputs).logits
    assert len(dropped.unique(dim=0)) == 4
    model = tiny_head(GPT1ForMultipleChoice, classifier_dropout=0.5)
    logits = model(**{name: tensor.view(2, 2, -1) for name, tensor in inputs.items()}).logits
    dropped = model.train()(**{name: tensor.view(2, 2, -1) for name, tensor in inputs.items()}).logits
    torch.testing.assert_close(dropped[:, 0], dropped[:, 1])
    assert dropped[0, 0] != dropped[1, 0] and dropped[0, 0] != logits[0, 0]


# Losses


def joint_loss_by_hand(
    model, kind: str, examples: list[tuple], labels: list[int], weight: float
) -> list[torch.Tensor]:
    """Computes the loss of every example from single sequences and torch's cross-entropy."""
    losses = []
    for (first, second), label in zip(examples, labels, strict=True):
        own, swapped = framed(first, second), framed(second, first)
        sequences = {CLASSIFICATION: [own], SIMILARITY: [own, swapped], CHOICE: [own, swapped]}[kind]
        states = torch.stack([state_at_the_end(model, sequence) for sequence in sequences])
        scores = model.choice_score(states)[:, 0] if kind == CHOICE else model.score(states.sum(0))
        language = sum(mean_token_loss(model, sequence) for sequence in sequences) / len(sequences)
        losses.append(functional.cross_entropy(scores, torch.tensor(label)) + weight * language)
    return losses


def head_and_inputs(kind: str, side: str = "right", **settings):
    if kind == CHOICE:
        model = tiny_head(GPT1ForMultipleChoice, **settings)
        rows = [row for pair in zip(ROWS, SWAPPED, strict=True) for row in pair]
        return model, {name: tensor.unflatten(0, (-1, 2)) for name, tensor in pad(rows, side).items()}
    return tiny_head(num_labels=4, both_orders=kind == SIMILARITY, **settings), pad(ROWS, side)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [CLASSIFICATION, SIMILARITY, CHOICE])
def test_training_adds_the_language_models_loss_of_every_example(kind, side, monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", {"cpu": 7})
    model, inputs = head_and_inputs(kind, side, auxiliary_loss_weight=0.7)
    labels = [1, 0, 1]
    for num_items_in_batch, items in ((None, 3), (5, 5), (torch.tensor(5), 5)):
        loss = model.train()(**inputs, labels=torch.tensor(labels), num_items_in_batch=num_items_in_batch).loss
        expected = sum(joint_loss_by_hand(model, kind, PAIRS, labels, weight=0.7)) / items
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(model, loss), gradients(model, expected))
    # Without it in evaluation, and where its weight is 0.
    task_alone = sum(joint_loss_by_hand(model, kind, PAIRS, labels, weight=0)) / 3
    torch.testing.assert_close(model.eval()(**inputs, labels=torch.tensor(labels)).loss, task_alone)
    model.config.auxiliary_loss_weight = 0
    torch.testing.assert_close(model.train()(**inputs, labels=torch.tensor(labels)).loss, task_alone)


@with_both_kinds_of_attention
@pytest.mark.parametrize("kind", [CLASSIFICATION, SIMILARITY, CHOICE])
def test_uneven_batches_add_up_to_one_large_one(kind):
    model, inputs = head_and_inputs(kind)
    labels = torch.tensor([0, 1, 1])
    whole = model.train()(**inputs, labels=labels).loss
    expected = whole.detach(), gradients(model, whole)
    model.zero_grad()
    total = 0.0
    for part in (slice(0, 1), slice(1, 3)):
        batch = {name: tensor[part] for name, tensor in inputs.items()}
        loss = model(**batch, labels=labels[part], num_items_in_batch=torch.tensor(3)).loss
        loss.backward()
        total = total + loss.detach()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close((total, found), expected)


@pytest.mark.parametrize("kind", [CLASSIFICATION, SIMILARITY, CHOICE])
def test_examples_without_a_label_count_in_neither_loss(kind):
    model, inputs = head_and_inputs(kind)
    loss = model.train()(**inputs, labels=torch.tensor([1, -100, 0])).loss
    losses = joint_loss_by_hand(model, kind, [PAIRS[0], PAIRS[2]], [1, 0], weight=0.5)
    torch.testing.assert_close(loss, sum(losses) / 2)
    assert model(**inputs, labels=torch.full((3,), -100)).loss.item() == 0


def test_class_weights_weigh_the_tasks_loss_as_torch_does_and_not_the_language_models():
    model, inputs = head_and_inputs(CLASSIFICATION, auxiliary_loss_weight=0.7)
    weights, labels = torch.tensor([0.5, 4.0, 1.0, 2.0]), torch.tensor([1, 0, -100])
    logits = model(**inputs).logits
    task = functional.cross_entropy(logits, labels, weights)  # sum of w * loss / sum of w
    torch.testing.assert_close(model(**inputs, labels=labels, class_weights=weights).loss, task)
    language = torch.stack([mean_token_loss(model, row) for row in ROWS[:2]]).mean()
    loss = model.train()(**inputs, labels=labels, class_weights=weights).loss
    torch.testing.assert_close(loss, task + 0.7 * language)
    expected = gradients(model, loss)
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 3)):
        batch = {name: tensor[part] for name, tensor in inputs.items()}
        update = {"num_items_in_batch": torch.tensor(2), "class_weight_in_batch": torch.tensor(4.5)}
        model(**batch, labels=labels[part], class_weights=weights, **update).loss.backward()
    torch.testing.assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected)


def test_class_weights_without_the_weight_of_the_update_or_for_regression_are_refused():
    model, inputs = tiny_head(num_labels=2, problem_type="single_label_classification"), pad(ROWS, "right")
    weights = torch.ones(2)
    with pytest.raises(ValueError, match="num_items_in_batch and class_weight_in_batch together"):
        model(**inputs, labels=torch.tensor([0, 1, 1]), class_weights=weights, num_items_in_batch=3)
    model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="problem_type is regression, which has no classes"):
        model(**inputs, labels=torch.ones(3, 2), class_weights=weights)


def test_class_weights_of_several_labels_weigh_the_labels_that_apply():
    model, inputs = tiny_head(num_labels=2), pad(ROWS, "right")
    labels, weights = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), torch.tensor([3.0, 0.5])
    outputs = model(**inputs, labels=labels, class_weights=weights)
    probabilities = torch.sigmoid(outputs.logits)
    expected = -(labels * weights * probabilities.log() + (1 - labels) * (1 - probabilities).log()).mean()
    torch.testing.assert_close(outputs.loss, expected)


@with_both_kinds_of_attention
@pytest.mark.parametrize("numbers", [1, 2])
def test_regression_is_the_mean_squared_error(numbers):
    model, inputs = tiny_head(num_labels=numbers, problem_type="regression"), pad(ROWS, "right")
    labels = torch.tensor([[0.5, 1.0], [-2.0, 4.0], [3.0, 0.0]])[:, :numbers]
    outputs = model(**inputs, labels=labels.squeeze(-1))
    torch.testing.assert_close(outputs.loss, ((outputs.logits - labels) ** 2).mean())
    halves = [
        model(
            **{name: tensor[part] for name, tensor in inputs.items()},
            labels=labels[part],
            num_items_in_batch=3 * numbers,
        ).loss
        for part in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(halves), outputs.loss)


def test_several_labels_at_once_have_their_own_sigmoids():
    model, inputs = tiny_head(num_labels=2), pad(ROWS, "right")
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    outputs = model(**inputs, labels=labels)
    probabilities = torch.sigmoid(outputs.logits)
    torch.testing.assert_close(outputs.loss, -torch.where(labels == 1, probabilities, 1 - probabilities).log().mean())


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, [0.5, 1.0, 2.0], "regression"),
        (3, [0, 1, 2], "single_label_classification"),
        (2, [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], "multi_label_classification"),
    ],
)
def test_the_kind_of_problem_is_read_from_the_first_labels_and_kept(num_labels, labels, problem_type):
    model, inputs = tiny_head(num_labels=num_labels), pad(ROWS, "right")
    loss = model(**inputs, labels=torch.tensor(labels)).loss
    assert model.config.problem_type == problem_type
    named = tiny_head(num_labels=num_labels, problem_type=problem_type)
    torch.testing.assert_close(named(**inputs, labels=torch.tensor(labels)).loss, loss)


def test_losses_and_scores_under_autocast_are_close_and_not_rounded():
    model, inputs = tiny_head(both_orders=True), pad(ROWS, "right")
    labels = torch.tensor([0, 1, 1])
    exact = model.train()(**inputs, labels=labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**inputs, labels=labels)
    assert rounded.logits.dtype == rounded.loss.dtype == torch.float32
    assert not torch.equal(rounded.logits, rounded.logits.bfloat16().float())
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    found, expected = gradients(model, rounded.loss), gradients(model, exact.loss)
    for name in found:
        assert functional.cosine_similarity(found[name].flatten(), expected[name].flatten(), dim=0) > 0.98, name


@with_both_kinds_of_attention
@pytest.mark.parametrize("kind", [SIMILARITY, CHOICE])
def test_gradient_checkpointing_changes_nothing(kind):
    model, inputs = head_and_inputs(kind, residual_dropout=0.2, classifier_dropout=0.2)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        loss = model.train()(**inputs, labels=torch.tensor([0, 1, 1])).loss
        results.append((loss.detach(), gradients(model, loss)))
    torch.testing.assert_close(results[0], results[1])


@with_both_kinds_of_attention
def test_training_step_compiles_into_one_graph():
    torch._dynamo.reset()
    model, inputs = head_and_inputs(
        SIMILARITY, "left", problem_type="single_label_classification", num_hidden_layers=1
    )
    inputs["labels"] = torch.tensor([0, -100, 1])
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    loss, expected = compiled(**inputs).loss, model(**inputs).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected))


def test_what_cannot_be_read_or_trained_is_refused():
    model, inputs = tiny_head(), pad(ROWS, "right")
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    labels = torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="exactly one"):
        model(**inputs, inputs_embeds=embeddings)
    with pytest.raises(ValueError, match="exactly one"):
        tiny_head(GPT1ForMultipleChoice)(labels=labels)
    with pytest.raises(ValueError, match="auxiliary_loss_weight is 0.5.*Give input_ids"):
        model.train()(inputs_embeds=embeddings, labels=labels)
    with pytest.raises(ValueError, match="auxiliary_loss_weight is 0.5.*tie_word_embeddings"):
        tiny_head(tie_word_embeddings=False).train()(**inputs, labels=labels)
    with pytest.raises(ValueError, match="both_orders needs input_ids"):
        tiny_head(both_orders=True)(inputs_embeds=embeddings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"both_orders": True, "delimiter_token_id": None}, "both_orders needs delimiter_token_id"),
        ({"auxiliary_loss_weight": -0.5}, "auxiliary_loss_weight is -0.5"),
        ({"classifier_dropout": 1.0}, "classifier_dropout is 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        GPT1Config(**{**SIZES, **settings})


# Checkpoints


@pytest.mark.parametrize(
    ("auto_class", "head_class", "layer", "settings"),
    [
        (AutoModelForSequenceClassification, GPT1ForSequenceClassification, "score", {"num_labels": 5}),
        (AutoModelForMultipleChoice, GPT1ForMultipleChoice, "choice_score", {}),
    ],
)
def test_one_checkpoint_loads_into_every_head_and_back(auto_class, head_class, layer, settings, tmp_path):
    sizes = {**SIZES, "hidden_size": 384, "num_attention_heads": 6}
    pretrained = GPT1ForCausalLM(GPT1Config(**sizes)).eval()
    pretrained.save_pretrained(tmp_path / "pretrained")
    head = auto_class.from_pretrained(tmp_path / "pretrained", trust_remote_code=False, **settings)
    assert type(head) is head_class
    weights = head.state_dict()
    for name, tensor in pretrained.model.state_dict().items():
        assert torch.equal(weights.pop(f"model.{name}"), tensor), name
    assert set(weights) == {f"{layer}.weight", f"{layer}.bias"}
    scores = settings.get("num_labels", 1)
    assert weights[f"{layer}.weight"].shape == (scores, 384) and weights[f"{layer}.bias"].tolist() == [0] * scores
    assert weights[f"{layer}.weight"].std().item() == pytest.approx(0.02, rel=0.15)
    head.save_pretrained(tmp_path / "head")
    again = auto_class.from_pretrained(tmp_path / "head", trust_remote_code=False)
    assert torch.equal(again.state_dict()[f"{layer}.weight"], weights[f"{layer}.weight"])
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "head", trust_remote_code=False).eval()
    row = torch.tensor([ROWS[0]])
    assert torch.equal(back(row).logits, pretrained(row).logits)


def test_settings_given_while_loading_are_checked(tmp_path):
    GPT1ForCausalLM(GPT1Config(**{**SIZES, "delimiter_token_id": None})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="both_orders needs delimiter_token_id"):
        GPT1ForSequenceClassification.from_pretrained(tmp_path, both_orders=True)
