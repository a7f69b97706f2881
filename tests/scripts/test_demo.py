"""The functions behind the page that shows trained models, the finding of models, and what is refused."""

import json
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from demo_models import OWN, PROMPT, SOURCE, write_models
from tiny_models import tiny_tokenizer

pytest.importorskip("matplotlib")

from papers_to_gpt import demo  # noqa: E402
from papers_to_gpt.demonstration import loading, serving, sources  # noqa: E402
from papers_to_gpt.demonstration.classifying import classify, names_of_texts  # noqa: E402
from papers_to_gpt.demonstration.continuing import continue_text, draw_probabilities  # noqa: E402
from papers_to_gpt.demonstration.finding import find_models  # noqa: E402
from papers_to_gpt.demonstration.inputs import check_text  # noqa: E402
from papers_to_gpt.demonstration.loading import ModelStore  # noqa: E402
from papers_to_gpt.demonstration.problems import describe_problem  # noqa: E402
from papers_to_gpt.demonstration.tables import comparison_table  # noqa: E402
from papers_to_gpt.demonstration.translating import ComparedTranslation, compare, translate  # noqa: E402
from papers_to_gpt.settings.demonstration import parse  # noqa: E402
from seq2seq_scratch.alignments import align  # noqa: E402


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def store(models_dir):
    return ModelStore(find_models([], str(models_dir)))


def test_every_model_of_a_folder_is_found_and_an_unfinished_run_by_its_last_checkpoint(models_dir, caplog):
    found = {model.name: model for model in find_models([], str(models_dir))}
    kinds = {name: model.kind.script for name, model in found.items()}
    translators = dict.fromkeys(("bahdanau", "rnn_seq2seq", "transformer"), "translate")
    gpts = dict.fromkeys(("gpt1", "gpt1_lstm", "group/unfinished/checkpoint-10"), "generate_text")
    assert kinds == translators | gpts | {"task": "classify"}
    assert "damaged is left out" in caplog.text and "is cut off or no safetensors file" in caplog.text


def test_a_checkpoint_is_called_by_its_run_too(models_dir):
    unfinished = models_dir / "group" / "unfinished"
    checkpoint = "unfinished/checkpoint-10"
    assert [model.name for model in find_models([], str(unfinished))] == [checkpoint]
    assert [model.name for model in find_models([], str(unfinished / "checkpoint-10"))] == [checkpoint]
    assert [model.name for model in find_models([str(unfinished / "checkpoint-10")], "nowhere")] == [checkpoint]


def test_named_models_are_called_by_their_folders_as_far_as_these_differ(models_dir):
    unfinished = models_dir / "group" / "unfinished"
    names = [str(models_dir / "gpt1"), str(unfinished), str(unfinished / "checkpoint-10")]
    shown = ["gpt1", "unfinished", "unfinished/checkpoint-10"]
    assert [model.name for model in find_models(names, "nowhere")] == shown
    same = [str(models_dir / "bahdanau"), str(models_dir / "group" / ".." / "bahdanau")]
    assert [model.name for model in find_models(same, "nowhere")] == same


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("nowhere", None, "There is no folder .*nowhere. Name the output_dir of a run"),
        ("damaged", None, "is cut off or no safetensors file"),
        ("plots", None, "plots holds no model: config.json is not there"),
        ("gpt1/config.json", None, "config.json is a file"),
        ("other", {"model_type": "bert", "architectures": ["BertModel"]}, "a BertModel, which the page cannot use"),
        ("other", {"model_type": "openai-gpt"}, "a checkpoint of openai-gpt.*convert_openai_gpt"),
        ("other", {"architectures": ["GPT1ForMaskedLM"]}, "predicts masked tokens"),
        ("other", {"architectures": ["GPT1ForSequenceClassification"]}, "is not fine-tuned for a task.*finetune_gpt1"),
    ],
)
def test_a_named_folder_without_a_model_for_the_page_is_refused(models_dir, tmp_path, name, config, message):
    folder = models_dir / name
    if config is not None:
        folder = shutil.copytree(models_dir / "gpt1", tmp_path / name)
        saved = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(saved | config))
    with pytest.raises(ValueError, match=message):
        find_models([str(folder)], "nowhere")


