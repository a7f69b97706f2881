"""Copies from the host to an accelerator that the host does not wait for.

An accelerator works through a queue: while it computes an update, Python reads the next batches and queues their
update. A copy from ordinary memory ends that, because it waits for all that was queued before it. A copy from pinned
memory, which the system cannot move, is queued itself. So the next batches are on the device when it gets to them.
"""

import torch

from papers_to_gpt.engine.batching import Batch

# Types of devices that copy from pinned memory on their own.
DEVICES_WITH_PINNED_COPIES = ("cuda", "xpu")


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a tensor of the CPU on a device, where it may be used at once; on the CPU it is the tensor itself.

    PyTorch keeps the pinned memory until the copy is done, and then for the next one.
    """
    if device.type not in DEVICES_WITH_PINNED_COPIES:
        return tensor.to(device)  # which waits: the memory may be freed or filled anew before the copy is made
    return tensor.pin_memory().to(device, non_blocking=True)


def send_batch(batch: Batch, device: torch.device) -> Batch:
    """Returns a batch with its tensors on a device; see `send`."""
    return {name: send(tensor, device) for name, tensor in batch.items()}
