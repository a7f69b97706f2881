"""A model that a run starts from: new entries of its vocabulary and frozen parts."""

import pytest
import torch
from tiny_models import TRANSLATORS, tiny_batch, tiny_model

from gpt1_scratch.tokenization import train_tokenizer as train_gpt1_tokenizer
from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.engine.starting_model import NewEntries, add_words, freeze, grow_model, read_words
from papers_to_gpt.settings.training import OptimizationSettings
from seq2seq_scratch.data.text_lines import numbered_lines
from seq2seq_scratch.tokenization import train_tokenizer

SENTENCES = ["The cat sat on the mat, and so did I.", "A dog lay on a log."] * 9
OLD_TEXT = "The dog sat on the mat, so a cat lay on it."
KINDS = {
    "bpe": lambda: train_tokenizer(SENTENCES, kind="bpe", vocab_size=330),
    "word": lambda: train_tokenizer(SENTENCES, kind="word", vocab_size=100),
    "gpt1": lambda: train_gpt1_tokenizer(SENTENCES, merges=40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_new_words_are_one_token_each_and_survive_a_round_trip(kind, tmp_path):
    old = KINDS[kind]()
    words = ["salton", "saltons", "dogmat", "onmat", "Ärger"]
    new, added = add_words(old, {word: f"line {word}" for word in words})
    new.save_pretrained(tmp_path)
    new = type(new).from_pretrained(tmp_path)
    assert len(new) == len(old) + len(added.pieces) and added.first == len(old) and not added.known
    text = "salton, dogmat onmat. saltons"
    tokens = new.backend_tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens.ids) == 6
    assert new.decode(tokens.ids) == text
    assert new(OLD_TEXT).input_ids == old(OLD_TEXT).input_ids
    # Each entry consists of the pieces that the old tokenizer cuts the word into.
    for word in words:
        (number,) = new.backend_tokenizer.encode(word, add_special_tokens=False).ids
        pieces = old.backend_tokenizer.encode(word, add_special_tokens=False).ids
        assert added.pieces[number - added.first] == pieces, word


@pytest.mark.parametrize("kind", ["bpe", "gpt1"])
def test_what_an_earlier_call_of_the_tokenizer_left_behind_changes_no_new_entry(kind):
    old = KINDS[kind]()
    expected = add_words(old, {"saltons": "line 1"})[1]
    assert not expected.known
    old.backend_tokenizer.enable_truncation(1)
    assert add_words(old, {"saltons": "line 1"})[1] == expected


def test_what_is_not_a_new_word_is_refused_or_passed_over(tmp_path):
    tokenizer = KINDS["bpe"]()
    with pytest.raises(ValueError, match="words.txt, line 2: 'new cat' is 2 words"):
        add_words(tokenizer, {"salt": "words.txt, line 1", "new cat": "words.txt, line 2"})
    unchanged, added = add_words(tokenizer, {"cat": "words.txt, line 1"})
    assert added.known == {"cat"} and added.pieces == [] and len(unchanged) == len(tokenizer)
    file = tmp_path / "words.txt"
    file.write_text("salt\n\nmat\nsalt\n")
    with pytest.raises(ValueError, match=r"words.txt, line 4: 'salt' is also in .*line 1"):
        read_words(str(file), numbered_lines)
    file.write_text("\n\n")
    with pytest.raises(ValueError, match="holds no word"):
        read_words(str(file), numbered_lines)


@pytest.mark.parametrize("name", [*TRANSLATORS, "causal_lm"])
@pytest.mark.parametrize("tied", [True, False])
def test_new_entries_start_at_the_mean_of_their_pieces_and_old_logits_stay(name, tied):
    settings = {"tie_word_embeddings": tied}
    if name == "transformer":
        settings["share_encoder_decoder_embeddings"] = tied
    if name == "bahdanau":
        settings = {}
    model = tiny_model(name, **settings)
    of_target = NewEntries(16, [[4, 6], [5, 6, 6]])
    of_source = of_target if tied else NewEntries(16, [[7, 8, 9]])
    added = {"target": of_target} | ({} if name == "causal_lm" else {"source": of_source})
    grown = grow_model(model, added).eval()
    assert grown.config.vocab_size == (18 if tied or name == "causal_lm" else 17)
    weights, old = grown.state_dict(), model.state_dict()
    head = weights["lm_head.weight"]
    torch.testing.assert_close(head[16], (head[4] + head[6]) / 2)
    torch.testing.assert_close(head[17], (head[5] + 2 * head[6]) / 3)
    if "lm_head.bias" in weights:
        bias = weights["lm_head.bias"]
        torch.testing.assert_close(bias[17], (bias[5] + 2 * bias[6]) / 3)
    if not tied and name != "causal_lm":
        (table,) = (tensor for key, tensor in weights.items() if key.endswith("encoder.embed_tokens.weight"))
        torch.testing.assert_close(table[16], (table[7] + table[8] + table[9]) / 3)
    assert all(torch.equal(weights[key][: len(tensor)], tensor) for key, tensor in old.items())
    batch = tiny_batch(name)
    with torch.no_grad():
        before, after = model(**batch).logits, grown(**batch).logits
    torch.testing.assert_close(after[..., :16], before, rtol=0, atol=1e-6)


def test_new_entries_take_rows_that_had_no_entry():
    model = tiny_model("causal_lm")
    grown = grow_model(model, {"target": NewEntries(14, [[4, 6]])})
    table = grown.get_input_embeddings().weight
    assert table.shape == (16, 8)
    torch.testing.assert_close(table[14], (table[4] + table[6]) / 2)
    assert torch.equal(table[15], model.get_input_embeddings().weight[15])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        *((name, [part]) for name in TRANSLATORS for part in ("embeddings", "encoder", "decoder")),
        ("causal_lm", ["embeddings"]),
        ("causal_lm", ["blocks:0-0", "embeddings"]),
        ("causal_lm", ["blocks:1"]),
    ],
)
@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_frozen_parts_keep_their_bits_and_the_others_learn_as_before(name, parts, optim):
    model, free = tiny_model(name).train(), tiny_model(name).train()
    freeze(model, parts)
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    batch = tiny_batch(name)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for each in (model, free):
        each(**batch).loss.backward()
    for key, parameter in free.named_parameters():
        if key not in frozen:
            torch.testing.assert_close(dict(model.named_parameters())[key].grad, parameter.grad)
    optimizer = make_optimizer(model, OptimizationSettings(learning_rate=0.1, weight_decay=0.1, optim=optim))
    for _ in range(2):
        optimizer.step()
    changed = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    learns = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert frozen and not frozen & (changed | learns) and changed == learns == set(before) - frozen
    if len(parts) == 1:
        tables = {"embed_tokens.weight", "tokens_embed.weight", "positions_embed.weight"}
        assert all(
            (key.rpartition(".")[0].rpartition(".")[2] + ".weight" in tables) == (parts == ["embeddings"])
            for key in frozen
        )


def test_a_part_that_a_model_does_not_have_is_named_with_those_that_it_has():
    with pytest.raises(ValueError, match=r"freeze is 'encoder'.*\(gpt1\).*embeddings, blocks:0-1\."):
        freeze(tiny_model("causal_lm"), ["encoder"])
    with pytest.raises(ValueError, match=r"freeze is 'blocks:1-2'.*blocks:0-1\."):
        freeze(tiny_model("causal_lm"), ["blocks:1-2"])
    with pytest.raises(ValueError, match=r"freeze is 'blocks:0'.*It has embeddings, encoder, decoder\."):
        freeze(tiny_model("bahdanau"), ["blocks:0"])
    with pytest.raises(ValueError, match="no part of the model is left to train"):
        freeze(tiny_model("causal_lm"), ["blocks:0-1", "embeddings"])
