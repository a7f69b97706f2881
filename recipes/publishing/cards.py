"""Describes each kind of model for its card: the paper, the use, the training data, the scores and the limits."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from gpt1_scratch.configuration_gpt1 import GPT1Config
from gpt1_scratch.finetuning.tasks import MULTI_LABEL, TASKS, THRESHOLD
from gpt1_scratch.library_version import requirement
from gpt1_scratch.pretraining.embedded import EMBEDDED_TEXTS
from gpt1_scratch.tokenization import MASK
from papers_to_gpt.engine.model_folder import CLASSIFIER, describe_missing_config
from papers_to_gpt.publishing import model_card
from papers_to_gpt.publishing.card_pictures import Translator
from papers_to_gpt.publishing.data_sources import DataSource, describe_training_data, files_in
from papers_to_gpt.publishing.model_card import Description, Paper, Run, read_run, without_folders
from papers_to_gpt.settings.corpora import names_of_files
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.data.embedded import EMBEDDED_PAIRS
from seq2seq_scratch.data.languages import resolve_language

LSTM_PAPER = Paper(
    "Ilya Sutskever, Oriol Vinyals, Quoc V. Le",
    2014,
    "Sequence to Sequence Learning with Neural Networks",
    "https://arxiv.org/abs/1409.3215",
)
ATTENTION_PAPER = Paper(
    "Dzmitry Bahdanau, Kyunghyun Cho, Yoshua Bengio",
    2014,
    "Neural Machine Translation by Jointly Learning to Align and Translate",
    "https://arxiv.org/abs/1409.0473",
)
TRANSFORMER_PAPER = Paper(
    "Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez, Lukasz Kaiser, "
    "Illia Polosukhin",
    2017,
    "Attention Is All You Need",
    "https://arxiv.org/abs/1706.03762",
)
GPT_PAPER = Paper(
    "Alec Radford, Karthik Narasimhan, Tim Salimans, Ilya Sutskever",
    2018,
    "Improving Language Understanding by Generative Pre-Training",
    "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
)

BERT_PAPER = Paper(
    "Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova",
    2018,
    "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    "https://arxiv.org/abs/1810.04805",
)

# The name of a model, what it is, and its paper, by model_type.
TRANSLATORS = {
    "rnn_seq2seq": (
        "LSTM encoder-decoder",
        "A deep LSTM reads the source into one fixed vector, and another writes the translation from it.",
        LSTM_PAPER,
    ),
    "bahdanau": (
        "RNNsearch",
        "A bidirectional GRU reads the source, and a GRU with additive attention writes the translation.",
        ATTENTION_PAPER,
    ),
    "transformer_seq2seq": (
        "Transformer",
        "Its encoder and decoder consist of attention and feed-forward layers, without recurrence.",
        TRANSFORMER_PAPER,
    ),
}

LANGUAGES = {"en": "English", "de": "German", "fr": "French"}

# Sentences to try a model on. They are not from its training data, which may be private.
EXAMPLES = {
    "en": "A man is riding a bicycle.",
    "de": "Ein Mann fährt Fahrrad.",
    "fr": "Un homme fait du vélo.",
}
TEXT_OPENING = "Once there were two friends"

# The metric's name on the Hub and its name for readers, by the name of the value in the results.
TRANSLATION_SCORES = {
    "sacrebleu": ("sacrebleu", "sacreBLEU"),
    "bleu_tokenized_lowercased": ("bleu", "BLEU of lower-cased Moses tokens"),
    "chrf": ("chrf", "chrF2"),
    "exact_match": ("exact_match", "exact match in %"),
}
TEXT_SCORES = {
    "perplexity": ("perplexity", "perplexity per token"),
    "word_perplexity": ("perplexity", "perplexity per word"),
    "bits_per_byte": ("bits_per_byte", "bits per byte"),
}
MASKED_SCORES = {
    "perplexity": ("perplexity", "perplexity of the masked tokens"),
    "accuracy": ("accuracy", "accuracy of the masked tokens"),
}
TASK_SCORES = {
    "accuracy": ("accuracy", "accuracy"),
    "f1": ("f1", "F1"),
    "f1_micro": ("f1", "F1 over all pairs of a text and a label"),
    "f1_macro": ("f1", "mean F1 of the labels"),
    "matthews_correlation": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearmanr": ("spearmanr", "Spearman correlation"),
}

TASK_LIMITS = (
    "On texts that do not resemble its training data it is often wrong, with the same confidence.",
    "Its probabilities are not calibrated.",
)

OPEN_LICENCE = "apache-2.0"
UNKNOWN_LICENCE = "unknown"


def write_card(
    folder: Path,
    model_id: str | None = None,
    translator: Translator | None = None,
    records: Path | None = None,
) -> Path:
    """Writes the card of a model of this repository from its configuration and, if there are any, its run's records.

    Args:
        folder: the folder of the model.
        model_id: its id on the Hub. Default: the card calls the model by its folder's name.
        translator: the model of the folder and its tokenizers, if it translates. Default: the card shows no alignment.
        records: the folder of the run or checkpoint that the model is from. Default: `folder`.

    Returns:
        The card's path.

    Raises:
        ValueError: if the folder holds no model of this repository.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(describe_missing_config(folder))
    config, run = json.loads(path.read_text(encoding="utf-8")), read_run(records or folder)
    description = describe_model(config, run, path)
    return model_card.write_card(folder, run, description, requirement(), model_id, translator)


