"""Ensembles of translators, against one model, a mean taken by hand, and a search written out."""

import math
import sys

import pytest
import torch
from test_beam_search import assert_same, every_sequence, search, tiny_model, written_out_search
from tiny_models import END, PAD, TRANSLATORS, VOCABULARY, row
from tiny_models import tiny_model as tiny_translator

from papers_to_gpt import score_translation, translate
from papers_to_gpt.settings.decoding import parse_scoring, parse_translation
from seq2seq_scratch import plain_forms
from seq2seq_scratch.beam_continuations import SCORES_PER_CHUNK
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.ensemble import EnsembleForSeq2SeqLM, load_ensemble, modeling
from seq2seq_scratch.ensemble.mean_by_rows import log_mean_by_rows
from seq2seq_scratch.ensemble.modeling import log_mean_probability
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import translate as translate_sentences

SOURCES = [row(length, seed) for seed, length in enumerate((6, 3, 2, 5, 4, 6))]
LONGEST = max(map(len, SOURCES))
INPUT_IDS = torch.tensor([source + [PAD] * (LONGEST - len(source)) for source in SOURCES])
MASK = (INPUT_IDS != PAD).long()


def translator(name, seed):
    """Returns a tiny translator with weights of a seed's own."""
    model = tiny_translator(name)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def generate(model, **settings):
    with torch.inference_mode():
        return model.generate(INPUT_IDS, attention_mask=MASK, max_new_tokens=8, **settings)


@pytest.fixture(scope="module")
def mixed():
    return [translator(name, seed) for seed, name in enumerate(TRANSLATORS)]


SEARCHES = {
    "greedy": {"num_beams": 1},
    "greedy with scores": {"num_beams": 1, "return_dict_in_generate": True, "output_scores": True},
    "beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6, "return_dict_in_generate": True},
    "the library's beams": {"num_beams": 3, "return_dict_in_generate": True, "output_scores": True},
    "without a cache": {"num_beams": 3, "use_cache": False, "return_dict_in_generate": True},
}


@pytest.mark.parametrize("settings", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("name", TRANSLATORS)
def test_one_model_and_two_copies_of_it_decode_like_the_model(name, settings):
    model = translator(name, 1)
    expected = generate(model, **settings)
    for count in (1, 2):
        found = generate(EnsembleForSeq2SeqLM([model] * count), **settings)
        if torch.is_tensor(expected):
            assert found.tolist() == expected.tolist()
            continue
        assert found.sequences.tolist() == expected.sequences.tolist()
        if "num_return_sequences" in settings or settings["num_beams"] > 1:
            torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


def test_the_probabilities_are_the_mean_of_the_models(mixed):
    target = torch.tensor([[2, *row(5, seed)] for seed in range(len(SOURCES))])
    with torch.no_grad():
        found = EnsembleForSeq2SeqLM(mixed)(INPUT_IDS, MASK, decoder_input_ids=target).logits
        each = [model(INPUT_IDS, MASK, decoder_input_ids=target).logits.double().softmax(-1) for model in mixed]
    mean = sum(each) / len(each)
    torch.testing.assert_close(found.double().softmax(-1), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.double(), mean.log(), atol=1e-5, rtol=1e-5)
    of_logits = sum(model(INPUT_IDS, MASK, decoder_input_ids=target).logits for model in mixed).double().softmax(-1)
    assert (of_logits - mean).abs().max() > 0.01  # another ensemble, which this test would tell apart


def test_a_token_that_one_model_excludes_keeps_its_share_of_the_others():
    models = [translator("rnn_seq2seq", seed) for seed in (1, 2)]
    with torch.no_grad():
        models[0].lm_head.bias[5] = -1000.0  # a probability that fp32 rounds to 0
        start = torch.full((len(SOURCES), 1), 2)
        found = EnsembleForSeq2SeqLM(models)(INPUT_IDS, MASK, decoder_input_ids=start).logits[:, 0, 5]
        other = models[1](INPUT_IDS, MASK, decoder_input_ids=start).logits[:, 0].softmax(-1)[:, 5]
        torch.testing.assert_close(found.exp(), other / 2)
        models[1].lm_head.bias[5] = -1000.0
        found = EnsembleForSeq2SeqLM(models)(INPUT_IDS, MASK, decoder_input_ids=start).logits[:, 0, 5]
    assert found.isfinite().all() and (found < -900).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_of_a_few_rows_at_a_time_is_that_of_the_plain_form(count, dtype):
    torch.manual_seed(0)
    width = SCORES_PER_CHUNK // 4 - 3  # four rows are a chunk
    logits = [(3 * torch.randn(3, 3, width)).to(dtype) for _ in range(count)]
    fast = log_mean_by_rows(logits)
    with plain_forms():
        plain = log_mean_probability(logits)
    mean = sum(each.double().softmax(-1) for each in logits) / count
    for found in (fast, plain):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), mean.log(), atol=5e-6, rtol=1e-6)
    assert not torch.equal(fast, plain)  # no bit differs only where both forms are one
    assert torch.equal(log_mean_probability(logits), fast)


