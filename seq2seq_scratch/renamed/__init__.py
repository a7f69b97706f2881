"""The names of version 0.1 that have changed or moved."""

import sys

from .hook import RenamedModules, understand_names

PACKAGE = __package__.rpartition(".")[0]

MODULES = {
    "bpe_dropout": "data.bpe_dropout",
    "corpora": "data.corpora",
    "metrics": "data.metrics",
    "numbers": "data.numbers",
}

RECURRENT = "align_left RecurrentState RecurrentDecoderOutput RecurrentTranslationModel".split()
BATCHES = "FilterReport collate tokenize_parallel".split()

NAMES = {
    "data": dict.fromkeys(BATCHES, "data.batches"),
    "seq2seq_common": dict.fromkeys(RECURRENT, "recurrent_common")
    | {"Dropout": "dropout", "target_token_loss": "token_loss"},
}


def understand_old_names() -> None:
    """Makes the old names work. The package calls this when it is imported."""
    sys.meta_path.append(RenamedModules(PACKAGE, MODULES))
    understand_names(PACKAGE, NAMES)