def describe_model(config: dict[str, Any], run: Run, path: Path) -> Description:
    """Describes a model of this repository.

    Args:
        config: the content of config.json.
        run: the records of its run.
        path: where the config.json is, for the message.

    Raises:
        ValueError: if it is another model.
    """
    model_type = config.get("model_type")
    if model_type in TRANSLATION_CONFIGS:
        return describe_translator(model_type, run)
    if model_type != GPT1Config.model_type:
        raise ValueError(
            f"{path}: model_type is {model_type!r}. Cards are written for {', '.join(TRANSLATORS)} and "
            f"{GPT1Config.model_type}; write the card of another model by hand, as README.md in its folder."
        )
    if isinstance(config.get("finetuning_task"), dict):
        return describe_task_model(config, run)
    if CLASSIFIER.holds(config):
        return describe_task_head(config)
    return describe_language_model(run, is_masked=config.get("attention") == "bidirectional")


def describe_translator(model_type: str, run: Run) -> Description:
    """Describes a model that `train_translation.py` trained."""
    name, what, paper = TRANSLATORS[model_type]
    settings = run.settings
    codes = [settings[side] for side in ("source_language", "target_language") if side in settings]
    languages = [LANGUAGES.get(resolve_language(code).language, code) for code in codes]
    direction = " to ".join(languages)
    embedded = EMBEDDED_PAIRS.get(settings.get("dataset_name"))
    examples = EXAMPLES if embedded is None else EXAMPLES | embedded.examples
    example = examples.get("".join(codes[:1]), examples["en"])
    limits = []
    if embedded is not None:
        limits.append(embedded.limit)
    elif direction:
        limits.append(f"It translates single sentences from {direction} that resemble its training data.")
    if settings.get("lowercase"):
        limits.append("It writes lower case only, which cased scores (sacreBLEU, chrF) count as mistakes.")
    limits.append(
        "It may omit, add or invent content. A person who knows both languages should check important translations."
    )
    data = describe_training_data(settings)
    return Description(
        title=f"{name}, {direction}" if direction else name,
        summary=f"{what} {origin_of(run, f'translate {direction}'.rstrip())}",
        papers=[paper],
        usage=(
            "from transformers import pipeline\n\n"
            'translator = pipeline("translation", model="{model_id}", trust_remote_code=True)\n'
            f'print(translator("{example}")[0]["translation_text"])'
        ),
        data=data.text,
        scores=list(translation_scores(run)),
        curve=["exact_match" if has_one_translation(settings) else "sacrebleu"],
        limits=limits,
        licence=describe_licence(data.source, start_model=starts_from_model(run)),
        metadata={
            "pipeline_tag": "translation",
            "language": iso_codes(codes),
            "license": (OPEN_LICENCE if data.source.is_generated and not starts_from_model(run) else UNKNOWN_LICENCE),
            "base_model": run.record.get("base_model"),
            "tags": ["translation", model_type],
            "datasets": data.hub_ids,
            "widget": [{"text": example}],
        },
        example=example,
    )


