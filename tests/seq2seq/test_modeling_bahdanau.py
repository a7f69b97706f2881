"""The attention model against the paper's equations, one sentence and one step at a time, and its numbers."""

import pytest
import torch
from torch import nn

from seq2seq_scratch.bahdanau_loops import _AttentiveLoop, _BidirectionalLoop
from seq2seq_scratch.configuration_bahdanau import BahdanauConfig
from seq2seq_scratch.modeling_bahdanau import BahdanauForConditionalGeneration
from seq2seq_scratch.plain_forms import plain_forms

PAD, START, END = 1, 2, 3
SOURCES = [[4, 5, 6, 7, 3], [8, 3], [9, 10, 3]]
TARGETS = [[4, 3], [5, 6, 7, 3], [8, 9, 3]]


def build_model(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 13, "decoder_vocab_size": 11, "embedding_size": 6, "hidden_size": 8}
    sizes |= {"attention_size": 5, "maxout_size": 7}
    config = BahdanauConfig(**{**sizes, "initializer_std": 0.5, "attention_initializer_std": 0.5, **settings})
    model = BahdanauForConditionalGeneration(config).eval()
    # The paper starts both at 0, which would hide mistakes.
    for name, parameter in model.named_parameters():
        if "bias" in name or "score" in name:
            nn.init.normal_(parameter)
    return model


def pad(sequences, side="right", length=None, value=PAD):
    length = length or max(map(len, sequences))
    filler = [[value] * (length - len(sequence)) for sequence in sequences]
    rows = [s + f if side == "right" else f + s for s, f in zip(sequences, filler, strict=True)]
    return torch.tensor(rows)


def paper_logits(model, source, target_input):
    """Computes section 3 and appendix A for one sentence: (T, V) logits and (T, S) attention weights."""
    encoder, decoder, size = model.encoder, model.decoder, model.config.hidden_size
    sigmoid, tanh = torch.sigmoid, torch.tanh

    def read(tokens, direction):
        """Computes the states of one direction as in appendix A.2.1, without attention."""
        gru = encoder.bidirectional_gru
        W_z, W_r, W = gru.input_weight[direction].T.split(size)
        b_z, b_r, b = gru.bias[direction, 0].split(size)
        U_z, U_r = gru.gate_weight[direction].T.split(size)
        U = gru.candidate_weight[direction].T
        h, states = torch.zeros_like(b), []
        for token in tokens:
            x = encoder.embed_tokens.weight[token]
            z = sigmoid(W_z @ x + U_z @ h + b_z)
            r = sigmoid(W_r @ x + U_r @ h + b_r)
            h = (1 - z) * h + z * tanh(W @ x + U @ (r * h) + b)
            states.append(h)
        return states

    forward_states, backward_states = read(source, 0), read(source[::-1], 1)[::-1]
    annotations = [torch.cat(pair) for pair in zip(forward_states, backward_states, strict=True)]
    if not model.config.use_attention:
        annotations = [torch.cat([forward_states[-1], backward_states[0]])]

    W_z, W_r, W = decoder.input_gates.weight.split(size)
    b_z, b_r, b = decoder.input_gates.bias.split(size)
    U_z, U_r = decoder.state_gates.weight.split(size)
    U = decoder.candidate.weight
    C_z, C_r, C = encoder.gate_value.weight.split(size)
    W_a, U_a, v_a = decoder.attention.query.weight, encoder.attention_key, decoder.attention.score.weight[0]
    s = tanh(decoder.initial_state.weight @ backward_states[0] + decoder.initial_state.bias)
    logits, alphas = [], []
    for token in target_input:
        y = decoder.embed_tokens.weight[token]
        scores = [v_a @ tanh(W_a @ s + U_a(h)) for h in annotations]
        alpha = torch.softmax(torch.stack(scores), dim=0)
        c = sum(a * h for a, h in zip(alpha, annotations, strict=True))
        readout = decoder.readout
        t = readout.from_state(s) + readout.from_embedding.weight @ y + readout.from_context.weight @ c
        maxout_size = model.config.maxout_size
        maxout = torch.stack([torch.max(t[j], t[j + maxout_size]) for j in range(maxout_size)])
        logits.append(model.lm_head(maxout))
        alphas.append(alpha)
        z = sigmoid(W_z @ y + U_z @ s + C_z @ c + b_z)
        r = sigmoid(W_r @ y + U_r @ s + C_r @ c + b_r)
        s = (1 - z) * s + z * tanh(W @ y + U @ (r * s) + C @ c + b)
    return torch.stack(logits), torch.stack(alphas)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_attention_and_gradients_equal_the_papers_equations(side):
    model = build_model().double()
    labels = pad(TARGETS, value=-100)
    output = model(input_ids=pad(SOURCES, side, length=7), labels=labels, output_attentions=True)
    (attention,) = output.cross_attentions
    assert attention.shape == (3, 1, 4, 7)
    reference_loss = 0
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        logits, alphas = paper_logits(model, source, [START, *target[:-1]])
        torch.testing.assert_close(output.logits[row, : len(target)], logits)
        start = 7 - len(source) if side == "left" else 0
        expected_attention = torch.zeros(len(target), 7, dtype=torch.double)
        expected_attention[:, start : start + len(source)] = alphas
        torch.testing.assert_close(attention[row, 0, : len(target)], expected_attention)
        reference_loss += nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum")
    names, parameters = zip(*model.named_parameters(), strict=True)
    actual = torch.autograd.grad(output.loss * (labels != -100).sum(), parameters)
    expected = torch.autograd.grad(reference_loss, parameters)
    for name, gradient, wanted in zip(names, actual, expected, strict=True):
        assert wanted.any(), name
        # The loss sums in fp32.
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_attention_every_step_reads_the_last_states_of_both_directions(side):
    model = build_model(use_attention=False).double()
    inputs = {"input_ids": pad(SOURCES, side, length=7), "decoder_input_ids": pad([[START, *t] for t in TARGETS])}
    fast = model(**inputs, output_attentions=True)
    assert fast.cross_attentions is None
    with plain_forms():
        plain = model(**inputs)
    torch.testing.assert_close(plain.logits, fast.logits)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        logits, _ = paper_logits(model, source, [START, *target])
        torch.testing.assert_close(fast.logits[row, : len(target) + 1], logits)
    # A search, whose beams share the vector, finds what a search for one sentence finds.
    search = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False}
    together = model.generate(input_ids=inputs["input_ids"], **search)
    alone = [model.generate(input_ids=torch.tensor([source]), **search)[0] for source in SOURCES]
    for row, single in zip(together, alone, strict=True):
        assert row[: len(single)].tolist() == single.tolist()


