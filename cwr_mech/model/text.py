"""Tokenizers of checkpoint folders: which one a folder holds, and texts as tokens that fit its model.

A folder's own tokenizer is the only one its model is ever fed with. Folders of ours hold the 98 characters of
`cwr_mech.tasks.tokenizer`; any other folder reads text, and questions about our cities are not asked there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import one_line, read_json
from cwr_mech.errors import ConfigError, CorruptArtifact, MissingArtifact
from cwr_mech.tasks.tokenizer import VOCAB

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "tokenizer.json"
FILES = (FILE, "vocab.json", "merges.txt")
NO_TOKENIZER = "put its tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"


def is_ours(folder: Path) -> bool:
    """Whether a folder's tokenizer is that of this package: its 98 characters, in their order.

    Raises CorruptArtifact for a tokenizer.json that is none.
    """
    if not (folder / FILE).is_file():
        return False
    model = read_json(folder / FILE).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(vocab, dict) and vocab == {token: number for number, token in enumerate(VOCAB)}


def read_tokenizer(folder: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint folder, as its files say, from the disk alone.

    `AutoTokenizer` builds Qwen2's own whatever the file says, which loses a vocabulary of another kind
    without a word: a tokenizer.json is read as it is. Raises MissingArtifact where there is none,
    CorruptArtifact for one that cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(folder)
    if not any((folder / name).is_file() for name in FILES):
        raise MissingArtifact(f"{folder} holds no tokenizer", NO_TOKENIZER)
    kind = PreTrainedTokenizerFast if (folder / FILE).is_file() else AutoTokenizer
    try:
        found: PreTrainedTokenizerBase = kind.from_pretrained(folder.as_posix(), local_files_only=True)
        found("a", return_offsets_mapping=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CorruptArtifact(f"{folder} has a tokenizer that cannot be read ({one_line(error)})") from error
    return found


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], d_vocab: int, n_ctx: int
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Tokens of each text, with the special tokens the tokenizer itself adds, and each token's characters.

    Raises ConfigError, quoting the text, where the tokenizer has no token for a part of it, where the model
    has no such token, or where it has too few positions.
    """
    found: Any = tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False)
    rows, offsets = found["input_ids"], found["offset_mapping"]
    unknown = tokenizer.unk_token_id
    for text, tokens, places in zip(texts, rows, offsets, strict=True):
        if not tokens:
            raise ConfigError(f"{quoted(text)} has no token", "each text needs a token at least")
        strange = [place for token, place in zip(tokens, places, strict=True) if token == unknown]
        written = str(tokenizer.unk_token) in text  # the text itself holds it: Qwen2's is <|endoftext|>
        odd = [text[start:stop] for start, stop in strange if stop > start and not written]
        if odd:
            raise ConfigError(
                f"the tokenizer has no token for {quoted(odd[0])} in {quoted(text)}",
                "the text does not fit this model",
            )
        if max(tokens) >= d_vocab:
            raise ConfigError(
                f"the tokenizer gives token {max(tokens)} for {quoted(text)}, and the model has {d_vocab}",
                "tokenizer and weights belong to different models",
            )
        if len(tokens) > n_ctx:
            raise ConfigError(f"{quoted(text)} has {len(tokens)} tokens, and the model {n_ctx} positions")
    return rows, offsets


def quoted(text: str, most: int = 60) -> str:
    """`text` as a message can show it: on one line, not too long."""
    return json.dumps(text if len(text) <= most else text[:most] + "...", ensure_ascii=False)