def starts_from_model(run: Run) -> bool:
    """Returns True if a run started from a trained model (`init_from`), and not from random weights."""
    return run.settings.get("init_from") is not None


def origin_of(run: Run, purpose: str) -> str:
    """Returns a sentence that says what a model was trained from and for, as far as its folder records it."""
    if not run.record:
        return "This folder does not record how the model was trained."
    if not starts_from_model(run):
        return f"Trained from scratch to {purpose}."
    settings = run.settings
    more = ", with further words in its vocabulary" if settings.get("add_tokens") else ""
    frozen = f", with frozen {', '.join(settings['freeze'])}" if settings.get("freeze") else ""
    # A folder such as runs/first would read as an id on the Hub.
    start = run.record.get("base_model") or without_folders("./" + settings["init_from"])
    return f"Trained further from `{start}`{more}{frozen} to {purpose}."


def has_one_translation(settings: dict[str, Any]) -> bool:
    """Returns True if the run's data have one correct translation of each source, so that exact match is a score."""
    embedded = EMBEDDED_PAIRS.get(settings.get("dataset_name"))
    return embedded is not None and embedded.one_translation


def translation_scores(run: Run) -> Iterable[EvalResult]:
    """Yields the scores on each test split, or those on the validation split if no test split was scored."""
    splits = [
        name.removesuffix("_sacrebleu_signature") for name in run.results if name.endswith("_sacrebleu_signature")
    ]
    for split in splits or ["eval"]:
        signature = run.results.get(f"{split}_sacrebleu_signature")
        for key, (metric, name) in TRANSLATION_SCORES.items():
            if key == "exact_match" and not has_one_translation(run.settings):
                continue
            if f"{split}_{key}" in run.results:
                yield score(
                    run,
                    ("translation", split),
                    (metric, name),
                    round(run.results[f"{split}_{key}"], 2),
                    {"signature": signature} if key == "sacrebleu" and signature else None,
                )


def describe_language_model(run: Run, is_masked: bool = False) -> Description:
    """Describes a model that `pretrain_gpt1.py` trained.

    Args:
        run: the records of the run.
        is_masked: True if it predicts masked tokens, False if it predicts the next token.
    """
    embedded = EMBEDDED_TEXTS.get(run.settings.get("dataset_name"))
    opening = TEXT_OPENING if embedded is None else embedded.opening
    task, names = ("fill-mask", MASKED_SCORES) if is_masked else ("text-generation", TEXT_SCORES)
    if is_masked:
        opening = f"{opening} {MASK} a house."
        title, summary = (
            "GPT-1 with masked tokens",
            "GPT-1 with the bidirectional attention and the objective of BERT.",
        )
        use = f'filler = pipeline("{task}", model="{{model_id}}", trust_remote_code=True)\nprint(filler("{opening}"))'
        limits = [
            "It predicts masked tokens and is made to be fine-tuned. It cannot generate text, and its scores are no "
            "probabilities of a text: bits per byte are not defined for it."
        ]
    else:
        title, summary = "GPT-1", "The decoder of a Transformer."
        use = (
            f'generator = pipeline("{task}", model="{{model_id}}", trust_remote_code=True)\n'
            f'print(generator("{opening}", max_new_tokens=50)[0]["generated_text"])'
        )
        limits = [
            "It continues text and does not follow instructions. Its text may be false or harmful.",
            "It is not a chat model. The tokenizer's chat template is only a format for fine-tuning on conversations.",
        ]
    if embedded is not None:
        limits.append(embedded.limit)
    data = describe_training_data(run.settings)
    return Description(
        title=title,
        summary=f"{summary} {origin_of(run, 'predict ' + ('masked tokens' if is_masked else 'the next token'))}",
        papers=[GPT_PAPER, BERT_PAPER] if is_masked else [GPT_PAPER],
        usage=f"from transformers import pipeline\n\n{use}",
        data=data.text,
        scores=[
            score(run, (task, "eval"), named, round(run.results[f"eval_{key}"], 4))
            for key, named in names.items()
            if f"eval_{key}" in run.results
        ],
        curve=["accuracy" if is_masked else "bits_per_byte"],
        limits=limits,
        licence=describe_licence(data.source, start_model=starts_from_model(run)),
        metadata={
            "pipeline_tag": task,
            "language": None if embedded is None else [embedded.language],
            "license": (OPEN_LICENCE if data.source.is_generated and not starts_from_model(run) else UNKNOWN_LICENCE),
            "base_model": run.record.get("base_model"),
            "tags": [task, GPT1Config.model_type],
            "datasets": data.hub_ids,
            "widget": [{"text": opening}],
        },
    )


