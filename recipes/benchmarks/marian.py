"""transformers' `MarianMTModel` as a contender of `benchmark.py`."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.common import (
    DECODING_BATCH_SIZE,
    check_transplantable,
    forced_length,
    length_penalty_of,
    measure_decoding,
    renamed,
    transformer_config,
    translator_utilization,
)
from papers_to_gpt.benchmarks.workload import Stopwatch, count_padded
from papers_to_gpt.settings.benchmarking import Workload


def marian_of_size(config: Any) -> nn.Module:
    """Returns a new `MarianMTModel` of the sizes of our Transformer's configuration."""
    from transformers import MarianConfig, MarianMTModel

    same = """vocab_size d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads
        encoder_ffn_dim decoder_ffn_dim activation_function max_position_embeddings dropout attention_dropout
        activation_dropout pad_token_id bos_token_id eos_token_id decoder_start_token_id""".split()
    sizes = {name: getattr(config, name) for name in same}
    return MarianMTModel(MarianConfig(**sizes, scale_embedding=True, forced_eos_token_id=None))


def train_marian(work: Workload, folder: Path, bf16: bool, compiled: bool = False) -> dict[str, Any]:
    """Clocks the training of a `MarianMTModel` with `Seq2SeqTrainer`; `items` are target tokens."""
    from datasets import load_from_disk
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
        set_seed,
    )

    watch, counts = Stopwatch(device=work.device), []
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(42)
    model = marian_of_size(transformer_config(work, len(tokenizer)))
    pad = DataCollatorForSeq2Seq(tokenizer, model=model)

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(examples)
        counts.append(count_padded(batch["input_ids"], batch["labels"], tokenizer.pad_token_id, -100))
        return batch

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == work.warm_up_updates:
                watch.start()
            elif state.global_step == work.warm_up_updates + work.updates:
                watch.stop()

    with tempfile.TemporaryDirectory() as output_dir:
        arguments = Seq2SeqTrainingArguments(
            output_dir,
            per_device_train_batch_size=work.marian_batch_size,
            label_smoothing_factor=0.1,
            max_steps=work.warm_up_updates + work.updates,
            bf16=bf16,
            use_cpu=not work.is_on_gpu,
            torch_compile=compiled,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        train = load_from_disk(folder / "train").select_columns(["input_ids", "labels"])
        Seq2SeqTrainer(model, arguments, train_dataset=train, data_collator=collate, callbacks=[Clock()]).train()
    # The loader collates one batch in advance, so the last count may belong to a batch that no update read.
    for target_tokens, tokens, slots in counts[work.warm_up_updates :][: work.updates]:
        watch.count(target_tokens, tokens, slots)
    return watch.result(model) | translator_utilization(work, watch, model)


# Marian's names of our modules, in the order of replacement.
MARIAN_NAMES = {
    "cross_attention_add_norm.norm": "encoder_attn_layer_norm",
    "self_attention_add_norm.norm": "self_attn_layer_norm",
    "feed_forward_add_norm.norm": "final_layer_norm",
    "cross_attention": "encoder_attn",
    "self_attention": "self_attn",
    "feed_forward.inner": "fc1",
    "feed_forward.outer": "fc2",
}


def marian_with_weights(model: nn.Module) -> nn.Module:
    """Returns a `MarianMTModel` with the weights of our Transformer, which computes the same."""
    check_transplantable(model.config)
    marian = marian_of_size(model.config)
    weights = {renamed(name, MARIAN_NAMES): tensor for name, tensor in model.state_dict().items()}
    # Marian's position table orders its columns differently; ours replaces it.
    for stack in ("encoder", "decoder"):
        weights[f"model.{stack}.embed_positions.weight"] = getattr(model.model, stack).embed_positions.table
    missing, unexpected = marian.load_state_dict(weights, strict=False)
    # model.shared is tied to the embeddings that were loaded, and the bias of the logits stays zero.
    assert not unexpected and set(missing) <= {"model.shared.weight", "final_logits_bias"}, (missing, unexpected)
    return marian.eval()


def decode_marian(work: Workload, folder: Path, num_beams: int) -> dict[str, Any]:
    """Clocks the translation of the test sentences with Marian's `generate()`; `items` are sentences."""
    from seq2seq_scratch.batch_search import TOKENS_BEYOND_SOURCE
    from seq2seq_scratch.translation import load_translator

    model, tokenizer, _ = load_translator(work.model_name_or_path)
    marian = marian_with_weights(model).to(work.device)
    search = {"num_beams": num_beams}
    if num_beams > 1:
        search["length_penalty"] = length_penalty_of(model.generation_config)
    del model

    @torch.inference_mode()
    def translate_all(sentences: list[str]) -> list[str]:
        translations = []
        for start in range(0, len(sentences), DECODING_BATCH_SIZE):
            batch = tokenizer(sentences[start : start + DECODING_BATCH_SIZE], padding=True, return_tensors="pt")
            batch = batch.to(work.device)
            limit = {"max_new_tokens": batch["input_ids"].shape[1] + TOKENS_BEYOND_SOURCE} | forced_length(work)
            output = marian.generate(**batch, **search, **limit)
            translations += tokenizer.batch_decode(output, skip_special_tokens=True)
        return translations

    return measure_decoding(work, folder, marian, tokenizer, translate_all, batch_sentences=DECODING_BATCH_SIZE)
