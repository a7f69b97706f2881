"""Every fast form computes what its plain form does, and inside `plain_forms()` a model runs plain forms only."""

import threading

import pytest
import torch
from tiny_models import END, PAD, TRANSLATORS, tiny_batch, tiny_model
from torch import nn

from seq2seq_scratch import bahdanau_loops, beam_search, chunked_cross_entropy, cpu_kernels, lstm_runs, plain_forms
from seq2seq_scratch.configuration_bahdanau import BahdanauConfig
from seq2seq_scratch.dropout import dropout
from seq2seq_scratch.modeling_bahdanau import AdditiveAttention, BahdanauDecoder, BahdanauEncoder, BidirectionalGRU
from seq2seq_scratch.modeling_rnn_seq2seq import lstm_step, run_lstm
from seq2seq_scratch.modeling_transformer import causal_mask, sinusoids
from seq2seq_scratch.plain_forms import plain_forms_are_on
from seq2seq_scratch.token_loss import smoothed_cross_entropy, target_token_loss

PRECISIONS = [
    pytest.param(torch.float32, {"rtol": 1e-4, "atol": 1e-5}, id="fp32"),
    # 8 bits of mantissa: a rounding changes a number by up to 0.4 %, and the steps of a loop add theirs up.
    pytest.param(torch.bfloat16, {"rtol": 0.05, "atol": 0.05}, id="bf16"),
]


