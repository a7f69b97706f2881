"""Faults of real runs: killed, stopped, damaged, without disk space, without power.

    python tests/fault_tests.py                  # all of them, about half an hour on 2 cores
    python tests/fault_tests.py kill --rounds 6  # one of them, shorter

Every test runs the recipes as a user does, in processes of their own with small models and files made on the spot,
repeats the same command until it ends well, and compares what it leaves with a run that nothing happened to: weights
bit for bit, scores, and every line of the log once. `full_disk` and `power_cut` mount file systems, which needs root.
The program ends with 1 if anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
FIRST_LINE_OF_TRAINING = "a log line every"
UPDATES, EVAL_STEPS, SAVE_STEPS = 150, 50, 5
COMMON = (
    f"--max_steps {UPDATES} --eval_steps {EVAL_STEPS} --save_steps {SAVE_STEPS} --save_total_limit 3 "
    "--logging_steps 7 --bf16 false --warmup_steps 2"
).split()
TRANSLATION = (
    "--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300 --num_beams 2 "
    "--max_new_tokens 8 --max_tokens_per_batch 200 --readout_dropout 0.2 --bpe_dropout 0.1"
).split()
PRETRAINING = (
    "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --max_position_embeddings 32 --num_merges 100 "
    "--per_device_train_batch_size 4 --max_eval_blocks 8 --sample_new_tokens 5 --residual_dropout 0.1"
).split()
FINETUNING = "--per_device_train_batch_size 8 --learning_rate 1e-2 --classifier_dropout 0.2".split()


class Running:
    """A recipe in a process group of its own, whose output is collected."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                **{"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
                "PYTHONUNBUFFERED": "1",
            },
            start_new_session=True,
        )
        self.started, self.training_started, self.lines = time.perf_counter(), 0.0, list[str]()
        self.trains = threading.Event()  # or has ended
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if FIRST_LINE_OF_TRAINING in line and not self.trains.is_set():
                self.training_started = time.perf_counter()
                self.trains.set()
        self.trains.set()

    def send(self, number: int) -> None:
        """Sends a signal to the process and its children, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, seconds: float = 600) -> int | None:
        """Waits until the run ends and returns its status; None if it has not ended after some seconds."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(30)
        return status

    def wait_for_moment(self, generator: random.Random, recipe: "Recipe") -> int | None:
        """Waits for a random moment, mostly of training, and returns the status if the run ends before."""
        if generator.random() < 0.2:
            return self.wait(generator.uniform(0, recipe.seconds))
        self.trains.wait(600)
        return self.wait(generator.uniform(0, 0.7 * recipe.training_seconds))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def last_lines(self) -> str:
        return " | ".join(self.output.strip().splitlines()[-3:])


