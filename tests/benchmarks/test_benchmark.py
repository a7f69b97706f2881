"""The benchmark: every contender does the same work, is measured as it says, and takes its turn."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset

from papers_to_gpt import benchmark
from papers_to_gpt.benchmarks import classifiers, comparison, ctranslate2, gpts, joeynmt, marian, ours, profiles
from papers_to_gpt.benchmarks.comparison import Contender
from papers_to_gpt.benchmarks.gpts import gpt as make_gpt
from papers_to_gpt.benchmarks.ours import decode_ours
from papers_to_gpt.benchmarks.workload import Stopwatch, count_padded
from papers_to_gpt.settings.benchmarking import BenchmarkSettings, Workload, parse
from seq2seq_scratch import TransformerConfig, TransformerForConditionalGeneration
from seq2seq_scratch.tokenization import load_tokenizers

TINY = Workload(
    updates=2,
    warm_up_updates=1,
    vocab_size=300,
    d_model=16,
    d_ff=24,
    num_layers=1,
    num_heads=2,
    embedding_size=8,
    hidden_size=12,
    max_tokens_per_batch=10_000,
    marian_batch_size=30,
    decoding_updates=2,
    max_sentences=5,
    gpt_vocab_size=50,
    gpt_hidden_size=16,
    gpt_layers=1,
    gpt_heads=2,
    context=24,
    gpt_batch_size=3,
    prompt_tokens=4,
    new_tokens=6,
    growth_lengths=[8, 24],
    growth_widths=[16, 32],
    growth_vocabularies=[20, 70],
)
ROWS = comparison.table(TINY)


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate_state():
    """Resets accelerate's state: its precision cannot change within a process, and other tests set another one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares thirty pairs of various lengths, which fit one batch, and a model trained on them for two updates."""
    folder = tmp_path_factory.mktemp("benchmark")
    for split, count in (("train", 30), ("validation", 4), ("test", 7)):
        lines = [" ".join(f"word{index * place % 11}" for place in range(1, 2 + index % 9)) for index in range(count)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(f"und {line}" for line in lines) + "\n")
    files = {f"{split}_file": str(folder / split) for split in ("train", "validation", "test")}
    comparison.prepare_pairs(BenchmarkSettings(**files), TINY, folder)
    comparison.MODEL_TO_DECODE.measure(TINY, folder)
    return folder, replace(TINY, model_name_or_path=str(folder / "model"))


def skip_where_missing(row):
    if reason := row.missing(TINY):
        pytest.skip(reason)


def rows_of(section):
    # nanoGPT is no package, and compiling takes half a minute.
    rows = [
        row for row in ROWS if row.section == section and row.needs != "nanogpt_dir" and "compiled" not in row.name
    ]
    assert rows
    return pytest.mark.parametrize("row", rows, ids=lambda row: f"{row.group}, {row.name}")


@rows_of("translation_training")
def test_translators_train_on_the_same_tokens_and_count_them_alike(row, prepared):
    """All pairs fit one batch, so the counts of an update must be those of the data set's text."""
    skip_where_missing(row)
    folder, work = prepared
    tokenizer = load_tokenizers(folder)[0]
    lengths = {
        side: [len(tokenizer(line)["input_ids"]) for line in (folder / f"train.{side}").read_text().splitlines()]
        for side in ("en", "de")
    }
    if row.needs == "eole":  # puts no end token behind the source
        lengths["en"] = [length - 1 for length in lengths["en"]]
    measured = row.measure(work, folder)
    assert measured["items"] == work.updates * sum(lengths["de"])
    slots = 30 * sum(map(max, lengths.values()))
    assert measured["padding_percent"] == pytest.approx(100 * (1 - sum(map(sum, lengths.values())) / slots))


def prepare(row, work, folder):
    skip_where_missing(row)
    if row.prepare is not None:
        row.prepare(work, folder)


@rows_of("translation_decoding")
@pytest.mark.parametrize("output_tokens", [None, 9])
def test_every_translator_decodes_all_sentences(row, output_tokens, prepared):
    folder, work = prepared
    prepare(row, work, folder)
    measured = row.measure(replace(work, output_tokens=output_tokens), folder)
    assert measured["items"] == 5
    assert measured["mean_output_tokens"] == output_tokens if output_tokens else measured["mean_output_tokens"] >= 1
    assert ("batch_tokens" in measured) != ("batch_sentences" in measured)


