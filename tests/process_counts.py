"""Trains the same small runs in several numbers of processes, on the CPU in fp32, and compares losses and scores.

python tests/process_counts.py                         # 50 updates of every recipe in 1, 2 and 4 processes
python tests/process_counts.py translation --updates 4

Dropout is on. The data is uneven: sentences of many lengths, an epoch that is not a multiple of the update, and fewer
rows to evaluate than processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from gpt1_scratch.stories.corpus import load_stories
from papers_to_gpt.engine.model_folder import WEIGHT_SHARES
from papers_to_gpt.engine.shares import read_shares

ROOT = Path(__file__).resolve().parents[1]
BATCHES_PER_UPDATE = 4
# Adam divides by the size of the gradient. Where that is rounding, a smaller epsilon would make steps of noise.
COMMON = "--bf16 false --use_cpu true --logging_steps 1 --adam_epsilon 1e-3 --learning_rate 1e-3"
COMMON += " --lr_scheduler_type constant --save_total_limit 0"
SCRIPTS = {
    "translation": "train_translation.py",
    "pretraining": "pretrain_gpt1.py",
    "finetuning": "finetune_gpt1.py",
}
TRANSFORMER = """--model_type transformer_seq2seq --d_model 16 --encoder_layers 2 --decoder_layers 2
    --encoder_attention_heads 2 --decoder_attention_heads 2 --encoder_ffn_dim 32 --decoder_ffn_dim 32 --dropout 0.2
    --share_vocabulary true --share_encoder_decoder_embeddings true --vocab_size 300 --max_position_embeddings 40
    --max_tokens_per_batch 96 --source_language en --target_language de --num_beams 2 --max_new_tokens 8"""
RECURRENT = """--model_type {} --embedding_size 8 --hidden_size 12 --vocab_size 300 --share_vocabulary false
    --max_tokens_per_batch 96 --source_language en --target_language de --num_beams 2 --max_new_tokens 8"""
SIZES = {
    "translation": TRANSFORMER,
    "bahdanau": RECURRENT.format("bahdanau") + " --attention_size 8 --maxout_size 6 --readout_dropout 0.2",
    "rnn_seq2seq": RECURRENT.format("rnn_seq2seq") + " --num_hidden_layers 2 --dropout 0.2",
    "pretraining": """--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --max_position_embeddings 32
        --num_merges 100 --per_device_train_batch_size 2 --sample_new_tokens 4 --num_samples 1
        --residual_dropout 0.1 --attention_dropout 0.1 --embedding_dropout 0.1""",
    "finetuning": "--per_device_train_batch_size 4 --classifier_dropout 0.1 --metric_for_best_model loss",
}


@dataclass
class Run:
    """What a run has left: the loss of every update, its scores, and the weights of its last checkpoint."""

    folder: Path
    losses: list[float]
    scores: dict[str, float]
    weights: dict[str, torch.Tensor]


def write_data(folder: Path) -> None:
    """Writes the files that the runs read."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "kite lamp mill tree boat song".split()
    for split, rows in (("train", 131), ("validation", 3), ("test", 1)):
        lines = [" and ".join(words[(row + place) % 6] for place in range(1 + row % 5)) for row in range(rows)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
        labels = ["good" if row % 2 else "bad" for row in range(rows)]
        verbs = {"good": "shone", "bad": "broke"}
        table = [f"{line} {verbs[label]},{label}" for line, label in zip(lines, labels, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *table]) + "\n")
    for split, stories in load_stories(train_size=40, validation_size=2).items():
        (folder / f"{split}.txt").write_text("\n\n".join(stories["text"]))


