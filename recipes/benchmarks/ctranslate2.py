"""CTranslate2 as a contender of `benchmark.py`, with the weights of our models.

The weights are exported before the rounds, in a process of their own, as `export.py` does, which also compares the
export with the model. The `MarianMTModel` with the same weights is converted by CTranslate2's own code for models of
transformers. A measured process loads the finished folder with CTranslate2's own classes. Where CTranslate2 leaves a
choice, the benchmark chooses in its favour: each thread is a worker with batches of its own, which was faster
than several threads at one batch, and `ctranslate2_tokens_per_batch` was tuned for it.
"""

from pathlib import Path
from typing import Any

import torch

from papers_to_gpt.benchmarks.common import length_penalty_of, measure_decoding
from papers_to_gpt.benchmarks.gpts import gpt
from papers_to_gpt.benchmarks.marian import marian_with_weights
from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload


def exported(folder: Path, model: str, quantization: str) -> Path:
    """Returns the folder of the export of a model, "translator", "marian" or "gpt"."""
    return folder / f"ctranslate2-{model}-{quantization}"


def export_once(model: str | Path, target: Path, quantization: str) -> None:
    """Exports a model and compares the two, unless the folder is there."""
    from papers_to_gpt.exporting.export import run
    from papers_to_gpt.settings.exporting import ExportSettings

    if not target.exists():
        run(ExportSettings(str(model), format="ctranslate2", output_dir=str(target), quantization=quantization))


def export_translator(work: Workload, folder: Path, quantization: str) -> dict[str, Any]:
    """Exports the Transformer that all contenders decode with."""
    export_once(work.model_name_or_path, exported(folder, "translator", quantization), quantization)
    return {}


def export_marian(work: Workload, folder: Path, quantization: str) -> dict[str, Any]:
    """Converts the `MarianMTModel` with the weights of the Transformer that all contenders decode with.

    CTranslate2's loader of Marian's models is its loader of BART without the norm of embeddings, for a vocabulary that
    ends with the padding and a decoder that starts from zeros. Neither is so with our weights: the vocabulary ends
    with a subword, and the decoder starts with a token. So the loader of BART reads them.
    """
    from ctranslate2.converters.transformers import BartLoader

    from seq2seq_scratch.tokenization import save_tokenizers
    from seq2seq_scratch.translation import load_translator

    target = exported(folder, "marian", quantization)
    if target.exists():
        return {}
    model, *tokenizers = load_translator(work.model_name_or_path)
    marian = marian_with_weights(model.float())
    marian.config.normalize_before = marian.config.normalize_embedding = False
    with torch.no_grad():
        spec = BartLoader()(marian, tokenizers[1])
    spec.validate()
    spec.optimize(quantization=quantization)
    target.mkdir()
    spec.save(str(target))
    save_tokenizers(target, *tokenizers)
    model.generation_config.save_pretrained(target)
    return {}


def decode_ctranslate2(
    work: Workload, folder: Path, num_beams: int, quantization: str, model: str = "translator"
) -> dict[str, Any]:
    """Clocks the translation of the test sentences with CTranslate2; `items` are sentences.

    The search is CTranslate2's own, whose scores divide by another power of the length than ours, so some translations
    by beams differ from those of our models.

    Args:
        work: the number of sentences and their length.
        folder: the prepared data and exports.
        num_beams: 1 for greedy search.
        quantization: that of the export.
        model: "translator", our Transformer, or "marian".
    """
    import ctranslate2
    from transformers import GenerationConfig

    from seq2seq_scratch.batch_search import TOKENS_BEYOND_SOURCE
    from seq2seq_scratch.tokenization import load_tokenizers

    export = exported(folder, model, quantization)
    source_tokenizer, target_tokenizer = load_tokenizers(export)
    saved = GenerationConfig.from_pretrained(export)
    engine = ctranslate2.Translator(str(export), inter_threads=torch.get_num_threads(), intra_threads=1)
    search: dict[str, Any] = {"beam_size": num_beams, "max_batch_size": work.ctranslate2_tokens_per_batch}
    if num_beams > 1:
        search["length_penalty"] = length_penalty_of(saved)

    def translate_all(sentences: list[str]) -> list[str]:
        ids = source_tokenizer(sentences, verbose=False)["input_ids"]
        shortest, longest = 0, max(map(len, ids)) + TOKENS_BEYOND_SOURCE
        if work.output_tokens is not None:
            shortest = longest = work.output_tokens
        results = engine.translate_batch(
            [source_tokenizer.convert_ids_to_tokens(row) for row in ids],
            **search,
            batch_type="tokens",
            max_input_length=0,
            min_decoding_length=shortest,
            max_decoding_length=longest,
        )
        found = [target_tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        return target_tokenizer.batch_decode(found, skip_special_tokens=True)

    batch = {"batch_tokens": work.ctranslate2_tokens_per_batch}
    return measure_decoding(work, folder, None, target_tokenizer, translate_all, **batch)


def export_gpt(work: Workload, folder: Path, quantization: str) -> dict[str, Any]:
    """Exports the GPT that `generate` runs, whose weights are random, with a vocabulary of numbers as words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(number): number for number in range(work.gpt_vocab_size)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    torch.manual_seed(42)
    model = folder / "gpt"
    gpt(work, "ours").save_pretrained(model)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(model)
    export_once(model, exported(folder, "gpt", quantization), quantization)
    return {}


def generate_ctranslate2(work: Workload, folder: Path, batch_size: int, quantization: str) -> dict[str, Any]:
    """Clocks greedy generation after random prompts; `items` are generated tokens.

    Several texts are shared among as many workers as there are threads; one text gets all threads.
    """
    import ctranslate2

    threads = torch.get_num_threads()
    workers = min(batch_size, threads)
    engine = ctranslate2.Generator(
        str(exported(folder, "gpt", quantization)), inter_threads=workers, intra_threads=threads // workers
    )
    torch.manual_seed(42)
    prompts = torch.randint(work.gpt_vocab_size, (batch_size, work.prompt_tokens)).tolist()
    for new_tokens in (min(8, work.new_tokens), work.new_tokens):
        watch = Stopwatch()
        watch.start()
        results = engine.generate_batch(
            [list(map(str, prompt)) for prompt in prompts],
            max_batch_size=-(-batch_size // workers),
            min_length=new_tokens,
            max_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        watch.stop()
        assert all(len(result.sequences_ids[0]) == new_tokens for result in results)
    watch.count(batch_size * work.new_tokens)
    return watch.result(None)
