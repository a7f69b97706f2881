"""Translators for `benchmark.py`: ours, transformers' `MarianMTModel`, JoeyNMT and eole.

All get the same sentence pairs and vocabulary, models of the same sizes, dropout 0.1 and label smoothing 0.1. How they
fill batches and step is theirs: ours run the recipe's loop, `MarianMTModel` the `Seq2SeqTrainer` of transformers'
translation example, JoeyNMT its `TrainManager`, eole its `Trainer`. Where a peer leaves a choice, it is made in the
peer's favour:

- `MarianMTModel` trains on 96 sentences at a time, padded about as much as a batch of the others holds; the example's
  command has 4.
- eole makes its batches in the process that trains, most of it before the clock starts; the default is two processes
  more, which would compete for the cores. Its bucket is the training set, of which a larger one holds copies.
- eole, like ours and `MarianMTModel`, drops no attention weights. JoeyNMT has one rate for all.
- JoeyNMT refuses half precision on CPUs. It gets the autocast region that it opens elsewhere.

To decode, all have the weights of one trained Transformer of ours, so that they look for the same sentences.

Each function imports what it needs, because peers are optional and nobody's memory should hold another's code.
"""

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark_workload import Stopwatch, Workload, count_padded

# Of Marian and JoeyNMT, whose default it is: test sentences translated together, in the order of the file.
DECODING_BATCH_SIZE = 64
# An update that no measurement reaches.
NEVER = 10**9


def transformer_config(work: Workload, vocab_size: int) -> Any:
    """Our Transformer of the size in question, with dropout 0.1."""
    from seq2seq_scratch import TransformerConfig

    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=work.d_model,
        encoder_layers=work.num_layers,
        decoder_layers=work.num_layers,
        encoder_attention_heads=work.num_heads,
        decoder_attention_heads=work.num_heads,
        encoder_ffn_dim=work.d_ff,
        decoder_ffn_dim=work.d_ff,
        dropout=0.1,
    )


def bahdanau_config(work: Workload, vocab_size: int) -> Any:
    """Our attention model of 2014, with dropout 0.1 wherever it has one."""
    from seq2seq_scratch import BahdanauConfig

    return BahdanauConfig(
        vocab_size=vocab_size,
        embedding_size=work.embedding_size,
        hidden_size=work.hidden_size,
        attention_size=work.hidden_size,
        maxout_size=work.hidden_size // 2,
        embedding_dropout=0.1,
        encoder_dropout=0.1,
        readout_dropout=0.1,
    )


class ClockedBatches:
    """Our trainer's batches under a stopwatch, epoch after epoch in one."""

    batches_per_epoch = None

    def __init__(self, batches: Any, watch: Stopwatch, work: Workload, padding: int):
        self.batches, self.watch, self.work, self.padding = batches, watch, work, padding

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        endless = itertools.chain.from_iterable(self.batches.epoch(number) for number in itertools.count())
        return self.watch.over(
            endless, self.work, lambda batch: count_padded(batch["input_ids"], batch["labels"], self.padding, -100)
        )


def run_recipe(
    work: Workload, folder: Path, make_config: Callable, output_dir: Path, updates: int, watch: Stopwatch | None = None
) -> nn.Module:
    """Trains a translator of ours as `train_translation.py` does, and leaves it in `output_dir`."""
    from accelerate.utils import set_seed
    from datasets import load_from_disk
    from transformers import AutoModelForSeq2SeqLM

    from engine.memory import FOR_BATCHES_OF_TOKENS, keep_compiled_code
    from engine.optimization import OptimizationSettings
    from engine.training import Trainer, make_accelerator
    from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers
    from train_translation import DataSettings, TranslationTraining, training_batches

    training = TranslationTraining(
        output_dir=str(output_dir),
        max_steps=updates,
        eval_steps=NEVER,
        label_smoothing_factor=0.1,
        bf16=True,
        use_cpu=True,
    )
    optimization = OptimizationSettings(
        optim="adam", adam_beta2=0.98, learning_rate=1e-3, lr_scheduler_type="inverse_sqrt", warmup_steps=100
    )
    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    accelerator = make_accelerator(training)
    set_seed(training.seed)
    tokenizers = load_tokenizers(folder)
    model = AutoModelForSeq2SeqLM.from_config(make_config(work, len(tokenizers[0])))
    data = DataSettings(max_tokens_per_batch=work.max_tokens_per_batch)
    batches = training_batches(load_from_disk(folder / "train"), tokenizers, 0.0, data, training, accelerator)

    def evaluate(model: nn.Module) -> dict[str, float]:
        # Called once, behind the last update: the trainer asks for no further batch.
        if watch is not None:
            watch.stop()
        return {"loss": 0.0}

    def save_model(target: Path) -> None:
        model.save_pretrained(target)
        save_tokenizers(target, *tokenizers)

    Trainer(
        accelerator,
        model,
        batches if watch is None else ClockedBatches(batches, watch, work, tokenizers[0].pad_token_id),
        training,
        optimization,
        evaluate=evaluate,
        save_model=save_model,
        loss_arguments={"smoothing": training.label_smoothing_factor},
    ).train()
    return model


