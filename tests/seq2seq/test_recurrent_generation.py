"""Both recurrent translators: searches find the best sequences, padding has no effect, checkpoints load."""

import itertools

import pytest
import torch
from torch import nn

from seq2seq_scratch.configuration_bahdanau import BahdanauConfig
from seq2seq_scratch.configuration_rnn_seq2seq import RNNSeq2SeqConfig
from seq2seq_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.modeling_bahdanau import BahdanauForConditionalGeneration
from seq2seq_scratch.modeling_rnn_seq2seq import RNNSeq2SeqForConditionalGeneration
from seq2seq_scratch.recurrent_common import RecurrentState
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import load_translator

PAD, START, END = 1, 2, 3
SOURCES = [[4, 5, 6, 7, 3], [8, 3], [9, 10, 3], [7, 7, 3]]
TARGETS = [[4, 3], [5, 4, 5, 3], [4, 4, 3], [5, 3]]


def build_rnn(**settings):
    sizes = {"vocab_size": 13, "decoder_vocab_size": 6, "embedding_size": 8, "hidden_size": 8, "num_hidden_layers": 2}
    config = RNNSeq2SeqConfig(**{**sizes, "initializer_range": 1.0, **settings})
    return RNNSeq2SeqForConditionalGeneration(config)


def build_bahdanau(**settings):
    sizes = {"vocab_size": 13, "decoder_vocab_size": 6, "embedding_size": 8, "hidden_size": 8, "attention_size": 5}
    config = BahdanauConfig(**{**sizes, "maxout_size": 9, **settings})
    model = BahdanauForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "bias" in name or "score" in name or parameter.std() < 0.1:
            nn.init.normal_(parameter, std=0.9)
    return model


@pytest.fixture(params=[build_rnn, build_bahdanau], ids=["rnn_seq2seq", "bahdanau"])
def build(request):
    def seeded(**settings):
        torch.manual_seed(1)
        return request.param(**settings).eval()

    return seeded


@pytest.fixture
def model(build):
    return build()


def pad(sequences, side="right", length=None, value=PAD):
    length = length or max(map(len, sequences))
    filler = [[value] * (length - len(sequence)) for sequence in sequences]
    rows = [s + f if side == "right" else f + s for s, f in zip(sequences, filler, strict=True)]
    return torch.tensor(rows)


def brute_force_search(model, source, max_new_tokens, length_penalty):
    """Scores every possible translation as Wu et al. 2016: [(score, tokens)] from best to worst."""
    open_tokens = [token for token in range(model.config.decoder_vocab_size) if token != END]
    translations = [
        (*prefix, END) for length in range(max_new_tokens) for prefix in itertools.product(open_tokens, repeat=length)
    ]
    translations += list(itertools.product(open_tokens, repeat=max_new_tokens))
    labels = pad([list(translation) for translation in translations], value=-100)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([source]).expand(len(labels), -1),
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        ).logits
    log_probabilities = logits.log_softmax(dim=-1).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    scores = (log_probabilities * (labels != -100)).sum(dim=1)
    ranked = [
        (score / ((5 + len(translation)) / 6) ** length_penalty, translation)
        for score, translation in zip(scores.tolist(), translations, strict=True)
    ]
    return sorted(ranked, reverse=True)


def content(row):
    """Returns the generated tokens: those after the start token and before padding."""
    tokens = row.tolist()[1:]
    return tuple(tokens[: tokens.index(END) + 1] if END in tokens else tokens)


@pytest.mark.parametrize("length_penalty", [1.0, 0.6, 0.0])
def test_wide_beam_finds_the_best_translations_there_are(model, length_penalty):
    found = model.generate(
        pad(SOURCES),
        num_beams=5**3,  # every prefix of three tokens that has not ended
        num_return_sequences=4,
        max_new_tokens=4,
        length_penalty=length_penalty,
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row, source in enumerate(SOURCES):
        best = brute_force_search(model, source, 4, length_penalty)[:4]
        rows = slice(4 * row, 4 * row + 4)
        assert [content(sequence) for sequence in found.sequences[rows]] == [tokens for _, tokens in best]
        torch.testing.assert_close(
            found.sequences_scores[rows], torch.tensor([score for score, _ in best]), rtol=1e-4, atol=1e-5
        )


def test_greedy_takes_the_most_likely_token_each_time(model):
    found = model.generate(pad(SOURCES), num_beams=1, do_sample=False, max_new_tokens=6)
    for row, source in enumerate(SOURCES):
        tokens = [START]
        while len(tokens) < 7 and tokens[-1] != END:
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([tokens])).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert content(found[row]) == tuple(tokens[1:])