def value_and_gradients(function, leaves, parameters=()):
    """Returns the results and the gradients of all leaves and parameters, for random gradients of the results."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(9)
    incoming = [torch.randn(result.shape, generator=generator).to(result.dtype) for result in results]
    gradients = torch.autograd.grad(results, [*leaves, *parameters], incoming)
    return [result.detach() for result in results], list(gradients)


def assert_same_in_both_forms(function, leaves, tolerance, parameters=()):
    fast = value_and_gradients(function, leaves, parameters)
    with plain_forms():
        plain = value_and_gradients(function, leaves, parameters)
    torch.testing.assert_close(fast, plain, **tolerance)
    # No bit differs only where both forms are one.
    assert any(not torch.equal(a, b) for pair in zip(fast, plain, strict=True) for a, b in zip(*pair, strict=True))


def attention_model_parts(dtype):
    torch.manual_seed(0)
    sizes = {"embedding_size": 6, "hidden_size": 8, "attention_size": 5, "maxout_size": 7}
    config = BahdanauConfig(vocab_size=20, **sizes)
    parts = BidirectionalGRU(config), BahdanauEncoder(config), BahdanauDecoder(config)
    for part in parts:
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.3)
        part.to(dtype)
    return parts


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_fused_encoder_loop_equals_one_gru_after_the_other(dtype, tolerance):
    gru, _, _ = attention_model_parts(dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]])

    def real_annotations(embedded):
        annotations, first_backward_state = gru(embedded, mask)
        return annotations[mask.bool()], first_backward_state

    assert_same_in_both_forms(real_annotations, [torch.randn(4, 5, 6).to(dtype)], tolerance, list(gru.parameters()))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_fused_decoder_loop_equals_attention_and_gru_one_position_after_the_other(dtype, tolerance):
    _, encoder, decoder = attention_model_parts(dtype)
    source = torch.tensor([[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]])
    target = torch.tensor([[2, 11, 12, 13], [2, 14, 15, PAD]])

    def decode(state):
        decoded = decoder(target, encoder(source), state)
        return decoded.features, decoded.last_hidden_state, decoded.attention_weights

    parameters = [p for name, p in decoder.named_parameters() if "initial_state" not in name]
    assert_same_in_both_forms(decode, [torch.randn(2, 8).to(dtype)], tolerance, parameters)


def test_additive_attention_is_a_weighted_sum_of_the_real_annotations():
    torch.manual_seed(0)
    attention = AdditiveAttention(BahdanauConfig(hidden_size=4, attention_size=3))
    state, keys, annotations = torch.randn(2, 4), torch.randn(2, 5, 3), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
    weights, context = attention(state, keys, annotations, mask)
    for row in range(2):
        scores = [
            (attention.score.weight[0] * torch.tanh(attention.query.weight @ state[row] + keys[row, j])).sum()
            for j in range(5)
            if mask[row, j]
        ]
        expected = torch.stack(scores).softmax(dim=0)
        torch.testing.assert_close(weights[row, mask[row]], expected)
        assert not weights[row, ~mask[row]].any()
        torch.testing.assert_close(context[row], expected @ annotations[row, mask[row]])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("given", ["lengths", "state"])
def test_the_librarys_lstm_equals_the_equations(given, dtype, tolerance):
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, num_layers=3, batch_first=True).to(dtype)
    inputs, state = torch.randn(6, 9, 5).to(dtype), torch.randn(6, 3, 2, 7).to(dtype)
    if given == "lengths":
        lengths = torch.tensor([4, 7, 1, 4, 7, 2])
        assert_same_in_both_forms(lambda x: run_lstm(lstm, x, lengths), [inputs], tolerance, list(lstm.parameters()))
    else:
        leaves = [inputs, state]

        def run(x, s):
            return run_lstm(lstm, x, state=s)

        assert_same_in_both_forms(run, leaves, tolerance, list(lstm.parameters()))


def test_one_step_of_the_equations_is_that_of_an_lstm_cell():
    torch.manual_seed(0)
    cell, lstm = nn.LSTMCell(5, 7), nn.LSTM(5, 7)
    lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})
    x, hidden, memory = torch.randn(4, 5), torch.randn(4, 7), torch.randn(4, 7)
    torch.testing.assert_close(lstm_step(lstm, 0, x, hidden, memory), cell(x, (hidden, memory)))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("r_drop_weight", [0.0, 2.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_chunked_loss_equals_the_loss_over_all_logits(
    label_smoothing, r_drop_weight, dtype, tolerance, monkeypatch
):
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", 6)
    torch.manual_seed(0)
    lm_head = nn.Linear(8, 11).to(dtype)
    labels = torch.randint(11, (3, 5))
    labels[0, 3:], labels[2, 1] = -100, -100
    settings = {"label_smoothing": label_smoothing, "r_drop_weight": r_drop_weight}

    def loss(states):
        return target_token_loss(states, lm_head, labels.repeat(2, 1), num_items_in_batch=3, **settings)

    states = torch.randn(6, 5, 8).to(dtype)
    assert_same_in_both_forms(loss, [states], tolerance, list(lm_head.parameters()))


def test_the_plain_loss_equals_the_librarys_cross_entropy_and_divergence():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 9), torch.tensor([3, 3, 0, 0, 8, 8])
    for smoothing in (0.0, 0.3):
        expected = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        torch.testing.assert_close(smoothed_cross_entropy(logits, targets, smoothing), expected)
        p, q = (rows.log_softmax(dim=-1) for rows in (logits[0::2], logits[1::2]))
        for one, other in ((p, q), (q, p)):
            expected = expected + 4.0 / 2 * nn.functional.kl_div(one, other, reduction="sum", log_target=True)
        torch.testing.assert_close(smoothed_cross_entropy(logits, targets, smoothing, 4.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_of_dropout_have_the_same_rate_and_scale(dtype):
    torch.manual_seed(0)
    ones = torch.ones(100_000, dtype=dtype)

    def check():
        leaf = ones.clone().requires_grad_()
        result = dropout(leaf, 0.2, True)
        (gradient,) = torch.autograd.grad(result.sum(), leaf)
        torch.testing.assert_close(result.unique(), torch.tensor([0, 1 / 0.8], dtype=dtype), rtol=1e-2, atol=0)
        assert abs((result == 0).float().mean().item() - 0.2) < 5 * (0.2 * 0.8 / 100_000) ** 0.5
        assert torch.equal(gradient, result)
        assert dropout(ones, 0.2, training=False) is ones

    check()
    with plain_forms():
        check()


def test_the_causal_mask_is_a_triangle_that_ends_at_the_last_position():
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_distance_between_sinusoids_is_a_rotation_that_is_the_same_everywhere():
    table = sinusoids(50, 8).double()
    sines, cosines = table[:, 0::2], table[:, 1::2]
    distance = 7
    rotated = sines[:-distance] * cosines[distance] + cosines[:-distance] * sines[distance]
    torch.testing.assert_close(sines[distance:], rotated, atol=1e-6, rtol=0)


@pytest.fixture
def fast_calls(monkeypatch):
    """Records the names of the fast forms that run."""
    calls = set()

    def watch(place, name):
        function = getattr(place, name)

        def watched(*args, **kwargs):
            calls.add(f"{place.__name__}.{name}")
            return function(*args, **kwargs)

        is_static = isinstance(vars(place)[name], staticmethod)
        monkeypatch.setattr(place, name, staticmethod(watched) if is_static else watched)

    for loop in (bahdanau_loops._BidirectionalLoop, bahdanau_loops._AttentiveLoop, cpu_kernels._Dropout):
        watch(loop, "forward")
    watch(chunked_cross_entropy._LinearCrossEntropy, "forward")
    watch(lstm_runs, "_run_lstm_to_lengths")
    watch(nn.LSTM, "forward")
    # The loops of `generate()` that drop finished sentences call it; the library's loops do not.
    watch(beam_search.BeamSearchGenerationMixin, "_next_inputs")
    return calls


RATES = {
    "rnn_seq2seq": ["dropout"],
    "bahdanau": ["embedding_dropout", "encoder_dropout", "readout_dropout"],
    "transformer": ["dropout", "activation_dropout", "attention_dropout"],
}


def loss_and_gradients(model, batch, **settings):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.pop("autocast", False)):
        output = model(**batch, **settings)
    output.loss.backward()
    logits = {} if output.logits is None else {"logits": output.logits.detach()}
    return {"loss": output.loss.detach()} | logits | {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("name", TRANSLATORS)
def test_forward_and_backward_of_a_model_are_the_same_in_plain_forms(name, padding_side, training, fast_calls):
    model, batch = tiny_model(name).train(training), tiny_batch(name)
    if padding_side == "left":
        for key in ("input_ids", "attention_mask"):
            lengths = batch["attention_mask"].sum(dim=1).tolist()
            batch[key] = torch.stack([row.roll(-length) for row, length in zip(batch[key], lengths, strict=True)])
    settings = {"smoothing": 0.1, "r_drop_weight": 0.5}
    fast = loss_and_gradients(model, batch, **settings)
    assert fast_calls
    fast_calls.clear()
    with plain_forms():
        plain = loss_and_gradients(model, batch, **settings)
    assert not fast_calls
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRANSLATORS)
@pytest.mark.parametrize("whole_model", [False, True])
def test_bfloat16_is_close_in_plain_forms(name, whole_model):
    """Checks both autocast and weights in bf16."""
    model, batch = tiny_model(name).train(), tiny_batch(name)
    if whole_model:
        model.to(torch.bfloat16)
    fast = loss_and_gradients(model, batch, autocast=not whole_model)
    with plain_forms():
        plain = loss_and_gradients(model, batch, autocast=not whole_model)
    assert fast["loss"].item() == pytest.approx(plain["loss"].item(), rel=0.01)
    flat = [torch.cat([tensor.flatten().float() for tensor in each.values()]) for each in (fast, plain)]
    assert nn.functional.cosine_similarity(*flat, dim=0) > 0.995


@pytest.mark.parametrize("name", TRANSLATORS)
def test_dropout_acts_in_plain_forms_too(name, fast_calls):
    model, batch = tiny_model(name, **dict.fromkeys(RATES[name], 0.3)).train(), tiny_batch(name)
    with plain_forms():
        losses = torch.stack([model(**batch).loss.detach() for _ in range(60)])
    assert not fast_calls and losses.std() > 0
    fast_losses = torch.stack([model(**batch).loss.detach() for _ in range(60)])
    # Two means of 60 losses each, four standard deviations of their difference.
    spread = ((losses.var() + fast_losses.var()) / 60) ** 0.5
    assert abs(losses.mean() - fast_losses.mean()) < 4 * spread


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 3, "use_cache": False}], ids=str
)
@pytest.mark.parametrize(
    ("name", "attention"),
    [("rnn_seq2seq", None), ("bahdanau", None), ("transformer", "eager"), ("transformer", "sdpa")],
)
def test_generation_is_the_same_in_plain_forms(name, attention, settings, fast_calls):
    model, batch = tiny_model(name), tiny_batch(name)
    if attention is not None:
        model.set_attn_implementation(attention)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    fast = model.generate(**inputs, **settings, max_new_tokens=8)
    assert "BeamSearchGenerationMixin._next_inputs" in fast_calls
    fast_calls.clear()
    with plain_forms():
        plain = model.generate(**inputs, **settings, max_new_tokens=8)
    assert not fast_calls and torch.equal(fast, plain)


def test_plain_attention_reads_a_cache_of_fixed_size():
    model, batch = tiny_model("transformer"), tiny_batch("transformer")
    model.set_attn_implementation("sdpa")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")} | {"max_new_tokens": 6}
    with plain_forms():
        found = model.generate(**inputs, cache_implementation="static")
    assert torch.equal(found, model.generate(**inputs))


def test_leaving_plain_forms_brings_the_fast_forms_back_even_after_an_error(fast_calls):
    model, batch = tiny_model("bahdanau").train(), tiny_batch("bahdanau")
    with pytest.raises(RuntimeError, match="stop"), plain_forms():
        with plain_forms():
            pass
        model(**batch)
        assert not fast_calls
        raise RuntimeError("stop")
    model(**batch)
    assert "_AttentiveLoop.forward" in fast_calls
    assert "plain" not in model.config.to_json_string()


def test_blocks_of_two_threads_may_overlap():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other_thread():
        with plain_forms():
            inside.set()
            leave.wait()
        seen.append(plain_forms_are_on())

    thread = threading.Thread(target=other_thread)
    with plain_forms():
        thread.start()
        inside.wait()
    assert plain_forms_are_on()
    leave.set()
    thread.join()
    assert seen == [False] and not plain_forms_are_on()