def describe_task_model(config: dict[str, Any], run: Run) -> Description:
    """Describes a model that `finetune_gpt1.py` fine-tuned."""
    task, settings = config["finetuning_task"], run.settings
    labels = list(config["id2label"].values())
    several = config["problem_type"] == MULTI_LABEL
    what = f"{'any' if several else 'one'} of {', '.join(f'`{label}`' for label in labels)}"
    if config["problem_type"] == "regression":
        what = "a number"
    start = without_folders(settings["model_name_or_path"]) if "model_name_or_path" in settings else None
    from_scratch = settings.get("from_scratch", False)
    origin = "trained from scratch" if from_scratch else f"fine-tuned from `{start}`" if start else "fine-tuned"
    data = describe_training_data(settings, task["name"])
    choice, weighted = task["kind"] == "multiple_choice", settings.get("class_weights") is not None
    tag = "multiple-choice" if choice else "text-classification"
    scores = [
        score(run, (tag, f"{kind}{suffix}"), names, round(run.results[f"{kind}_{key}{suffix}"], 4), task=task["name"])
        for kind in ("eval", "test")
        for suffix in ("", "_mismatched")
        for key, names in TASK_SCORES.items()
        if f"{kind}_{key}{suffix}" in run.results
    ]
    return Description(
        title=f"GPT-1 for {task['name']}",
        summary=(
            f"GPT-1, {origin}, to {'choose' if choice else 'predict'} {what} from the column"
            f"{'s' if len(task['columns']) > 1 else ''} {', '.join(f'`{column}`' for column in task['columns'])}."
        ),
        papers=[GPT_PAPER],
        usage=usage_of_task(task["kind"], pair=len(task["columns"]) > 1),
        data=data.text,
        scores=scores,
        curve=[key for key in TASK_SCORES if any(key in line for line in run.log)],
        limits=[
            *TASK_LIMITS,
            *(["Its loss weighted the classes, so probabilities of rare classes are too high."] if weighted else []),
            *([f"A label applies if its probability is above {THRESHOLD}; possibly none does."] if several else []),
        ],
        licence=describe_licence(data.source, start_model=True),
        metadata={
            "pipeline_tag": tag,
            "language": ["en"] if task["name"] in TASKS else None,
            "license": UNKNOWN_LICENCE,  # depends on the model that it was fine-tuned from
            "tags": [tag, GPT1Config.model_type],
            "datasets": data.hub_ids,
        },
    )


def describe_task_head(config: dict[str, Any]) -> Description:
    """Describes a GPT-1 with the head of a task that its folder does not record, such as one that Trainer trained."""
    chooses = config["architectures"][0].endswith("ForMultipleChoice")
    tag, name = ("multiple-choice", "multiple choice") if chooses else ("text-classification", "text classification")
    run = Run()
    data = describe_training_data(run.settings)
    return Description(
        title=f"GPT-1 for {name}",
        summary=f"GPT-1 with a head for {name}. {origin_of(run, name)}",
        papers=[GPT_PAPER],
        usage=usage_of_task("multiple_choice" if chooses else "classification", pair=False),
        data=data.text,
        scores=(),
        curve=(),
        limits=TASK_LIMITS,
        licence=describe_licence(data.source),
        metadata={"pipeline_tag": tag, "license": UNKNOWN_LICENCE, "tags": [tag, GPT1Config.model_type]},
    )


