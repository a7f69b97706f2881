"""The Transformer against torch.nn.Transformer and hand-written formulas."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import nn

from seq2seq_scratch import modeling_transformer
from seq2seq_scratch.configuration_transformer import TransformerConfig
from seq2seq_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.modeling_transformer import Dropout, TransformerForConditionalGeneration, TransformerModel

PAD, START, END = 1, 2, 3


def tiny_config(**changes):
    settings = {
        "vocab_size": 40,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 32,
        "dropout": 0.0,
    }
    return TransformerConfig(**settings | changes)


def tiny_model(attention="eager", seed=0, **changes):
    torch.manual_seed(seed)
    model = TransformerForConditionalGeneration._from_config(tiny_config(**changes), attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, where mistakes would not show
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def padded(rows, fill):
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def tiny_batch():
    sources = [[5, 9, 30, 12, 8, END], [7, 7, END], [22, 31, 4, END]]
    targets = [[6, 11, END], [13, 35, 9, 8, 20, END], [17, END]]
    input_ids = padded(sources, PAD)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": padded(targets, -100)}


def sinusoids(length, d_model):
    table = torch.zeros(length, d_model)
    for position in range(length):
        for i in range(d_model // 2):
            angle = position / 10_000 ** (2 * i / d_model)
            table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def reference_transformer(config):
    """Returns a torch.nn.Transformer with the sizes of the config, which must be equal in both stacks."""

    def layer(kind, heads, inner):
        return kind(config.d_model, heads, inner, dropout=0.0, batch_first=True, norm_first=config.pre_norm)

    def final_norm():
        return nn.LayerNorm(config.d_model) if config.pre_norm else None

    encoder_layer = layer(nn.TransformerEncoderLayer, config.encoder_attention_heads, config.encoder_ffn_dim)
    decoder_layer = layer(nn.TransformerDecoderLayer, config.decoder_attention_heads, config.decoder_ffn_dim)
    encoder = nn.TransformerEncoder(encoder_layer, config.encoder_layers, final_norm(), enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(decoder_layer, config.decoder_layers, final_norm())
    return nn.Transformer(config.d_model, 1, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)


def in_reference_names(tensors):
    """Returns a model's weights, or their gradients, under the names of torch.nn.Transformer."""
    renamed = {}
    for stack, attentions in (("encoder", ["self"]), ("decoder", ["self", "cross"])):
        count = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith(f"model.{stack}.layers"))
        for index in range(count):
            ours, theirs = f"model.{stack}.layers.{index}.", f"{stack}.layers.{index}."
            for kind in ("weight", "bias"):
                for attention, name in zip(attentions, ["self_attn", "multihead_attn"], strict=False):
                    projections = [tensors[f"{ours}{attention}_attention.{part}_proj.{kind}"] for part in "qkv"]
                    renamed[f"{theirs}{name}.in_proj_{kind}"] = torch.cat(projections)
                    renamed[f"{theirs}{name}.out_proj.{kind}"] = tensors[
                        f"{ours}{attention}_attention.out_proj.{kind}"
                    ]
                renamed[f"{theirs}linear1.{kind}"] = tensors[f"{ours}feed_forward.inner.{kind}"]
                renamed[f"{theirs}linear2.{kind}"] = tensors[f"{ours}feed_forward.outer.{kind}"]
                sublayers = [f"{attention}_attention" for attention in attentions] + ["feed_forward"]
                for number, sublayer in enumerate(sublayers, 1):
                    renamed[f"{theirs}norm{number}.{kind}"] = tensors[f"{ours}{sublayer}_add_norm.norm.{kind}"]
        for kind in ("weight", "bias"):
            if f"model.{stack}.final_norm.{kind}" in tensors:
                renamed[f"{stack}.norm.{kind}"] = tensors[f"model.{stack}.final_norm.{kind}"]
    return renamed


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_logits_and_gradients_agree_with_torch_nn_transformer(attention, pre_norm):
    model, batch = tiny_model(attention, pre_norm=pre_norm), tiny_batch()
    reference = reference_transformer(model.config)
    reference.load_state_dict(in_reference_names(model.state_dict()))
    table = model.get_input_embeddings().weight.detach().clone().requires_grad_()
    labels = batch["labels"]
    decoder_input_ids = torch.cat([torch.full((3, 1), START), labels[:, :-1].clamp(min=PAD)], dim=1)
    length = labels.shape[1]
    hidden_source = batch["attention_mask"] == 0

    def embed(ids):
        return table[ids] * 4 + sinusoids(ids.shape[1], 16)  # 4 = sqrt(16)

    states = reference(
        embed(batch["input_ids"]),
        embed(decoder_input_ids),
        tgt_mask=torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1),
        src_key_padding_mask=hidden_source,
        memory_key_padding_mask=hidden_source,
    )
    expected = states @ table.T
    expected_loss = nn.functional.cross_entropy(expected.transpose(1, 2), labels)
    expected_loss.backward()

    outputs = model(**batch)
    outputs.loss.backward()
    torch.testing.assert_close(outputs.logits, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, expected_loss)
    gradients = in_reference_names({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: n + m)
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, table.grad, atol=1e-5, rtol=1e-3)