@pytest.mark.parametrize("lowest", [-95.0, -1000.0, -torch.inf, torch.nan])
def test_the_plain_form_computes_what_a_few_rows_at_a_time_would_lose(lowest):
    torch.manual_seed(0)
    logits = [torch.randn(3, 2, SCORES_PER_CHUNK // 2) for _ in range(2)]
    for each in logits:
        each[1, 1, 7] = lowest
    assert log_mean_by_rows(logits) is None
    expected = torch.logsumexp(torch.stack([each.double().log_softmax(-1) for each in logits]), dim=0) - math.log(2)
    torch.testing.assert_close(log_mean_probability(logits), expected.float(), equal_nan=True)


def test_the_mean_has_gradients():
    logits = [torch.randn(2, 3, 5, requires_grad=True) for _ in range(2)]
    found = torch.autograd.grad(log_mean_probability(logits)[..., 0].sum(), logits)
    mean = (logits[0].softmax(-1) + logits[1].softmax(-1)) / 2
    torch.testing.assert_close(found, torch.autograd.grad(mean.log()[..., 0].sum(), logits))


@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram_size": 1}], ids=["plain", "with a processor"])
def test_no_search_takes_a_softmax_of_log_probabilities(settings, mixed, monkeypatch):
    """The search of an ensemble finds the same, and calls neither the plain mean nor another softmax."""
    ensemble = EnsembleForSeq2SeqLM(mixed)
    calls = []
    log_softmax = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda *args, **kwargs: calls.append("") or log_softmax(*args, **kwargs))
    for beams in (1, 3):
        found = generate(ensemble, num_beams=beams, **settings)
        assert not calls
        with monkeypatch.context() as patch, plain_forms():
            patch.setattr(modeling, "log_mean_by_rows", None)  # plain forms do not call it
            expected = generate(ensemble, num_beams=beams, **settings)
            assert calls
        calls.clear()
        assert found.tolist() == expected.tolist()


def test_every_search_of_mixed_models_finds_what_the_plain_search_without_a_cache_finds(mixed):
    """In plain form, the library's searches run, which keep all sentences and a row for every hypothesis."""
    ensemble = EnsembleForSeq2SeqLM(mixed)
    for beams in (1, 2):
        lengths = set()
        settings = {"num_beams": beams, "num_return_sequences": min(beams, 2)}
        settings |= {"length_penalty": 2.2, "early_stopping": "never"} if beams > 1 else {}
        found = generate(ensemble, **settings).tolist()
        with plain_forms():
            assert generate(ensemble, **settings, use_cache=False).tolist() == found
            assert generate(ensemble, **settings).tolist() == found
        for index, source in enumerate(SOURCES):  # alone, so that nothing leaves or fills a batch
            alone = ensemble.generate(torch.tensor([source]), max_new_tokens=8, **settings).tolist()
            rows = found[index * settings["num_return_sequences"] :][: settings["num_return_sequences"]]
            for one, other in zip(alone, rows, strict=True):
                ends = [ids[: ids.index(END) + 1] if END in ids else ids for ids in (one, other)]
                assert ends[0] == ends[1]
                lengths.add(len(ends[0]))
        assert len(lengths) > 2  # sentences that leave the batch at different steps


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_wide_beam_finds_the_best_of_all_sequences_and_a_narrow_one_what_lists_find(alpha):
    ensemble = EnsembleForSeq2SeqLM([tiny_model(seed=seed) for seed in (0, 1, 2)])
    sources, limit = torch.tensor([[4, 0, 4, END], [0, 0, END, 1]]), 4
    wide = search(ensemble, sources, alpha, limit, beams=100)
    narrow = search(ensemble, sources, alpha, limit, beams=3)
    for source, of_wide, of_narrow in zip(sources, wide, narrow, strict=True):
        assert_same(of_wide[:5], every_sequence(ensemble, source, alpha, limit)[:5])
        assert_same(of_narrow, written_out_search(ensemble, source, alpha, limit, 3)[0])


def test_samples_are_drawn_from_the_mean_distribution():
    models = [translator("rnn_seq2seq", 1), translator("transformer", 2)]
    source, count = torch.tensor([SOURCES[0]]), 4000
    start = torch.tensor([[2]])
    with torch.no_grad():
        each = [model(source, decoder_input_ids=start).logits[0, 0].softmax(-1) for model in models]
    torch.manual_seed(0)
    drawn = EnsembleForSeq2SeqLM(models).generate(
        source, do_sample=True, top_k=0, num_return_sequences=count, max_new_tokens=1
    )
    found = torch.bincount(drawn[:, 1], minlength=VOCABULARY) / count
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, atol=0.04, rtol=0)