STRATEGIES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "sampling": {"num_beams": 1, "do_sample": True, "num_return_sequences": 3},
    "beam": {"num_beams": 3, "num_return_sequences": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True},
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_cached_state_generates_what_reading_everything_again_does(model, strategy):
    def generate(use_cache):
        torch.manual_seed(0)
        return model.generate(
            pad(SOURCES),
            max_new_tokens=8,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_scores=True,
            **strategy,
        )

    cached, again = generate(True), generate(False)
    assert isinstance(cached[CACHE_NAME], RecurrentState)
    assert again.get(CACHE_NAME) is None
    assert cached.sequences.tolist() == again.sequences.tolist()
    torch.testing.assert_close(cached.scores, again.scores, rtol=1e-4, atol=1e-5)


def test_beams_are_wrong_when_the_state_does_not_follow_them(model, monkeypatch):
    """Shows that the tests above can fail: without reordering, searches differ from those without a cache."""
    monkeypatch.setattr(RecurrentState, "reorder_cache", lambda self, beam_idx: None)
    sources = torch.randint(4, 13, (20, 5))
    # No sentence may be done before all are, lest the states be too many.
    settings = {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": 8, "max_new_tokens": 8}
    unordered = model.generate(sources, **settings)
    assert unordered.tolist() != model.generate(sources, use_cache=False, **settings).tolist()


def test_state_holds_as_many_steps_as_were_read(model):
    source, target = torch.tensor(SOURCES[:1]), torch.tensor([[START, 4, 5, 4, 4]])
    whole = model(input_ids=source, decoder_input_ids=target)
    first = model(input_ids=source, decoder_input_ids=target[:, :2], use_cache=True)
    assert first[CACHE_NAME].get_seq_length() == 2
    second = model(input_ids=source, decoder_input_ids=target[:, 2:], cache=first[CACHE_NAME])
    assert second[CACHE_NAME].get_seq_length() == 5
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole.logits)


@pytest.mark.parametrize("explicit_mask", [True, False])
def test_padding_side_and_amount_change_nothing(model, explicit_mask):
    labels = pad(TARGETS, value=-100)

    def run(side, length):
        source = pad(SOURCES, side, length)
        batch = {"input_ids": source, "attention_mask": (source != PAD).long() if explicit_mask else None}
        beams = model.generate(**batch, num_beams=3, max_new_tokens=8)
        output = model(**batch, labels=labels)
        return output.loss, output.logits, *torch.autograd.grad(output.loss, list(model.parameters())), beams

    expected = run("right", None)
    for side, length in (("left", None), ("right", 9), ("left", 9)):
        for actual, wanted in zip(run(side, length), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_mask_decides_what_is_padding(model):
    source = torch.tensor([[7, 7, 4, 5, 3, 9]])
    masked = model(input_ids=source, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 0]]), labels=torch.tensor([[4, 3]]))
    alone = model(input_ids=source[:, 2:5], labels=torch.tensor([[4, 3]]))
    torch.testing.assert_close(masked.logits, alone.logits)


def test_neighbours_in_the_batch_change_nothing(model):
    together = model(input_ids=pad(SOURCES), decoder_input_ids=pad([[START, *t] for t in TARGETS])).logits
    beams = model.generate(pad(SOURCES), num_beams=3, max_new_tokens=8)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[START, *target]])).logits
        torch.testing.assert_close(together[row, : len(target) + 1], alone[0], rtol=1e-4, atol=1e-5)
        found = model.generate(torch.tensor([source]), num_beams=3, max_new_tokens=8)
        assert content(found[0]) == content(beams[row])


def test_target_padding_costs_nothing(model):
    loss = model(input_ids=pad(SOURCES), labels=pad(TARGETS, value=-100), num_items_in_batch=1).loss
    alone = sum(
        model(input_ids=torch.tensor([source]), labels=torch.tensor([target]), num_items_in_batch=1).loss
        for source, target in zip(SOURCES, TARGETS, strict=True)
    )
    torch.testing.assert_close(loss, alone)


def test_label_smoothing_reaches_the_loss(model):
    labels = pad(TARGETS, value=-100)
    output = model(input_ids=pad(SOURCES), labels=labels, smoothing=0.2)
    expected = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2)
    torch.testing.assert_close(output.loss, expected)


def test_training_with_labels_holds_no_logits(model):
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    evaluated = model(**batch)
    trained = model.train()(**batch)
    assert trained.logits is None and trained.get(CACHE_NAME) is None
    assert evaluated.logits.shape == (4, 4, 6)
    torch.testing.assert_close(trained.loss, evaluated.loss)


def test_tuple_output_has_the_loss_first(model):
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    torch.testing.assert_close(model(**batch, return_dict=False)[0], model(**batch).loss)


def test_hidden_states_are_returned_on_request(model):
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    assert model(**batch).decoder_hidden_states is None
    output = model(**batch, output_hidden_states=True)
    assert output.decoder_hidden_states[0].shape == (4, 4, 8)
    assert output.encoder_hidden_states[0].shape[:2] == (4, 5)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_through_generate_lies_on_real_tokens(num_beams, side):
    torch.manual_seed(1)
    model = build_bahdanau().eval()
    source = pad(SOURCES, side)
    found = model.generate(
        source, num_beams=num_beams, max_new_tokens=5, output_attentions=True, return_dict_in_generate=True
    )
    assert len(found.cross_attentions) == found.sequences.shape[1] - 1
    for (step,) in found.cross_attentions:
        assert step.shape == (4 * num_beams, 1, 1, 5)
        torch.testing.assert_close(step.sum(dim=-1), torch.ones(4 * num_beams, 1, 1))
        assert not step[:, 0, 0][(source == PAD).repeat_interleave(num_beams, dim=0)].any()


