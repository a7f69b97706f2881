"""The settings of every script: their --help, and their agreement with what they configure."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import types
from typing import get_args, get_origin, get_type_hints

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from gpt1_scratch import GPT1Config
from papers_to_gpt.__main__ import COMMANDS
from papers_to_gpt.settings import (
    classification,
    decoding,
    finetuning,
    generation,
    hub,
    pretraining,
    reproduction,
    training,
    translation,
)
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.constraints import TERM_BIAS
from seq2seq_scratch.data.metrics import SHOWN_SCORES
from seq2seq_scratch.translation import TOKENS_PER_BATCH

# Follow from the tokenizer or the objective, are fixed by what the model is, or concern the heads for tasks alone.
NOT_SET_BY_HAND = """
    vocab_size decoder_vocab_size pad_token_id bos_token_id eos_token_id decoder_start_token_id is_encoder_decoder
    use_cache classifier_dropout auxiliary_loss_weight both_orders delimiter_token_id
    share_vocabulary attention
""".split()
CONFIGS = [(translation.MODEL_SETTINGS[name], config) for name, config in TRANSLATION_CONFIGS.items()]
CONFIGS.append((pretraining.ModelSettings, GPT1Config))
HEADINGS = {"model", "tokenizer", "data", "decoding", "optimization", "training", "output", "Hub"}
HEADINGS |= {"measurement", "pictures", "experiments"}  # of one script each
# What chooses among the settings of a script.
CHOICES = {"train-translation": [["--model_type", name] for name in TRANSLATION_CONFIGS]}
INVOCATIONS = [(name, more) for name in COMMANDS for more in CHOICES.get(name, [[]])]


def as_parsed(annotation):
    """Returns `float` for `float | int`, because the parser converts to one type."""
    members = get_args(annotation) if get_origin(annotation) is types.UnionType else (annotation,)
    return float if set(members) == {float, int} else annotation


@pytest.mark.parametrize(("settings", "config"), CONFIGS)
def test_settings_of_a_model_have_the_names_types_and_defaults_of_its_configuration(settings, config):
    expected = {
        name: (as_parsed(annotation), getattr(config, name))
        for name, annotation in config.__annotations__.items()
        if name not in (*NOT_SET_BY_HAND, "model_type") and not name.startswith("_")
    }
    kinds = get_type_hints(settings)
    assert {each.name: (kinds[each.name], each.default) for each in dataclasses.fields(settings)} == expected


def test_names_and_numbers_that_are_copied_to_keep_help_fast_are_those_of_the_packages():
    assert list(translation.MODEL_SETTINGS) == list(TRANSLATION_CONFIGS)
    assert get_args(get_type_hints(translation.ModelChoice)["model_type"]) == tuple(TRANSLATION_CONFIGS)
    assert decoding.TOKENS_PER_BATCH == TOKENS_PER_BATCH
    assert decoding.TERM_BIAS == TERM_BIAS
    assert training.TRACKERS == sorted(LOGGER_TYPE_TO_CLASS)
    assert translation.SCORES == ("loss", "perplexity", *SHOWN_SCORES)


def help_of(command, arguments, capsys):
    script = importlib.import_module(f"papers_to_gpt.{COMMANDS[command].stem}")
    with pytest.raises(SystemExit) as stop:
        script.parse([*arguments, "--help"], description=script.__doc__.splitlines()[0])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("command", "arguments"), INVOCATIONS)
def test_every_option_has_a_sentence_under_a_heading_and_one_spelling(command, arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # one line an option
    text = re.sub(r"\n {9,}", "  ", help_of(command, arguments, capsys))
    headings = re.findall(r"^(.+):$", text, re.M)
    assert headings and set(headings) <= HEADINGS and len(set(headings)) == len(headings)
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert len(options) >= 2
    for line in options:
        name, sentence = re.split(r" {2,}", line.strip())
        assert re.fullmatch(r"[A-Z][^ ]*[ ,][^\n]+\.( \(default: .+\))?", sentence), line
        assert not sentence.startswith("Of ") and len(sentence.split(". ")[0]) > 10, line
        assert "-" not in name.split()[0].removeprefix("--"), line


def test_settings_are_accepted_with_dashes():
    (settings,) = decoding.parse_translation(["--model-name-or-path", "x", "--num-beams=3"])
    assert (settings.model_name_or_path, settings.num_beams) == (["x"], 3)


def test_help_and_wrong_settings_import_nothing_heavy():
    program = """