def command_of(recipe: str, data: Path, output_dir: Path, processes: int, updates: int) -> list[str]:
    """Returns the script and its arguments, for runs that all have `BATCHES_PER_UPDATE` batches in an update."""
    kind = recipe if recipe in SCRIPTS else "translation"
    ending = {"translation": "", "pretraining": ".txt", "finetuning": ".csv"}[kind]
    splits = ("train", "validation") if kind == "pretraining" else ("train", "validation", "test")
    files = [f"--{split}_file={data / split}{ending}" for split in splits]
    start = ["--model_name_or_path", str(data / "pretrained")] if kind == "finetuning" else []
    lengths = ["--max_steps", str(updates), "--eval_steps", str(max(1, updates // 2))]
    accumulation = ["--gradient_accumulation_steps", str(BATCHES_PER_UPDATE // processes)]
    script = str(ROOT / "recipes" / SCRIPTS[kind])
    return [
        script,
        *SIZES[recipe].split(),
        *COMMON.split(),
        *files,
        *start,
        *lengths,
        *accumulation,
        "--output_dir",
        str(output_dir),
    ]


def train(
    recipe: str, data: Path, output_dir: Path, processes: int, updates: int, *arguments: str, sharded: bool = False
) -> Run:
    """Trains in a number of processes, by torchrun, and returns what the run has left.

    Raises:
        RuntimeError: if the run fails; the message is what it printed.
    """
    if recipe == "finetuning" and not (data / "pretrained").is_dir():
        train("pretraining", data, data / "pretrained", 1, 2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*(launcher if processes > 1 else []), *command_of(recipe, data, output_dir, processes, updates)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if sharded:
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    result = subprocess.run(
        [sys.executable, *command, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    if result.returncode:
        raise RuntimeError(result.stdout + result.stderr)
    return read_run(output_dir)


def read_run(folder: Path) -> Run:
    """Reads a run's log, scores and the weights of its last checkpoint."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    results = json.loads((folder / "all_results.json").read_text())
    scores = {
        name: value
        for name, value in results.items()
        if name.startswith(("eval_", "test_")) and isinstance(value, float | int) and "seconds" not in name
    }
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    shares = last / WEIGHT_SHARES
    weights = read_shares(shares) if shares.is_dir() else load_file(last / "model.safetensors")
    return Run(folder, losses, scores, weights)


def compare(one: Run, other: Run) -> dict[str, float | bool]:
    """Compares two runs of the same updates.

    Returns:
        The largest relative differences of the losses of an update and of a score, the largest difference of a weight,
        and whether all weights have the same bits.
    """
    assert len(one.losses) == len(other.losses) and one.scores.keys() == other.scores.keys()
    assert one.weights.keys() == other.weights.keys()
    return {
        "loss": max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True)),
        "scores": max(abs(value - other.scores[name]) / max(abs(value), 1e-9) for name, value in one.scores.items()),
        "weights": max(float((tensor - other.weights[name]).abs().max()) for name, tensor in one.weights.items()),
        "same_bits": all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()),
    }


def measure_process_counts(recipe: str, folder: Path, updates: int = 50) -> dict[str, dict[str, float | bool]]:
    """Compares a run in one process with runs in 2 and 4, and the one in 2 with its repetition and with FSDP2.

    Args:
        recipe: one of `SIZES`.
        folder: an empty folder for data and runs.
        updates: number of updates of each run.

    Returns:
        What `compare` returns, by the pair of runs.
    """
    write_data(folder / "data")
    one, two, four = (
        train(recipe, folder / "data", folder / f"{recipe}_{count}", count, updates) for count in (1, 2, 4)
    )
    again = train(recipe, folder / "data", folder / f"{recipe}_2_again", 2, updates)
    sharded = train(recipe, folder / "data", folder / f"{recipe}_2_sharded", 2, updates, sharded=True)
    return {
        "1 and 2": compare(one, two),
        "1 and 4": compare(one, four),
        "2 and 2 again": compare(two, again),
        "2 and 2 sharded": compare(two, sharded),
    }


def measure_resuming(recipe: str, folder: Path, updates: int = 50) -> dict[str, dict[str, float | bool]]:
    """Compares a run in one process with two that resume from 2 to 4 processes and to 1, the second with FSDP2.

    Returns:
        What `compare` returns, by the pair of runs.
    """
    write_data(folder / "data")
    whole = train(recipe, folder / "data", folder / f"{recipe}_whole", 1, updates)
    # The same settings each time but for the length. The record of the run keeps the batches of an update.
    same = ["--gradient_accumulation_steps", str(BATCHES_PER_UPDATE // 2), "--eval_steps", str(max(1, updates // 2))]
    figures = {}
    for sharded in (False, True):
        ending = " sharded" if sharded else ""
        resized = folder / f"{recipe}_resized{ending.replace(' ', '_')}"
        for processes, until in ((2, updates // 3), (4, 2 * updates // 3), (1, updates)):
            train(recipe, folder / "data", resized, processes, until, *same, sharded=sharded)
        figures[f"1 and 2 to 4 to 1{ending}"] = compare(whole, read_run(resized))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["translation", "pretraining", "finetuning"])
    parser.add_argument("--updates", type=int, default=50)
    arguments = parser.parse_args()
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure_process_counts(recipe, Path(folder), arguments.updates)
            figures |= measure_resuming(recipe, Path(folder), arguments.updates)
        for runs, values in figures.items():
            shown = "  ".join(f"{name} {value:.2g}" for name, value in values.items() if name != "same_bits")
            shown += f"  {'the same bits' if values['same_bits'] else 'other bits'}"
            print(f"{recipe}, {runs} processes: {shown}", flush=True)


if __name__ == "__main__":
    main()
