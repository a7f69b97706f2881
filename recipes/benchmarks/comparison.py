"""Compares all contenders: the table of what each measures, and the rounds in which they take turns."""

import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count

from papers_to_gpt.benchmarks.classifiers import prepare_examples, train_classifier
from papers_to_gpt.benchmarks.common import (
    bahdanau_config,
    rnn_seq2seq_config,
    transformer_config,
    write_vocabulary,
)
from papers_to_gpt.benchmarks.ctranslate2 import (
    decode_ctranslate2,
    export_gpt,
    export_marian,
    export_translator,
    generate_ctranslate2,
)
from papers_to_gpt.benchmarks.eole import train_eole
from papers_to_gpt.benchmarks.gpts import generate, train_gpt
from papers_to_gpt.benchmarks.joeynmt import decode_joeynmt, joeynmt_recurrent, joeynmt_transformer, train_joeynmt
from papers_to_gpt.benchmarks.llama_cpp import export_gpt2, generate_llama_cpp
from papers_to_gpt.benchmarks.marian import decode_marian, train_marian
from papers_to_gpt.benchmarks.ours import decode_ours, train_model_to_decode, train_ours
from papers_to_gpt.benchmarks.profiles import SHARES, profile_gpt, profile_translator
from papers_to_gpt.engine.model_folder import TRANSLATOR, check_folder
from papers_to_gpt.settings.benchmarking import SECTIONS, BenchmarkSettings, Workload


@dataclass(frozen=True)
class Contender:
    """One row of a table.

    Attributes:
        section: the table that the row belongs to.
        group: rows of one group are compared with the first row of ours in it.
        name: the row's name within its group.
        measure: function from the workload and the folder of the data to the measured values.
        needs: the packages, or the setting, without which the row is skipped.
        prepare: is called with the same arguments once before the rounds, in a process of its own.
    """

    section: str
    group: str
    name: str
    measure: Callable[[Workload, Path], dict[str, Any]]
    needs: str | None = None
    prepare: Callable[[Workload, Path], dict[str, Any]] | None = None

    @property
    def key(self) -> str:
        return f"{self.section}: {self.group}: {self.name}"

    def missing(self, work: Workload) -> str | None:
        """Returns the reason why the row cannot be measured here; None if it can."""
        if self.needs == "nanogpt_dir":
            return None if work.nanogpt_dir else "nanogpt_dir is not set"
        if self.needs and work.is_on_gpu:
            return "it is measured on the CPU alone"
        absent = [package for package in (self.needs or "").split() if find_spec(package) is None]
        return f"the package {absent[0]} is not installed" if absent else None


