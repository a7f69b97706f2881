"""What a run of the translation recipe says of the number of its preset."""

import json
import re
import sys

import pytest

from papers_to_gpt import train_translation

SETTINGS = """
source_language: en
target_language: de
model_type: bahdanau
embedding_size: 8
hidden_size: 12
attention_size: 8
maxout_size: 6
vocab_size: 300
max_steps: 4
eval_steps: 2
num_beams: 1
max_new_tokens: 4
bf16: false
"""
EXPECTED = """
expected:
  metric: test_exact_match
  value: 0
  tolerance: 3
  hardware: 1 core
  data: 76 rows, hash 0
"""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains on files, and returns what is said of the expected number and the entry of all_results.json."""
    for split, count in (("train", 60), ("validation", 8), ("test", 8)):
        lines = [f"word{index % 7} and word{index % 5}" for index in range(count)]
        (tmp_path / f"{split}.en").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
    files = "".join(f"{split}_file: {tmp_path / split}\n" for split in ("train", "validation", "test"))

    def start(expected, *arguments, name="run"):
        (tmp_path / "mine.yaml").write_text(SETTINGS + files + expected)
        output_dir = tmp_path / name
        argv = [str(tmp_path / "mine.yaml"), "--output_dir", str(output_dir), *arguments]
        monkeypatch.setattr(sys, "argv", ["train_translation.py", *argv])
        train_translation.main()
        said = [line for line in capsys.readouterr().out.splitlines() if "expected" in line]
        return said, json.loads((output_dir / "all_results.json").read_text())["expected"]

    return start


def test_a_run_compares_itself_with_the_number_for_its_data(train, tmp_path):
    # The data that the run has read are others than those of the number, and it says which they are.
    said, entry = train(EXPECTED)
    (found,) = entry["comparisons"]
    data = re.fullmatch(r"the number is for other data: 76 rows, hash 0, not (76 rows, hash \w{16})", found["reason"])
    assert entry["preset"] == "mine.yaml" and found["verdict"] == "not compared"
    assert said == [f"Not compared with the expected test_exact_match 0 to 3: {found['reason']}."]
    right = EXPECTED.replace("76 rows, hash 0", data[1])
    said, entry = train(right, name="right")
    assert said == ["Expected test_exact_match 0 to 3, got 0: as expected."]
    assert entry["comparisons"][0] == {
        **{"metric": "test_exact_match", "lowest": 0.0, "highest": 3.0},
        **{"got": 0.0, "verdict": "as expected"},
    }
    # One word is enough to make other data.
    (tmp_path / "train.en").write_text((tmp_path / "train.en").read_text().replace("word0", "word9"))
    (line,), _ = train(right, name="changed")
    assert line.startswith("Not compared") and "the number is for other data" in line
    results = json.loads((tmp_path / "changed" / "all_results.json").read_text())
    assert results["train_updates"] == results["train_planned_updates"] == 4


def test_a_run_resumed_with_another_length_is_not_compared(train):
    train("", "--max_steps", "2")
    (line,), _ = train(EXPECTED.replace("  data: 76 rows, hash 0\n", ""))
    assert line.startswith("Not compared") and "The schedule is now for 4 updates; it was for 2 updates." in line