def test_attention_through_generate_equals_forwards():
    torch.manual_seed(1)
    model = build_bahdanau().eval()
    found = model.generate(
        pad(SOURCES), num_beams=1, max_new_tokens=5, output_attentions=True, return_dict_in_generate=True
    )
    forward = model(input_ids=pad(SOURCES), decoder_input_ids=found.sequences[:, :-1], output_attentions=True)
    torch.testing.assert_close(
        torch.cat([step for (step,) in found.cross_attentions], dim=2), forward.cross_attentions[0]
    )


def test_checkpoint_round_trip_changes_nothing(model, tmp_path):
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0.0, atol=0.0)
    assert loaded.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}


def test_weights_missing_from_a_checkpoint_are_initialised(build):
    model = build()
    for name in model.state_dict():
        state = {key: value for key, value in model.state_dict().items() if key != name}
        loaded = type(model).from_pretrained(None, config=model.config, state_dict=state)
        for key, value in loaded.state_dict().items():
            if key == name:
                assert value.isfinite().all() and value.abs().max() <= 1, key
            else:
                torch.testing.assert_close(value, model.state_dict()[key], rtol=0.0, atol=0.0)


def test_bf16_weights_train_and_translate(model):
    model = model.to(torch.bfloat16).train()
    batch = {"input_ids": pad(SOURCES), "labels": pad(TARGETS, value=-100)}
    model(**batch).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.eval().generate(pad(SOURCES), num_beams=3, max_new_tokens=3).shape[0] == 4


def test_generation_works_if_only_forward_runs_under_autocast(model):
    """accelerate wraps forward, while generate() calls the encoder itself."""
    batch = {"input_ids": pad(SOURCES), "decoder_input_ids": pad(TARGETS)}
    with torch.no_grad():
        encoder_outputs = model.encoder(batch["input_ids"])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(encoder_outputs=encoder_outputs, decoder_input_ids=batch["decoder_input_ids"]).logits
        torch.testing.assert_close(logits.float(), model(**batch).logits, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("target", [{"decoder_vocab_size": 6}, {"decoder_vocab_size": 13, "share_vocabulary": False}])
def test_resizing_needs_to_know_which_vocabulary(build, target):
    model = build(**target)
    with pytest.raises(ValueError, match="vocab_size is 13, decoder_vocab_size is .*resize_encoder_token_embeddings"):
        model.resize_token_embeddings(20)
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (13, target["decoder_vocab_size"])


@pytest.mark.parametrize("share_vocabulary", [None, True])
def test_resizing_a_shared_vocabulary_keeps_what_was_learnt(build, share_vocabulary):
    model = build(decoder_vocab_size=13, share_vocabulary=share_vocabulary)
    batch = {"input_ids": pad(SOURCES), "decoder_input_ids": pad(TARGETS)}
    with torch.no_grad():
        logits = model(**batch).logits
    model.resize_token_embeddings(16)
    assert model.config.vocab_size == model.config.decoder_vocab_size == 16
    torch.testing.assert_close(model(**batch).logits[:, :, :13], logits)
    model(input_ids=torch.tensor([[15, 3]]), labels=torch.tensor([[15, 3]])).loss.backward()


def test_each_vocabulary_can_be_resized_alone(build):
    model = build()
    model.resize_encoder_token_embeddings(20)
    model.resize_decoder_token_embeddings(9)
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (20, 9)
    assert model(input_ids=torch.tensor([[19, 3]]), decoder_input_ids=torch.tensor([[2, 8]])).logits.shape[-1] == 9


def test_a_loaded_translator_knows_whether_its_vocabulary_is_shared(build, tmp_path):
    tokenizers = [train_tokenizer(["a b c d e f g h i"] * 2, kind="word", vocab_size=13) for _ in range(2)]
    for target in (0, 1):
        build(decoder_vocab_size=13).save_pretrained(tmp_path)
        save_tokenizers(tmp_path, tokenizers[0], tokenizers[target])
        assert load_translator(str(tmp_path))[0].config.share_vocabulary is (target == 0)


def test_forward_without_a_target_says_what_is_missing(model):
    with pytest.raises(ValueError, match="Neither decoder_input_ids nor labels are given"):
        model(input_ids=pad(SOURCES))


def test_target_padding_before_tokens_is_refused(model):
    with pytest.raises(ValueError, match="decoder_attention_mask has padding before"):
        model(
            input_ids=pad(SOURCES),
            decoder_input_ids=pad(TARGETS, "left"),
            decoder_attention_mask=(pad(TARGETS, "left") != PAD).long(),
        )
