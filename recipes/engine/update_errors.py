"""What an update that fails says: which batch it was, and what to change."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from papers_to_gpt.engine.batching import LocalBatch


def name_batch(batch: LocalBatch) -> str:
    """Returns how messages name a batch: by its index in the update and its first examples."""
    rows = ", ".join(map(str, batch.rows[:3])) + (", ..." if len(batch.rows) > 3 else "")
    return f"batch {batch.index + 1}" + (f" (examples {rows} of the training data)" if rows else "")


@contextmanager
def naming_lack_of_memory(group: Sequence[LocalBatch], update: int) -> Iterator[None]:
    """Turns a lack of memory into a sentence that names the update's largest batch and the settings."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not re.search(r"out of memory|can't allocate memory", str(error)):
            raise
        shapes = (tuple(batch.tensors["input_ids"].shape) for batch in group)
        largest = max(shapes, key=math.prod)
        raise ValueError(
            f"There is not enough memory for update {update}, whose largest batch has {largest[0]} rows of "
            f"{math.prod(largest[1:])} tokens. Make batches smaller (max_tokens_per_batch or "
            "per_device_train_batch_size) and raise gradient_accumulation_steps, or make the model smaller."
        ) from error