def translations_by(row, folder, work, monkeypatch):
    """Returns what a row's contender wrote last."""
    found = []

    def keep(work, folder, model, tokenizer, translate, **batch):
        found[:] = translate(json.loads((folder / "test_sentences.json").read_text()))
        return {}

    for module in (ours, ctranslate2):
        monkeypatch.setattr(module, "measure_decoding", keep)
    row.measure(work, folder)
    return found


DECODING_ROWS = {row.key.partition(": ")[2]: row for row in ROWS if row.section == "translation_decoding"}


def test_ctranslate2_writes_the_translations_of_our_model(prepared, monkeypatch):
    folder, work = prepared
    mine, other = DECODING_ROWS["greedy: ours, fp32"], DECODING_ROWS["greedy: CTranslate2, fp32"]
    prepare(other, work, folder)
    work = replace(work, output_tokens=12)
    expected = translations_by(mine, folder, work, monkeypatch)
    assert any(expected) and translations_by(other, folder, work, monkeypatch) == expected


@pytest.mark.parametrize("group", ["greedy", "beam 5"])
@pytest.mark.parametrize("numbers", ["fp32", "int8"])
def test_ctranslate2_runs_the_same_weights_with_marians_model(prepared, monkeypatch, group, numbers):
    folder, work = prepared
    found = []
    for name in ("CTranslate2", "MarianMTModel by CTranslate2"):
        row = DECODING_ROWS[f"{group}: {name}, {numbers}"]
        prepare(row, work, folder)
        found.append(translations_by(row, folder, replace(work, output_tokens=12), monkeypatch))
    assert any(found[0]) and found[0] == found[1]
    exports = (
        ctranslate2.exported(folder, model, row.prepare.keywords["quantization"]) for model in ("translator", "marian")
    )
    weights = [(export / "model.bin").read_bytes() for export in exports]
    assert weights[0] == weights[1]


@rows_of("gpt_training")
def test_language_models_count_the_tokens_they_read(row, tmp_path, monkeypatch):
    monkeypatch.setattr(gpts.MatrixPeak.__init__, "__defaults__", (256, "cpu"))
    measured = row.measure(TINY, tmp_path)
    assert measured["items"] == 2 * 3 * 24
    assert 0 < measured["model_flops_utilization_percent"] < 100


def test_the_peak_is_measured_after_every_update_and_not_clocked(monkeypatch):
    peak = gpts.MatrixPeak(64)
    watch = Stopwatch(between_updates=lambda: (time.sleep(0.2), peak.measure()))
    for _ in watch.over(itertools.count(), replace(TINY, warm_up_updates=2, updates=3), lambda batch: (1, 0, 0)):
        time.sleep(0.01)
    assert peak.flops == 3 * gpts.PRODUCTS_BETWEEN_UPDATES * 2 * 64**3
    assert watch.items == 3 and 0.03 <= watch.clocked["seconds"] < 0.2


