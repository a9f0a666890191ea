"""Text in and out of a model, with TransformerLens' names: `to_tokens`, `to_str_tokens`, `to_string`, ...

A model built here reads the 98 characters of this package; one that was loaded from a folder reads what that
folder's tokenizer reads; one converted from transformers' reads what it is given as `tokenizer`.
"""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cwr_mech.errors import ConfigError, one_of
from cwr_mech.model.text import NO_TOKENIZER, encode, is_ours, quoted, read_tokenizer
from cwr_mech.tasks.tokenizer import VOCAB, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

Texts = str | Iterable[str]


@cache
def _characters() -> "PreTrainedTokenizerBase":
    return Tokenizer().to_hf()


class ReadsText:
    """A model that knows its tokenizer; HookedQwen2 brings `cfg` and `W_E`."""

    cfg: Any
    if TYPE_CHECKING:

        @property
        def W_E(self) -> Tensor: ...

    _tokenizer: "PreTrainedTokenizerBase | Callable[[], PreTrainedTokenizerBase] | None" = None

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """The tokenizer as transformers has it; None where none is known, and texts are refused then."""
        if self.reads_characters:
            return _characters()
        if isinstance(self._tokenizer, partial):  # a folder's, read when it is first asked for
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        self._tokenizer = tokenizer

    def _reads_from(self, folder: Path) -> None:
        """Take the tokenizer of a checkpoint folder."""
        if not is_ours(folder) or self.cfg.d_vocab != len(VOCAB):  # ours with more tokens added
            self._tokenizer = partial(read_tokenizer, folder)

    @property
    def reads_characters(self) -> bool:
        """Whether texts are read as the 98 characters of this package, `<bos>` first."""
        return self._tokenizer is None and bool(self.cfg.d_vocab == len(VOCAB))

    def _needed(self) -> "PreTrainedTokenizerBase":
        found = self.tokenizer
        if found is None:
            raise ConfigError("this model has no tokenizer, so it reads no text", NO_TOKENIZER)
        return found

    def to_tokens(self, text: Texts, prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Prompts as tokens, with what the tokenizer itself puts around them (ours: `<bos>` before them).

        prepend_bos: True puts the beginning-of-text token first if it is not there, False leaves all special
        tokens out. Raises ConfigError when lengths differ, and for text that does not fit the tokenizer.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if self.reads_characters:
            rows = [Tokenizer().encode_prompt(one)[prepend_bos is False :] for one in texts]
        else:
            rows = self._encoded(texts, prepend_bos)
        if len({len(row) for row in rows}) > 1:
            raise ConfigError("prompts of different lengths cannot share a batch", "group them by length")
        return torch.tensor(rows, dtype=torch.int64, device=self.W_E.device)

    def _encoded(self, texts: list[str], prepend_bos: bool | None) -> list[list[int]]:
        tokenizer = self._needed()
        if prepend_bos is False:
            return [tokenizer(one, add_special_tokens=False)["input_ids"] for one in texts]
        rows, _ = encode(tokenizer, texts, self.cfg.d_vocab, self.cfg.n_ctx)
        first = tokenizer.bos_token_id
        if prepend_bos and first is None:
            raise ConfigError("this model's tokenizer has no token for the beginning of a text")
        return [[first, *row] if prepend_bos and row[0] != first else row for row in rows]

    def to_string(self, tokens: Int[Tensor, "*batch pos"] | Sequence[int]) -> str | list[str]:
        """Tokens as text, special tokens included; a list of texts for a batch."""
        rows = torch.as_tensor(tokens)
        if rows.ndim > 1:
            return [str(self.to_string(row)) for row in rows]
        return str(self._needed().decode(rows.tolist(), clean_up_tokenization_spaces=False))

    def to_str_tokens(
        self,
        text: str | Int[Tensor, "*batch pos"] | Int[np.ndarray, "*batch pos"] | list[str],
        prepend_bos: bool | None = None,
    ) -> list[str] | list[list[str]]:
        """Each token of a text, or of a row of tokens, as a text; a list of lists for several texts."""
        if isinstance(text, list) and text and isinstance(text[0], str):
            return [list(map(str, self.to_str_tokens(one, prepend_bos))) for one in text]
        rows = self.to_tokens(text, prepend_bos) if isinstance(text, str) else torch.as_tensor(text)
        flat = rows.squeeze(0) if rows.ndim == 2 else rows
        if flat.ndim != 1:
            raise ConfigError("to_str_tokens takes one row of tokens", "or a list of texts")
        return [str(self.to_string([token])) for token in flat.tolist()]

    def to_single_token(self, text: str) -> int:
        """Id of a text that is one token. Raises UnknownName."""
        if self.reads_characters:
            one_of("token", text, VOCAB)
            return VOCAB.index(text)
        found: list[int] = self._needed()(text, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise ConfigError(f"{quoted(text)} is {len(found)} tokens of this model, not one")
        return found[0]

    def to_single_str_token(self, token: int) -> str:
        """The text of one token."""
        return str(self.to_string([token]))

    @torch.no_grad()
    def generate(
        self,
        input: Texts | Int[Tensor, "batch pos"],
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        prepend_bos: bool | None = None,
        verbose: bool = False,
    ) -> str | list[str] | Int[Tensor, "batch longer"]:
        """Prompts of one length and what the model goes on with, as texts for texts and tokens for tokens.

        Options are TransformerLens' (`sample_logits` draws, by torch's global generator; nothing is printed).
        A row that has ended is filled with the ending token, and texts leave it out. Raises ConfigError where
        texts are not of one length, or no token ends a text and `stop_at_eos` asks for one.
        """
        from transformer_lens.utilities import sample_logits

        texts = [input] if isinstance(input, str) else None if isinstance(input, Tensor) else list(input)
        rows = self.to_tokens(texts, prepend_bos) if texts is not None else torch.as_tensor(input)
        rows = rows if rows.ndim == 2 else rows[None]
        start, end = rows.shape[1], self._ends_at(eos_token_id) if stop_at_eos else None
        model: Any = self
        past, step = model.new_past(), rows
        done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        while rows.shape[1] < start + max_new_tokens and not bool(done.all()):
            logits = model(
                step, positions=torch.full((len(step), 1), step.shape[1] - 1).to(rows.device), past=past
            )
            draw = {"top_k": top_k, "top_p": top_p, "temperature": temperature if do_sample else 0.0}
            best = sample_logits(logits[:, -1], **draw)
            if end is not None:
                best = best.masked_fill(done, end)
                done = done | (best == end)
            step = best[:, None]
            rows = torch.cat([rows, step], 1)
        if texts is None:
            return rows
        found = [
            text + str(self.to_string(row if end is None or end not in row else row[: row.index(end)]))
            for text, row in zip(texts, rows[:, start:].tolist(), strict=True)
        ]
        return found[0] if isinstance(input, str) else found

    def _ends_at(self, given: int | None) -> int:
        """The token that ends a text. Raises ConfigError where none is known."""
        tokenizer = None if given is not None else self.tokenizer
        found = given if tokenizer is None else tokenizer.eos_token_id
        if found is None:
            raise ConfigError("no token is known to end a text", "give eos_token_id, or stop_at_eos=False")
        return int(found)