def table(work: Workload | None = None) -> list[Contender]:
    """Returns all rows in their order; device and sizes of gpt_growth are the workload's, by default its defaults."""
    work = work or Workload()
    rows: list[Contender] = []

    def row(section: str, group: str, name: str, measure: Callable, needs: str | None = None, **options: Any) -> None:
        rows.append(Contender(section, group, name, partial(measure, **options), needs))

    def exported_row(
        section: str, group: str, name: str, measure: Callable, prepare: Callable, quantization: str, **options: Any
    ) -> None:
        options["quantization"] = quantization
        name = f"{name}, {EXPORTED[quantization]}"
        prepare = partial(prepare, quantization=quantization)
        rows.append(Contender(section, group, name, partial(measure, **options), "ctranslate2", prepare))

    precisions = {"fp32": False, "bf16": True}
    transformer = partial(row, "translation_training", "Transformer")
    recurrent = partial(row, "translation_training", "attention of 2014")
    transformer("ours, bf16", train_ours, make_config=transformer_config)
    for precision, bf16 in precisions.items():
        transformer(f"MarianMTModel, {precision}", train_marian, bf16=bf16)
    if work.is_on_gpu:
        transformer("ours, bf16, compiled", train_ours, make_config=transformer_config, compiled=True)
        transformer("MarianMTModel, bf16, compiled", train_marian, bf16=True, compiled=True)
    for precision, bf16 in precisions.items():
        make = {"make_config": transformer_config, "make_model": joeynmt_transformer}
        transformer(f"JoeyNMT, {precision}", train_joeynmt, "joeynmt", **make, bf16=bf16)
    for precision, bf16 in precisions.items():
        transformer(f"eole, {precision}", train_eole, "eole", bf16=bf16)
    recurrent("ours, bf16", train_ours, make_config=bahdanau_config)
    for precision, bf16 in precisions.items():
        make = {"make_config": bahdanau_config, "make_model": joeynmt_recurrent}
        recurrent(f"JoeyNMT, {precision}", train_joeynmt, "joeynmt", **make, bf16=bf16)

    for group, num_beams in {"greedy": 1, "beam 5": 5}.items():
        decoding = partial(row, "translation_decoding", group, num_beams=num_beams)
        decoding("ours, bf16", decode_ours, bf16=True)
        decoding("ours, fp32", decode_ours, bf16=False)
        decoding("MarianMTModel, fp32", decode_marian)
        decoding("JoeyNMT, fp32", decode_joeynmt, "joeynmt")
        for quantization in EXPORTED:
            options = {"quantization": quantization, "num_beams": num_beams}
            translating = partial(exported_row, "translation_decoding", group, measure=decode_ctranslate2, **options)
            translating("CTranslate2", prepare=export_translator)
            translating("MarianMTModel by CTranslate2", prepare=export_marian, model="marian")

    dropped = partial(row, "gpt_training", "dropout 0.1, bf16", measure=train_gpt, dropout=0.1)
    dropped("ours", kind="ours")
    dropped("OpenAIGPTLMHeadModel", kind="openai-gpt")
    dropped("GPT2LMHeadModel", kind="gpt2")
    plain = partial(row, "gpt_training", "no dropout, bf16", measure=train_gpt, dropout=0.0)
    plain("ours", kind="ours")
    plain("ours, compiled", kind="ours", compiled=True)
    plain("GPT2LMHeadModel", kind="gpt2")
    plain("nanoGPT", kind="nanogpt", needs="nanogpt_dir")
    plain("nanoGPT, compiled", kind="nanogpt", needs="nanogpt_dir", compiled=True)

    for batch_size in (1, 16):
        group = f"batch {batch_size}"
        generation = partial(row, "gpt_generation", group, measure=generate, batch_size=batch_size)
        for precision, bf16 in precisions.items():
            generation(f"ours, {precision}", kind="ours", bf16=bf16)
        generation("OpenAIGPTLMHeadModel, fp32, no cache", kind="openai-gpt", bf16=False)
        for precision, bf16 in precisions.items():
            generation(f"GPT2LMHeadModel, {precision}", kind="gpt2", bf16=bf16)
        for quantization in EXPORTED:
            functions = generate_ctranslate2, export_gpt
            exported_row("gpt_generation", group, "CTranslate2", *functions, quantization, batch_size=batch_size)
        for precision, bf16 in precisions.items():
            name = f"GPT2LMHeadModel by llama.cpp, {precision}"
            measure = partial(generate_llama_cpp, batch_size=batch_size, bf16=bf16)
            prepare = partial(export_gpt2, bf16=bf16)
            rows.append(Contender("gpt_generation", group, name, measure, "xllamacpp gguf", prepare))

    finetuning = partial(row, "gpt_finetuning", "classification, bf16", measure=train_classifier)
    finetuning("ours", kind="ours")
    finetuning("ours, with the auxiliary loss", kind="ours", auxiliary_loss_weight=0.5)
    finetuning("OpenAIGPTForSequenceClassification", kind="openai-gpt")
    finetuning("OpenAIGPTForSequenceClassification, 128", kind="openai-gpt", pad_to=128)

    growth = partial(row, "gpt_growth", measure=train_gpt, kind="ours", dropout=0.1)
    for length in work.growth_lengths:
        sequences = max(1, work.context * work.gpt_batch_size // length)
        growth("length", f"{length} tokens", context=length, gpt_batch_size=sequences)
    for width in work.growth_widths:
        heads = width * work.gpt_heads // work.gpt_hidden_size
        growth("width", f"{width}, {heads} heads", gpt_hidden_size=width, gpt_heads=heads)
    for size in work.growth_vocabularies:
        growth("vocabulary", f"{size} entries", gpt_vocab_size=size)

    profile = partial(row, "training_profile", "bf16")
    profile("Transformer", profile_translator, make_config=transformer_config)
    profile("attention of 2014", profile_translator, make_config=bahdanau_config)
    profile("LSTM of 2014", profile_translator, make_config=rnn_seq2seq_config)
    profile("GPT", profile_gpt, dropout=0.1)
    return rows


# CTranslate2's numbers, and their names in the table.
EXPORTED = {"float32": "fp32", "int8": "int8"}


MODEL_TO_DECODE = Contender("preparation", "Transformer", "the model to decode with", train_model_to_decode)


def measure_one() -> None:
    """Runs one measurement: reads a job from standard input and prints the result as the last line."""
    job = json.load(sys.stdin)
    work = Workload(**job["workload"])
    contender = {row.key: row for row in (*table(work), MODEL_TO_DECODE)}[job["contender"]]
    with redirect_stdout(sys.stderr):
        measured = getattr(contender, job["step"])(work, Path(job["folder"]))
    print(json.dumps(measured))


def run_one(contender: Contender, work: Workload, folder: Path, threads: int, step: str = "measure") -> dict[str, Any]:
    """Measures or prepares a contender in a new process.

    Returns:
        What it measured. If it fails, `error` with the last line of its error output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if not work.is_on_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    job = json.dumps({"contender": contender.key, "workload": asdict(work), "folder": str(folder), "step": step})
    command = [sys.executable, "-c", "from papers_to_gpt.benchmarks.comparison import measure_one; measure_one()"]
    process = subprocess.run(command, input=job, env=environment, capture_output=True, text=True)
    logging.getLogger(__name__).debug("%s", process.stderr)
    if process.returncode:
        return {"error": next(reversed(process.stderr.strip().splitlines()), f"exit status {process.returncode}")}
    return json.loads(process.stdout.splitlines()[-1])


def prepare_pairs(settings: BenchmarkSettings, work: Workload, folder: Path) -> None:
    """Writes the data that the translators read: a vocabulary, token ids, lines of subwords, test sentences.

    Raises:
        ValueError: if a section needs a split that the settings do not give.
    """
    from datasets import disable_progress_bars

    from seq2seq_scratch.data.batches import tokenize_parallel
    from seq2seq_scratch.data.corpora import load_parallel_data
    from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

    disable_progress_bars()
    files = {f"{split}_file": getattr(settings, f"{split}_file") for split in ("train", "validation", "test")}
    pairs = load_parallel_data(
        dataset_name=None if any(files.values()) else "numbers",
        **files,
        source_language=settings.source_language,
        target_language=settings.target_language,
    )
    if "translation_decoding" in settings.sections:
        if "test" not in pairs:
            raise ValueError("translation_decoding needs test sentences: set test_file.")
        sentences = [sentence for sentence in pairs["test"]["source"] if sentence.strip()]
        (folder / "test_sentences.json").write_text(json.dumps(sentences), encoding="utf-8")
    trains = {"translation_training", "training_profile"}.intersection(settings.sections)
    if not trains and work.model_name_or_path is not None:
        return
    if "train" not in pairs:
        raise ValueError("Training needs sentence pairs: set train_file, or model_name_or_path and only decode.")
    train = pairs["train"]
    tokenizer = train_tokenizer([*train["source"], *train["target"]], kind="bpe", vocab_size=work.vocab_size)
    save_tokenizers(folder, tokenizer, tokenizer)
    write_vocabulary(folder / "vocabulary.txt", tokenizer)
    for split in ("train", "validation"):
        tokenized, _ = tokenize_parallel(
            pairs[split], tokenizer, tokenizer, max_source_length=256, max_target_length=256
        )
        tokenized.save_to_disk(folder / split)
        for side, column in (("source", "input_ids"), ("target", "labels")):
            lines = [" ".join(tokenizer.convert_ids_to_tokens(ids[:-1])) for ids in tokenized[column]]
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run_rounds(
    rows: Sequence[Contender], settings: BenchmarkSettings, work: Workload, folder: Path, threads: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Prepares the contenders, and measures all once per round, so that a change in the load affects all of them.

    Returns:
        The measurements of each contender, round by round, and the errors of those that failed. A contender that
        failed is not measured again.
    """
    measured: dict[str, list[dict[str, Any]]] = {row.key: [] for row in rows}
    failed: dict[str, str] = {}
    for row in rows:
        if row.prepare is not None:
            print(f"preparing {row.key}", file=sys.stderr, flush=True)
            result = run_one(row, work, folder, threads, "prepare")
            if "error" in result:
                failed[row.key] = result["error"]
    for number in range(1, settings.rounds + 1):
        for row in rows:
            if row.key in failed:
                continue
            print(f"round {number} of {settings.rounds}: {row.key}", file=sys.stderr, flush=True)
            load = os.getloadavg()[0]
            result = run_one(row, work, folder, threads)
            if "error" in result:
                failed[row.key] = result["error"]
            else:
                measured[row.key].append(result | {"load_average_before": load})
    return measured, failed


def summary(own: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, float]:
    """Summarizes a row: medians over its rounds, and how many times as fast as this row the reference was.

    Args:
        own: the row's measurements, one a round.
        reference: the reference's measurements in the same rounds.
    """
    rates = [result["items"] / result["seconds"] for result in own]
    figures = {
        "rate": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "rate_of_cpu_time": statistics.median(result["items"] / result["cpu_seconds"] for result in own),
    }
    for name in (*EXTRA_COLUMNS, "peak_memory_gb", "cores_busy_with_others"):
        values = [result[name] for result in own if result.get(name) is not None]
        if values:
            figures[name] = statistics.median(values)
    pairs = zip(reference, rates, strict=False)
    ratios = [result["items"] / result["seconds"] / rate for result, rate in pairs]
    if ratios:
        figures["ours_times"] = statistics.median(ratios)
    return figures


EXTRA_COLUMNS = {
    "millions_of_parameters": ("M parameters", ".1f"),
    "padding_percent": ("padding %", ".1f"),
    "model_flops_utilization_percent": ("FLOPs util. %", ".1f"),
    "mean_output_tokens": ("output tokens", ".1f"),
    "batch_sentences": ("sents./batch", ".0f"),
    "batch_tokens": ("tokens/batch", ".0f"),
    **{name: (title, ".1f") for name, title in SHARES.items()},
}
COLUMNS = {
    "rate": ("median/s", ".1f"),
    "lowest": ("lowest", ".1f"),
    "highest": ("highest", ".1f"),
    "rate_of_cpu_time": ("/CPU s", ".1f"),
    "ours_times": ("ours is x", ".2f"),
    **EXTRA_COLUMNS,
    "peak_memory_gb": ("memory GB", ".2f"),
    "cores_busy_with_others": ("others' cores", ".2f"),
}


def format_table(rows: Sequence[Contender], figures: dict[str, dict[str, float]]) -> str:
    """Returns the table of one section: a header for each group, followed by its rows."""
    columns = [name for name in COLUMNS if any(name in row for row in figures.values())]
    width = max(len(row.name) for row in rows) + 3
    lines = []
    for group, members in itertools.groupby((row for row in rows if row.key in figures), key=lambda row: row.group):
        lines.append(f"{group:{width}}" + "".join(f"{COLUMNS[name][0]:>15}" for name in columns))
        for member in members:
            values = figures[member.key]
            cells = [format(values[name], COLUMNS[name][1]) if name in values else "" for name in columns]
            lines.append(f"{'  ' + member.name:{width}}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def describe_setting(threads: int, use_cpu: bool) -> dict[str, Any]:
    """Returns the machine and the versions of the libraries that were measured."""
    from accelerate import Accelerator

    from papers_to_gpt.engine.reporting import describe_machine

    versions = {}
    for package in ("torch", "transformers", "joeynmt", "eole", "ctranslate2", "xllamacpp"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = describe_machine(Accelerator(cpu=use_cpu))["device"]
    return {"machine": machine, "threads": threads, "versions": versions}


def run(settings: BenchmarkSettings, work: Workload) -> None:
    """Measures all contenders that the settings name, and prints a table for each section.

    Raises:
        ValueError: if a setting is wrong or the model to decode with could not be trained.
        SystemExit: with status 1 if a contender failed.
    """
    if work.is_on_gpu and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no GPU here. Leave device out to measure on the CPU.")
    if work.nanogpt_dir is not None and not Path(work.nanogpt_dir, "model.py").is_file():
        raise ValueError(f"nanogpt_dir is {work.nanogpt_dir}, which holds no model.py. Name a checkout of nanoGPT.")
    if "translation_decoding" in settings.sections and work.model_name_or_path is not None:
        check_folder(work.model_name_or_path, kinds=(TRANSLATOR,))
    threads = settings.threads or cpu_count()
    chosen = [
        row
        for row in table(work)
        if row.section in settings.sections
        and (not settings.contenders or any(text in row.key for text in settings.contenders))
    ]
    if not chosen:
        raise ValueError(
            f"contenders is {' '.join(settings.contenders)}, which matches no row of {', '.join(settings.sections)}. "
            "Rows: " + "; ".join(row.key for row in table(work) if row.section in settings.sections)
        )
    notes = {row.key: reason for row in chosen if (reason := row.missing(work))}
    chosen = [row for row in chosen if row.key not in notes]
    setting = describe_setting(threads, not work.is_on_gpu)
    record = {"setting": setting, "settings": asdict(settings) | asdict(work), "sections": {}}
    print(json.dumps(record["setting"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs_are_read = {"translation_training", "translation_decoding", "training_profile"}
        if pairs_are_read.intersection(settings.sections):
            prepare_pairs(settings, work, folder)
        if "gpt_finetuning" in settings.sections:
            prepare_examples(work, folder)
        if "translation_decoding" in settings.sections and work.model_name_or_path is None:
            print(f"training {MODEL_TO_DECODE.name}", file=sys.stderr, flush=True)
            failure = run_one(MODEL_TO_DECODE, work, folder, threads).get("error")
            if failure:
                raise ValueError(f"The model to decode with could not be trained: {failure}")
            work = replace(work, model_name_or_path=str(folder / "model"))
        for section in settings.sections:
            rows = [row for row in chosen if row.section == section]
            measured, failed = run_rounds(rows, settings, work, folder, threads)
            notes |= {key: f"failed: {error}" for key, error in failed.items()}
            references: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                if row.name.startswith("ours"):
                    references.setdefault(row.group, measured[row.key])
            figures = {
                row.key: summary(measured[row.key], references.get(row.group, [])) for row in rows if measured[row.key]
            }
            if figures:
                print(f"\n{section}: {SECTIONS[section]} per second; rounds: {settings.rounds}")
                print(format_table(rows, figures), flush=True)
            record["sections"][section] = {"summary": figures, "measurements": measured}
            if settings.output_file:
                record["notes"] = notes
                Path(settings.output_file).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for key, note in notes.items():
        print(f"\nskipped {key}: {note}")
    if any(note.startswith("failed") for note in notes.values()):
        raise SystemExit(1)
