"""A small model with its optimizer and the writer of its checkpoints, for the tests of checkpoints."""

import torch
from accelerate import Accelerator
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt.engine.checkpoint_writer import CheckpointWriter
from papers_to_gpt.engine.checkpointing import Progress
from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.settings.training import OptimizationSettings


class Run:
    """A small model with its optimizer, and a writer of its checkpoints."""

    def __init__(self, folder, optim="adamw", dtype=torch.float32, keep_last=0, save_model=None, **options):
        self.folder = folder
        self.model = tiny_model("causal_lm").to(dtype).train()
        settings = OptimizationSettings(learning_rate=0.01, optim=optim, weight_decay=0.1)
        self.optimizer = make_optimizer(self.model, settings)
        self.writer = CheckpointWriter(
            Accelerator(cpu=True),
            folder,
            self.model,
            self.optimizer,
            save_model or self.save_model,
            keep_last,
            **options,
        )

    def save_model(self, folder, state_dict=None):
        self.model.save_pretrained(folder, state_dict=state_dict)
        tiny_tokenizer().save_pretrained(folder)

    def update(self, *seeds):
        for seed in seeds:
            tokens = torch.randint(4, 16, (2, 9), generator=torch.Generator().manual_seed(seed))
            self.model(input_ids=tokens, labels=tokens).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def save(self, update, **progress):
        return self.writer.save(Progress(update=update, **progress))

    def weights(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
