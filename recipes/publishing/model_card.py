"""Writes the model card, `README.md`, from a run's records and from a description of the model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from papers_to_gpt.engine.checkpointing import CHECKPOINT_PREFIX
from papers_to_gpt.engine.reporting import CARD_FILE, LOG_FILE, read_log, read_results, read_run_record
from papers_to_gpt.publishing.card_pictures import Translator, draw_alignment, draw_curve
from papers_to_gpt.settings.finetuning import TRAIN_HOLDOUT
from papers_to_gpt.settings.wording import counted

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")

# The placeholder of the model's identifier in a description's code.
MODEL_ID = "{model_id}"

# Settings that a card does not show: they say where and how the run was started, and nothing about the model.
NOT_SHOWN = frozenset(
    """output_dir overwrite_output_dir resume_from_checkpoint push_to_hub hub_model_id hub_private_repo hub_strategy
    overwrite_hub_repo report_to dataloader_num_workers logging_steps save_total_limit save_minutes accept_changes
    skip_data_check stop_within_seconds""".split()
)

# Matches the sentence that `_where` writes.
NAMED = re.compile(r"^`([^`\n]+)` is the (?:name of the model's folder|model's id on the Hub)[^.]*\.", re.MULTILINE)

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
CURVE_ROWS = 12
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Paper:
    """The paper that describes a model."""

    authors: str
    year: int
    title: str
    url: str

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}): [{self.title}]({self.url})"


@dataclass(frozen=True)
class Run:
    """The records of a run. Each is empty if the folder does not have it.

    Attributes:
        settings: all settings of the run, by name.
        record: the whole of `run.yaml`: settings, parameters, versions, machine.
        results: the content of `all_results.json`.
        log: the lines of `train_log.jsonl`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Description:
    """What a card says about a model besides the records of its run.

    Attributes:
        title: the card's heading, one line.
        summary: what the model is, in Markdown.
        papers: the papers that describe it.
        usage: code that runs unchanged once `{model_id}` is replaced.
        data: what the model was trained on.
        scores: results on held-out data; `metric_args` may hold a signature.
        curve: the values of the log's evaluations to plot over the updates, besides the loss.
        limits: what the model cannot do, one sentence each.
        licence: the terms under which code and weights may be used.
        metadata: fields of `ModelCardData`: license, language, pipeline_tag, tags, datasets, widget and so on.
        example: a source sentence to show the alignment of; None for models that do not translate.
    """

    title: str
    summary: str
    papers: Sequence[Paper]
    usage: str
    data: str
    scores: Sequence[EvalResult]
    curve: Sequence[str]
    limits: Sequence[str]
    licence: str
    metadata: dict[str, Any]
    example: str | None = None


def read_run(folder: Path) -> Run:
    """Reads the records of the run that wrote a folder.

    For a checkpoint these are the run's settings without its results; for a folder that no run wrote, they are empty.
    """
    record = read_run_record(folder)
    if record is None:
        record = read_run_record(folder.parent) if folder.name.startswith(CHECKPOINT_PREFIX) else None
        return Run() if record is None else Run(settings=record["settings"], record=record)
    return Run(
        settings=record["settings"],
        record=record,
        results=read_results(folder),
        log=read_log(folder / LOG_FILE),
    )


def without_folders(value: str) -> str:
    """Returns the last part of a path, which hides the machine's folders; other values, such as Hub ids, unchanged."""
    if HUB_ID.fullmatch(value) or not re.search(r"[/\\]", value):
        return value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def write_card(
    folder: Path,
    run: Run,
    description: Description,
    transformers_versions: str,
    model_id: str | None = None,
    translator: Translator | None = None,
) -> Path:
    """Writes a model's card into its folder, and its pictures beside it if matplotlib is installed.

    Args:
        folder: the folder of the model.
        run: its records, from `read_run`.
        description: what the card says besides.
        transformers_versions: the versions that the code in the folder supports, as a pip specifier.
        model_id: the model's id on the Hub, which the card's code uses. Default: the name of the folder, so that the
            code runs in the directory that contains it.
        translator: the model with its tokenizers, to draw an alignment. Default: the card has none.

    Returns:
        The card's path.
    """
    name = model_id or folder.resolve().name
    usage = description.usage.replace(MODEL_ID, name)
    alignment = None
    if translator is not None and description.example is not None:
        alignment = draw_alignment(folder, translator, description.example)
    data = ModelCardData(
        library_name="transformers",
        **(
            {"model_name": name.rpartition("/")[2], "eval_results": list(description.scores)}
            if description.scores
            else {}
        ),
        **description.metadata,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=description.title,
        summary=description.summary,
        papers=description.papers,
        usage=usage,
        where=_where(name, on_hub=model_id is not None),
        transformers_versions=transformers_versions,
        data=description.data,
        score_rows=_score_table(description.scores),
        training=_training(run) if run.record else None,
        alignment=alignment,
        example=description.example,
        curve_picture=draw_curve(folder, run.log, description.curve),
        curve=_curve(run, description.curve),
        settings=_settings(run.record),
        limits="\n".join(f"- {limit}" for limit in description.limits),
        licence=description.licence,
    )
    path = folder / CARD_FILE
    path.write_text(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n", encoding="utf-8")
    return path


def name_on_hub(folder: Path, model_id: str) -> None:
    """Replaces the model's name in a card by its id on the Hub.

    The rest of the card stays as it is; a card that `write_card` did not write is not changed.
    """
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8")
    found = NAMED.search(text)
    if found is not None:
        text = text.replace(found[0], _where(model_id, on_hub=True))
        text = re.sub(rf'(model=|from_pretrained\()"{re.escape(found[1])}"', rf'\1"{model_id}"', text)
        text = re.sub(r"(?m)^(model-index:\n- name: ).*$", rf"\g<1>{model_id.rpartition('/')[2]}", text, count=1)
        path.write_text(text, encoding="utf-8")


def _where(name: str, on_hub: bool) -> str:
    if on_hub:
        return f"`{name}` is the model's id on the Hub."
    return (
        f"`{name}` is the name of the model's folder: run the code in the directory that contains it, or replace the "
        "name by its path."
    )


def _score_table(scores: Sequence[EvalResult]) -> str:
    rows = [(score.dataset_name, score.dataset_split, score.metric_name, f"{score.metric_value}") for score in scores]
    signatures = {
        f"{score.metric_name}: `{score.metric_args['signature']}`"
        for score in scores
        if "signature" in (score.metric_args or {})
    }
    # Signatures contain "|", which would end a cell of the table.
    return "\n\n".join([_table(("data", "split", "score", "value"), rows), *sorted(signatures)])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)) if rows else ""