@pytest.mark.parametrize(("exists", "message"), [(False, "There is no folder .*runs"), (True, "has no trained model")])
def test_without_models_the_message_says_how_to_train_one(tmp_path, exists, message):
    if exists:
        (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=f"{message}.*train_translation.py numbers/bahdanau"):
        find_models([], str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("copied", "file", "content"),
    [
        ("task", "config.json", {"finetuning_task": {}}),
        ("task", "config.json", {"finetuning_task": {"kind": "classification", "name": "own", "columns": 3}}),
        ("task", "config.json", {"id2label": None}),
        ("bahdanau", "config.json", {"architectures": 5}),
        ("bahdanau", "config.json", {"architectures": {}, "model_type": ["bahdanau"]}),
        ("gpt1", "run.yaml", {"settings": {"train_file": 3, "dataset_name": []}}),
        ("gpt1", "run.yaml", {"settings": 3}),
        ("gpt1", "all_results.json", {"eval_perplexity": "many"}),
        ("gpt1", "tokenizer.json", []),
    ],
)
def test_a_damaged_folder_is_left_out_and_the_good_ones_beside_it_are_offered(
    models_dir, tmp_path, caplog, copied, file, content
):
    shutil.copytree(models_dir / "gpt1", tmp_path / "good")
    damaged = shutil.copytree(models_dir / copied, tmp_path / "damaged", ignore=shutil.ignore_patterns("checkpoint-*"))
    if not (damaged / "run.yaml").is_file():
        (damaged / "run.yaml").write_text('{"settings": {"dataset_name": "stories"}}')
    if (damaged / file).is_file() and isinstance(content, dict):
        content = yaml.safe_load((damaged / file).read_text()) | content
    (damaged / file).write_text(json.dumps(content))
    assert [model.name for model in find_models([], str(tmp_path))] == ["good"]
    assert f"{damaged} is left out" in caplog.text
    with pytest.raises(ValueError, match="damaged"):
        find_models([str(damaged)], "nowhere")


def test_a_folder_that_may_not_be_read_is_left_out(models_dir, tmp_path, monkeypatch, caplog):
    for name in ("closed", "good"):
        shutil.copytree(models_dir / "gpt1", tmp_path / name)
    is_file = Path.is_file

    def refuse(path):
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert [model.name for model in find_models([], str(tmp_path))] == ["good"]
    assert "closed is left out" in caplog.text and "Permission denied" in caplog.text


def test_damaged_records_of_the_model_that_a_training_started_from_do_not_hide_the_model(models_dir, tmp_path):
    folder, start = (shutil.copytree(models_dir / "gpt1", tmp_path / name) for name in ("further", "start"))
    (start / "run.yaml").write_text("settings: 3")
    (folder / "run.yaml").write_text(json.dumps({"settings": {"dataset_name": "stories", "init_from": str(start)}}))
    (found,) = find_models([str(folder)], "nowhere")
    assert "started from `start`, whose training data are not known" in sources.describe(found)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("gone"), ValueError("not today")])
def test_a_model_that_fails_leaves_the_others_of_a_comparison_their_translations(models_dir, monkeypatch, error):
    store = ModelStore(find_models([], str(models_dir)))
    load = loading.load

    def fail(found):
        if found.name == "rnn_seq2seq":
            raise error
        return load(found)

    monkeypatch.setattr(loading, "load", fail)
    first, failed, last = compare(store, ["bahdanau", "rnn_seq2seq", "transformer"], SOURCE, "", 10)
    assert first.text and last.text and not first.problem and not last.problem
    known = not isinstance(error, RuntimeError)
    assert failed.problem == (str(error) if known else describe_problem(error)) and not failed.text
    assert known or ("RuntimeError" in failed.problem and "memory" not in failed.problem)
    assert not any(lock.locked() for lock in store._locks.values())


@pytest.mark.parametrize("kind", ["bahdanau", "transformer"])
def test_a_translation_comes_with_the_alignment_of_that_translation(store, kind):
    found = translate(store, kind, f" {SOURCE}\n", 10)
    with store.borrow(kind) as loaded:
        tokenizers = loaded.tokenizer, loaded.target_tokenizer
        (expected,) = align(loaded.model, *tokenizers, [SOURCE], [found.text])
    matrix = found.figure.axes[0].images[0].get_array()
    torch.testing.assert_close(torch.tensor(matrix), torch.tensor(expected.weights))
    assert found.note == ""


def test_a_model_without_attention_says_what_it_has_and_shows_probabilities(store):
    found = translate(store, "rnn_seq2seq", SOURCE, 10)
    assert "has no attention" in found.note and "one vector for each layer" in found.note
    assert [label.get_text() for label in found.figure.axes[0].get_xticklabels()][:2] == ["token", "candidate 1"]


