"""The script that runs presets within a budget, with presets of a few updates."""

import json
import subprocess

import pytest
from pyarrow import parquet

from papers_to_gpt import finetune_gpt1
from papers_to_gpt.benchmarks import preset_checks
from papers_to_gpt.benchmarks.preset_checks import DATA, arguments_of, choose, current_commit, run
from papers_to_gpt.settings.preset_checking import parse

PRETRAINING = """
output_dir: unused
train_file: {folder}/text.txt
validation_file: {folder}/text.txt
row_is_line: true
hidden_size: 16
num_hidden_layers: 1
num_attention_heads: 2
max_position_embeddings: 32
num_merges: 20
max_steps: 2
eval_steps: 2
num_samples: 0
bf16: false
expected:
  metric: eval_bits_per_byte
  value: 10
  tolerance: 10
  hardware: 1 core
  minutes: 3
"""
FINETUNING = """
output_dir: unused
model_name_or_path: runs/pretraining
train_file: {folder}/rows.csv
validation_file: {folder}/rows.csv
max_steps: 2
bf16: false
expected:
  metric: eval_accuracy
  value: 1
  tolerance: 0.001
  hardware: 1 core
  minutes: 2
  starts_from: pretraining.yaml
"""

TRANSLATION = """
output_dir: unused
source_language: de
target_language: en
model_type: transformer_seq2seq
max_steps: 60
eval_steps: 60
learning_rate: 0.02
num_beams: 2
max_new_tokens: 4
bf16: false
"""
FIRST_STAGE = """
d_model: 8
encoder_layers: 1
decoder_layers: 1
encoder_attention_heads: 2
decoder_attention_heads: 2
encoder_ffn_dim: 8
decoder_ffn_dim: 8
vocab_size: 300
expected:
  - metric: test_sacrebleu
    value: 0
    tolerance: 0.1
    hardware: 1 core
    minutes: 2
    data: 30 rows
  - metric: test_sacrebleu
    value: 50
    tolerance: 50
    hardware: 1 core
    minutes: 3
    data: 30 rows
    arguments: --source_language en --target_language de
"""
SECOND_STAGE = """
expected:
  metric: test_sacrebleu
  value: 50
  tolerance: 50
  hardware: 1 core
  minutes: 1
  data: 50 rows
  starts_from: first.yaml
  own_translations: true
  arguments: --source_language en --target_language de
"""


@pytest.fixture
def presets(tmp_path):
    lines = [f"the {noun} was {state}" for noun in ("kite", "lamp", "mill") for state in ("good", "bad")] * 4
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{line},{line.rpartition(' ')[2]}" for line in lines]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    for name, text in (("pretraining", PRETRAINING), ("finetuning", FINETUNING)):
        (tmp_path / f"{name}.yaml").write_text(text.format(folder=tmp_path))
    return tmp_path


def check(folder, name, *arguments, status, capsys):
    settings = parse([str(folder / name), *arguments, "--output_dir", str(folder / "checks")])
    if status:
        with pytest.raises(SystemExit) as stop:
            run(*settings)
        assert stop.value.code == status
    else:
        run(*settings)
    rows = json.loads((folder / "checks" / "presets.json").read_text())
    return capsys.readouterr().out, {row["preset"]: row for row in rows}


def test_presets_run_after_the_one_that_they_start_from_once_and_fail_the_command(presets, capsys):
    said, rows = check(presets, "finetuning.yaml", status=1, capsys=capsys)
    assert said.index("[1/2] pretraining, about 3 minutes") < said.index("[2/2] finetuning, about 2 minutes")
    assert rows["pretraining"]["verdict"] == "as expected"
    assert rows["finetuning"]["verdict"] == "not as expected"  # after two updates
    assert "Check first: 1) the entry expected in the all_results.json of the model that the run started from" in said
    assert said.rstrip().endswith("Not as expected: finetuning.")
    commit = rows["finetuning"]["commit"]
    assert commit == current_commit() and "| pretraining | eval_bits_per_byte | 0 to 20 | " in said
    assert (presets / "checks" / "presets.md").read_text() in said
    # What was done at this commit is not done again, and what was interrupted before its row is taken up.
    (presets / "checks" / "presets.json").write_text(json.dumps([rows["pretraining"]]))
    again, rows_again = check(presets, "finetuning.yaml", status=1, capsys=capsys)
    assert f"[1/2] pretraining was run at {commit} before." in again and "[2/2] finetuning, about" in again
    log = next((presets / "checks").rglob("finetuning*.log")).read_text()
    assert "is finished: " in log and rows_again["finetuning"]["got"] == rows["finetuning"]["got"]
    # A run that fails gets a row too, and the command continues with the next preset.
    path = presets / "pretraining.yaml"
    path.write_text(path.read_text().replace("hidden_size: 16", "hidden_size: 15"))
    said, rows = check(presets, "pretraining.yaml", status=1, capsys=capsys)
    assert rows["pretraining"]["verdict"] == "failed" and rows["pretraining"]["got"] is None
    assert "Failed with status 2: gpt1: " in said and "Its output is in " in said