def train_ours(work: Workload, folder: Path, make_config: Callable) -> dict[str, Any]:
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as output_dir:
        updates = work.warm_up_updates + work.updates
        model = run_recipe(work, folder, make_config, Path(output_dir), updates, watch)
    return watch.result(model)


def train_model_to_decode(work: Workload, folder: Path) -> dict[str, Any]:
    """Leaves a model in `folder / "model"` that has learned to end its sentences."""
    (folder / "model").mkdir()
    run_recipe(work, folder, transformer_config, folder / "model", work.decoding_updates)
    return {}


def marian_of_size(config: Any) -> nn.Module:
    """A new `MarianMTModel` of the sizes of our Transformer's configuration."""
    from transformers import MarianConfig, MarianMTModel

    same = """vocab_size d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads
        encoder_ffn_dim decoder_ffn_dim activation_function max_position_embeddings dropout attention_dropout
        activation_dropout pad_token_id bos_token_id eos_token_id decoder_start_token_id""".split()
    sizes = {name: getattr(config, name) for name in same}
    return MarianMTModel(MarianConfig(**sizes, scale_embedding=True, forced_eos_token_id=None))


def train_marian(work: Workload, folder: Path, bf16: bool) -> dict[str, Any]:
    from datasets import load_from_disk
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
        set_seed,
    )

    watch, counts = Stopwatch(), []
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
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        train = load_from_disk(folder / "train").select_columns(["input_ids", "labels"])
        Seq2SeqTrainer(model, arguments, train_dataset=train, data_collator=collate, callbacks=[Clock()]).train()
    # Batches are made one ahead, so the last counts may be of a batch that no update saw.
    for items, real, places in counts[work.warm_up_updates :][: work.updates]:
        watch.count(items, real, places)
    return watch.result(model)


def subwords(sentences: Sequence[str], tokenizer: Any) -> list[str]:
    """Sentences with spaces between their subwords, as JoeyNMT and eole read them."""
    rows = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    return [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in rows]


def write_vocabulary(path: Path, tokenizer: Any) -> None:
    """One entry a line in the order of their ids."""
    entries = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")


def joeynmt_settings(
    work: Workload, folder: Path, model_dir: str, model: dict[str, Any], splits: dict[str, str], **testing: Any
) -> Any:
    """JoeyNMT's settings, in the form of its YAML files and read by itself.

    Args:
        folder: of the vocabulary.
        splits: from `train`, `dev` or `test` to where the files' names begin.
        testing: the section of that name.
    """
    from joeynmt.config import parse_global_args

    side = {"level": "word", "lowercase": False, "voc_file": str(folder / "vocabulary.txt")}
    data = {"dataset_type": "plain", "src": side | {"lang": "source"}, "trg": side | {"lang": "target"}}
    training = {
        "optimizer": "adam",
        "adam_betas": [0.9, 0.98],
        "learning_rate": 1e-3,
        "learning_rate_min": 0.0,
        "learning_rate_warmup": 100,
        "scheduling": "warmupinversesquareroot",
        "normalization": "tokens",
        "label_smoothing": 0.1,
        "clip_grad_norm": 1.0,
        "batch_type": "token",
        "batch_size": work.max_tokens_per_batch,
        "epochs": 1,
        "validation_freq": NEVER,
        "logging_freq": NEVER,
    }
    return parse_global_args(
        {
            "name": "benchmark",
            "model_dir": model_dir,
            "use_cuda": False,
            "data": data | splits,
            "model": {"initializer": "xavier_uniform", "embed_initializer": "xavier_uniform", **model},
            "training": training,
            "testing": testing,
        },
        mode="train",
    )


