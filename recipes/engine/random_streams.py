"""Random numbers that follow from where a run stands, not from what was drawn before.

Every batch seeds the generators from the seed of the run, the update and the batch's index in the update. So the
dropout of a batch is the same whichever process computes it, however many processes there are, and whether or not the
run was interrupted. No state of a generator has to be saved in a checkpoint.

Targets that are drawn at random, such as masked tokens, have a stream of their own for each batch, and evaluation one
for each update. The order of the data has another one (`engine/batching.py`).
"""

import hashlib
import random

import numpy as np
import torch


def seed_generators(*position: int | str) -> None:
    """Seeds the generators of Python, NumPy, the CPU and the device from a position, such as (seed, update, index).

    Call it outside compiled code. It takes 25 microseconds on a CPU.

    Args:
        position: numbers and names. Different positions give unrelated streams.
    """
    digest = hashlib.blake2b(repr(position).encode(), digest_size=16).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    random.seed(digest)
    np.random.seed(np.frombuffer(digest, dtype=np.uint32))