@rows_of("gpt_growth")
def test_growth_changes_one_size_at_a_time(row, tmp_path, monkeypatch):
    monkeypatch.setattr(gpts.MatrixPeak.__init__, "__defaults__", (256, "cpu"))
    seen = []
    monkeypatch.setattr(gpts, "gpt", lambda work, *args: seen.append(work) or make_gpt(work, *args))
    measured = row.measure(TINY, tmp_path)
    assert measured["items"] == 2 * 3 * 24  # as many tokens at every length
    size = int(row.name.partition(" ")[0].rstrip(","))
    changed = {
        "length": {"context": size, "gpt_batch_size": 72 // size},
        "width": {"gpt_hidden_size": size, "gpt_heads": size // 8},
        "vocabulary": {"gpt_vocab_size": size},
    }
    assert seen[0] == replace(TINY, **changed[row.group])


@rows_of("training_profile")
def test_the_shares_of_a_profile_make_up_the_time(row, prepared):
    folder, work = prepared
    measured = row.measure(work, folder)
    shares = {name: measured[name] for name in profiles.SHARES}
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["products_percent"] > 0 and shares["optimizer_percent"] > 0 and shares["copies_percent"] > 0
    assert (shares["recurrent_percent"] > 0) == (row.name == "LSTM of 2014")


@rows_of("gpt_generation")
def test_language_models_count_the_tokens_they_generate(row, tmp_path):
    prepare(row, TINY, tmp_path)
    assert row.measure(TINY, tmp_path)["items"] == 6 * int(row.group.removeprefix("batch "))


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """Prepares twelve short and twelve long sentences, of which a measurement reads six."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "sst2").mkdir()
    texts = [" ".join(f"word{index * place % 7}" for place in range(1, 4 + index % 12)) for index in range(24)]
    rows = {"sentence": texts, "label": [index % 2 for index in range(24)]}
    Dataset.from_dict(rows).to_parquet(folder / "sst2" / "train.parquet")
    Dataset.from_dict(rows).to_parquet(folder / "sst2" / "validation.parquet")
    return replace(TINY, task="sst2", data_dir=str(folder), task_batch_size=3), folder


@rows_of("gpt_finetuning")
def test_classifiers_read_the_same_examples(row, task_folder):
    work, folder = task_folder
    classifiers.prepare_examples(work, folder)
    stored = numpy.load(folder / classifiers.EXAMPLES_FILE)
    measured = row.measure(work, folder)
    assert measured["items"] == len(stored["labels"]) == 2 * 3
    if "128" in row.name:
        assert measured["padding_percent"] == pytest.approx(100 * (1 - len(stored["tokens"]) / (6 * TINY.context)))
    elif row.name.startswith("ours"):
        lengths = sorted(numpy.diff(stored["bounds"]))
        slots = 3 * (lengths[2] + lengths[5])
        assert measured["padding_percent"] == pytest.approx(100 * (1 - len(stored["tokens"]) / slots))


def test_a_warm_up_may_be_longer_than_an_epoch_of_the_examples(task_folder):
    work, folder = task_folder
    work = replace(work, warm_up_updates=5 * work.updates)
    classifiers.prepare_examples(work, folder)
    for kind in ("ours", "openai-gpt"):
        assert classifiers.train_classifier(work, folder, kind)["items"] == 2 * 3


def test_what_no_classifier_can_learn_is_refused(task_folder):
    work, folder = task_folder
    with pytest.raises(ValueError, match="task is stories_similarity"):
        classifiers.prepare_examples(replace(work, task="stories_similarity", data_dir=None), folder)
    with pytest.raises(ValueError, match="updates x task_batch_size is 300, but sst2 has 24"):
        classifiers.prepare_examples(replace(work, updates=100), folder)


def wide_transformer():
    """Returns a batch with padding, and a model with random weights so large that its logits tell sentences apart."""
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    )
    model = TransformerForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source, target = torch.randint(4, 40, (3, 7)), torch.randint(4, 40, (3, 5))
    source[1, 4:] = source[2, 6:] = config.pad_token_id
    return model, source, target


@torch.no_grad()
def test_marian_with_our_weights_computes_our_logits():
    model, source, target = wide_transformer()
    inputs = {"input_ids": source, "attention_mask": (source != 1).long(), "decoder_input_ids": target}
    ours = model(**inputs).logits
    theirs = marian.marian_with_weights(model)(**inputs).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_joeynmt_with_our_weights_computes_our_logits(tmp_path):
    data = pytest.importorskip("joeynmt.data")
    model, source, target = wide_transformer()
    ours = model(input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=target).logits
    entries = ["<unk>", "<pad>", "<s>", "</s>", *(f"piece{index}" for index in range(36))]
    (tmp_path / "vocabulary.txt").write_text("\n".join(entries) + "\n")
    settings = joeynmt.joeynmt_settings(
        TINY, tmp_path, str(tmp_path), joeynmt.joeynmt_transformer(model.config), {"test": ""}
    )
    vocabulary, *_ = data.load_data(settings.data, datasets=["stream"])
    theirs = joeynmt.joeynmt_with_weights(model, settings, vocabulary)
    logits, *_ = theirs._encode_decode(
        src=source,
        trg_input=target,
        src_mask=(source != 1)[:, None],
        src_length=(source != 1).sum(1),
        trg_mask=torch.ones(3, 1, 5, dtype=torch.bool),
    )
    torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-5)


def test_a_model_whose_weights_mean_something_else_is_refused():
    model = TransformerForConditionalGeneration(
        TransformerConfig(
            vocab_size=40, d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, pre_norm=True
        )
    )
    with pytest.raises(ValueError, match="pre_norm.*True.*must have.*False"):
        marian.marian_with_weights(model)


def test_the_stopwatch_leaves_out_the_warm_up():
    watch = Stopwatch()
    work = replace(TINY, warm_up_updates=2, updates=3)
    for batch in watch.over(itertools.count(1), work, lambda batch: (batch, 2 * batch, 4 * batch)):
        time.sleep(0.2 if batch <= 2 else 0.01)
    measured = watch.result(torch.nn.Linear(10, 10))
    assert batch == 5 and measured["items"] == 3 + 4 + 5
    assert measured["padding_percent"] == 50 and measured["millions_of_parameters"] == 110e-6
    assert 0.03 <= measured["seconds"] < 0.2
    assert measured["cpu_seconds"] < measured["seconds"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_stopwatch_tells_its_own_work_from_that_of_others():
    spin = "import time\nprint(flush=True)\nstart = time.time()\nwhile time.time() < start + 5: pass"
    watch = Stopwatch()
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        watch.start()
        begun = time.process_time()
        while time.process_time() < begun + 0.2:
            pass
        time.sleep(0.3)
        watch.stop()
        other.kill()
    assert watch.clocked["cpu_seconds"] == pytest.approx(0.2, abs=0.05)
    assert watch.clocked["cores_busy_with_others"] > 0.2


MEMORY = """
from papers_to_gpt.benchmarks.workload import peak_memory_gb
before = peak_memory_gb()
block = b"x" * 600_000_000
during = peak_memory_gb()
del block
print(during - before, peak_memory_gb() - during)
"""


def test_peak_memory_is_of_this_process_and_never_falls():
    # In a process of its own: that of the tests may have held more already.
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    gained, later = map(float, result.stdout.split())
    # The system counts pages by the thread and adds up a little late.
    assert gained > 0.5 and later > -0.02


def test_padding_is_counted_on_both_sides():
    labels = torch.tensor([[5, 6, -100], [5, -100, -100]])
    assert count_padded(torch.tensor([[4, 4], [4, 1]]), labels, padding=1, ignored=-100) == (3, 6, 10)


@pytest.fixture
def scripted(monkeypatch):
    """Replaces measurements by given rates and records the order of the contenders."""
    rates = {"ours": [100.0, 300.0, 200.0], "peer": [50.0, 60.0, 50.0], "broken": [10.0]}
    asked = []

    def run_one(contender, work, folder, threads, step="measure"):
        asked.append((contender.name, threads))
        turn = sum(name == contender.name for name, _ in asked) - 1
        if turn == len(rates[contender.name]):
            return {"error": "RuntimeError: out of luck"}
        rate = rates[contender.name][turn]
        return {"items": 2 * rate, "seconds": 2.0, "cpu_seconds": 4.0, "peak_memory_gb": 1.5}

    rows = [Contender("gpt_training", "all", name, None) for name in rates]
    rows.append(Contender("gpt_training", "all", "absent", None, "no_such_package"))
    monkeypatch.setattr(comparison, "run_one", run_one)
    monkeypatch.setattr(comparison, "table", lambda work: rows)
    return asked


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    benchmark.main()


def test_contenders_take_turns_and_the_table_has_medians(scripted, tmp_path, monkeypatch, capsys):
    output = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, "--sections", "gpt_training", "--threads", 3, "--output_file", output)
    assert stopped.value.code == 1  # one of them failed
    names = ["ours", "peer", "broken"] * 2 + ["ours", "peer"]
    assert scripted == [(name, 3) for name in names]
    record = json.loads(output.read_text())
    figures = {key.split(": ")[-1]: row for key, row in record["sections"]["gpt_training"]["summary"].items()}
    assert figures["ours"]["rate"] == 200 and figures["ours"]["lowest"] == 100 and figures["ours"]["highest"] == 300
    assert figures["peer"]["rate_of_cpu_time"] == 25
    assert figures["peer"]["ours_times"] == 4  # the median of 2, 5 and 4, not the medians' quotient only
    measured = record["sections"]["gpt_training"]["measurements"]
    assert [len(rounds) for rounds in measured.values()] == [3, 3, 1]
    printed = capsys.readouterr().out
    assert "broken: failed: RuntimeError: out of luck" in printed
    assert "absent: the package no_such_package is not installed" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  peer")]
    assert line.split() == ["peer", "50.0", "50.0", "60.0", "25.0", "4.00", "1.50"]


def test_a_measurement_in_its_own_process(tmp_path):
    """Other printed lines are not read as its result, and an error is reported."""
    row = next(row for row in ROWS if row.section == "gpt_generation")
    measured = comparison.run_one(row, TINY, tmp_path, threads=1)
    assert measured["items"] == 6
    broken = next(row for row in ROWS if row.measure.func is decode_ours)
    failure = comparison.run_one(broken, replace(TINY, model_name_or_path=str(tmp_path)), tmp_path, threads=1)
    assert "holds no model" in failure["error"]


@pytest.fixture
def refuse_to_measure(monkeypatch):
    """Fails a test whose mistake is not refused, before the minutes that a measurement takes."""

    def refuse(*arguments):
        pytest.fail("The mistake is not refused: something is prepared or measured.")

    monkeypatch.setattr(comparison, "prepare_pairs", refuse)
    monkeypatch.setattr(comparison, "run_one", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "gpt"], "sections names gpt; there are translation_training"),
        (["--rounds", "0"], "rounds is 0; it must be at least 1"),
        (["--updates", "0"], "updates is 0; it must be at least 1"),
        (["--sections", "gpt_growth", "--growth_lengths", "64", "1"], "growth_lengths has 1"),
        (
            ["--sections", "gpt_growth", "--growth_widths", "100"],
            "growth_widths has 100, .* no multiple of 64, the width",
        ),
        (["--gpt_heads", "5"], "gpt_heads is 5, which does not divide gpt_hidden_size, 384. Choose a divisor"),
        (["--output_file", "."], "output_file is ., which is a folder. Name a file in it"),
        (["--output_file", "no/all.json"], "output_file is no/all.json, but there is no folder no. Make it"),
        (["--output_tokens", "0"], "output_tokens is 0; it must be at least 1"),
        (["--new_tokens", "600"], "exceed the context of 512"),
        (
            ["--sections", "translation_decoding", "--model_name_or_path", "./nowhere"],
            "There is no folder ./nowhere. Correct the path",
        ),
        (["--nanogpt_dir", "nowhere"], "nanogpt_dir is nowhere, which holds no model.py"),
        (["--device", "cuda"], "device is cuda, but PyTorch sees no GPU here"),
        (["--device", "cuda", "--sections", "training_profile"], "training_profile, which clocks a CPU"),
        (["--contenders", "fairseq"], "fairseq.*matches no row.*MarianMTModel"),
    ],
)
def test_wrong_settings_are_named(arguments, message, monkeypatch, refuse_to_measure):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        start(monkeypatch, *arguments)


def test_sizes_of_sections_that_are_not_measured_are_not_checked():
    sizes = ["--gpt_hidden_size", "400", "--gpt_heads", "4", "--context", "64"]
    settings, work = parse(["--sections", "gpt_training", *sizes])
    assert settings.sections == ["gpt_training"] and work.context == 64
    for section in ("gpt_growth", "gpt_generation"):
        with pytest.raises(ValueError, match="growth_widths has 128|exceed the context of 64"):
            parse(["--sections", section, *sizes])


def test_decoding_without_test_sentences_is_refused_before_anything_runs(prepared, monkeypatch):
    folder, _ = prepared
    with pytest.raises(ValueError, match="translation_decoding needs test sentences: set test_file"):
        start(monkeypatch, "--sections", "translation_decoding", "--train_file", folder / "train")