@dataclass
class Recipe:
    """A command without its output folder, and how long it takes when nothing happens."""

    name: str
    arguments: list[str]
    reference: Path
    seconds: float = 0.0
    training_seconds: float = 0.0

    def start(self, folder: Path, *further: str, processes: int = 1) -> Running:
        """Starts the recipe."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), str(ROOT / "recipes" / self.arguments[0])]
        return Running([*command, *self.arguments[1:], "--output_dir", str(folder), *further])

    def run(self, folder: Path, *further: str, processes: int = 1) -> Running:
        """Runs the recipe to its end."""
        running = self.start(folder, *further, processes=processes)
        running.wait()
        return running


def prepare(folder: Path) -> dict[str, Recipe]:
    """Writes the data and makes the uninterrupted runs of all three recipes."""
    sizes = {"train": 150, "validation": 11, "test": 7}
    generator = random.Random(0)
    for split, count in sizes.items():
        lines = [
            " ".join(f"word{generator.randrange(9)}" for _ in range(generator.randint(1, 12))) for _ in range(count)
        ]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("word", "wort") for line in lines) + "\n")
        (folder / f"{split}.txt").write_text("\n\n".join(lines * 8) + "\n")
        rows = [f"{line},{'good' if 'word1' in line else 'bad'}" for line in lines]
        (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")

    def files(suffix: str, *splits: str) -> list[str]:
        return [part for split in splits for part in (f"--{split}_file", str(folder / f"{split}{suffix}"))]

    presets = ROOT / "recipes" / "presets"
    pretrained = folder / "pretraining"
    recipes = {
        "translation": ["train_translation.py", str(presets / "numbers" / "bahdanau.yaml"), "--dataset_name", "none"]
        + [*TRANSLATION, *COMMON, *files("", "train", "validation", "test")],
        "pretraining": ["pretrain_gpt1.py", str(presets / "stories" / "gpt1_mini.yaml"), "--dataset_name", "none"]
        + [*PRETRAINING, *COMMON, *files(".txt", "train", "validation")],
        "finetuning": ["finetune_gpt1.py", "--model_name_or_path", str(pretrained)]
        + [*FINETUNING, *COMMON, *files(".csv", "train", "validation", "test")],
    }
    prepared = {}
    for name, arguments in recipes.items():
        recipe = prepared[name] = Recipe(name, arguments, folder / name)
        running = recipe.run(recipe.reference)
        if running.process.returncode:
            raise RuntimeError(f"The uninterrupted run of {name} fails:\n{running.output}")
        ended = time.perf_counter()
        recipe.seconds, recipe.training_seconds = ended - running.started, ended - running.training_started
        print(
            f"{name}: an uninterrupted run takes {recipe.seconds:.1f} s, {recipe.training_seconds:.1f} s of training",
            flush=True,
        )
    return prepared


def differences(folder: Path, recipe: Recipe) -> list[str]:
    """Returns in what a finished run differs from the uninterrupted one."""
    reference, found = recipe.reference, []
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, reference))
    if weights.keys() != expected.keys() or not all(torch.equal(weights[name], expected[name]) for name in weights):
        found.append("the weights differ")
    if log_lines(folder) != log_lines(reference):
        found.append("the log differs")
    results, expected_results = (
        untimed(json.loads((path / "all_results.json").read_text())) for path in (folder, reference)
    )
    found += [f"{name} differs" for name in expected_results if results.get(name) != expected_results[name]]
    left = {path.name for path in folder.iterdir()} - {path.name for path in reference.iterdir()}
    if left:
        found.append(f"left over: {', '.join(sorted(left))}")
    if not (folder / "README.md").is_file():
        found.append("there is no card")
    samples = [path / "samples.txt" for path in (folder, reference)]
    if samples[1].is_file() and samples[0].read_bytes() != samples[1].read_bytes():
        found.append("samples.txt differs")
    return found


def untimed(values: dict) -> dict:
    """Returns results without what the clock decides."""
    timed = ("seconds", "per_second", "utilization", "wall")
    return {name: value for name, value in values.items() if not any(word in name for word in timed)}


def log_lines(folder: Path) -> list[dict]:
    """Returns the log's lines without what the clock decides."""
    return [untimed(json.loads(line)) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def newest_update(folder: Path) -> int:
    """Returns the update of the newest checkpoint, 0 if there is none."""
    paths = [*folder.glob("checkpoint-*"), *folder.glob("recovery-*")]
    return max((int(path.name.rpartition("-")[2]) for path in paths), default=0)


def until_done(recipe: Recipe, folder: Path, further: tuple[str, ...] = ()) -> list[str]:
    """Repeats the command once and returns what is wrong with what it leaves."""
    running = recipe.run(folder, *further)
    if running.process.returncode:
        return [f"ends with {running.process.returncode}: {running.last_lines}"]
    return differences(folder, recipe)


def kill(recipes: dict[str, Recipe], folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """SIGKILL at random moments, several times a run; the same command is repeated until it ends by itself."""
    generator, kills, run = random.Random(seed), 0, 0
    while kills < rounds:
        recipe = list(recipes.values())[run % len(recipes)]
        target, updates = folder / f"kill_{run}", []
        for _ in range(min(4, rounds - kills)):
            running = recipe.start(target)
            if running.wait_for_moment(generator, recipe) is not None:
                break
            running.send(signal.SIGKILL)
            running.wait()
            kills += 1
            updates.append(newest_update(target))
        yield f"{recipe.name}, killed with checkpoints of updates {updates}", until_done(recipe, target)
        shutil.rmtree(target)
        run += 1


def stop(recipes: dict[str, Recipe], folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """SIGTERM at random moments, with one process and with two: nothing of the finished updates is lost."""
    generator = random.Random(seed)
    for index in range(rounds):
        recipe = list(recipes.values())[index // 2 % len(recipes)]
        processes, target, problems = 1 + index % 2, folder / f"stop_{index}", []
        running = recipe.start(target, processes=processes)
        stopped = running.wait_for_moment(generator, recipe) is None
        if stopped:
            with contextlib.suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGTERM)
            running.wait()
        said = [line for line in running.lines if "Stopped after update" in line]
        update = int(said[0].split("Stopped after update ")[1].split(".")[0]) if said else None
        if said and update != newest_update(target):
            problems.append(f"says update {update}, but update {newest_update(target)} is saved")
        if stopped and processes == 1 and running.process.returncode not in (143, -signal.SIGTERM):
            problems.append(f"ends with {running.process.returncode}: {running.last_lines}")
        if "Traceback" in running.output and processes == 1:
            problems.append(f"shows a traceback: {running.output}")
        again = recipe.run(target, processes=processes)
        if again.process.returncode:
            problems.append(f"ends with {again.process.returncode}: {again.last_lines}")
        elif processes == 1:
            problems += differences(target, recipe)
        where = f"stopped after update {update}" if said else "stopped outside training" if stopped else "not stopped"
        yield f"{recipe.name}, {processes} process{'es' if processes > 1 else ''}, {where}", problems
        shutil.rmtree(target, ignore_errors=True)


def unfinished(recipe: Recipe, folder: Path, after: int) -> None:
    """Runs a recipe until it has a checkpoint of an update, then kills it."""
    running = recipe.start(folder)
    while newest_update(folder) < after and running.process.poll() is None:
        time.sleep(0.01)
    running.send(signal.SIGKILL)
    running.wait()


def flip(path: Path) -> None:
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "cut to a half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
    "overwritten": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}
DAMAGED_FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "training_state/optimizer.safetensors",
    "training_state/progress.json",
    "training_state/manifest.json",
)


def damage(recipes: dict[str, Recipe], folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Damage to a file of the newest checkpoint, the record and the log: found, named, and training continues."""
    recipe, original = recipes["translation"], folder / "unfinished"
    unfinished(recipe, original, after=2 * EVAL_STEPS)
    newest = f"checkpoint-{newest_update(original)}"
    cases = [(f"{newest}/{name}", kind) for name in DAMAGED_FILES for kind in DAMAGES]
    cases += [("train_log.jsonl", "a last line cut"), ("run.yaml", "emptied"), ("run.yaml", "cut to a half")]
    random.Random(seed).shuffle(cases)
    for name, kind in cases[:rounds]:
        target = folder / "damaged"
        shutil.copytree(original, target)
        path = target / name
        if kind == "a last line cut":
            os.truncate(path, path.stat().st_size - 5)
        else:
            DAMAGES[kind](path)
        running = recipe.run(target)
        status, output = running.process.returncode, running.output
        problems = [f"ends with {status}: {running.last_lines}"] if status else differences(target, recipe)
        if kind == "a last line cut" and not status:
            # The line is lost; the others are there once.
            lines, expected = log_lines(target), log_lines(recipe.reference)
            if [line for line in expected if line in lines] == lines and len(lines) == len(expected) - 1:
                problems.remove("the log differs")
        if newest in name and newest not in output:
            problems.append("the damaged checkpoint is not named")
        if "Traceback" in output:
            problems.append("shows a traceback")
        yield f"{name} {kind}", problems
        shutil.rmtree(target)


@contextlib.contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    """Mounts a file system."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def full_disk(recipes: dict[str, Recipe], folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """A file system of rising size: full at every write of a run, then enlarged, and the same command continues."""
    for index in range(rounds):
        recipe = list(recipes.values())[index % len(recipes)]
        needed = sum(path.stat().st_size for path in recipe.reference.rglob("*") if path.is_file()) // 1024
        size = max(16, int(needed * 1.3 * (index + 1) / (rounds + 1)))
        with mounted("-t", "tmpfs", "-o", f"size={size}k", "tmpfs", at=folder / "small") as small:
            target, problems = small / "run", []
            running = recipe.run(target)
            status, output = running.process.returncode, running.output
            if status:
                if "Traceback" in output or not ("space" in output and str(small) in output):
                    problems.append(f"the message does not name the file and the lack of space: {running.last_lines}")
                subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
                problems += until_done(recipe, target)
            else:
                problems += differences(target, recipe)
            yield f"{recipe.name} on {size} kB: {'full' if status else 'enough'}", problems


def power_cut(recipes: dict[str, Recipe], folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """The disk as it is at a random moment, without what was not yet flushed: a whole checkpoint is on it."""
    generator = random.Random(seed)
    for index in range(rounds):
        recipe = list(recipes.values())[index % len(recipes)]
        image, cut, problems = folder / "disk.img", folder / "cut.img", []
        with image.open("wb") as file:
            file.truncate(100 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        # Names are written every second, contents that nobody flushed after half a minute.
        with mounted("-o", "loop,commit=1", str(image), at=folder / "disk") as disk:
            running = recipe.start(disk / "run")
            running.trains.wait(600)
            running.wait(generator.uniform(0, recipe.training_seconds))
            running.send(signal.SIGSTOP)
            saved = newest_update(disk / "run")
            shutil.copyfile(image, cut)
            running.send(signal.SIGKILL)
            running.wait()
        with mounted("-o", "loop", str(cut), at=folder / "disk") as disk:
            kept = newest_update(disk / "run")
            if kept < saved:
                problems.append(f"the checkpoint of update {saved} was written, that of update {kept} is on the disk")
            problems += until_done(recipe, disk / "run")
        yield f"{recipe.name}, cut at update {saved}", problems


TESTS = {
    "kill": (kill, 50),
    "stop": (stop, 20),
    "damage": (damage, 33),
    "full_disk": (full_disk, 24),
    "power_cut": (power_cut, 10),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help=f"tests to run, of {', '.join(TESTS)}; default: all")
    parser.add_argument("--rounds", type=int, help="faults of each test; default: the number that the documents name")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments; default: 0")
    arguments = parser.parse_args()
    unknown = set(arguments.tests) - TESTS.keys()
    if unknown:
        parser.error(f"there is no test {', '.join(sorted(unknown))}; choose from {', '.join(TESTS)}")
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipes = prepare(folder)
        for chosen in arguments.tests or TESTS:
            test, rounds = TESTS[chosen]
            if chosen in ("full_disk", "power_cut") and os.geteuid() != 0:
                print(f"{chosen}: skipped, as mounting a file system needs root", flush=True)
                continue
            good = total = 0
            for what, problems in test(recipes, folder, arguments.rounds or rounds, arguments.seed):
                print(f"{chosen}: {what}: {'; '.join(problems) or 'equal to the uninterrupted run'}", flush=True)
                total, good = total + 1, good + (not problems)
            print(f"{chosen}: {good} of {total} as they should be", flush=True)
            failed += total - good
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
