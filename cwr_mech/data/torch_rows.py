"""Rows as a torch Dataset."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cwr_mech.data.rows import Rows

IGNORED = -100
"""What torch's cross-entropy and transformers' losses pass over."""


class TorchRows(Dataset[dict[str, Tensor]]):
    """Items of `Rows.to_dataset`, made when they are asked for."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.rows.tokens[row].astype(np.int64))
        at = torch.arange(len(tokens))
        inside = at < int(self.rows.lengths[row])
        answer = inside & (at >= int(self.rows.answer_start[row]))
        return {
            "input_ids": tokens,
            "attention_mask": inside.long(),
            "labels": tokens.masked_fill(~answer, IGNORED),
        }