def double(*shape):
    return (torch.randn(*shape, dtype=torch.double) * 0.7).requires_grad_()


def test_backward_of_the_encoder_loop_is_its_derivative():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(_BidirectionalLoop.apply, (double(2, 4, 2, 9), double(2, 3, 6), double(2, 3, 3)))


def test_backward_of_the_decoder_loop_is_its_derivative():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]]).bool()
    inputs = (double(2, 3), double(3, 2, 9), double(2, 4, 5), double(2, 4, 9), mask)
    weights = (double(3, 11), double(5), double(3, 3))
    assert torch.autograd.gradcheck(_AttentiveLoop.apply, (*inputs, *weights))


def test_bf16_autocast_stays_close():
    model = build_model().train()
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}

    def loss_and_gradients(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(**batch).loss
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    loss, gradients = loss_and_gradients(False)
    low_loss, low_gradients = loss_and_gradients(True)
    torch.testing.assert_close(low_loss, loss, rtol=0.01, atol=0.0)
    for low, exact in zip(low_gradients, gradients, strict=True):
        assert low.dtype == torch.float32
        assert nn.functional.cosine_similarity(low.flatten(), exact.flatten(), dim=0) > 0.99


def test_a_source_of_nothing_but_padding_stays_finite():
    model = build_model()
    output = model(
        input_ids=torch.tensor([[PAD, PAD], [4, 3]]),
        attention_mask=torch.tensor([[0, 0], [1, 1]]),
        labels=torch.tensor([[4, 3], [5, 3]]),
    )
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("setting", ["embedding_dropout", "encoder_dropout", "readout_dropout"])
def test_each_dropout_acts_in_training_only(setting):
    model = build_model(**{setting: 0.5})
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    assert model(**batch).loss == model(**batch).loss
    model.train()
    assert model(**batch).loss != model(**batch).loss


def test_paper_sizes_give_the_weight_count_worked_out_by_hand():
    with torch.device("meta"):
        model = BahdanauForConditionalGeneration(BahdanauConfig())
    vocabulary, embedding, hidden, attention, maxout = 30_000, 620, 1000, 1000, 500
    by_hand = {
        "E of source and target": 2 * vocabulary * embedding,
        "encoder, two directions of W, W_z, W_r and U, U_z, U_r": 2 * 3 * (embedding + hidden) * hidden,
        "W_s": hidden * hidden,
        "decoder W, W_z, W_r": 3 * embedding * hidden,
        "decoder U, U_z, U_r": 3 * hidden * hidden,
        "decoder C, C_z, C_r": 3 * 2 * hidden * hidden,
        "W_a": hidden * attention,
        "U_a": 2 * hidden * attention,
        "v_a": attention,
        "U_o": hidden * 2 * maxout,
        "V_o": embedding * 2 * maxout,
        "C_o": 2 * hidden * 2 * maxout,
        "W_o": maxout * vocabulary,
    }
    assert sum(by_hand.values()) == 80_401_000
    weights = sum(p.numel() for name, p in model.named_parameters() if "bias" not in name)
    assert weights == sum(by_hand.values())


def test_initialisation_is_appendix_b():
    torch.manual_seed(0)
    config = BahdanauConfig(vocab_size=200, embedding_size=24, hidden_size=32, attention_size=40, maxout_size=20)
    model = BahdanauForConditionalGeneration(config)
    gru, decoder = model.encoder.bidirectional_gru, model.decoder
    recurrent = [*gru.gate_weight[0].split(32, dim=1), *gru.gate_weight[1].split(32, dim=1), *gru.candidate_weight]
    recurrent += [*decoder.state_gates.weight.split(32), decoder.candidate.weight]
    for matrix in recurrent:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(32), atol=1e-5, rtol=0.0)
    assert decoder.attention.query.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert model.encoder.attention_key.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not decoder.attention.score.weight.any()
    others = [gru.input_weight, model.encoder.embed_tokens.weight, model.encoder.gate_value.weight]
    others += [decoder.input_gates.weight, decoder.initial_state.weight, decoder.readout.from_context.weight]
    for weight in [*others, decoder.embed_tokens.weight, model.lm_head.weight]:
        assert weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not any(parameter.any() for name, parameter in model.named_parameters() if "bias" in name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"decoder_vocab_size": -3}, "decoder_vocab_size is -3"),
        ({"maxout_size": 0}, "maxout_size is 0"),
        ({"encoder_dropout": 1.0}, "encoder_dropout is 1.0"),
        ({"readout_dropout": -0.1}, "readout_dropout is -0.1"),
        ({"attention_initializer_std": -1.0}, "attention_initializer_std is -1.0"),
        ({"embedding_size": 62.0}, "embedding_size"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(Exception, match=message):
        BahdanauConfig(**settings)
