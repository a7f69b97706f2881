"""The card of a run has metadata for the Hub and code with the right name, and nothing about the machine."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_models import tiny_model

from papers_to_gpt.publishing import card_pictures
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.model_card import name_on_hub
from papers_to_gpt.publishing.shared_folder import shared_files
from seq2seq_scratch.tokenization import train_tokenizer

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
MACHINE = {"device": "Some Processor", "processes": 2, "threads": 3, "mixed_precision": "bf16"}
TRANSLATION = {
    "model_type": "transformer_seq2seq",
    "d_model": 256,
    "lowercase": True,
    "dataset_name": None,
    "train_file": "/secret/home/data/train.parquet",
    "validation_file": "../private/validation.parquet",
    "test_file": "/secret/home/data/test_2016.parquet",
    "tokenizer_name": "user/tokenizer",
    "source_language": "de",
    "target_language": "en",
    "output_dir": "/secret/home/runs/mine",
}
TRANSLATION_RESULTS = {
    "train_updates": 6000,
    "train_epochs": 1,
    "wall_seconds": 4298.3,
    "averaged_checkpoints": ["checkpoint-1", "checkpoint-2"],
    "test_sacrebleu": 41.37533,
    "test_sacrebleu_signature": SIGNATURE,
    "test_bleu_tokenized_lowercased": 41.784,
    "test_chrf": 60.6444,
    "test_exact_match": 5.0,
}


def folder_of_run(folder, config, settings, results, log=()):
    """Writes a folder with the records that a recipe leaves."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    record = {"settings": settings, "parameters": 7320576, "versions": {"torch": "2.13.0"}, "machine": MACHINE}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.fixture
def translation_run(tmp_path):
    log = [{"update": 100, "kind": "train", "loss": 7.0}]
    log += [
        {"update": 100 * number, "kind": "eval", "loss": 5 - 0.1 * number, "sacrebleu": 1.5 * number}
        for number in range(1, 31)
    ]
    return folder_of_run(
        tmp_path / "mine", {"model_type": "transformer_seq2seq"}, TRANSLATION, TRANSLATION_RESULTS, log
    )


def test_metadata_of_a_translator_hold_scores_signature_and_languages(translation_run):
    data = ModelCard.load(write_card(translation_run)).data
    assert data.language == ["de", "en"] and data.pipeline_tag == "translation" and data.library_name == "transformers"
    assert data.license == "unknown" and data.model_name == "mine" and "transformer_seq2seq" in data.tags
    scores = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in scores.items()} == {
        "sacrebleu": 41.38,
        "bleu": 41.78,
        "chrf": 60.64,
    }
    assert scores["sacrebleu"].metric_args == {"signature": SIGNATURE}
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {
        ("test_2016.parquet", "test")
    }


def test_text_has_paper_machine_time_curve_and_limits_but_no_folder_of_the_machine(translation_run):
    text = write_card(translation_run).read_text()
    for wanted in (
        "[Attention Is All You Need](https://arxiv.org/abs/1706.03762)",
        "7,320,576 parameters. 6,000 updates, 1 epoch.",
        "average of 2 checkpoints",
        "71.6 minutes",
        "2 x Some Processor (3 threads each), mixed precision: bf16",
        f"sacreBLEU: `{SIGNATURE}`",
        "writes lower case only",
        "train_file: train.parquet",
        "tokenizer_name: user/tokenizer",
        "`torch` and `transformers>=5.23,<5.25`",
    ):
        assert wanted in text, wanted
    assert "secret" not in text and "private" not in text and "output_dir" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert 5 <= len(rows) <= 12 and rows[-1] == "| 3,000 | 2 | 45 |"
    assert "`█" in text and text.count("▁") >= 2


