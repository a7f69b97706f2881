"""Comparisons of translations by the script, against sacreBLEU's own command."""

import json
import random
import re
import subprocess
import sys

import pytest

from papers_to_gpt import score_translation
from seq2seq_scratch.data.metrics import TranslationMetric, lowercase_and_moses_tokenize

WORDS = "A man and the little dog run over green grass near two old houses , while children watch .".split()


def sentences(seed=0, count=60):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(5, 12))) for _ in range(count)]


def with_mistakes(lines, share, seed):
    generator = random.Random(seed)
    return [
        " ".join(generator.choice(WORDS) if generator.random() < share else word for word in line.split())
        for line in lines
    ]


@pytest.fixture
def files(tmp_path):
    """Writes two references and three systems, the first worse than the second; returns their paths by name."""
    references = sentences()
    texts = {
        "reference.en": references,
        "second.en": with_mistakes(references, 0.1, 9),
        "bad.txt": with_mistakes(references, 0.4, 1),
        "good.txt": with_mistakes(references, 0.1, 2),
        "like.txt": with_mistakes(references, 0.4, 3),
    }
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return {name: tmp_path / name for name in texts} | {"texts": texts}


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Runs the script and returns what it writes to output_file."""

    def start(*arguments):
        output = tmp_path / "comparison.json"
        arguments = ["--target_language", "en", "--output_file", output, "--compare", *arguments]
        monkeypatch.setattr(sys, "argv", ["score_translation.py", *map(str, arguments)])
        score_translation.main()
        return json.loads(output.read_text())

    return start


def sacrebleu(references, systems, *options):
    """Returns the rows of sacreBLEU's command (score, mean, interval and p-value of each metric) and its output."""
    command = [sys.executable, "-m", "sacrebleu", *references, "-i", *systems, "--paired-bs", "--format", "latex"]
    run = subprocess.run([*map(str, command), "--width", "4", *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = re.findall(r"^ *\S.*? & +(\d.*)\\\\$", run.stdout, re.MULTILINE)
    return [[list(map(float, re.findall(r"\d+\.\d+", cell))) for cell in row.split("&")] for row in rows], run.stdout


def numbers(values):
    """Returns the same of one score in the result of the script."""
    rows = ([each[key] for key in ("score", "mean", "interval", "p_value")] for each in values["systems"].values())
    return [[round(number, 4) for number in row if number is not None] for row in rows]


def test_scores_intervals_and_p_values_are_those_of_sacrebleus_command(compare, files, capsys):
    systems = [files[name] for name in ("bad.txt", "good.txt", "like.txt")]
    result = compare(*systems, "--reference_file", files["reference.en"])
    shown = capsys.readouterr().out
    theirs, text = sacrebleu([files["reference.en"]], systems, "-m", "bleu", "chrf")
    assert len(theirs) == 3 and [len(row[0]) for row in theirs] == [3, 4, 4]
    assert numbers(result["scores"]["sacrebleu"]) == [row[0] for row in theirs]
    assert numbers(result["scores"]["chrf"]) == [row[1] for row in theirs]
    assert theirs[1][0][3] < 0.01 < 0.05 < theirs[2][0][3]  # the second differs from the first, the third does not
    for score in ("sacrebleu", "chrf"):
        signature = result["scores"][score]["signature"]
        assert signature in text and f"{score}: {signature}" in shown
    assert list(result["scores"]["sacrebleu"]["systems"]) == list(map(str, systems))
    row = f"| {systems[1]} | {theirs[1][0][0]:.2f} ± {theirs[1][0][2]:.2f}, p {theirs[1][0][3]:.4f} |"
    assert row in shown and "1,000 resamples of 60 sentences" in shown


def test_lower_cased_tokens_are_compared_as_the_command_compares_prepared_files(compare, files, tmp_path):
    names = ("bad.txt", "good.txt", "reference.en")
    systems = [files[name] for name in names[:2]]
    result = compare(*systems, "--reference_file", files["reference.en"], "--paired_bs_n", 200)
    prepared = [tmp_path / f"prepared_{name}" for name in names]
    for name, path in zip(names, prepared, strict=True):
        path.write_text("\n".join(lowercase_and_moses_tokenize(files["texts"][name], "en")) + "\n")
    options = ("-m", "bleu", "--tokenize", "none", "--smooth-method", "none", "--force", "--paired-bs-n", "200")
    theirs, _ = sacrebleu(prepared[2:], prepared[:2], *options)
    assert numbers(result["scores"]["bleu_tokenized_lowercased"]) == [row[0] for row in theirs]
    assert result["samples"] == 200


def test_several_references_and_test_sets_are_read(compare, files, tmp_path):
    systems = [files["bad.txt"], files["good.txt"]]
    references = [files["reference.en"], files["second.en"]]
    result = compare(*systems, "--reference_file", *references)
    theirs, _ = sacrebleu(references, systems, "-m", "bleu")
    assert numbers(result["scores"]["sacrebleu"]) == [row[0] for row in theirs]
    # The same as a test set of which the second reference is a column.
    lines = zip(files["texts"]["reference.en"], files["texts"]["second.en"], strict=True)
    rows = [{"translation": {"de": "Quelle", "en": first, "en2": second}} for first, second in lines]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test_set = ("--test_file", tmp_path / "set.jsonl", "--source_language", "de", "--reference_columns", "en2")
    assert compare(*systems, *test_set)["scores"] == result["scores"]


def test_folders_of_runs_hold_their_translations(compare, files, tmp_path):
    lines = files["reference.en"].read_text()
    for folder, name, file in (
        ("training", "test_hypotheses.txt", "bad.txt"),
        ("scored", "test_beam5_hypotheses.txt", "good.txt"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(files[file].read_text())
    folders = [tmp_path / "training", tmp_path / "scored"]
    arguments = ("--reference_file", files["reference.en"], "--paired_bs_n", 50)
    found = compare(*folders, *arguments)["scores"]
    expected = compare(files["bad.txt"], files["good.txt"], *arguments)["scores"]
    for score in found:
        assert numbers(found[score]) == numbers(expected[score])
    (tmp_path / "scored" / "test_beam4_hypotheses.txt").write_text(lines)
    with pytest.raises(ValueError, match="it has several: test_beam4_hypotheses.txt, test_beam5_hypotheses.txt"):
        compare(*folders, *arguments)
    with pytest.raises(ValueError, match="must hold translations of valid as .*; it has no such file"):
        compare(*folders, *arguments, "--split", "valid")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bad.txt"], "compare names only .*bad.txt. Name two or more"),
        (["bad.txt", "bad.txt"], "compare names .*bad.txt twice. Name each file once."),
        (["bad.txt", "none.txt"], "There is no file .*none.txt"),
        (["bad.txt", "empty.txt"], "empty.txt is empty"),
        (["bad.txt", "short.txt"], r"short.txt has 59 lines, and .*reference.en 60\."),
        (["bad.txt", "good.txt", "--model_name_or_path", "x"], "but model_name_or_path is set too"),
        (["bad.txt", "good.txt", "--paired_bs_n", "1"], "paired_bs_n is 1; it must be at least 2"),
        (["bad.txt", "good.txt", "--reference_file", "reference.en", "short.txt"], "and .*short.txt 59. They must"),
        (["bad.txt", "good.txt", "--test_file", "set.jsonl"], "reference_file names the references, and so does"),
        (["bad.txt", "good.txt", "--output_file", "good.txt"], "good.txt, which is read and would be overwritten"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, files, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("".join(f"{line}\n" for line in files["texts"]["bad.txt"][:-1]))
    with pytest.raises(ValueError, match=expected):
        compare(*arguments[:2], "--reference_file", "reference.en", *arguments[2:])


def test_settings_that_need_a_comparison_say_so(monkeypatch):
    for arguments, expected in (
        (["--model_name_or_path", "x", "--paired_bs_n", "5"], "paired_bs_n is set, but compare is not"),
        (["--compare", "a", "b"], "there are no references. Set reference_file, test_file or dataset_name"),
        (["--compare", "a", "b", "--test_file", "c", "d"], "compare is of one test set, but there are several"),
    ):
        with pytest.raises(ValueError, match=expected):
            score_translation.parse(arguments)


def test_the_metric_compares_lists_in_python():
    systems = {"one": ["a b c d e f", "b"], "two": ["a b c d e", "c"]}
    compared = TranslationMetric("en").paired_bootstrap(systems, [["a b c d e f", ""], ["b", "c"]], samples=20)
    assert [*compared] == ["sacrebleu", "bleu_tokenized_lowercased", "chrf"]
    for values in compared.values():
        assert values["systems"]["one"]["p_value"] is None and 0 < values["systems"]["two"]["p_value"] <= 1
    with pytest.raises(ValueError, match="There is 1 system; a comparison needs two or more"):
        TranslationMetric("en").paired_bootstrap({"one": ["a"]}, ["a"])
    with pytest.raises(ValueError, match="two holds 2 lines and references holds 1"):
        TranslationMetric("en").paired_bootstrap({"one": ["a"], "two": ["a", "b"]}, ["a"])


def test_equal_translations_have_no_significant_difference():
    lines = with_mistakes(sentences(), 0.4, 1)
    systems = {"a": lines, "capitals": [line.upper() for line in lines], "same": [f"{line} " for line in lines]}
    compared = TranslationMetric("en").paired_bootstrap(systems, sentences(), 50)
    for name, values in compared.items():
        p_values = [each["p_value"] for each in values["systems"].values()]
        assert p_values[0] is None and p_values[2] == 1, name
        assert (p_values[1] == 1) == (name == "bleu_tokenized_lowercased")