def joeynmt_transformer(config: Any) -> dict[str, Any]:
    """JoeyNMT's Transformer of the sizes of our configuration."""

    def stack(side: str) -> dict[str, Any]:
        return {
            "type": "transformer",
            "num_layers": getattr(config, f"{side}_layers"),
            "num_heads": getattr(config, f"{side}_attention_heads"),
            "hidden_size": config.d_model,
            "ff_size": getattr(config, f"{side}_ffn_dim"),
            "embeddings": {"embedding_dim": config.d_model, "scale": True, "dropout": config.dropout},
            "dropout": config.dropout,
            "layer_norm": "post",
        }

    return {"encoder": stack("encoder"), "decoder": stack("decoder"), "tied_embeddings": True, "tied_softmax": True}


def joeynmt_recurrent(config: Any) -> dict[str, Any]:
    """JoeyNMT's GRU translator with Bahdanau's attention, of the sizes of our configuration."""
    common = {
        "type": "recurrent",
        "rnn_type": "gru",
        "hidden_size": config.hidden_size,
        "num_layers": 1,
        "embeddings": {"embedding_dim": config.embedding_size, "dropout": config.embedding_dropout},
        "dropout": config.encoder_dropout,
    }
    decoder = {"attention": "bahdanau", "init_hidden": "bridge", "hidden_dropout": config.readout_dropout}
    return {
        "encoder": common | {"bidirectional": True},
        "decoder": common | decoder,
        "tied_embeddings": True,
    }