def test_the_hubs_id_replaces_the_folders_name_in_the_code_and_leaves_the_rest(tmp_path):
    # A folder that is called as something else in the code.
    folder = folder_of_run(
        tmp_path / "translation", {"model_type": "bahdanau"}, {**TRANSLATION, "lowercase": False}, TRANSLATION_RESULTS
    )
    path = write_card(folder)
    path.write_text(path.read_text().replace("license: unknown", "license: mit"))
    name_on_hub(folder, "user/other")
    text = path.read_text()
    assert 'pipeline("translation", model="user/other", trust_remote_code=True)' in text
    assert "`user/other` is the model's id on the Hub. The code requires `torch`" in text and "license: mit" in text
    assert ModelCard(text).data.model_name == "other"
    name_on_hub(folder, "user/third")
    assert "user/other" not in path.read_text() and 'model="user/third"' in path.read_text()
    path.write_text("# My own card")
    name_on_hub(folder, "user/other")
    assert path.read_text() == "# My own card"


def test_a_checkpoint_has_the_runs_settings_but_not_its_final_scores(translation_run):
    checkpoint = translation_run / "checkpoint-100"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text((translation_run / "config.json").read_text())
    card = ModelCard.load(write_card(checkpoint))
    assert card.data.language == ["de", "en"] and card.data.eval_results is None
    assert "This folder records no scores." in card.text and "d_model: 256" in card.text and "minutes" not in card.text


def test_cards_of_gpt1_name_the_metric_and_the_licence_of_embedded_data(tmp_path):
    settings = {"dataset_name": "stories", "max_position_embeddings": 256}
    folder = folder_of_run(tmp_path / "mini", {"model_type": "gpt1"}, settings, {"eval_bits_per_byte": 0.25391})
    data = ModelCard.load(write_card(folder)).data
    assert data.license == "apache-2.0" and data.pipeline_tag == "text-generation" and data.language == ["en"]
    assert [(each.metric_type, each.metric_value) for each in data.eval_results] == [("bits_per_byte", 0.2539)]

    config = {
        "model_type": "gpt1",
        "problem_type": "single_label_classification",
        "id2label": {"0": "unacceptable", "1": "acceptable"},
        "finetuning_task": {"name": "cola", "kind": "classification", "columns": ["sentence"]},
    }
    settings = {"model_name_or_path": "/secret/home/mini", "task": ["cola"], "train_file": None}
    folder = folder_of_run(tmp_path / "cola", config, settings, {"eval_matthews_correlation": 0.454})
    card = ModelCard.load(write_card(folder))
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "cola", "validation")
    assert (result.metric_type, result.metric_value) == ("matthews_correlation", 0.454)
    assert card.data.datasets == ["nyu-mll/glue"] and card.data.license == "unknown"
    assert "fine-tuned from `mini`" in card.text and "secret" not in card.text


@pytest.mark.parametrize(
    ("settings", "wanted", "license"),
    [
        ({"train_file": "mine.jsonl"}, "Only the person who trained the model can state the terms", "unknown"),
        ({"train_file": "/data/Multi30k/train.de"}, "Flickr30k are for non-commercial research", "unknown"),
        ({"train_file": "/multi30k/a", "test_file": "/other/b"}, "Only the person who trained the model", "unknown"),
        ({"dataset_name": "wmt/wmt14"}, "WMT releases the data for research", "unknown"),
        ({"dataset_name": "user/pairs"}, "The page of the data set on the Hub states its terms", "unknown"),
        ({"dataset_name": "numbers"}, "generated by this project and are under Apache 2.0", "apache-2.0"),
        ({}, "The terms of the training data are not known", "unknown"),
    ],
)
def test_the_licence_section_states_the_known_terms_of_the_data(settings, wanted, license, tmp_path):
    folder = folder_of_run(tmp_path / "model", {"model_type": "bahdanau"}, {"source_language": "de", **settings}, {})
    card = ModelCard.load(write_card(folder))
    section = card.text.partition("## Licence")[2]
    assert wanted in section and card.data.license == license
    assert "/data/" not in card.text and "/other/" not in card.text
    assert ("dreihundertzweiundvierzig" in card.text) is (license == "apache-2.0")