def test_models_that_do_not_belong_together_are_refused(mixed):
    other = translator("rnn_seq2seq", 1)
    other.config.eos_token_id = 5
    for models, message in (
        ([], "needs at least one model"),
        ([mixed[0], other], "eos_token_id is 3 in model 1 and 5 in model 2"),
        ([mixed[0], tiny_translator("bahdanau", decoder_vocab_size=20)], "decoder_vocab_size is 16 .* and 20"),
        ([mixed[0], tiny_translator("causal_lm")], "model 2 is a GPT1ForCausalLM. An ensemble needs translators"),
    ):
        with pytest.raises(ValueError, match=message):
            EnsembleForSeq2SeqLM(models)
    ensemble = EnsembleForSeq2SeqLM(mixed)
    with pytest.raises(ValueError, match="output_attentions is set, but an ensemble has none"):
        ensemble(INPUT_IDS, decoder_input_ids=INPUT_IDS, output_attentions=True)
    with pytest.raises(ValueError, match="Save each of its models"):
        ensemble.save_pretrained("anywhere")
    assert [module.training for module in ensemble.modules()].count(True) == 0


SENTENCES = ["two dogs run", "a man walks along the long street", "", "snow", "the dog runs after it"]
TARGETS = ["zwei Hunde rennen", "ein Mann geht", "nichts", "Schnee", "der Hund rennt hinterher"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of three translators of different types with one tokenizer, and the models."""
    tokenizer = train_tokenizer([*SENTENCES, *TARGETS] * 3, kind="bpe", vocab_size=340)
    folder, models = tmp_path_factory.mktemp("models"), []
    for seed, name in enumerate(TRANSLATORS):
        small = tiny_translator(name)
        ids = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
        torch.manual_seed(seed)
        model = type(small)(type(small.config)(**{**small.config.to_diff_dict(), **ids})).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder / name)
        save_tokenizers(folder / name, tokenizer, tokenizer)
        models.append(model)
    (folder / "lines.txt").write_text("\n".join(SENTENCES) + "\n")
    for side, lines in (("en", SENTENCES), ("de", TARGETS)):
        (folder / f"test.{side}").write_text("".join(f"{line}\n" for line in lines))
    return folder, models, tokenizer


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    script.main()


def test_the_scripts_decode_and_score_with_several_models(folders, tmp_path, monkeypatch, capsys):
    folder, models, tokenizer = folders
    names = ["--model_name_or_path", *(folder / name for name in TRANSLATORS), "--bf16", "false"]
    run(translate, monkeypatch, *names, "--input_file", folder / "lines.txt", "--num_beams", 3)
    ensemble = EnsembleForSeq2SeqLM(models)
    expected = translate_sentences(ensemble, tokenizer, tokenizer, SENTENCES, num_beams=3)
    assert capsys.readouterr().out.splitlines() == [best.text for best, *_ in expected]

    data = ["--test_file", folder / "test", "--output_dir", tmp_path, "--num_beams", 3]
    run(score_translation, monkeypatch, *names, *data)
    assert (tmp_path / "test_beam3_hypotheses.txt").read_text().splitlines() == [best.text for best, *_ in expected]
    run(score_translation, monkeypatch, *names, *data, "--force_decode")
    total = sum(
        sum(score.log_probabilities)
        for score in score_translations(ensemble, tokenizer, tokenizer, SENTENCES, TARGETS)
        if score is not None
    )
    assert f"log_probability {total:.4f}" in capsys.readouterr().out


def test_folders_that_do_not_belong_together_are_named(folders, tmp_path):
    folder, models, tokenizer = folders
    names = [str(folder / name) for name in TRANSLATORS]
    words = train_tokenizer([*SENTENCES, "snow", *TARGETS] * 3, kind="bpe", vocab_size=340)
    models[0].save_pretrained(tmp_path / "other")
    save_tokenizers(tmp_path / "other", words, words)
    entry = next(
        index
        for index in range(len(tokenizer))
        if tokenizer.convert_ids_to_tokens(index) != words.convert_ids_to_tokens(index)
    )
    with pytest.raises(ValueError, match=f"other has another source tokenizer than .*: entry {entry} is '.+', and th"):
        load_ensemble([names[1], str(tmp_path / "other")])
    save_tokenizers(tmp_path / "other", tokenizer, words)
    with pytest.raises(ValueError, match="other has another target tokenizer than"):
        load_ensemble([names[1], str(tmp_path / "other")])
    lower = train_tokenizer([*SENTENCES, *TARGETS] * 3, kind="bpe", vocab_size=340)
    lower.backend_tokenizer.normalizer = None
    save_tokenizers(tmp_path / "other", lower, lower)
    with pytest.raises(ValueError, match="the rules of tokenizer.json differ at normalizer"):
        load_ensemble([names[1], str(tmp_path / "other")])


def test_models_of_other_languages_and_settings_of_one_model_are_refused(folders, tmp_path, monkeypatch):
    folder, models, tokenizer = folders
    for name, pair in (("first", ("en", "de")), ("second", ("de", "en"))):
        models[0].save_pretrained(tmp_path / name)
        save_tokenizers(tmp_path / name, tokenizer, tokenizer)
        languages = "".join(
            f"  {side}_language: {code}\n" for side, code in zip(("source", "target"), pair, strict=True)
        )
        (tmp_path / name / "run.yaml").write_text(f"settings:\n{languages}")
    both = ["--model_name_or_path", str(tmp_path / "first"), str(tmp_path / "second")]
    with pytest.raises(ValueError, match="first translates from en to de, and .*second from de to en"):
        run(translate, monkeypatch, *both, "--input_file", folder / "lines.txt")
    with pytest.raises(ValueError, match="with_alignments is true, but model_name_or_path names 2 models"):
        parse_translation([*both, "--with_alignments"])
    with pytest.raises(ValueError, match="output_dir is not set, and model_name_or_path names 2 models"):
        parse_scoring([*both, "--dataset_name", "numbers"])