def test_a_second_stage_reads_the_translations_of_the_first_between_the_same_languages(tmp_path, monkeypatch, capsys):
    for split, count in (("train", 20), ("validation", 5), ("test", 5)):
        pairs = [{"en": f"word{index} and word", "de": f"Wort{index} und Wort"} for index in range(count)]
        lines = [json.dumps({"translation": pair}) for pair in pairs]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = {f"{split}_file": f"{split}.jsonl" for split in ("train", "validation", "test")}
    monkeypatch.setitem(DATA, tmp_path.name, files)
    (tmp_path / "first.yaml").write_text(TRANSLATION + FIRST_STAGE)
    (tmp_path / "second.yaml").write_text(TRANSLATION + SECOND_STAGE)
    data = ("--data_dir", str(tmp_path))
    said, rows = check(tmp_path, "second.yaml", *data, status=0, capsys=capsys)
    languages = "--source_language en --target_language de"
    assert set(rows) == {f"first {languages}", f"second {languages}"}
    second = rows[f"second {languages}"]
    assert second["verdict"] == "as expected" and second["got"] is not None
    translating, training = second["command"].split(" && ")
    assert f"--direction forward --resume true {languages}" in translating
    assert "/first_source_language_en" in translating and "/first_source_language_en" in training
    assert f"--train_file {tmp_path / 'train.jsonl'} {second['folder']}_translations.parquet" in training
    assert parquet.read_metadata(f"{second['folder']}_translations.parquet").num_rows == 20


def names(*arguments):
    return [each.name for each in choose(*parse(list(arguments)))]


def test_the_shortest_presets_come_first_and_those_that_do_not_fit_are_named(capsys):
    assert names("--minutes", "3") == ["numbers/bahdanau", "numbers/rnn_seq2seq"]
    said = capsys.readouterr().out
    assert "as data_dir does not have their data: glue/gpt1 sst2 --selection validation --num_train_epochs 1" in said
    assert "as they take more minutes than are left: " in said and "stories/cloze" in said
    all_embedded = names("--minutes", "60")
    assert len(all_embedded) == 10 and all_embedded.index("stories/gpt1_mini") < all_embedded.index("stories/cloze")


def test_a_preset_gets_its_data_its_seeds_its_model_and_the_settings_of_its_number(tmp_path):
    for folder in DATA.values():
        for file in folder.values():
            (tmp_path / file).mkdir(parents=True, exist_ok=True)
    (settings,) = parse(["glue/gpt1_small", "--data_dir", str(tmp_path), "--output_dir", "o"])
    first, *_, last = choose(settings)
    assert (first.name, last.name) == (
        "novels/gpt1_small",
        "glue/gpt1_small stsb --num_train_epochs 6",
    )
    text = " ".join(arguments_of(last, settings, "c0ffee"))
    assert f"--num_train_epochs 6 --data_dir {tmp_path}/glue --task stsb --seeds 1 2 3 --model_name_or_path " in text
    assert text.split("--model_name_or_path ")[1].startswith("o/c0ffee/novels_gpt1_small_")
    finetuning = finetune_gpt1.parse(arguments_of(last, settings, "c0ffee"))[-2].expected
    assert [finetuning.conflicts[place] for place, n in enumerate(finetuning.numbers) if n.task == "stsb"] == [[]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "names and minutes are not set: nothing says which presets to run. Usage: check_presets.py",
        ),
        (["numbers/bahdanau", "numbers/bahdanau"], "every preset may stand there once"),
        (["numbers/bahdanu"], "Did you mean 'numbers/bahdanau'"),
        (["bookcorpus/gpt1"], "The preset bookcorpus/gpt1 has no expected number: add one"),
        (["multi30k/bahdanau"], "needs multi30k/train.parquet, .* in data_dir, which is not set"),
        (["multi30k/bahdanau", "--data_dir", "no/such"], "needs multi30k/train.parquet, .* in no/such"),
        (["--minutes", "0"], "minutes is 0.0; it must be above 0"),
        (
            ["--minutes", "0.1"],
            "minutes is 0.1, in which no preset can be run. The shortest, .*, takes 1",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_trained(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose(*parse(arguments))


def test_a_preset_whose_starting_model_lacks_its_data_is_not_run(tmp_path, capsys):
    (tmp_path / "glue").mkdir()
    with pytest.raises(ValueError, match="The preset glue/gpt1 needs novels/train.parquet, novels/validation.parquet"):
        names("glue/gpt1", "--data_dir", str(tmp_path))
    assert not any(name.startswith("glue") for name in names("--minutes", "100000", "--data_dir", str(tmp_path)))


def test_code_that_has_changed_in_any_package_has_another_name(tmp_path, monkeypatch):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True, capture_output=True)

    code = [tmp_path / name for name in ("recipes", "seq2seq_scratch")]
    (code[0] / "presets").mkdir(parents=True)
    code[1].mkdir()
    for folder in code:
        (folder / "a.py").touch()
    monkeypatch.setattr(preset_checks, "PRESETS", code[0] / "presets")
    monkeypatch.setattr(preset_checks, "_code", lambda: code)
    git("init")
    git("commit", "--allow-empty", "-m", "something else")
    others = current_commit()  # the repository is of something else, such as the environment that this is installed in
    assert others.startswith(("version-", "unknown-"))
    git("add", ".")
    git("commit", "-m", "first")
    commits = [current_commit()]
    for change in ("model = 1", "model = 2"):
        (code[1] / "a.py").write_text(change)
        commits.append(current_commit())
    (code[1] / "new.py").touch()
    commits.append(current_commit())
    assert len({others, *commits}) == 5 and all(name.startswith(f"{commits[0]}-changed-") for name in commits[1:])


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "presets.json").write_text("[1")
    with pytest.raises(ValueError, match="presets.json is damaged: it is no list of rows. Remove it"):
        run(*parse(["numbers/bahdanau", "--output_dir", str(tmp_path)]))