def test_translators_are_compared_by_the_log_probability_of_their_translations(store):
    rows = list(compare(store, ["bahdanau", "transformer"], SOURCE, "zwei Hunde", 10))
    for row in rows:
        with store.borrow(row.name) as loaded, torch.no_grad():
            labels = loaded.target_tokenizer(row.text, return_tensors="pt").input_ids
            loss = loaded.model(**loaded.tokenizer(SOURCE, return_tensors="pt"), labels=labels).loss
        assert row.log_probability == pytest.approx(-loss.item() * labels.shape[1], rel=1e-4)
        assert row.tokens == labels.shape[1] and row.seconds > 0 and row.chrf is not None
    (same,) = compare(store, ["bahdanau"], SOURCE, rows[0].text, 10)
    assert same.chrf == pytest.approx(100)
    (long,) = compare(store, ["bahdanau"], SOURCE, "", 2)
    assert "3 tokens" in long.problem and long.text == ""


def test_what_users_type_is_escaped_in_the_table():
    row = ComparedTranslation("<b>", "a & <script>", 0.5, -1.5, 3, None)
    table = comparison_table([row], {"<b>": "en to de"})
    assert "<td>&lt;b&gt;</td><td>en to de</td><td>a &amp; &lt;script&gt;</td>" in table
    assert "-0.500" in table and "chrF" not in table


@pytest.mark.parametrize("name", ["gpt1", "gpt1_lstm"])
def test_the_most_probable_continuation_is_that_of_generate_with_its_probabilities(store, name):
    steps = list(continue_text(store, name, PROMPT, max_new_tokens=12, temperature=0, max_input_tokens=9))
    with store.borrow(name) as loaded, torch.no_grad():
        ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
        expected = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert steps[-1].text == loaded.tokenizer.decode(expected[0], skip_special_tokens=True)
        logits = loaded.model(expected[:, : ids.shape[1] + 2]).logits[0, -1]
    assert [step.new_tokens for step in steps] == list(range(expected.shape[1] - ids.shape[1] + 1))
    best = logits.softmax(-1).topk(8).values.tolist()
    assert list(steps[2].next_tokens.values()) == pytest.approx(best, rel=1e-3)
    assert [step.ended for step in steps[:-1]] == [""] * (len(steps) - 1) and steps[-1].ended


def test_samples_repeat_with_their_seed_and_end_where_the_models_positions_end(store):
    def sample(seed, temperature=1.0):
        settings = {"max_new_tokens": 500, "temperature": temperature, "max_input_tokens": 9, "seed": seed}
        return list(continue_text(store, "gpt1", PROMPT, **settings))[-1]

    first = sample(1)
    assert first == sample(1) and len({sample(seed).text for seed in range(2, 8)}) > 1
    lengths = {sample(seed, 2.0).new_tokens: sample(seed, 2.0).ended for seed in range(8)}
    assert max(lengths) <= 62
    assert all("ended the text" in ended if count < 62 else "at most 64" in ended for count, ended in lengths.items())
    assert draw_probabilities(store, "gpt1", "word5") is None


def test_probabilities_of_classes_are_those_of_a_softmax(store):
    names = names_of_texts(store.found["task"].config)
    assert names == ["first", "second"]
    found = classify(store, "task", ["word5", "word6 word7", "not read"], 10)
    with store.borrow("task") as classifier, torch.no_grad():
        tokens = classifier.tokenizer("word5", "word6 word7", return_tensors="pt")
        expected = classifier.model(tokens.input_ids).logits[0].softmax(-1).tolist()
    assert found.probabilities == pytest.approx(dict(zip(OWN.labels, expected, strict=True)), rel=1e-4)
    assert found.answer == max(found.probabilities, key=found.probabilities.get)


