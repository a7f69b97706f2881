"""Chooses and replaces the tokens that a masked language model predicts (Devlin et al. 2018, section 3.1).

Of the tokens of every row, 15 % are predicted. Of these, 80 % are replaced by the mask token, 10 % by a random token,
and 10 % stay as they are:

    text      once  there  was    a  dog     who  met  a     cat  .
    input     once  there  <mask> a  dog     who  met  bird  cat  .
    labels    -100  -100   was    -100 -100  -100 -100 a     -100 -100

The mask token does not occur when the model is fine-tuned. As any token of the input may be a wrong one, the model
must learn a state for every position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

IGNORE_INDEX = -100

PREDICTED_SHARE = 0.15
# Of the predicted tokens; the others stay as they are.
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclass(frozen=True)
class TokenMasker:
    """Replaces tokens of blocks.

    Attributes:
        mask_token_id: the id of the mask token.
        ordinary_ids: (N,) ids of the tokens that a random token is drawn from: all but the special ones.
    """

    mask_token_id: int
    ordinary_ids: torch.LongTensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "TokenMasker":
        """Returns the masker for a tokenizer with a mask token."""
        special = set(tokenizer.all_special_ids)
        ordinary = [index for index in range(len(tokenizer)) if index not in special]
        return cls(tokenizer.mask_token_id, torch.tensor(ordinary))

    def __call__(
        self, input_ids: torch.LongTensor, generator: torch.Generator | None = None
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Chooses tokens and replaces most of them.

        Args:
            input_ids: (B, T) tokens without padding. They are not changed.
            generator: draws the random numbers. Default: torch's generator for the CPU.

        Returns:
            The inputs and the labels, (B, T) each. In every row `predicted_tokens(T)` labels are tokens and the others
            `-100`.
        """
        count = predicted_tokens(input_ids.shape[1])
        chosen = torch.rand(input_ids.shape, generator=generator).topk(count, dim=1).indices  # B count
        originals = input_ids.gather(1, chosen)
        fate = torch.rand(chosen.shape, generator=generator)
        places = torch.randint(len(self.ordinary_ids), chosen.shape, generator=generator)
        replaced = torch.where(fate < MASKED_SHARE + RANDOM_SHARE, self.ordinary_ids[places], originals)
        replaced = replaced.masked_fill(fate < MASKED_SHARE, self.mask_token_id)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        return input_ids.scatter(1, chosen, replaced), labels.scatter(1, chosen, originals)


def predicted_tokens(length: int) -> int:
    """Returns the number of tokens that are predicted in a row of `length` tokens: 15 % of them, and at least one."""
    return max(1, round(PREDICTED_SHARE * length))


class FixedMasks(Dataset):
    """Blocks with masks that depend on nothing but their places, so that every evaluation predicts the same tokens.

    Args:
        blocks: as from `pack_blocks`.
        masker: replaces the tokens.
    """

    def __init__(self, blocks: Sequence[Mapping[str, Any]], masker: TokenMasker):
        self.blocks, self.masker = blocks, masker

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        block = self.blocks[index]
        tokens = torch.from_numpy(np.array([block["input_ids"]], dtype=np.int64))
        (inputs,), (labels,) = self.masker(tokens, torch.Generator().manual_seed(index))
        return {**block, "input_ids": inputs.numpy(), "labels": labels.numpy()}
