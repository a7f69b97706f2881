"""eole as a contender of `benchmark.py`."""

from pathlib import Path
from typing import Any

import torch

from papers_to_gpt.benchmarks.workload import Stopwatch, count_padded
from papers_to_gpt.settings.benchmarking import Workload


def train_eole(work: Workload, folder: Path, bf16: bool) -> dict[str, Any]:
    """Clocks the training of eole's Transformer; `items` are target tokens."""
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
    # The same calls as in eole's main function, without validation and checkpoints.
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
