"""The expected numbers of presets: how they are read, and which settings of a run they are for."""

import re
import statistics

import pytest

from gpt1_scratch.finetuning.tasks import TASKS
from papers_to_gpt.engine.expectations import IN_PERCENT
from papers_to_gpt.settings import finetuning, pretraining, translation
from papers_to_gpt.settings.arguments import read_settings
from papers_to_gpt.settings.expected import read_numbers
from papers_to_gpt.settings.presets import PRESETS

NUMBER = "metric: test_exact_match\nvalue: 90\ntolerance: 5\nhardware: 1 core\nminutes: 2".splitlines()
PRESET = "dataset_name: numbers\noutput_dir: out\nmax_steps: 400\nseed: 7\n"

# Presets that were never run to their end.
WITHOUT_A_NUMBER = {"stories/masked_mini", "novels/lstm_small"}
OF_THE_PAPERS = ("bookcorpus", "iwslt14_de_en", "wmt14_en_de", "wmt14_en_fr")


def numbers_of(path):
    return [n for each in read_settings([str(path)]) if each.key == "expected" for n in read_numbers(each)]


@pytest.fixture
def parse(tmp_path):
    """Writes a preset with the lines of an expected number, and parses a run of it."""

    def start(*arguments, lines=NUMBER, more=""):
        path = tmp_path / "mine.yaml"
        path.write_text(PRESET + "expected:\n" + "".join(f"  {line}\n" for line in lines) + more)
        return translation.parse([str(path), *arguments])[-2].expected

    return start


def conflicts(expected):
    (only,) = expected.conflicts
    return only


def test_every_preset_that_was_ever_run_has_a_number_with_seeds_hardware_and_a_tolerance():
    for path in sorted(PRESETS.glob("*/*.yaml")):
        name = path.relative_to(PRESETS).with_suffix("").as_posix()
        never_run = name in WITHOUT_A_NUMBER or path.parent.name in OF_THE_PAPERS
        assert bool(numbers_of(path)) is not never_run, name


def test_numbers_of_tasks_name_scores_that_the_tasks_have():
    for number in (
        n for folder in ("glue", "stories") for path in PRESETS.glob(f"{folder}/*") for n in numbers_of(path)
    ):
        if number.task is not None:
            assert number.metric.partition("_")[2] in TASKS[number.task].metrics, number


def test_the_number_of_self_training_is_that_of_the_three_scores_in_its_table():
    (number,) = numbers_of(PRESETS / "multi30k" / "transformer_self_training.yaml")
    scores = (42.68, 42.55, 42.32)
    assert number.value == pytest.approx(statistics.median(scores), abs=0.051)
    assert number.standard_deviation == pytest.approx(statistics.stdev(scores), abs=5e-3)


@pytest.mark.parametrize("parts", ["glue/gpt1_small", "stories/similarity"])
def test_the_standard_deviation_of_a_preset_is_that_of_the_three_scores_in_its_table(parts):
    table = {"sst2": (81.2, 81.9, 82.2), "cola": (10.3, 14.0, 15.3), "mrpc": (81.1, 81.8, 82.0)}
    table |= {"stsb": (45.5, 48.9, 50.6), "stories_similarity": (66.1, 70.7, 77.2)}
    for number in numbers_of(PRESETS / f"{parts}.yaml"):
        scores = table[number.task]
        assert number.value == pytest.approx(statistics.median(scores) / 100)
        assert number.standard_deviation == pytest.approx(statistics.stdev(scores) / 100, abs=5e-4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["metrik: test_chrf", *NUMBER[1:]], r"mine.yaml:6: unknown setting 'metrik'. Did you mean 'metric'\?"),
        (
            ["metric: test_crf", *NUMBER[1:]],
            r"mine.yaml:6: expected: metric is 'test_crf'. Did you mean 'test_chrf'\?",
        ),
        ([*NUMBER[:2], "tolerance: wide", *NUMBER[3:]], "mine.yaml:8: tolerance: invalid float value: 'wide'"),
        ([*NUMBER[:2], "tolerance: 0", *NUMBER[3:]], "mine.yaml:6: expected: tolerance is 0.0; it must be above 0"),
        (NUMBER[:3], "mine.yaml:6: expected: hardware is missing"),
        (NUMBER[3:], "mine.yaml:6: expected: metric, value, tolerance are missing"),
        ([*NUMBER, "seeds: 3"], "expected: standard_deviation is missing: the number comes from 3 seeds"),
        (
            [*NUMBER, "seeds: 3", "standard_deviation: 1"],
            "expected: tolerance is 5; it must be at most 3, 3 standard deviations of the seeds",
        ),
        (
            [*NUMBER, "metric: eval_loss"],
            r"mine.yaml:11: the setting 'metric' is written twice, first at .*mine.yaml:6",
        ),
        ([*NUMBER, "own_translations: true"], "own_translations is true, but starts_from does not say which model"),
        ([*NUMBER, "statistic: mean"], "mine.yaml:11: statistic: .*'mean'.*'run', 'median'"),
        ([*NUMBER, "arguments: max_steps 3"], "arguments is 'max_steps 3'; it must be a list of --setting value"),
        ([*NUMBER, "arguments: {max_steps: 3}"], "mine.yaml:11: the value of 'arguments' must be one value"),
        (["- metric: test_chrf", "- 90"], "mine.yaml:5: expected must be a list of `key: value` lines"),
    ],
)
def test_a_wrong_number_names_file_line_and_what_is_allowed(parse, lines, message):
    with pytest.raises(ValueError, match=message):
        parse(lines=lines)


