"""Pictures of models hold the models' own numbers; what cannot be drawn is said in a sentence."""

import json
import resource
import shutil
import sys

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

pytest.importorskip("matplotlib")

from papers_to_gpt import visualize  # noqa: E402
from papers_to_gpt.plots import style  # noqa: E402
from papers_to_gpt.plots.tokens import name_of, readable  # noqa: E402
from papers_to_gpt.visualization import figures, models  # noqa: E402
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer  # noqa: E402

SOURCE, TARGET = "two dogs run", "zwei Hunde"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([SOURCE, TARGET] * 3, kind="word", vocab_size=40)
    for kind in ("rnn_seq2seq", "bahdanau", "transformer"):
        model = tiny_model(kind, vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer))
        model.generation_config.update(max_new_tokens=6)
        model.save_pretrained(folder / kind)
        save_tokenizers(folder / kind, tokenizer, tokenizer)
    sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    for kind, settings in {
        "bahdanau": {"use_attention": False},
        "transformer": {"position_embedding_type": "absent"},
    }.items():
        tiny_model(kind, **sizes, **settings).save_pretrained(folder / f"{kind}_without")
        save_tokenizers(folder / f"{kind}_without", tokenizer, tokenizer)
    for name, settings in {"gpt1": {}, "gpt1_lstm": {"lstm_size": 8}}.items():
        tiny_model("causal_lm", **settings).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    log = [{"update": update, "kind": "train", "loss": 9.0 - update} for update in (1, 2, 3)]
    (folder / "gpt1" / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.fixture
def draw(folder, tmp_path, monkeypatch, capsys):
    names = [path.name for path in folder.iterdir()]

    def run(*arguments):
        words = [str(folder / word) if word in names else word for word in arguments]
        monkeypatch.setattr(sys, "argv", ["visualize.py", *words, "--output_dir", str(tmp_path / "plots")])
        visualize.main()
        return capsys.readouterr()

    run.plots = tmp_path / "plots"
    return run


def row_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def attention_of(model, tokenizer):
    """The attention of one pair from the model's own forward pass, (layers, heads, targets, sources)."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(
            **tokenizer(SOURCE, return_tensors="pt"),
            output_attentions=True,
            labels=tokenizer(TARGET, return_tensors="pt").input_ids,
        )
    return output


@pytest.mark.parametrize("kind", ["bahdanau", "transformer"])
def test_an_alignment_is_the_models_cross_attention(folder, kind):
    loaded = models.load(str(folder / kind))
    axes = figures.alignment(loaded, SOURCE, TARGET).axes[0]
    expected = attention_of(loaded.model, loaded.tokenizer).cross_attentions
    layer = expected[0]  # the only one, or the last but one of two
    np.testing.assert_allclose(axes.images[0].get_array(), layer[0].mean(0)[:-1], atol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["two", "dogs", "run", "</s>"]
    assert row_labels(axes) == ["zwei", "Hunde"]


def test_each_head_of_a_chosen_layer_has_its_own_matrix(folder):
    loaded = models.load(str(folder / "transformer"))
    drawn = figures.heads(loaded, SOURCE, TARGET, layers=[0, 1], heads=[1])
    output = attention_of(loaded.model, loaded.tokenizer)
    for kind in ("encoder", "decoder", "cross"):
        layers = getattr(output, "cross_attentions" if kind == "cross" else f"{kind}_attentions")
        for layer in (0, 1):
            panel, _ = drawn[f"{kind}_layer_{layer}"].axes
            assert panel.get_title(loc="left") == "head 1"
            np.testing.assert_allclose(panel.images[0].get_array(), layers[layer][0, 1], atol=1e-6)
    assert row_labels(drawn["decoder_layer_0"].axes[0]) == ["<s>", "zwei", "Hunde"]
    assert row_labels(drawn["cross_layer_0"].axes[0]) == ["zwei", "Hunde", "</s>"]


def test_probabilities_are_those_of_a_softmax_and_the_next_token_follows_the_text(folder):
    loaded = models.load(str(folder / "gpt1"))
    drawn = figures.probabilities(loaded, "word5 word6 word7", candidates=3)
    ids = [5, 6, 7]
    with torch.no_grad():
        expected = loaded.model(torch.tensor([ids])).logits[0].softmax(-1)
    matrix = drawn["probabilities"].axes[0].images[0].get_array()
    np.testing.assert_allclose(matrix[:, 0], [expected[0, 6], expected[1, 7]], rtol=1e-4)
    np.testing.assert_allclose(matrix[:, 1:], expected[:2].topk(3).values, rtol=1e-4)
    # The vocabulary marks no ends of words, so each token seems to continue the one before.
    assert row_labels(drawn["probabilities"].axes[0]) == ["##word6", "##word7"]
    bars = drawn["next_token"].axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], expected[2].topk(3).values, rtol=1e-4)
    best = loaded.tokenizer.convert_ids_to_tokens(expected[2].topk(3).indices.tolist())
    assert [name.removeprefix("##") for name in row_labels(bars)] == best


def test_similarities_of_positions_are_cosines(folder):
    for kind, count in {"transformer": 32, "gpt1": 32}.items():
        loaded = models.load(str(folder / kind))
        image, similarity = figures.positions(loaded, count)["positions"].axes[:2]
        table = np.asarray(image.images[0].get_array())
        assert len(table) == count
        expected = torch.nn.functional.cosine_similarity(
            torch.tensor(table)[:, None], torch.tensor(table)[None], dim=-1
        )
        np.testing.assert_allclose(similarity.images[0].get_array(), expected, atol=1e-5)


def test_words_are_named_without_their_marks_and_continuations_are_marked():
    translator = ["▁unter", "wegs", "▁-", "ja", "▁北", "京", "▁", ".", "</s>", "▁a"]
    named = ["unter", "##wegs", "-", "ja", "北", "京", "▁", ".", "</s>", "a"]
    assert readable(translator, ["</s>"], word_start="▁") == named
    gpt = ["hun", "dred</w>", ".</w>", "and</w>", "\n</w>"]
    assert readable(gpt, [], word_end="</w>") == ["hun", "##dred", ".", "and", "\n"]
    assert name_of("dred", "hun", [], word_end="</w>") == "##dred"
    assert name_of("dred", "hun</w>", [], word_end="</w>") == "dred"


def test_a_model_is_drawn_with_all_that_it_has_in_both_formats(draw):
    draw("gpt1", "word5 word6", "--layers", "0", "1")
    names = ["curves", "decoder_layer_0", "decoder_layer_1", "next_token", "positions", "probabilities"]
    written = sorted(path.name for path in draw.plots.iterdir())
    assert written == sorted(f"gpt1_{name}{suffix}" for name in names for suffix in (".png", ".svg"))


def test_a_picture_is_named_for_the_folder_and_a_checkpoint_also_for_its_run(draw, folder, monkeypatch):
    shutil.copytree(folder / "gpt1", draw.plots.parent / "mine" / "checkpoint-20")
    monkeypatch.chdir(draw.plots.parent / "mine" / "checkpoint-20")
    for name in (".", "../checkpoint-20"):
        draw(name, "word5 word6", "--pictures", "positions")
        assert {path.name for path in draw.plots.iterdir()} == {
            f"mine_checkpoint-20_positions.{kind}" for kind in ("png", "svg")
        }
        shutil.rmtree(draw.plots)
    assert models.short_name("user/name") == "name" and models.short_name(str(folder / "gpt1")) == "gpt1"


def test_a_long_sentence_is_read_as_a_whole_and_cut_in_the_picture_with_a_warning(draw, folder, caplog):
    sentence = " ".join(["two dogs"] * 30)
    draw("bahdanau", sentence, "--translation", TARGET, "--pictures", "alignment")
    assert "The sentence has 61 tokens; the pictures show the first 40." in caplog.text
    draw("gpt1", " ".join(["word5"] * 70), "--pictures", "probabilities")
    assert "The sentence has 70 tokens" in caplog.text and "reads the first 64." in caplog.text
    loaded = models.load(str(folder / "bahdanau"))
    matrix = figures.alignment(loaded, sentence, TARGET).axes[0].images[0].get_array()
    assert matrix.shape == (2, 40) and matrix.sum() < 1.999  # the rest of the weight is on what is cut


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnn_seq2seq", SOURCE, "--pictures", "alignment"], "has no attention.*one vector for each layer"),
        (["bahdanau_without", SOURCE, "--pictures", "alignment"], "has no attention.*one vector for each layer"),
        (["transformer_without", SOURCE, "--pictures", "positions"], "position_embedding_type absent, so it has no"),
        (["rnn_seq2seq", SOURCE, "--pictures", "heads"], "has no attention.*one vector for each layer"),
        (["gpt1_lstm", "word5", "--pictures", "heads"], "with an LSTM in the Transformer's place.*no attention"),
        (["gpt1", "word5", "--pictures", "alignment"], "does not translate, so it has no alignment"),
        (["bahdanau", SOURCE, "--pictures", "heads"], "attention has one head, which the alignment shows"),
        (["bahdanau", SOURCE, "--pictures", "positions"], "has no position vectors"),
        (["gpt1", "word5", "--pictures", "heads", "--layers", "2"], "layers has 2, but .* has 2 layers.*from 0 to 1"),
        (["gpt1", "word5", "--pictures", "heads", "--heads", "0", "5"], "heads has 5, but .* 2 heads.*from 0 to 1"),
        (["gpt1", "word5", "--pictures", "heads", "--attention", "cross"], "has only the kinds decoder"),
        (["gpt1", "word5", "--translation", TARGET], "gpt1.* and does not translate. Leave it out"),
        (["gpt1", "word5", "--pictures", "picture"], "pictures names picture; there are alignment, heads"),
        (["gpt1", "--pictures", "probabilities"], "pictures has probabilities, but sentence is not set"),
        (["gpt1", " "], "sentence is empty"),
        (["gpt1", "\u200b"], "has no visible text"),
        (["bahdanau", "--pictures", "curves"], "bahdanau has no train_log.jsonl"),
        (["--runs", "gpt1", "nowhere/else"], "There is no folder nowhere/else"),
        (["--runs", "gpt1", "--values", "bleu"], "No log has the value 'bleu'. The values are loss"),
        ([], "model_name_or_path is not set"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(draw, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


def test_layers_that_there_are_not_are_refused_before_any_picture_is_drawn(draw):
    for setting in ("--layers", "--heads"):
        with pytest.raises(ValueError, match=f"{setting[2:]} has 9"):
            draw("transformer", SOURCE, "--pictures", "alignment", "heads", setting, "9")
    assert not list(draw.plots.iterdir())


def test_the_sizes_that_are_checked_are_those_of_the_attention(folder):
    for name in ("transformer", "gpt1"):
        loaded = models.load(str(folder / name))
        found = models.attention_of(loaded, SOURCE, TARGET if name == "transformer" else None)
        assert models.attention_sizes(loaded) == {
            kind: (len(each.weights), len(each.weights[0])) for kind, each in found.items()
        }


def test_without_matplotlib_the_message_says_how_to_install_it(draw, monkeypatch):
    monkeypatch.setattr(style, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install matplotlib \(or the extra `plots`"):
        draw("gpt1", "word5")


def test_a_picture_that_does_not_fit_on_the_disk_is_named(draw):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ValueError, match="plots.* could not be written: .*; then draw the pictures again"):
            draw("gpt1", "--pictures", "positions")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_written_is_named(draw, tmp_path, capsys, monkeypatch):
    (tmp_path / "plots").write_text("a file")
    monkeypatch.setattr(sys, "argv", ["visualize.py"])
    with pytest.raises(ValueError, match="output_dir is .*plots, which is a file or would be in one"):
        draw("--runs", "gpt1")