def train_joeynmt(
    work: Workload, folder: Path, make_config: Callable, make_model: Callable, bf16: bool
) -> dict[str, Any]:
    from joeynmt.prediction import prepare
    from joeynmt.training import TrainManager

    watch = Stopwatch()
    vocab_size = len((folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")) - 1
    with tempfile.TemporaryDirectory() as model_dir:
        splits = {"train": str(folder / "train"), "dev": str(folder / "validation")}
        settings = joeynmt_settings(work, folder, model_dir, make_model(make_config(work, vocab_size)), splits)
        network, train_data, dev_data, _ = prepare(settings, rank=0, mode="train")
        manager = TrainManager(
            rank=0,
            model=network,
            model_dir=Path(model_dir),
            device=settings.device,
            autocast={"device_type": "cpu", "enabled": bf16, "dtype": torch.bfloat16},
            train_args=settings.train,
            dev_args=settings.test,
        )
        make_loader = train_data.make_iter

        class ClockedLoader:
            """JoeyNMT's loader, epoch after epoch in one, which is then its only epoch."""

            def __init__(self, **arguments: Any):
                self.loader = make_loader(**arguments)
                self.batch_sampler = self.loader.batch_sampler

            def __iter__(self) -> Iterator:
                endless = itertools.chain.from_iterable(itertools.repeat(self.loader))
                padding = network.pad_index
                return watch.over(endless, work, lambda batch: count_padded(batch.src, batch.trg, padding, padding))

        train_data.make_iter = ClockedLoader
        manager.train_and_validate(train_data, dev_data)
    return watch.result(network)


def train_eole(work: Workload, folder: Path, bf16: bool) -> dict[str, Any]:
    from eole.config.run import TrainConfig
    from eole.constants import CorpusTask
    from eole.inputters.dynamic_iterator import build_dynamic_dataset_iter
    from eole.models.model import get_model_class
    from eole.train_single import TrainingInitializer, configure_process
    from eole.trainer import build_trainer
    from eole.utils.optimizers import Optimizer

    watch = Stopwatch()
    vocabulary = str(folder / "vocabulary.txt")
    with (folder / "train.source").open(encoding="utf-8") as file:
        pairs = sum(1 for _ in file)
    config = TrainConfig(
        data={"train": {"path_src": str(folder / "train.source"), "path_tgt": str(folder / "train.target")}},
        src_vocab=vocabulary,
        tgt_vocab=vocabulary,
        share_vocab=True,
        pad_token="<pad>",
        seed=42,
        model={
            "architecture": "transformer",
            "hidden_size": work.d_model,
            "layers": work.num_layers,
            "heads": work.num_heads,
            "transformer_ff": work.d_ff,
            "embeddings": {"word_vec_size": work.d_model, "position_encoding_type": "SinusoidalInterleaved"},
            "share_embeddings": True,
            "share_decoder_embeddings": True,
        },
        training={
            "compute_dtype": "bf16" if bf16 else "fp32",
            "batch_type": "tokens",
            "batch_size": work.max_tokens_per_batch,
            "normalization": "tokens",
            "bucket_size": pairs,
            "num_workers": 0,
            "optim": "adam",
            "adam_beta2": 0.98,
            "learning_rate": 1.0,
            "decay_method": "noam",
            "max_grad_norm": 1.0,
            "dropout": [0.1],
            "attention_dropout": [0.0],
            "label_smoothing": 0.1,
        },
    )
    # As eole's own main function does, without the validation and the checkpoints.
    configure_process(config, device_id=-1)
    context = TrainingInitializer(config).initialize()
    config, vocabs = context.config, context.vocabs
    model = get_model_class(config.model).for_training(config.model, vocabs, config.training, device_id=-1)
    trainer = build_trainer(config, -1, model, vocabs, Optimizer.from_config(model, config))
    batches = build_dynamic_dataset_iter(config, context.transforms, vocabs, task=CorpusTask.TRAIN, device_id=-1)
    padding = vocabs["src"][config.pad_token]

    def count(batch: tuple[dict[str, torch.Tensor], int]) -> tuple[int, int, int]:
        return count_padded(batch[0]["src"], batch[0]["tgt"][:, 1:], padding, padding)

    trainer.train(watch.over(batches, work, count), train_steps=0)
    return watch.result(model)


# Decoding


def measure_decoding(
    work: Workload, folder: Path, model: nn.Module, tokenizer: Any, translate: Callable[[list[str]], list[str]]
) -> dict[str, Any]:
    """Sentences translated, after a first batch off the clock, and how many tokens the translations have."""
    sentences = json.loads((folder / "test_sentences.json").read_text(encoding="utf-8"))[: work.max_sentences]
    translate(sentences[:DECODING_BATCH_SIZE])
    watch = Stopwatch()
    watch.start()
    translations = translate(sentences)
    watch.stop()
    watch.count(len(sentences))
    lengths = [len(ids) for ids in tokenizer(translations)["input_ids"]]
    return watch.result(model) | {"mean_output_tokens": sum(lengths) / len(lengths)}


def decode_ours(work: Workload, folder: Path, num_beams: int, bf16: bool) -> dict[str, Any]:
    from seq2seq_scratch.translation import load_translator, translate

    translator = load_translator(work.model_name_or_path)

    def translate_all(sentences: list[str]) -> list[str]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return [best.text for best, *_ in translate(*translator, sentences, num_beams=num_beams)]

    return measure_decoding(work, folder, *translator[:2], translate_all)


def length_penalty_of(model: nn.Module) -> float:
    """What `generate()` does with a model that was saved without one."""
    saved = model.generation_config.length_penalty
    return 1.0 if saved is None else saved


def check_transplantable(config: Any) -> None:
    """Raises ValueError for a Transformer whose weights mean something else in the peers' models."""
    needed = {
        "model_type": "transformer_seq2seq",
        "pre_norm": False,
        "position_embedding_type": "sinusoidal",
        "share_encoder_decoder_embeddings": True,
        "d_k": None,
        "d_v": None,
    }
    wrong = {name: getattr(config, name, None) for name in needed}
    wrong = {name: value for name, value in wrong.items() if value != needed[name]}
    if wrong:
        raise ValueError(
            f"model_name_or_path names a model with {wrong}. The peers decode with its weights, for which it must "
            f"have { ({name: needed[name] for name in wrong}) }."
        )


# Our modules' names and those of the others, in the order of replacement.
MARIAN_NAMES = {
    "cross_attention_add_norm.norm": "encoder_attn_layer_norm",
    "self_attention_add_norm.norm": "self_attn_layer_norm",
    "feed_forward_add_norm.norm": "final_layer_norm",
    "cross_attention": "encoder_attn",
    "self_attention": "self_attn",
    "feed_forward.inner": "fc1",
    "feed_forward.outer": "fc2",
}
JOEYNMT_NAMES = {
    "model.encoder.embed_tokens": "src_embed.lut",
    "model.decoder.embed_tokens": "trg_embed.lut",
    "lm_head": "decoder.output_layer",
    "model.": "",
    "cross_attention_add_norm.norm": "dec_layer_norm",
    "feed_forward_add_norm.norm": "feed_forward.layer_norm",
    "cross_attention": "src_trg_att",
    "q_proj": "q_layer",
    "k_proj": "k_layer",
    "v_proj": "v_layer",
    "out_proj": "output_layer",
    "feed_forward.inner": "feed_forward.pwff_layer.0",
    "feed_forward.outer": "feed_forward.pwff_layer.3",
}
JOEYNMT_NAMES_BY_STACK = {
    "encoder": {"self_attention_add_norm.norm": "layer_norm", "self_attention": "src_src_att"},
    "decoder": {"self_attention_add_norm.norm": "x_layer_norm", "self_attention": "trg_trg_att"},
}


def renamed(name: str, replacements: dict[str, str]) -> str:
    for ours, theirs in replacements.items():
        name = name.replace(ours, theirs)
    return name


def marian_with_weights(model: nn.Module) -> nn.Module:
    """A `MarianMTModel` that computes what our Transformer computes."""
    check_transplantable(model.config)
    marian = marian_of_size(model.config)
    weights = {renamed(name, MARIAN_NAMES): tensor for name, tensor in model.state_dict().items()}
    # Marian's table has the same sines and cosines in other columns.
    for stack in ("encoder", "decoder"):
        weights[f"model.{stack}.embed_positions.weight"] = getattr(model.model, stack).embed_positions.table
    missing, unexpected = marian.load_state_dict(weights, strict=False)
    # The table of embeddings is tied, and the bias of the logits is zero.
    assert not unexpected and set(missing) <= {"model.shared.weight", "final_logits_bias"}, (missing, unexpected)
    return marian.eval()


def decode_marian(work: Workload, folder: Path, num_beams: int) -> dict[str, Any]:
    from seq2seq_scratch.translation import TOKENS_BEYOND_SOURCE, load_translator

    model, tokenizer, _ = load_translator(work.model_name_or_path)
    marian = marian_with_weights(model)
    search = {"num_beams": num_beams}
    if num_beams > 1:
        search["length_penalty"] = length_penalty_of(model)
    del model

    @torch.inference_mode()
    def translate_all(sentences: list[str]) -> list[str]:
        translations = []
        for start in range(0, len(sentences), DECODING_BATCH_SIZE):
            batch = tokenizer(sentences[start : start + DECODING_BATCH_SIZE], padding=True, return_tensors="pt")
            limit = batch["input_ids"].shape[1] + TOKENS_BEYOND_SOURCE
            output = marian.generate(**batch, **search, max_new_tokens=limit)
            translations += tokenizer.batch_decode(output, skip_special_tokens=True)
        return translations

    return measure_decoding(work, folder, marian, tokenizer, translate_all)


def joeynmt_with_weights(model: nn.Module, settings: Any, vocabulary: Any) -> nn.Module:
    """A JoeyNMT model that computes what our Transformer computes."""
    from joeynmt.model import build_model

    check_transplantable(model.config)
    joeynmt = build_model(settings.model, src_vocab=vocabulary, trg_vocab=vocabulary)
    weights = {}
    for name, tensor in model.state_dict().items():
        stack = JOEYNMT_NAMES_BY_STACK["encoder" if name.startswith("model.encoder") else "decoder"]
        weights[renamed(name, stack | JOEYNMT_NAMES)] = tensor
    missing, unexpected = joeynmt.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"encoder.pe.pe", "decoder.pe.pe"}, (missing, unexpected)
    for module in joeynmt.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return joeynmt.eval()


def decode_joeynmt(work: Workload, folder: Path, num_beams: int) -> dict[str, Any]:
    from joeynmt.data import load_data
    from joeynmt.prediction import predict

    from seq2seq_scratch.translation import load_translator

    model, tokenizer, _ = load_translator(work.model_name_or_path)
    with tempfile.TemporaryDirectory() as model_dir:
        write_vocabulary(Path(model_dir, "vocabulary.txt"), tokenizer)
        search = {"beam_size": num_beams, "batch_size": DECODING_BATCH_SIZE}
        if num_beams > 1:
            search["beam_alpha"] = length_penalty_of(model)
        settings = joeynmt_settings(
            work, Path(model_dir), model_dir, joeynmt_transformer(model.config), {"test": ""}, **search
        )
        vocabulary, *_, stream = load_data(settings.data, datasets=["stream"])
    joeynmt = joeynmt_with_weights(model, settings, vocabulary)
    del model

    def translate_all(sentences: list[str]) -> list[str]:
        stream.reset_cache()
        for line in subwords(sentences, tokenizer):
            stream.set_item(line)
        hypotheses = predict(
            model=joeynmt,
            data=stream,
            device=settings.device,
            n_gpu=0,
            compute_loss=False,
            normalization="none",
            args=settings.test,
            autocast={"device_type": "cpu", "enabled": False},
        )[3]
        return [tokenizer.decode(tokenizer.convert_tokens_to_ids(row), skip_special_tokens=True) for row in hypotheses]

    return measure_decoding(work, folder, joeynmt, tokenizer, translate_all)