def test_a_fine_tuned_models_licence_depends_on_the_model_it_started_from(tmp_path):
    config = {
        "model_type": "gpt1",
        "problem_type": "single_label_classification",
        "id2label": {"0": "negative", "1": "positive"},
        "finetuning_task": {"name": "stories_sentiment", "kind": "classification", "columns": ["sentence"]},
    }
    folder = folder_of_run(tmp_path / "model", config, {"model_name_or_path": "user/gpt1"}, {})
    card = ModelCard.load(write_card(folder))
    assert card.data.license == "unknown"
    assert "`stories_sentiment`, a task that this project generates" in card.text
    assert "The licence of the model that this one was fine-tuned from applies too." in card.text


def test_a_card_names_the_model_that_a_run_started_from(tmp_path):
    settings = {"source_language": "en", "target_language": "de", "dataset_name": "numbers", "init_from": "user/first"}
    folder = folder_of_run(tmp_path / "model", {"model_type": "bahdanau"}, settings, {})
    card = ModelCard.load(write_card(folder))  # the run started from a folder
    assert card.data.base_model is None and "Trained further from `first` to translate" in card.text
    record = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump(record | {"base_model": "user/first"}))
    card = ModelCard.load(write_card(folder))
    assert card.data.base_model == "user/first" and card.data.license == "unknown"
    assert "Trained further from `user/first` to translate English to German." in card.text
    assert "The licence of the model that this one was fine-tuned from applies too." in card.text


@pytest.mark.parametrize(
    ("config", "wanted", "tag"),
    [
        (
            {"model_type": "bahdanau", "architectures": ["BahdanauForConditionalGeneration"]},
            "# RNNsearch",
            "translation",
        ),
        ({"model_type": "gpt1", "architectures": ["GPT1ForCausalLM"]}, "# GPT-1\n", "text-generation"),
        (
            {"model_type": "gpt1", "architectures": ["GPT1ForSequenceClassification"]},
            'pipeline("text-classification", model="mine"',
            "text-classification",
        ),
        (
            {"model_type": "gpt1", "architectures": ["GPT1ForMultipleChoice"]},
            'AutoModelForMultipleChoice.from_pretrained("mine"',
            "multiple-choice",
        ),
    ],
)
def test_a_card_without_records_of_a_run_says_so_and_is_that_of_the_class(config, wanted, tag, tmp_path):
    """As of a model that the library's Trainer trained."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    card = ModelCard.load(write_card(tmp_path / "mine"))
    assert wanted in card.text and card.data.pipeline_tag == tag and card.data.license == "unknown"
    assert "does not record how the model was trained" in card.text and "from scratch" not in card.text
    assert "text-generation" not in card.text or tag == "text-generation"


def test_folders_without_a_model_of_ours_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model: config.json is not there"):
        write_card(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type is 'bert'"):
        write_card(tmp_path)


def test_a_card_shows_the_training_curve_and_an_alignment_from_pictures_that_are_shared_with_it(
    translation_run, monkeypatch
):
    pytest.importorskip("matplotlib")
    tokenizer = train_tokenizer(["three hundred and forty-two"] * 3, kind="word", vocab_size=40)
    sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    model = tiny_model("bahdanau", **sizes)
    model.generation_config.update(max_new_tokens=4, suppress_tokens=[0, 1, 2, 3])  # words alone
    pictures = {"![Training curve](training_curve.png)": "training_curve.png", "](alignment.png)": "alignment.png"}
    text = write_card(translation_run, translator=(model, tokenizer, tokenizer)).read_text()
    for link, file in pictures.items():
        assert link in text and (translation_run / file).read_bytes().startswith(b"\x89PNG")
        assert file in shared_files(translation_run)
        assert (translation_run / file).stat().st_size < 100_000

    # Neither a model without attention nor a machine without matplotlib is in the way of a card.
    for without in (tiny_model("rnn_seq2seq", **sizes), tiny_model("bahdanau", **sizes, use_attention=False)):
        text = write_card(translation_run, translator=(without, tokenizer, tokenizer)).read_text()
        assert "training_curve.png" in text and "alignment.png" not in text
    monkeypatch.setattr(card_pictures, "find_spec", lambda name: None)
    assert ".png" not in write_card(translation_run, translator=(model, tokenizer, tokenizer)).read_text()