def test_a_value_in_place_of_a_number_is_refused_everywhere(tmp_path):
    (tmp_path / "mine.yaml").write_text(PRESET + "expected: 99.9\n")
    with pytest.raises(ValueError, match="mine.yaml:5: expected must be a list of `key: value` lines"):
        translation.parse([str(tmp_path / "mine.yaml")])
    with pytest.raises(ValueError, match="command line: expected is '99'; on the command line it must be none"):
        translation.parse(["numbers/bahdanau", "--expected", "99"])


@pytest.mark.parametrize(
    ("script", "preset", "right"),
    [
        (translation, "stories/gpt1_mini", "pretrain_gpt1"),
        (translation, "glue/gpt1", "finetune_gpt1"),
        (pretraining, "stories/sentiment", "finetune_gpt1"),
        (finetuning, "numbers/bahdanau", "train_translation"),
    ],
)
def test_a_preset_of_another_recipe_is_refused_with_the_right_command(script, preset, right):
    with pytest.raises(ValueError, match=rf"^The preset {preset} is for {right}, not for .*{right}\S* {preset}$"):
        script.parse([preset])


def test_without_a_preset_or_with_none_nothing_is_expected(parse):
    assert translation.parse(["--train_file", "t", "--output_dir", "o", "--max_steps", "1"])[-2].expected is None
    assert parse("--expected", "none") is None
    assert translation.parse(["wmt14_en_fr/bahdanau"])[-2].expected.numbers == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], []),
        (["--output_dir", "other", "--seed", "3", "--logging_steps", "1", "--use_cpu", "--bf16", "false"], []),
        (["--max_steps", "400", "--target_language", "de"], []),
        (["--max_steps", "100"], ["max_steps is 100, not 400"]),
        (["--no_share_vocabulary"], ["share_vocabulary is false, not true"]),
        (["--target_language", "fr", "--num_beams", "2"], ["num_beams is 2, not 5", "target_language is fr, not de"]),
        (
            ["--dataset_name", "none", "--train_file", "some/f"],
            ["dataset_name is none, not numbers", "train_file is f, not none"],
        ),
    ],
)
def test_settings_of_the_command_line_conflict_with_a_number_if_they_change_the_result(parse, arguments, found):
    assert conflicts(parse(*arguments)) == found


def test_files_are_free_where_the_number_names_its_data(parse):
    expected = parse("--dataset_name", "none", "--train_file", "f", lines=[*NUMBER, "data: 12 rows"])
    assert conflicts(expected) == ["dataset_name is none"]  # the preset alone would have two kinds of data
    assert expected.preset == "mine.yaml"


def test_a_number_may_be_for_other_settings_than_the_presets(parse):
    lines = [*NUMBER, "arguments: --max_steps 100 --tokenizer_name"]
    assert conflicts(parse("--max_steps", "100", "--tokenizer_name", "any", lines=lines)) == []
    assert conflicts(parse(lines=lines)) == ["tokenizer_name is not set", "max_steps is 400, not 100"]
    assert conflicts(parse("--max_steps", "100", lines=lines)) == ["tokenizer_name is not set"]


def test_the_other_recipes_read_numbers_too(tmp_path):
    expected = pretraining.parse(["stories/gpt1_mini", "--hidden_size", "96"])[-2].expected
    assert (expected.preset, expected.conflicts) == ("stories/gpt1_mini", [["hidden_size is 96, not 192"]])
    glue = ["glue/gpt1_small", "--data_dir", "d", "--task", "cola", "--model_name_or_path", "m", "--seeds", "1", "2"]
    cola = finetuning.parse([*glue, "--num_train_epochs", "10", "--learning_rate", "5e-4"])[-2].expected
    found = dict(zip([number.task for number in cola.numbers], cola.conflicts, strict=True))
    assert found["cola"] == [] and len(found["mrpc"]) == 2


def labels_in(comment):
    """Returns the rows of RESULTS.md that a comment names, such as `T3 and T4` or `F5 to F8`."""
    labels = re.findall(r"\b[A-Z]\d+\b", comment)
    for letter, first, last in re.findall(r"\b([A-Z])(\d+) to [A-Z](\d+)\b", comment):
        labels += [f"{letter}{number}" for number in range(int(first), int(last) + 1)]
    return labels


def test_every_number_stands_in_the_row_of_the_results_that_its_comment_names():
    rows = (PRESETS.parent / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    for path in sorted(PRESETS.glob("*/*.yaml")):
        comment = " ".join(re.findall(r"^# RESULTS.md, (.*)", path.read_text(), re.M))
        named = [row for label in labels_in(comment) for row in rows if row.startswith(f"| {label} |")]
        for number in numbers_of(path):
            shown = f"{number.value:g}" if number.metric.endswith(IN_PERCENT) else f"{100 * number.value:.1f}"
            shown = f"{number.value:.2f}" if "bits" in number.metric else shown
            assert any(re.search(rf"(?<![\d.]){re.escape(shown)}(?!\d)", row) for row in named), (path, number)