import contextlib, importlib, io, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    script = importlib.import_module(f"papers_to_gpt.{name}")
    for arguments in (["--help"], ["--no_such_setting", "1"]):
        sys.argv = [name, *arguments]
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                script.main()
            except (SystemExit, ValueError):
                pass
    heavy = "numpy torch transformers datasets evaluate accelerate".split()
    found[name] = [package for package in heavy if package in sys.modules]
print(json.dumps(found))
"""
    names = [path.stem for path in COMMANDS.values()]
    result = subprocess.run([sys.executable, "-c", program, json.dumps(names)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {name: [] for name in names}


def test_a_translator_without_a_model_type_is_the_one_that_help_names(capsys):
    with pytest.raises(SystemExit):
        translation.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split("--model_type")[1].split("--", 1)[0].split())
    choice, model, *_ = translation.parse("--train_file t --output_dir o --max_steps 10".split())
    assert f"(default: {choice.model_type})" in shown
    assert type(model) is translation.MODEL_SETTINGS[choice.model_type]


# The parser of each script, with what it needs to be given.
PARSERS = {
    "translation": (translation.parse, "--model_type bahdanau --train_file t --output_dir o --max_steps 10"),
    "pretraining": (pretraining.parse, "--train_file t --validation_file v --output_dir o --max_steps 10"),
    "finetuning": (finetuning.parse, "--model_name_or_path m --train_file t --output_dir o"),
    "reproduction": (reproduction.parse, "list"),
    "generation": (generation.parse, "--model_name_or_path m"),
    "translate": (decoding.parse_translation, "--model_name_or_path m"),
    "scoring": (decoding.parse_scoring, "--model_name_or_path m"),
    "classification": (classification.parse, "--model_name_or_path m"),
}
SEED_RANGE = "it must be from 0 to 4294967295."
TRAINING_SCRIPTS = "translation pretraining finetuning"
OUT_OF_RANGE = [
    # scripts; setting; values; message
    (TRAINING_SCRIPTS + " generation", "seed", "-1 4294967296", SEED_RANGE),
    ("finetuning", "seeds", "-1 4294967296", SEED_RANGE),
    (TRAINING_SCRIPTS, "save_total_limit", "-1", "it must be at least 0."),
    (TRAINING_SCRIPTS, "average_last_checkpoints", "-2", "it must be at least 0."),
    (TRAINING_SCRIPTS, "dataloader_num_workers", "-1", "it must be at least 0."),
    (TRAINING_SCRIPTS, "learning_rate", "0.0 -1.0", "it must be above 0."),
    (TRAINING_SCRIPTS, "learning_rate", "nan inf", "it must be a finite number."),
    (TRAINING_SCRIPTS, "weight_decay", "nan", "it must be a finite number."),
    (TRAINING_SCRIPTS, "max_grad_norm", "-1.0", "it must be at least 0."),
    (TRAINING_SCRIPTS, "warmup_steps", "-5.0", "it must be at least 0."),
    (TRAINING_SCRIPTS, "num_train_epochs", "0.0", "it must be above 0."),
    (TRAINING_SCRIPTS, "max_train_minutes", "0.0", "it must be above 0."),
    (
        TRAINING_SCRIPTS,
        "max_steps gradient_accumulation_steps logging_steps eval_steps save_steps",
        "0",
        "at least 1.",
    ),
    (TRAINING_SCRIPTS, "early_stopping_patience", "0", "it must be at least 1."),
    (TRAINING_SCRIPTS, "adam_beta1 adam_beta2", "1.0", "it must be at least 0 and below 1."),
    ("translation translate scoring", "max_tokens_per_batch", "0", "it must be at least 1."),
    # The end token takes one of them.
    ("translation translate scoring", "max_source_length", "0 1", "it must be at least 2."),
    ("translation", "max_target_length", "-1 1", "it must be at least 2."),
    ("translation pretraining", "tokenizer_samples", "0", "it must be at least 1."),
    (
        "translation",
        "vocab_size decoder_vocab_size max_train_samples max_eval_samples eval_num_beams",
        "0",
        "it must be at least 1.",
    ),
    ("translation translate scoring", "length_penalty", "nan", "it must be a finite number."),
    ("translation translate scoring generation", "num_beams max_new_tokens", "0", "it must be at least 1."),
    ("translate generation", "num_return_sequences", "0", "it must be at least 1."),
    ("translation", "decode_every", "0", "it must be at least 1."),
    ("finetuning", "max_eval_samples", "1", "it must be at least 2."),
    ("translation", "bpe_dropout label_smoothing_factor", "1.0", "it must be at least 0 and below 1."),
    ("pretraining generation", "temperature", "0.0 -1.0 1e-45", "it must be at least 0.0001."),
    ("pretraining generation", "temperature", "nan inf", "it must be a finite number."),
    ("pretraining generation", "top_k", "-1", "it must be at least 0."),
    ("generation", "top_p", "0.0 1.5", "it must be above 0 and at most 1."),
    (
        "pretraining",
        "sample_new_tokens sample_prompt_tokens num_merges max_eval_blocks",
        "0",
        "it must be at least 1.",
    ),
    ("pretraining", "residual_dropout layer_norm_eps", "nan", "it must be a finite number."),
    ("finetuning", "validation_share", "0.0 1.0 -0.1", "it must be above 0 and below 1."),
    ("finetuning", "max_length", "4", "it must be at least 5."),
    (
        "pretraining finetuning",
        "per_device_train_batch_size per_device_eval_batch_size",
        "0",
        "it must be at least 1.",
    ),
    ("reproduction", "layers", "-1", "it must be at least 0."),
    ("reproduction", "seeds", "-1 4294967296", SEED_RANGE),
    ("reproduction", "jobs", "0", "it must be at least 1."),
    ("classification", "batch_size", "0", "it must be at least 1."),
]


@pytest.mark.parametrize(("scripts", "names", "values", "message"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_before_anything_is_read(scripts, names, values, message):
    for script in scripts.split():
        parse, needed = PARSERS[script]
        parse(needed.split())
        for name in names.split():
            for value in values.split():
                with pytest.raises(ValueError, match=re.escape(f"{name} is {value}; ") + ".*" + re.escape(message)):
                    parse([*needed.split(), f"--{name}={value}"])


def test_everything_out_of_range_is_reported_at_once():
    parse, needed = PARSERS["translation"]
    with pytest.raises(ValueError) as error:
        parse([*needed.split(), "--seed=-1", "--vocab_size=0", "--learning_rate=nan"])
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["vocab_size", "learning_rate", "seed"]


def test_the_size_of_a_second_vocabulary_needs_a_second_vocabulary():
    parse, needed = PARSERS["translation"]
    arguments = [*needed.split(), "--decoder_vocab_size=280"]
    with pytest.raises(ValueError, match="it has no effect unless share_vocabulary is false"):
        parse(arguments)
    assert parse([*arguments, "--share_vocabulary=false"])[3].decoder_vocab_size == 280


def test_training_leaves_out_pairs_beyond_the_learned_positions():
    parse, needed = PARSERS["translation"]
    model = ["--model_type=transformer_seq2seq", "--max_position_embeddings=100", "--max_source_length=90"]
    for kind, lengths in (("sinusoidal", (90, 256)), ("learned", (90, 100))):
        data = parse([*needed.split(), *model, f"--position_embedding_type={kind}"])[4]
        assert (data.max_source_length, data.max_target_length) == lengths


@pytest.mark.parametrize(
    ("script", "metric", "expected"),
    [
        ("translation", "bleu", "does not report.* It reports loss, perplexity, exact_match, sacrebleu"),
        ("translation", "eval_loss", "Did you mean 'loss'"),
        ("pretraining", "accuracy", "It reports loss, perplexity, word_perplexity, bits_per_byte"),
        ("pretraining", "bits_per_byte --objective masked", "It reports loss, perplexity, accuracy"),
        ("translation", "chrf --decode_every 3", "decode_every is 3, but metric_for_best_model is 'chrf', which the"),
    ],
)
def test_a_metric_that_the_evaluation_does_not_report_is_refused_before_training(script, metric, expected):
    parse, needed = PARSERS[script]
    with pytest.raises(ValueError, match=expected):
        parse([*needed.split(), "--metric_for_best_model", *metric.split()])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "--train_file a b --train_weights 1",
            r"train_weights has 1 weight \(1\), but train_file has 2 files \(a b\)",
        ),
        ("--train_file a b --train_weights 1 2 3", "train_weights has 3 weights .* but train_file has 2 files"),
        ("--train_file a b --train_weights 1 0", "train_weights has 0; a weight must be a finite number above 0"),
        ("--train_file a b --train_weights 1 nan", "train_weights has nan; a weight must be"),
        ("--train_file a b --train_weights 1 much", "train_weights has much; a weight must be"),
        ("--train_file none --dataset_name d/e --train_weights 2", "train_weights is 2, but dataset_name is 'd/e'"),
        ("--train_file a ./b b", "train_file names b twice and as ./b. Name each file once; train_weights repeats"),
    ],
)
@pytest.mark.parametrize("script", ["translation", "pretraining"])
def test_weights_that_do_not_fit_the_corpora_are_refused_before_anything_is_read(script, arguments, expected):
    parse, needed = PARSERS[script]
    needed = needed.replace("--validation_file v", "") if "none" in arguments else needed
    with pytest.raises(ValueError, match=expected):
        parse([*needed.split(), *arguments.split()])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--test_file t ./t", "test_file names ./t twice and as t"),
        ("--test_file t --reference_columns de", "reference_columns names de, which is the target's column"),
        ("--test_file t --reference_columns r r", "reference_columns names r, which comes twice"),
        ("--reference_columns r", "reference_columns is set, but there is no test set"),
    ],
)
@pytest.mark.parametrize("script", ["translation", "scoring"])
def test_test_sets_and_references_that_contradict_each_other_are_refused(script, arguments, expected):
    parse, needed = PARSERS[script]
    with pytest.raises(ValueError, match=expected):
        parse([*needed.split(), *arguments.split()])


def test_proportional_weights_are_no_weights_and_numbers_have_one_form():
    parse, needed = PARSERS["translation"]
    data = parse([*needed.split(), "--train_file", "a", "b", "--train_weights", "proportional"])[4]
    assert (data.train_file, data.train_weights) == (["a", "b"], [])
    assert parse([*needed.split(), "--train_file", "a", "b", "--train_weights", "1.0", "5e-1"])[4].train_weights == [
        "1",
        "0.5",
    ]


def test_more_translations_than_beams_are_refused_before_the_model_is_read():
    parse, needed = PARSERS["translate"]
    with pytest.raises(ValueError, match="num_return_sequences is 4, but num_beams is 3"):
        parse([*needed.split(), "--num_beams=3", "--num_return_sequences=4"])
    assert parse([*needed.split(), "--num_beams=3", "--num_return_sequences=3"])[0].num_beams == 3


def test_a_folder_that_is_called_like_no_value_can_be_shared():
    (settings,) = hub.parse_sharing(["none"])
    assert settings.folder == "./none"


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("translation", "--skip_broken_shards", "only a stream is read by shards. Set streaming true, or leave"),
        ("pretraining", "--skip_broken_shards", "only a stream is read by shards. Set streaming true, or leave"),
        (
            "generation",
            "--num_return_sequences 3 --do_sample false",
            "there are only 1 .num_beams.. Raise num_beams, or set do_sample",
        ),
        ("classification", "--text_pair_column b", "but text_column is not. Set both, or neither"),
        (
            "finetuning",
            "--push_to_hub --hub_strategy every_save --seeds 1 2",
            "pushed at the end. Set hub_strategy to end, or name",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_what_to_do(script, arguments, expected):
    parse, needed = PARSERS[script]
    with pytest.raises(ValueError, match=expected):
        parse([*needed.split(), *arguments.split()])
