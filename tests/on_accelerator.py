"""Trains, resumes, evaluates and decodes all four models on an accelerator and compares the results with the CPU.

    python tests/on_accelerator.py

The recipes train tiny models for a few updates on text made here, in fp32 and bf16. Where there is no accelerator,
nothing runs, the reason is printed and the exit code is 0. `--device cpu` compares the CPU with itself, which checks
this script. `--torch_compile` also trains every model compiled, and compiles the steps of GPT-1's generation and the
Transformer's decoder, which takes minutes more.
"""

import argparse
import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from killed_runs import forget_the_end
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, set_seed
from transformers.utils import logging as transformers_logging

RECIPES = Path(__file__).parents[1] / "recipes"

# Of losses, scores and weights, as a share of the largest: sums in another order, and eight bits of mantissa.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
# The same updates on the same device; kernels that add in any order leave the last digits open.
RESUME_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}

PRESETS = {
    "rnn_seq2seq": "numbers/rnn_seq2seq",
    "bahdanau": "numbers/bahdanau",
    "transformer": "numbers/transformer",
    "gpt1": "stories/gpt1_mini",
}
# Small, and without dropout, whose random numbers differ between devices.
SIZES = {
    "rnn_seq2seq": "--embedding_size 16 --hidden_size 32 --dropout 0",
    "bahdanau": "--embedding_size 16 --hidden_size 32 --attention_size 16 --maxout_size 16 --readout_dropout 0",
    "transformer": "--d_model 32 --encoder_ffn_dim 64 --decoder_ffn_dim 64 --dropout 0",
    "gpt1": "--hidden_size 32 --num_hidden_layers 2 --max_position_embeddings 32 --num_merges 100"
    " --per_device_train_batch_size 8 --max_eval_blocks 8 --sample_new_tokens 4",
}
# For runs that are compared with runs on the same device: the CPU's generators and the accelerator's both matter.
DROPOUT = {
    "rnn_seq2seq": ["--dropout=0.3"],
    "bahdanau": ["--readout_dropout=0.3"],
    "transformer": ["--dropout=0.3"],
    "gpt1": ["--residual_dropout=0.3", "--attention_dropout=0.3", "--embedding_dropout=0.3"],
}
TRANSLATION = "--vocab_size 300 --num_beams 2 --max_new_tokens 8 --max_tokens_per_batch 256"
UPDATES = """--max_steps 4 --eval_steps 2 --logging_steps 1 --warmup_steps 0 --lr_scheduler_type constant
    --learning_rate 1e-3 --save_total_limit 0"""


class Checks:
    """Prints a line for each comparison, and counts those that fail."""

    def __init__(self):
        self.failed = 0

    def compare(self, what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
        """Compares by the largest difference relative to the largest expected value; nan fails."""
        if found.shape != expected.shape:
            return self.hold(f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}", False)
        found, expected = found.double().cpu(), expected.double().cpu()
        difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
        self.hold(f"{what}: differs by {difference:.1e}, allowed {tolerance:.0e}", difference <= tolerance)

    def hold(self, what: str, holds: bool) -> None:
        """Checks that a statement is true."""
        self.failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)


def write_texts(folder: Path) -> None:
    """Writes line-aligned files of two languages; GPT-1 reads those of the first."""
    for split, count in (("train", 80), ("validation", 16), ("test", 8)):
        lines = [f"word{index % 7} and word{index % 5} or word{index % 3}" for index in range(count)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
        (folder / f"{split}.txt").write_text("\n\n".join(line.capitalize() + " ." for line in lines * 4))


def train(name: str, precision: str, on_cpu: bool, texts: Path, output_dir: Path, *more: str) -> None:
    """Runs the recipe in this process."""
    translates = name != "gpt1"
    preset = texts / f"{name}.yaml"
    lines = (RECIPES / "presets" / f"{PRESETS[name]}.yaml").read_text().splitlines(keepends=True)
    preset.write_text("".join(line for line in lines if not line.startswith("dataset_name")))
    script = "train_translation.py" if translates else "pretrain_gpt1.py"
    splits = ("train", "validation", "test") if translates else ("train", "validation")
    files = [f"--{split}_file={texts / split}{'' if translates else '.txt'}" for split in splits]
    settings = f"{SIZES[name]} {TRANSLATION if translates else ''} {UPDATES}".split()
    settings += ["--bf16", str(precision == "bf16").lower(), "--use_cpu", str(on_cpu).lower()]
    # The library keeps device and precision for the life of a process.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    sys.argv = [script, str(preset), *settings, *files, f"--output_dir={output_dir}", *more]
    runpy.run_path(str(RECIPES / script), run_name="__main__")


def losses(folder: Path) -> torch.Tensor:
    """Returns the losses of training and evaluation, in the order of the log."""
    lines = map(json.loads, (folder / "train_log.jsonl").read_text().splitlines())
    return torch.tensor([line["loss"] for line in lines if line["kind"] in ("train", "eval")])


def device_of(folder: Path) -> str:
    """Returns the device that a run was trained on, by its record."""
    return yaml.safe_load((folder / "run.yaml").read_text())["machine"]["device"]


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(folder / "model.safetensors").items())])