def test_training_loss_needs_no_logits_and_is_the_one_of_evaluation():
    model, batch = tiny_model(), tiny_batch()
    evaluated = model(**batch, smoothing=0.1)
    trained = model.train()(**batch, smoothing=0.1)
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, evaluated.loss)
    expected = nn.functional.cross_entropy(evaluated.logits.transpose(1, 2), batch["labels"], label_smoothing=0.1)
    torch.testing.assert_close(trained.loss, expected)
    summed = model(**batch, smoothing=0.1, num_items_in_batch=torch.tensor(22))
    torch.testing.assert_close(summed.loss, expected * (batch["labels"] != -100).sum() / 22)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("changes", [{}, {"pre_norm": True, "d_k": 3, "d_v": 5, "position_embedding_type": "learned"}])
def test_incremental_decoding_equals_the_full_pass(attention, changes):
    model, batch = tiny_model(attention, **changes), tiny_batch()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    decoder_input_ids = torch.randint(4, 40, (3, 7))
    with torch.no_grad():
        full = model(**source, decoder_input_ids=decoder_input_ids, use_cache=False)
        assert full.get(CACHE_NAME) is None
        encoder_outputs, cache, pieces = model.get_encoder()(**source), None, []
        for columns in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 7)):
            outputs = model(
                encoder_outputs=encoder_outputs,
                attention_mask=source["attention_mask"],
                decoder_input_ids=decoder_input_ids[:, columns],
                cache=cache,
                use_cache=True,
            )
            cache = outputs[CACHE_NAME]
            pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), full.logits, atol=1e-5, rtol=1e-4)


def test_source_keys_and_values_are_computed_once():
    model, batch = tiny_model(), tiny_batch()
    calls = []
    model.model.decoder.layers[1].cross_attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    model.generate(batch["input_ids"], max_new_tokens=6, min_new_tokens=6, num_beams=2)
    assert len(calls) == 1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_later_target_token_changes_no_earlier_logit(attention):
    model, batch = tiny_model(attention), tiny_batch()
    decoder_input_ids = torch.randint(4, 40, (3, 6))
    changed = decoder_input_ids.clone()
    changed[:, 4] = changed[:, 4] % 36 + 4
    with torch.no_grad():
        before = model(input_ids=batch["input_ids"], decoder_input_ids=decoder_input_ids).logits
        after = model(input_ids=batch["input_ids"], decoder_input_ids=changed).logits
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(dim=-1).any()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_side_batch_size_and_order_do_not_change_logits(attention):
    model, batch = tiny_model(attention), tiny_batch()
    decoder_input_ids = torch.randint(4, 40, (3, 5))

    def logits(rows, width=None, left=False):
        sources = [[token for token in row if token != PAD] for row in batch["input_ids"][rows].tolist()]
        width = width or max(map(len, sources))
        padding = [[PAD] * (width - len(source)) for source in sources]
        pairs = zip(sources, padding, strict=True)
        input_ids = torch.tensor([pad + source if left else source + pad for source, pad in pairs])
        with torch.no_grad():
            return model(input_ids=input_ids, decoder_input_ids=decoder_input_ids[rows]).logits

    expected = torch.cat([logits([row]) for row in range(3)])
    for result in (logits([0, 1, 2]), logits([0, 1, 2], width=11), logits([0, 1, 2], width=11, left=True)):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits([2, 0, 1]), expected[[2, 0, 1]], atol=1e-5, rtol=1e-4)


