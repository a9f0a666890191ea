"""How many threads of torch a model of some width is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cwr_mech.model.layers import HookedConfig

NARROW = 256
"""Width (d_model) up to which one thread is best: products are over before others have begun."""


@contextmanager
def few_threads(cfg: HookedConfig) -> Iterator[None]:
    """One thread of torch for a narrow model, as many as before for a wider one, and after.

    Threads wait for each other at every product, spinning: on two busy cores two of them decoded a thousand
    questions in 44 seconds, one in 3 (zoo:small).
    """
    before = torch.get_num_threads()
    if before == 1 or cfg.d_model > NARROW:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