def usage_of_task(kind: str, pair: bool) -> str:
    """Returns the code that uses a fine-tuned model.

    Args:
        kind: the kind of the task, as in `Task.kind`.
        pair: True if the model reads two texts.
    """
    if kind == "multiple_choice":
        return (
            "from transformers import AutoModelForMultipleChoice, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("{model_id}", trust_remote_code=True)\n'
            'model = AutoModelForMultipleChoice.from_pretrained("{model_id}", trust_remote_code=True)\n'
            'choices = ["He put on his coat.", "He ate his coat."]\n'
            'texts = tokenizer(["It was cold outside."] * 2, choices, padding=True, return_tensors="pt")\n'
            "scores = model(**{name: tensor[None] for name, tensor in texts.items()}).logits[0]\n"
            "print(choices[scores.argmax()])"
        )
    text = '{"text": "A man plays a guitar.", "text_pair": "Somebody makes music."}'
    return (
        "from transformers import pipeline\n\n"
        'classifier = pipeline("text-classification", model="{model_id}", trust_remote_code=True)\n'
        f"print(classifier({text if pair else chr(34) + 'It was a joy to watch.' + chr(34)}))"
    )


def describe_licence(source: DataSource, start_model: bool = False) -> str:
    """States the terms of the code, the training data and the weights.

    Args:
        source: the source of the training data.
        start_model: True if the model was fine-tuned from another, whose licence applies too.
    """
    if source.is_generated and not start_model:
        return f"{source.terms} The code and the weights in this folder are under Apache 2.0 too."
    start = " The licence of the model that this one was fine-tuned from applies too." if start_model else ""
    return (
        f"The code in this folder is under Apache 2.0. {source.terms}{start} Whether these terms restrict the use of "
        "the weights is for the person who shares them to find out and to state in this card (`license` at its top)."
    )


def score(
    run: Run,
    task_and_split: tuple[str, str],
    metric: tuple[str, str],
    value: float,
    arguments: dict[str, Any] | None = None,
    task: str | None = None,
) -> EvalResult:
    """Returns a result in the form of the Hub's metadata.

    Args:
        run: the records of the run.
        task_and_split: the task's type on the Hub, and the split that was scored.
        metric: the metric's name on the Hub and its name for readers.
        value: the score.
        arguments: the metric's arguments, such as a signature.
        task: the name of the fine-tuning task, if there is one.
    """
    settings = run.settings
    task_type, split = task_and_split
    train_files = files_in(settings, "train_file")
    named = settings.get("dataset_name") or task or ", ".join(map(without_folders, train_files)) or "own"
    named = without_folders(named)
    dataset, part = named, settings.get("dataset_config_name")
    if task in TASKS and TASKS[task].hub is not None and not train_files:
        dataset, part = TASKS[task].hub
    if train_files:
        files = {kind: files_in(settings, name) for kind, name in (("eval", "validation_file"), ("test", "test_file"))}
        of_split = files.get(split.split("_")[0]) or train_files
        if len(of_split) > 1 and split.startswith("test_"):
            names = [f"test_{name}" for name in names_of_files(of_split)]
            of_split = [of_split[names.index(split)]] if split in names else of_split
        dataset = named = ", ".join(without_folders("./" + file) for file in of_split)
    return EvalResult(
        task_type=task_type,
        dataset_type=dataset,
        dataset_name=named,
        dataset_config=part,
        dataset_split=split.replace("eval", "validation"),
        metric_type=metric[0],
        metric_name=metric[1],
        metric_value=value,
        metric_args=arguments,
    )


def iso_codes(codes: Iterable[str]) -> list[str] | None:
    """Returns language codes as the Hub expects them: ISO 639, with two letters where such a code exists."""
    bases = [resolve_language(code).language for code in codes]
    return [base for base in bases if base and base.isalpha() and len(base) in (2, 3)] or None