def test_left_padded_targets_with_a_mask_equal_unpadded_ones():
    model, batch = tiny_model(), tiny_batch()
    tokens = torch.randint(4, 40, (3, 4))
    left_padded = torch.cat([torch.full((3, 2), PAD), tokens], dim=1)
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], decoder_input_ids=tokens).logits
        masked = model(
            input_ids=batch["input_ids"],
            decoder_input_ids=left_padded,
            decoder_attention_mask=(left_padded != PAD).long(),
        ).logits
    torch.testing.assert_close(masked[:, 2:], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_without_a_mask_hides_padding(beams):
    model, batch = tiny_model(), tiny_batch()

    def scores(input_ids):
        settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": beams}
        return model.generate(input_ids, **settings, output_scores=True, return_dict_in_generate=True).scores

    together = [step.unflatten(0, (3, beams)) for step in scores(batch["input_ids"])]
    for row, source in enumerate(batch["input_ids"]):
        for step, alone in zip(together, scores(source[source != PAD][None]), strict=True):
            torch.testing.assert_close(step[row], alone)


@pytest.mark.parametrize("beams", [1, 4])
def test_generation_with_and_without_cache_agree(beams):
    model, batch = tiny_model(), tiny_batch()
    with_cache, without = (
        model.generate(batch["input_ids"], max_new_tokens=12, num_beams=beams, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert with_cache.tolist() == without.tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_several_targets_of_one_source_read_one_copy_of_it(attention):
    model, batch = tiny_model(attention), tiny_batch()
    decoder_input_ids = torch.randint(4, 40, (6, 5))
    repeated = {name: batch[name].repeat_interleave(2, dim=0) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        encoder_outputs = model.get_encoder()(batch["input_ids"])
        shared = model(encoder_outputs=encoder_outputs, decoder_input_ids=decoder_input_ids, output_attentions=True)
        expected = model(**repeated, decoder_input_ids=decoder_input_ids, output_attentions=True)
    torch.testing.assert_close(shared.logits, expected.logits, atol=1e-5, rtol=1e-4)
    assert [*map(len, (shared.cross_attentions, expected.cross_attentions))] == [3 if attention == "eager" else 0] * 2
    for weights, expected_weights in zip(shared.cross_attentions, expected.cross_attentions, strict=True):
        torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize(
    ("changes", "tables"),
    [
        ({}, 1),
        ({"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 30, "pre_norm": True}, 2),
        ({"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 30, "tie_word_embeddings": False}, 3),
    ],
)
def test_a_saved_model_comes_back_with_each_tied_table_stored_once(tmp_path, changes, tables):
    model, batch = tiny_model(**changes), tiny_batch()
    batch["labels"] = batch["labels"].clamp(max=29)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum("embed_tokens" in name or "lm_head" in name for name in stored) == tables
    assert not any("embed_positions" in name for name in stored)
    loaded = TransformerForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    owned = {loaded.lm_head.weight, loaded.model.encoder.embed_tokens.weight, loaded.model.decoder.embed_tokens.weight}
    assert len(owned) == tables
    backbone = TransformerModel.from_pretrained(tmp_path).eval()
    states = backbone(batch["input_ids"], decoder_input_ids=batch["input_ids"].clamp(max=29)).last_hidden_state
    expected = model.model(batch["input_ids"], decoder_input_ids=batch["input_ids"].clamp(max=29)).last_hidden_state
    torch.testing.assert_close(states, expected)


def test_sinusoids_are_right_after_loading_and_beyond_the_first_table(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    positions = TransformerForConditionalGeneration.from_pretrained(tmp_path).model.encoder.embed_positions
    torch.testing.assert_close(positions.table, sinusoids(32, 16), atol=1e-6, rtol=1e-5)
    position_ids = torch.arange(50)[None]
    torch.testing.assert_close(positions(position_ids, 50)[0], sinusoids(50, 16), atol=1e-6, rtol=1e-5)


def test_weights_loaded_in_bfloat16_go_with_sinusoids_in_float32(tmp_path):
    model, batch = tiny_model(), tiny_batch()
    model.save_pretrained(tmp_path)
    half = TransformerForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.encoder.embed_positions.table.dtype == torch.float32
    logits = half(**batch).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(**batch).logits, atol=0.1, rtol=0.05)


def test_sinusoidal_positions_translate_beyond_their_first_table():
    long, short = tiny_model(max_position_embeddings=64), tiny_model(max_position_embeddings=4)
    input_ids = torch.randint(4, 40, (2, 40))
    with torch.no_grad():
        expected = long(input_ids=input_ids, decoder_input_ids=input_ids).logits
        torch.testing.assert_close(short(input_ids=input_ids, decoder_input_ids=input_ids).logits, expected)
        assert short.generate(input_ids, max_new_tokens=9, min_new_tokens=9).shape == (2, 10)


def test_without_positions_the_encoder_sees_a_set_of_tokens():
    source = torch.tensor([[4, 5, 6, 7, 3]])
    order = torch.tensor([3, 0, 4, 2, 1])
    states = {
        kind: [
            tiny_model(position_embedding_type=kind).model.encoder(ids).last_hidden_state
            for ids in (source, source[:, order])
        ]
        for kind in ("absent", "sinusoidal")
    }
    torch.testing.assert_close(states["absent"][1], states["absent"][0][:, order])
    assert (states["sinusoidal"][1] - states["sinusoidal"][0][:, order]).abs().max() > 0.01


def test_a_call_without_a_target_says_so():
    model = tiny_model()
    for part in (model, model.model):
        with pytest.raises(ValueError, match="There is no target. Give decoder_input_ids"):
            part(input_ids=torch.full((1, 6), 5))


def test_learned_positions_refuse_sequences_beyond_their_limit():
    model = tiny_model(position_embedding_type="learned", max_position_embeddings=6)
    fits, too_long = torch.full((1, 6), 5), torch.full((1, 7), 5)
    model(input_ids=fits, decoder_input_ids=fits)
    for source, target in ((too_long, fits), (fits, too_long)):
        with pytest.raises(ValueError, match="7 tokens exceeds max_position_embeddings 6"):
            model(input_ids=source, decoder_input_ids=target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention_heads": 3}, "encoder_attention_heads is 3, which does not divide d_model 16"),
        ({"decoder_attention_heads": 3, "d_k": 4}, "decoder_attention_heads is 3, which does not divide d_model 16"),
        ({"d_model": -16}, "d_model is -16; it must be at least 1"),
        ({"d_k": 0}, "d_k is 0; it must be at least 1"),
        ({"decoder_layers": 0}, "decoder_layers is 0; it must be at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        (
            {"d_model": 15, "encoder_attention_heads": 5, "decoder_attention_heads": 3},
            "d_model is 15; it must be even",
        ),
        ({"decoder_vocab_size": 30}, "decoder_vocab_size is 30 and vocab_size is 40"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is false while share_encoder_decoder_embeddings"),
        ({"activation_function": "relux"}, "activation_function is 'relux'; allowed are .*relu"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type"),
        ({"d_model": "16"}, "d_model"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**changes)


def test_three_heads_fit_any_width_once_both_head_widths_are_given():
    model, batch = tiny_model(encoder_attention_heads=3, decoder_attention_heads=3, d_k=4, d_v=6), tiny_batch()
    assert model.model.encoder.layers[0].self_attention.v_proj.weight.shape == (18, 16)
    assert model(**batch).logits.shape == (3, 6, 40)


def test_tokens_beyond_the_vocabulary_are_reported_with_its_size():
    model, batch = tiny_model(), tiny_batch()
    batch["input_ids"][0, 0] = 40
    with pytest.raises(ValueError, match="Token ids run from 1 to 40, but the embedding holds 40"):
        model(**batch)


def test_resizing_keeps_the_three_tables_one(tmp_path):
    model = tiny_model()
    model.model.resize_token_embeddings(50)
    model.model.save_pretrained(tmp_path)
    assert TransformerModel.from_pretrained(tmp_path).config.decoder_vocab_size == 50
    model.resize_token_embeddings(45)
    assert model.config.vocab_size == model.config.decoder_vocab_size == 45
    assert model.lm_head.weight is model.model.encoder.embed_tokens.weight is model.model.decoder.embed_tokens.weight
    assert model(**tiny_batch()).logits.shape == (3, 6, 45)
    separate = tiny_model(share_encoder_decoder_embeddings=False)
    with pytest.raises(ValueError, match="share_encoder_decoder_embeddings"):
        separate.resize_token_embeddings(45)


def test_eager_attention_returns_the_weights_of_every_layer():
    model, batch = tiny_model(), tiny_batch()
    outputs = model(**batch, output_attentions=True, output_hidden_states=True)
    assert [tuple(weights.shape) for weights in outputs.encoder_attentions] == [(3, 4, 6, 6)] * 2
    assert [tuple(weights.shape) for weights in outputs.decoder_attentions] == [(3, 2, 6, 6)] * 3
    assert [tuple(weights.shape) for weights in outputs.cross_attentions] == [(3, 2, 6, 6)] * 3
    for weights in (*outputs.encoder_attentions, *outputs.decoder_attentions, *outputs.cross_attentions):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    padding = batch["attention_mask"] == 0
    for weights in (*outputs.encoder_attentions, *outputs.cross_attentions):
        assert weights.transpose(1, 3)[padding].abs().max() == 0
    for weights in outputs.decoder_attentions:
        assert weights.triu(diagonal=1).abs().max() == 0
    assert [tuple(states.shape) for states in outputs.encoder_hidden_states] == [(3, 6, 16)] * 3
    assert [tuple(states.shape) for states in outputs.decoder_hidden_states] == [(3, 6, 16)] * 4
    assert torch.equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, checkpointed, batch = tiny_model(dropout=0.2).train(), tiny_model(dropout=0.2).train(), tiny_batch()
    checkpointed.gradient_checkpointing_enable()
    runs = []
    checkpointed.model.decoder.layers[0].feed_forward.register_forward_hook(lambda *_: runs.append(1))
    for model in (plain, checkpointed):
        torch.manual_seed(3)
        model(**batch).loss.backward()
    assert len(runs) == 2  # once forward, once again backward
    for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    dropout, states = Dropout(0.3), torch.full((101, 1001), 2.0, dtype=dtype, requires_grad=True)
    dropped = dropout(states)
    kept = dropped != 0
    count = states.numel()
    spread = math.sqrt(0.3 * 0.7 / count)
    assert abs(kept.float().mean() - 0.7) < 5 * spread
    # Neighbours share a random word: their joint share shows them independent all the same.
    for distance in (1, 2, 3, 4):
        both = (kept.flatten()[distance:] & kept.flatten()[:-distance]).float().mean()
        assert abs(both - 0.49) < 5 * math.sqrt(0.49 * 0.51 / count) + 5 * spread
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 2 / 0.7), rtol=1e-2, atol=0)
    dropped.sum().backward()
    torch.testing.assert_close(states.grad * 2, dropped)
    assert dropout.eval()(states) is states


def test_bfloat16_autocast_keeps_the_loss():
    model, batch = tiny_model(d_model=64, encoder_ffn_dim=128, decoder_ffn_dim=128), tiny_batch()
    expected = model.train()(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_long_sources_are_read_by_the_fused_kernel_with_the_same_result(monkeypatch):
    model, batch = tiny_model(), tiny_batch()
    with torch.no_grad():
        expected = model(**batch)
        monkeypatch.setattr(modeling_transformer, "MAX_EAGER_WEIGHTS", 0)
        long = model(**batch)
        torch.testing.assert_close(long.logits, expected.logits)
        # Weights that are asked for are there all the same.
        weights = model(**batch, output_attentions=True).encoder_attentions[0]
    assert weights.shape[-2:] == batch["input_ids"].shape[1:] * 2
