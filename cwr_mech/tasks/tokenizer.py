"""One token a character: 98 tokens, in the order of the paper's reference implementation.

Ids 0..3 are <pad>, <unk>, <bos>, <eos>. Then the 94 printable ASCII characters without the space: the
reference lists "punctuation block, upper-case with brackets, lower-case with braces, digits last", which we
read as ASCII order with the ten digits moved to the end: ! to / and : to @ (22), A to ` (32), a to ~ (30),
0 to 9. A digit d therefore has the id 88 + d.

A row is written `dist(c_0865,c_4879)=769` in this library and `<bos> d i s t ( ... 7 6 9 <eos>` in the
paper's data. Spaces separate characters, they are no tokens.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from cwr_mech.artifacts import disk_errors, sha256_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
_PRINTABLE = [chr(code) for code in range(33, 127)]
VOCAB: tuple[str, ...] = (*SPECIALS, *(char for char in _PRINTABLE if not char.isdigit()), *"0123456789")
"""The 98 tokens by id."""

CHAR_ID: dict[str, int] = {token: number for number, token in enumerate(VOCAB) if token not in SPECIALS}
"""Id of each of the 94 characters."""

PAD, UNK, BOS, EOS = range(4)
UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"
"""What <unk> decodes to, so that an unknown token is not lost from the middle of a number."""

_TEXT_OF = ("", UNKNOWN_CHAR, "", "", *VOCAB[4:])
_CODE_OF = np.array([ord(char or "\0") for char in _TEXT_OF], dtype="<u4")
_ID_OF = np.full(129, UNK, dtype=np.uint8)
_ID_OF[[ord(char) for char in CHAR_ID]] = list(CHAR_ID.values())


class Tokenizer:
    """Text to token ids and back. It has no state: all instances are the same."""

    pad, unk, bos, eos = PAD, UNK, BOS, EOS

    def __len__(self) -> int:
        return len(VOCAB)

    @property
    def sha256(self) -> str:
        """Digest of the vocabulary in its order."""
        return sha256_bytes(json.dumps(VOCAB).encode())

    def encode(self, text: str) -> list[int]:
        """<bos>, the characters, <eos>. Spaces are dropped; what else is not in the vocabulary is <unk>."""
        return [*self.encode_prompt(text), EOS]

    def encode_prompt(self, text: str) -> list[int]:
        """<bos> and the characters, for the model to go on from."""
        return [BOS, *(CHAR_ID.get(char, UNK) for char in text if char != " ")]

    def decode(self, ids: Iterable[int] | Integer[np.ndarray, " pos"]) -> str:
        """The characters up to the first <eos>, without <pad> and <bos>; <unk> becomes UNKNOWN_CHAR.

        Raises IndexError on an id outside 0..97.
        """
        chars = []
        for number in ids:
            if number == EOS:
                break
            if number < 0:
                raise IndexError(f"token id {number} is negative")
            chars.append(_TEXT_OF[number])
        return "".join(chars)

    def encode_rows(
        self, texts: Sequence[str], *, end: bool = True
    ) -> tuple[UInt8[np.ndarray, "row pos"], Int32[np.ndarray, " row"]]:
        """Tokens of many texts, right-padded to the longest, and the length of each with <bos> and <eos>.

        Equal to `encode` row by row, or to `encode_prompt` when not `end`.
        """
        plain = [text.replace(" ", "") for text in texts]
        lengths = np.fromiter(map(len, plain), dtype=np.int32, count=len(plain))
        codes = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        tokens = np.zeros((len(plain), int(lengths.max(initial=0)) + 1 + end), dtype=np.uint8)
        tokens[:, 0] = BOS
        body = tokens[:, 1:]
        body[np.arange(body.shape[1]) < lengths[:, None]] = _ID_OF[np.minimum(codes, 128)]
        lengths += 1 + end
        if end:
            tokens[np.arange(len(plain)), lengths - 1] = EOS
        return tokens, lengths

    def decode_rows(self, tokens: Integer[np.ndarray, "row pos"]) -> list[str]:
        """`decode` of every row."""
        ended = np.logical_or.accumulate(tokens == EOS, axis=1)
        text = _CODE_OF[np.where(ended, PAD, tokens)].tobytes().decode("utf-32-le")
        width = tokens.shape[1]
        return [text[row * width : (row + 1) * width].replace("\0", "") for row in range(len(tokens))]

    def to_hf(self) -> "PreTrainedTokenizerFast":
        """The same tokenizer for Hugging Face: byte-pair encoding without a merge, split on spaces.

        It puts <bos> before a text, as the models were trained (text that has its own needs
        `add_special_tokens=False`), and no <eos> after it, reads spaced and plain text alike, and decodes to
        plain text.
        Plain, because beside a Qwen2 config `AutoTokenizer` builds transformers' Qwen2Tokenizer from our
        vocabulary, whatever class we declare, and that one decodes without spaces: so both agree.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        vocab = {token: number for number, token in enumerate(VOCAB)}
        backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        backend.decoder = decoders.Fuse()
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", BOS)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="<pad>",
            unk_token="<unk>",
            bos_token="<bos>",
            eos_token="<eos>",
            model_max_length=512,
            padding_side="right",
            clean_up_tokenization_spaces=False,
        )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the Hugging Face files; `AutoTokenizer.from_pretrained(folder)` reads them."""
        with disk_errors(Path(folder)):
            self.to_hf().save_pretrained(folder)
