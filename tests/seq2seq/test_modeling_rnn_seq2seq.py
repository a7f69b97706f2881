"""The LSTM model against torch.nn.LSTM on packed sequences, row by row, and against the paper's numbers."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seq2seq_scratch.configuration_rnn_seq2seq import RNNSeq2SeqConfig
from seq2seq_scratch.modeling_rnn_seq2seq import RNNSeq2SeqForConditionalGeneration, run_lstm

PAD, START, END = 1, 2, 3
SOURCES = [[4, 5, 6, 7, 3], [8, 3], [9, 10, 3], [11, 4, 3]]


def build_model(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 13, "decoder_vocab_size": 11, "embedding_size": 6, "hidden_size": 8}
    config = RNNSeq2SeqConfig(**{**sizes, "num_hidden_layers": 2, "initializer_range": 0.5, **settings})
    return RNNSeq2SeqForConditionalGeneration(config).eval()


def pad(sequences, side="right", length=None, value=PAD):
    length = length or max(map(len, sequences))
    filler = [[value] * (length - len(sequence)) for sequence in sequences]
    rows = [s + f if side == "right" else f + s for s, f in zip(sequences, filler, strict=True)]
    return torch.tensor(rows)


def test_lstm_to_lengths_equals_packed_lstm():
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, num_layers=3, batch_first=True)
    inputs, lengths = torch.randn(6, 9, 5), torch.tensor([4, 7, 1, 4, 7, 2])

    def gradients(loss):
        return torch.autograd.grad(loss, list(lstm.parameters()))

    outputs, final_state = run_lstm(lstm, inputs, lengths)
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    packed_outputs, (hidden, cell) = lstm(packed)
    expected = pad_packed_sequence(packed_outputs, batch_first=True, total_length=9)[0]
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(final_state, torch.stack([hidden, cell], dim=2).transpose(0, 1))
    projection = torch.randn(7)
    actual = gradients((outputs @ projection).sum() + final_state.square().sum())
    wanted = gradients((expected @ projection).sum() + hidden.square().sum() + cell.square().sum())
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("reverse_source", [True, False])
def test_fixed_vector_is_the_state_after_the_last_real_token_read(side, reverse_source):
    model = build_model(reverse_source=reverse_source)
    encoded = model.encoder(pad(SOURCES, side, length=8))
    for row, source in enumerate(SOURCES):
        read = source[::-1] if reverse_source else source
        outputs, state = model.encoder.lstm(model.encoder.embed_tokens(torch.tensor([read])))
        torch.testing.assert_close(encoded.final_state[row], torch.stack(state, dim=2)[:, 0])
        # Outputs stand at the position of the token that was read.
        outputs = outputs[0].flip(0) if reverse_source else outputs[0]
        start = 8 - len(source) if side == "left" else 0
        torch.testing.assert_close(encoded.last_hidden_state[row, start : start + len(source)], outputs)
        assert encoded.last_hidden_state[row].any(dim=-1).sum() == len(source)


def test_decoder_is_a_language_model_started_from_the_fixed_vector():
    model = build_model()
    source, target = torch.tensor([SOURCES[0]]), torch.tensor([[4, 9, 5, END]])
    logits = model(input_ids=source, decoder_input_ids=torch.tensor([[START, 4, 9, 5]])).logits
    hidden, cell = model.encoder.lstm(model.encoder.embed_tokens(source.flip(1)))[1]
    outputs, _ = model.decoder.lstm(model.decoder.embed_tokens(torch.tensor([[START, 4, 9, 5]])), (hidden, cell))
    expected = model.lm_head(outputs)
    torch.testing.assert_close(logits, expected)
    loss = model(input_ids=source, labels=target).loss
    torch.testing.assert_close(loss, nn.functional.cross_entropy(expected[0], target[0]))


def test_dropout_acts_in_training_only():
    model = build_model(dropout=0.5)
    batch = {"input_ids": pad(SOURCES), "labels": pad(SOURCES, value=-100).clamp(max=10)}
    assert model(**batch).loss == model(**batch).loss
    model.train()
    assert model(**batch).loss != model(**batch).loss


def test_dropout_acts_on_embeddings_between_layers_and_before_the_softmax():
    model = build_model(dropout=0.5, num_hidden_layers=3).train()
    assert model.encoder.lstm.dropout == model.decoder.lstm.dropout == 0.5
    inputs = {}
    for name, module in (("source", model.encoder.lstm), ("target", model.decoder.lstm)):
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    encoder_outputs = model.encoder(torch.full((8, 4), 5))
    decoded = model.decoder(torch.full((8, 4), 5), encoder_outputs)
    for numbers in (inputs["source"], inputs["target"], decoded.features):
        assert 0.3 < (numbers == 0).float().mean() < 0.7


def test_every_parameter_gets_a_gradient():
    model = build_model(num_hidden_layers=3).train()
    output = model(input_ids=pad(SOURCES), labels=pad(SOURCES, value=-100).clamp(max=10))
    assert output.logits is None
    output.loss.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_paper_sizes_give_the_papers_parameter_counts():
    with torch.device("meta"):
        model = RNNSeq2SeqForConditionalGeneration(RNNSeq2SeqConfig())
    weights = {name: p.numel() for name, p in model.named_parameters() if "bias" not in name}
    assert sum(weights.values()) == 384_000_000
    assert sum(count for name, count in weights.items() if "lstm" in name) == 64_000_000


def test_all_parameters_start_uniform():
    model = build_model(hidden_size=32, initializer_range=0.08)
    for name, parameter in model.named_parameters():
        assert parameter.abs().max() <= 0.08, name
        if parameter.numel() >= 128:
            assert parameter.std().item() == pytest.approx(0.08 / 3**0.5, rel=0.15), name


def test_forget_gate_bias_changes_only_the_forget_gates():
    model = build_model(hidden_size=32, initializer_range=0.08, forget_gate_bias=1.0)
    for lstm in (model.encoder.lstm, model.decoder.lstm):
        for layer in range(2):
            gates = (getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")).view(4, 32)
            # nn.LSTM's gates: input, forget, cell, output; each bias is a sum of two draws within the range.
            assert ((gates[1] - 1).abs() <= 0.16).all()
            assert (gates[[0, 2, 3]].abs() <= 0.16).all()


def test_tied_target_embeddings_are_the_softmax_weights(tmp_path):
    model = build_model(embedding_size=8, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = RNNSeq2SeqForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.decoder.embed_tokens.weight
    torch.testing.assert_close(loaded.lm_head.weight, model.decoder.embed_tokens.weight)
    assert sum(p.numel() for p in build_model(embedding_size=8).parameters()) - 11 * 8 == sum(
        p.numel() for p in loaded.parameters()
    )


def test_resized_target_embeddings_stay_tied():
    model = build_model(embedding_size=8, tie_word_embeddings=True)
    model.resize_decoder_token_embeddings(16)
    assert model.lm_head.weight is model.decoder.embed_tokens.weight
    assert model(input_ids=pad(SOURCES), decoder_input_ids=torch.full((4, 1), 15)).logits.shape == (4, 1, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"decoder_vocab_size": 0}, "decoder_vocab_size is 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"initializer_range": -0.1}, "initializer_range is -0.1"),
        ({"tie_word_embeddings": True, "embedding_size": 500}, "embedding_size .500. and hidden_size .1000."),
        ({"hidden_size": "1000"}, "hidden_size"),
        ({"reverse_source": 1}, "reverse_source"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(Exception, match=message):
        RNNSeq2SeqConfig(**settings)


def test_target_vocabulary_defaults_to_the_sources_size_when_none():
    assert RNNSeq2SeqConfig(vocab_size=77, decoder_vocab_size=None).decoder_vocab_size == 77