def test_empty_and_long_inputs_are_refused_with_what_is_allowed(store):
    tokenizer = tiny_tokenizer()
    for text in (None, "", " \n", "\u200b"):
        with pytest.raises(ValueError, match="The sentence is empty. Type at least a word."):
            check_text(text, tokenizer, 3)
    assert check_text("word4 word5 word6", tokenizer, 3) == 3
    with pytest.raises(ValueError, match="has 4 tokens. At most 3 are read; shorten it."):
        check_text("word4 word5 word6 word7", tokenizer, 3)
    with pytest.raises(ValueError, match="has 1,000,000 characters. At most 3 tokens are read"):
        check_text("x" * 1_000_000, tokenizer, 3)
    with pytest.raises(ValueError, match="The sentence has 3 tokens"):
        translate(store, "bahdanau", SOURCE, 2)
    with pytest.raises(ValueError, match="The text 'second' is empty"):
        classify(store, "task", ["word5", " "], 10)
    with pytest.raises(ValueError, match="have 73 tokens together. The model reads 64"):
        classify(store, "task", ["word5 " * 30, "word6 " * 40], 50)
    with pytest.raises(ValueError, match="The beginning has 64 tokens. At most 63"):
        next(continue_text(store, "gpt1", "word5 " * 64, max_new_tokens=2, temperature=0, max_input_tokens=100))
    with pytest.raises(ValueError, match="No model is chosen"):
        next(compare(store, [], SOURCE, "", 10))


def test_users_at_the_same_time_get_what_they_would_get_alone(models_dir):
    sentences = [" ".join(["two dogs run"] * count) for count in (1, 2, 3)] * 2
    store = ModelStore(find_models([], str(models_dir)), largest=1)  # every change of model loads one

    def answer(name, sentence):
        if name == "gpt1":
            steps = continue_text(store, name, PROMPT, max_new_tokens=8, temperature=0, max_input_tokens=9)
            return [step.text for step in steps]
        found = translate(store, name, sentence, 20)
        return found.text, found.figure.axes[0].images[0].get_array().tolist()

    questions = [(name, sentence) for sentence in sentences for name in ("transformer", "bahdanau", "gpt1")]
    alone = [answer(*question) for question in questions]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda question: answer(*question), questions)) == alone


def test_a_model_that_was_used_long_ago_is_dropped_from_memory(models_dir):
    store = ModelStore(find_models([], str(models_dir)), largest=2)
    kept = {}
    for name in ("gpt1", "task", "gpt1", "bahdanau"):
        with store.borrow(name) as loaded:
            kept[name] = loaded
    for name, is_same in {"gpt1": True, "bahdanau": True, "task": False}.items():
        with store.borrow(name) as loaded:
            assert (loaded is kept[name]) is is_same


def test_a_model_is_described_with_the_source_and_the_licence_of_its_data(store):
    text = sources.describe(store.found["bahdanau"])
    for part in ("RNNsearch, English to German", "`bahdanau`, 1,234 parameters", "`numbers`", "under Apache 2.0"):
        assert part in text
    assert sources.languages_of(store.found["bahdanau"]) == "en to de"
    assert sources.example_of(store.found["bahdanau"]) == "three hundred and forty-two"
    assert "does not record the training data" in sources.describe(store.found["transformer"])
    assert sources.languages_of(store.found["transformer"]) == ""


def test_a_port_in_use_is_refused_with_one_that_is_free():
    with serving.listen("127.0.0.1", 0) as used:
        port = used.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port is {port}, which another program uses.*--port \d+") as error:
            serving.listen("127.0.0.1", port)
        free = int(str(error.value).rpartition("--port ")[2].partition(",")[0])
        with serving.listen("127.0.0.1", free) as listener:
            assert listener.getsockname() == ("127.0.0.1", free)
            socket.create_connection(("127.0.0.1", free)).close()


@pytest.mark.parametrize(
    ("host", "message"),
    [("no.such.host.invalid", "which is no address "), ("192.0.2.1", "which is no address of this machine")],
)
def test_an_address_that_is_not_this_machine_is_refused(host, message):
    with pytest.raises(ValueError, match=f"host is {host}, {message}"):
        serving.listen(host, 0)


def test_missing_libraries_are_named_before_anything_loads(monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", "nowhere"])
    with pytest.raises(
        ValueError, match=r"gradio and matplotlib: pip install gradio matplotlib \(or the extra `demo`"
    ):
        demo.main()


def test_the_first_words_of_the_command_line_are_models():
    (settings,) = parse(["runs/a", "none", "--port", "8000"])
    assert (settings.model_name_or_path, settings.port, settings.host) == (["runs/a", "./none"], 8000, "127.0.0.1")
    assert parse([])[0].models_dir == "runs"
    for wrong, message in ((["--port", "0"], "port is 0"), (["--host", ""], "host is empty")):
        with pytest.raises(ValueError, match=message):
            parse(wrong)
