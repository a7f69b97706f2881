"""Continues text with a trained GPT-1."""

import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging as transformers_logging

import gpt1_scratch  # noqa: F401  registers the model
from gpt1_scratch.data.text_lines import is_terminal, numbered_lines, open_output, read_lines
from gpt1_scratch.data.visible_text import has_visible_text
from papers_to_gpt.engine.compiling import CompiledSteps
from papers_to_gpt.engine.hardware import processor_has_bf16
from papers_to_gpt.engine.model_folder import CLASSIFIER, LANGUAGE_MODEL, check_folder, check_vocabulary, is_export
from papers_to_gpt.engine.quantization import check_quantization, quantize
from papers_to_gpt.exporting.ctranslate2_engine import sampling_options
from papers_to_gpt.exporting.ctranslate2_generator import ExportedGenerator
from papers_to_gpt.exporting.loading import load_exported_generator
from papers_to_gpt.settings.generation import GenerationSettings

logger = logging.getLogger(__name__)


def run(settings: GenerationSettings) -> None:
    """Continues the prompts of the settings, of standard input, or typed at a terminal."""
    transformers_logging.disable_progress_bar()
    check_quantization(settings.quantization, [settings.model_name_or_path])
    if is_export(settings.model_name_or_path):
        exported, tokenizer = load_exported_generator(settings)
        continue_prompts(exported, tokenizer, settings)
        return
    check_folder(settings.model_name_or_path, settings.trust_remote_code, (LANGUAGE_MODEL, CLASSIFIER))
    source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    bf16 = processor_has_bf16() and not settings.quantization if settings.bf16 is None else settings.bf16
    # Generation spends its time reading the weights, and half the bytes take half the time.
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        settings.model_name_or_path, dtype=dtype, use_safetensors=True, **source
    )
    tokenizer = AutoTokenizer.from_pretrained(settings.model_name_or_path, **source)
    check_vocabulary(tokenizer, model.config.vocab_size, settings.model_name_or_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    quantize(model, settings.quantization)
    continue_prompts(model, tokenizer, settings)


def continue_prompts(
    model: PreTrainedModel | ExportedGenerator, tokenizer: PreTrainedTokenizerBase, settings: GenerationSettings
) -> None:
    """Continues the prompts one by one, with the seed of the settings at the start."""
    if settings.seed is not None:
        torch.manual_seed(settings.seed)
    generate = generate_exported if isinstance(model, ExportedGenerator) else generate_here
    if settings.torch_compile:
        generate = partial(generate_here, compiled=CompiledSteps(model))
    with open_output(None):
        for prompt in prompts(settings):
            continue_text(model, tokenizer, prompt, settings, generate)


def prompts(settings: GenerationSettings) -> Iterator[str]:
    """Yields the prompts one by one. At a terminal it waits for each to be typed."""
    if settings.prompt is not None:
        yield settings.prompt
    elif settings.prompt_file is not None:
        yield from read_lines(settings.prompt_file)
    elif is_terminal(sys.stdin):
        while True:
            try:
                yield input("> ")
            except EOFError:
                return
    else:
        yield "".join(line for _, line in numbered_lines(None))


class WordStreamer(BaseStreamer):
    """Prints text word by word while it is generated.

    A word is printed when the next one has begun, and the space behind it with that one. The library's `TextStreamer`
    prints the space at once. GPT-1's tokenizer removes it if the next tokens turn out to belong to the word: "they",
    "'" and "ll" are "they'll", of which the library would print "they ll".
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.printed = 0

    def put(self, value: torch.Tensor) -> None:
        """Adds tokens, of any shape."""
        self.ids += value.flatten().tolist()
        text = self._text()
        self._print(text, max(text.rfind(" "), text.rfind("\n")))

    def end(self) -> None:
        """Prints the last word and ends the line."""
        text = self._text()
        self._print(text, len(text))
        print(flush=True)

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True)

    def _print(self, text: str, end: int) -> None:
        if end > self.printed:
            print(text[self.printed : end], end="", flush=True)
            self.printed = end


@torch.inference_mode()
def continue_text(
    model: PreTrainedModel | ExportedGenerator,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerationSettings,
    generate: Callable[..., torch.Tensor | list[list[int]]],
) -> None:
    """Prints the prompt and its continuations. A single continuation is printed token by token.

    If a prompt leaves too few of the model's positions for new tokens, its beginning is cut off with a warning. A
    prompt without visible text gives empty lines. The continuation of a line of a file is one line too. `generate` is
    `generate_here` or `generate_exported`.
    """
    if not has_visible_text(prompt):
        print("\n" * settings.num_return_sequences, end="", flush=True)
        return
    ids = tokenizer(prompt, return_tensors="pt", verbose=False).input_ids
    positions = model.positions if isinstance(model, ExportedGenerator) else model.config.max_position_embeddings
    kept = max(1, positions - min(settings.max_new_tokens, positions // 2))
    if ids.shape[1] > kept:
        logger.warning(
            "The prompt has %d tokens and the model %d positions: only its last %d are read.",
            ids.shape[1],
            positions,
            kept,
        )
        ids = ids[:, -kept:]
    room = positions - ids.shape[1]
    if settings.max_new_tokens > room:
        logger.warning("max_new_tokens is %d; the model's positions end after %d.", settings.max_new_tokens, room)
    is_line = settings.prompt_file is not None
    single = settings.num_return_sequences == 1 and settings.num_beams == 1 and not is_line
    streamer = WordStreamer(tokenizer) if single else None
    output = generate(model, ids, min(settings.max_new_tokens, room), settings, streamer)
    if not single:
        for sequence in output:
            text = tokenizer.decode(sequence, skip_special_tokens=True)
            print(" ".join(text.split()) if is_line else text, flush=True)


def generate_here(
    model: PreTrainedModel,
    ids: torch.Tensor,
    max_new_tokens: int,
    settings: GenerationSettings,
    streamer: BaseStreamer | None,
    compiled: CompiledSteps | None = None,
) -> torch.Tensor:
    """Continues a prompt, (1, T), in PyTorch: returns (num_return_sequences, T + new tokens)."""
    ids = ids.to(model.device)
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return_sequences,
        do_sample=settings.do_sample,
        streamer=streamer,
        **(settings.sampling if settings.do_sample else {}),
        **(compiled.arguments() if compiled else {}),
    )


def generate_exported(
    model: ExportedGenerator,
    ids: torch.Tensor,
    max_new_tokens: int,
    settings: GenerationSettings,
    streamer: BaseStreamer | None,
) -> list[list[int]]:
    """Continues a prompt, (1, T), in CTranslate2, which samples without beams."""
    if settings.do_sample and settings.num_beams > 1:
        raise ValueError(
            f"do_sample is true and num_beams is {settings.num_beams}, but CTranslate2 samples without beams. Leave "
            "num_beams out, or set do_sample to false."
        )
    if streamer is not None:
        streamer.put(ids)
    sampling = sampling_options(len(model.tokenizer), **settings.sampling) if settings.do_sample else None
    output = model.generate(
        ids[0].tolist(),
        max_new_tokens,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return_sequences,
        sampling=sampling,
        on_token=None if streamer is None else lambda token: streamer.put(torch.tensor([token])),
    )
    if streamer is not None:
        streamer.end()
    return output