def _training(run: Run) -> str:
    """Returns one sentence each on the model's size, the updates, the time and the machine."""
    sentences = []
    if "parameters" in run.record:
        sentences.append(f"{run.record['parameters']:,} parameters.")
    results, machine = run.results, run.record["machine"]
    if "train_updates" in results:
        sentences.append(
            f"{counted(results['train_updates'], 'update')}, {results['train_epochs']:g} "
            f"epoch{'' if results['train_epochs'] == 1 else 's'}."
        )
    if averaged := results.get("averaged_checkpoints"):
        sentences.append(f"The weights are the average of {len(averaged)} checkpoints, the last ones of the run.")
    if tuning := results.get("length_penalty_tuning"):
        sentences.append(
            f"The length penalty of the search, {tuning['length_penalty']:g}, was chosen among "
            f"{', '.join(tuning['scores'])} on the validation split."
        )
    if results.get("selection") == TRAIN_HOLDOUT:
        rows = counted(results["selection_rows"], "row")
        sentences.append(
            f"The checkpoint was chosen on {rows} of train that were held out; the validation split was only scored."
        )
    elif "selection" in results:
        sentences.append(
            "The checkpoint was chosen on the validation split, so that its scores there are higher than those of new "
            "rows."
        )
    if "wall_seconds" in results:
        minutes = results["wall_seconds"] / 60
        time = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        sentences.append(f"{time[0].upper()}{time[1:]} from start to end, evaluation included.")
    processes, threads = machine["processes"], counted(machine["threads"], "thread")
    sentences.append(
        f"Machine: {processes} x {machine['device']} ({threads}{' each' if processes > 1 else ''}), mixed precision: "
        f"{machine['mixed_precision']}."
    )
    return " ".join(sentences)


def _curve(run: Run, names: Sequence[str]) -> str:
    """Returns a line of bars for each value over the updates, and a table of some of them."""
    names = ("loss", *names)
    points = [line for line in run.log if line["kind"] == "eval" and all(name in line for name in names)]
    if len(points) < 2:
        return ""
    bars = [f"- `{_bars([point[name] for point in points])}` {name.replace('_', ' ')}" for name in names]
    # Chosen from the end, so that the last evaluation is always shown.
    step = -(-len(points) // CURVE_ROWS)
    chosen = points[::-1][::step][::-1]
    rows = [[f"{point['update']:,}", *(f"{point[name]:.4g}" for name in names)] for point in chosen]
    held_out = run.results.get("selection") == TRAIN_HOLDOUT
    data = "rows of train that were held out" if held_out else "validation data"
    return "\n".join(
        [
            f"On the {data}, from update {points[0]['update']:,} to {points[-1]['update']:,}:",
            "",
            *bars,
            "",
            _table(["update", *(name.replace("_", " ") for name in names)], rows),
        ]
    )


def _bars(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def _shown(value: Any) -> Any:
    return without_folders(value) if isinstance(value, str) else value


def _settings(record: dict[str, Any]) -> str:
    """Returns the settings and versions of `run.yaml` as YAML, without the machine's paths."""
    if not record:
        return ""
    shown = {
        name: [_shown(each) for each in value] if isinstance(value, list) else _shown(value)
        for name, value in record["settings"].items()
        if name not in NOT_SHOWN and value is not None
    }
    return yaml.safe_dump(
        {"settings": shown, "versions": record["versions"]}, sort_keys=False, allow_unicode=True
    ).rstrip()