def resume(folder: Path) -> Path:
    """Returns a copy of a run in its state at the first checkpoint, for resuming."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}_resumed"))
    shutil.rmtree(copy / "checkpoint-4")
    (copy / "model.safetensors").unlink()
    forget_the_end(copy)
    return copy


@torch.inference_mode()
def log_probability(model, inputs: dict[str, torch.Tensor], sequences: torch.Tensor) -> torch.Tensor:
    """Returns the (B,) log probabilities of generated sequences, up to the first end token."""
    translates = model.config.is_encoder_decoder
    start = 1 if translates else inputs["input_ids"].shape[1]
    if translates:
        logits = model(**inputs, decoder_input_ids=sequences).logits
    else:
        logits = model(input_ids=sequences, attention_mask=torch.ones_like(sequences)).logits
    targets = sequences[:, start:]
    chosen = logits[:, start - 1 : -1].float().log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    ended = (targets == model.generation_config.eos_token_id).cumsum(dim=1) - (
        targets == model.generation_config.eos_token_id
    ).long()
    return chosen.masked_fill(ended > 0, 0.0).sum(dim=1)


def resume_with_dropout(checks: Checks, name: str, precision: str, texts: Path, on_cpu: bool, *known: str) -> None:
    """Compares a run with dropout with its repetition, and with itself when it is resumed.

    The generators of the accelerator are moved on before the run resumes, as they are in another process: what they
    give must follow from the checkpoint and the seed. Four updates move the weights by little, so what differs is
    compared with what dropout changes, on average, because Adam makes a whole step of a gradient that is rounding.
    """
    folder, again = (texts / f"{name}_{precision}_dropout{ending}" for ending in ("", "_again"))
    for each in (folder, again):
        train(name, precision, on_cpu, texts, each, *known, *DROPOUT[name])
    resumed = resume(folder)
    set_seed(1)  # every generator, that of the accelerator too
    torch.rand(7, device="cpu" if on_cpu else torch.accelerator.current_accelerator())
    train(name, precision, on_cpu, texts, resumed, *known, *DROPOUT[name], "--resume_from_checkpoint", "last")
    plain = texts / f"{name}_{precision}_accelerator"
    for kind, read in (("weights", weights), ("losses", losses)):
        whole = read(folder).double()
        changed = (read(plain) - whole).abs().mean().item()
        checks.hold(f"{name}, {precision}: dropout changes the {kind}, by {changed:.1e}", changed > 0)
        for what, other in (("repeated", again), ("resumed", resumed)):
            share = (read(other) - whole).abs().mean().item() / max(changed, 1e-12)
            sentence = f"{name}, {precision}, dropout: {what} {kind}: {share:.1e} of that, allowed 1e-01"
            checks.hold(sentence, share < 0.1)


def decode(checks: Checks, name: str, precision: str, folder: Path, device: torch.device) -> None:
    """Loads one folder on both devices and compares logits and searches."""
    auto_class = AutoModelForCausalLM if name == "gpt1" else AutoModelForSeq2SeqLM
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    there, here = (
        auto_class.from_pretrained(folder, trust_remote_code=True, dtype=dtype, device_map={"": place}).eval()
        for place in (device, torch.device("cpu"))
    )
    what, tolerance = f"{name}, {precision}", TOLERANCE[precision]
    checks.hold(
        f"{what}: device_map puts all weights on {device.type}",
        {each.device.type for each in there.parameters()} == {device.type},
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # GPT-1's prompts are equally long: its sequences are read again below, without padding.
    texts = ["word1 and word2", "word3 and word4"] if name == "gpt1" else ["word1", "word3 and word4 or word1"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    inputs_there = {key: tensor.to(device) for key, tensor in inputs.items()}
    targets = {} if name == "gpt1" else {"decoder_input_ids": inputs["input_ids"]}
    with torch.inference_mode():
        logits = there(**inputs_there, **{key: tensor.to(device) for key, tensor in targets.items()}).logits
        checks.compare(f"{what}: logits", logits, here(**inputs, **targets).logits, tolerance)
    # Of two tokens that are nearly as likely devices may choose either: what counts is how likely the CPU finds it.
    limits = {"max_new_tokens": 6, "do_sample": False}
    for search, beams in (("greedy search", 1), ("beam search", 3)):
        found = there.generate(**inputs_there, **limits, num_beams=beams).cpu()
        expected = here.generate(**inputs, **limits, num_beams=beams)
        scores = [log_probability(here, inputs, sequences) for sequences in (found, expected)]
        checks.compare(f"{what}: {search}", *scores, tolerance)
    sampled = []
    for _ in range(2):
        set_seed(0)
        sampled.append(there.generate(**inputs_there, max_new_tokens=6, do_sample=True, num_beams=1, top_k=5))
    checks.hold(f"{what}: sampling repeats itself with its seed", torch.equal(*sampled))
    probability = log_probability(here, inputs, sampled[0].cpu())
    checks.hold(f"{what}: sampled tokens are of the model's vocabulary", bool(probability.isfinite().all()))


@torch.inference_mode()
def decode_compiled(checks: Checks, name: str, precision: str, folder: Path, device: torch.device) -> None:
    """Compares the searches of a compiled GPT-1 or Transformer with those of the model as it is, on one device."""
    from papers_to_gpt.engine.compiling import CompiledSteps
    from papers_to_gpt.translation.decoding import compile_decoder

    auto_class = AutoModelForCausalLM if name == "gpt1" else AutoModelForSeq2SeqLM
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = auto_class.from_pretrained(folder, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [["word1 and word2", "word3 and word4"], ["word5", "word6"]]  # two lengths, and one in each batch
    batches = [tokenizer(texts, return_tensors="pt").to(device) for texts in prompts]
    batches = [{key: batch[key] for key in ("input_ids", "attention_mask")} for batch in batches]
    search = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1 if name == "gpt1" else 3}
    expected = [model.generate(**batch, **search) for batch in batches]
    scores = [log_probability(model, *pair) for pair in zip(batches, expected, strict=True)]
    steps = CompiledSteps(model) if name == "gpt1" else compile_decoder(model)
    for batch, score in zip(batches, scores, strict=True):
        found = model.generate(**batch, **search, **(steps.arguments() if steps else {}))
        what = f"{name}, {precision}: compiled search from {batch['input_ids'].shape[1]} tokens"
        checks.compare(what, log_probability(model, batch, found), score, TOLERANCE[precision])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=None, help="cuda, xpu, ... or cpu; default: the accelerator that there is")
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=list(PRESETS), help="default: all")
    parser.add_argument("--torch_compile", action="store_true", help="also train and decode with compiled models")
    arguments = parser.parse_args()
    asked = arguments.device
    if asked is None and not torch.accelerator.is_available():
        print("Skipped: there is no accelerator.")
        return 0
    device = torch.device(asked or torch.accelerator.current_accelerator())
    transformers_logging.disable_progress_bar()
    torch.backends.cudnn.allow_tf32 = False  # cuDNN's LSTM would keep ten bits of the factors of its products
    sys.path.insert(0, str(RECIPES))
    checks = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch)
        write_texts(texts)
        for name in arguments.models:
            for precision in ("fp32", "bf16"):
                on_cpu, there = (texts / f"{name}_{precision}_{place}" for place in ("cpu", "accelerator"))
                train(name, precision, True, texts, on_cpu)
                # Of pairs that are equally frequent either may be merged first: both runs take one vocabulary.
                known = ("--tokenizer_name", str(on_cpu))
                train(name, precision, device.type == "cpu", texts, there, *known)
                what, tolerance = f"{name}, {precision}", TOLERANCE[precision]
                trained_on = device_of(there)
                on_another = trained_on != device_of(on_cpu)
                checks.hold(f"{what}: trained on {trained_on}", on_another == (device.type != "cpu"))
                checks.compare(f"{what}: losses of training and evaluation", losses(there), losses(on_cpu), tolerance)
                again = resume(there)
                train(name, precision, device.type == "cpu", texts, again, *known, "--resume_from_checkpoint", "last")
                checks.compare(f"{what}: resumed weights", weights(again), weights(there), RESUME_TOLERANCE[precision])
                resume_with_dropout(checks, name, precision, texts, device.type == "cpu", *known)
                decode(checks, name, precision, on_cpu, device)
                if arguments.torch_compile:
                    compiled = texts / f"{name}_{precision}_compiled"
                    train(name, precision, device.type == "cpu", texts, compiled, *known, "--torch_compile", "true")
                    checks.compare(f"{what}: compiled training", losses(compiled), losses(on_cpu), tolerance)
                    if name in ("gpt1", "transformer"):
                        decode_compiled(checks, name, precision, on_cpu, device)
    print(f"{checks.failed} failed" if checks.failed else "All agree.")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
