"""Tokenizer: the 98 ids, rows as arrays, the answer mask, and the Hugging Face form."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from cwr_mech.errors import ArtifactError
from cwr_mech.tasks.tokenizer import (
    BOS,
    CHAR_ID,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    UNKNOWN_CHAR,
    VOCAB,
    Tokenizer,
)

ROWS = [
    "dist(c_0865,c_4879)=769",
    "triarea(c_1234,c_5678,c_9012)=45823",
    "angle(c_2345,c_6789,c_0123)=97",
    "compass(c_1234,c_5678)=NE",
    "inside(c_9012;c_3456,c_7890,c_1122)=FALSE",
    "perimeter(c_4567,c_8901,c_2345)=2856",
    "cross(c_2345,c_6789;c_0123,c_4567)=TRUE",
]

# From the description of the reference: specials, punctuation, upper case, lower case, digits.
IDS = [
    ("!", 4),
    ("(", 11),
    (")", 12),
    (",", 15),
    ("/", 18),
    (":", 19),
    (";", 20),
    ("=", 22),
    ("@", 25),
    ("A", 26),
    ("`", 57),
    ("a", 58),
    ("~", 87),
    ("0", 88),
    ("9", 97),
]

CHARS = st.text(st.sampled_from(VOCAB[len(SPECIALS) :]), max_size=40)
ANY_TEXT = st.text(max_size=20)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Tokenizer files beside a Qwen2 config, as in every checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint")
    Qwen2Config(vocab_size=98, hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
        path
    )
    tokenizer.save_pretrained(path)
    return path


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert len(VOCAB) == len(set(VOCAB)) == len(tokenizer) == 98
    assert VOCAB[:4] == ("<pad>", "<unk>", "<bos>", "<eos>")
    assert (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos) == (0, 1, 2, 3)
    assert sorted(VOCAB[4:]) == [chr(code) for code in range(33, 127)]
    assert [(char, CHAR_ID[char]) for char, _ in IDS] == IDS
    assert tokenizer.sha256 == Tokenizer().sha256


def spaced(ids: Iterable[int]) -> str:
    """A row as it stands in the paper's data."""
    return " ".join(VOCAB[number] for number in ids)


def test_a_row(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("dist(c_0865,c_4879)=769")
    assert ids[:6] == [BOS, 61, 66, 76, 77, 11]
    assert ids[-5:] == [22, 95, 94, 97, EOS]
    assert tokenizer.encode_prompt("dist(c_0865,c_4879)=") == ids[:-4]
    assert spaced(ids) == "<bos> d i s t ( c _ 0 8 6 5 , c _ 4 8 7 9 ) = 7 6 9 <eos>"


@given(CHARS)
def test_text_comes_back(text: str) -> None:
    tokenizer = Tokenizer()
    ids = tokenizer.encode(text)
    assert UNK not in ids
    assert len(ids) == len(text) + 2
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == text
    assert tokenizer.encode(" ".join(text)) == ids


@given(ANY_TEXT)
def test_unknown_characters_keep_their_place(text: str) -> None:
    tokenizer = Tokenizer()
    ids = tokenizer.encode(text)
    seen = "".join(char if char in CHAR_ID else UNKNOWN_CHAR for char in text if char != " ")
    assert tokenizer.decode(ids) == seen
    assert tokenizer.encode(seen) == ids


@given(st.lists(st.one_of(CHARS, ANY_TEXT), max_size=6), st.booleans())
def test_rows_equal_one_by_one(texts: list[str], end: bool) -> None:
    tokenizer = Tokenizer()
    tokens, lengths = tokenizer.encode_rows(texts, end=end)
    one_by_one = [tokenizer.encode(text) if end else tokenizer.encode_prompt(text) for text in texts]
    assert [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)] == one_by_one
    assert tokens.shape == (len(texts), max(map(len, one_by_one), default=1 + end))
    assert all((row[length:] == PAD).all() for row, length in zip(tokens, lengths, strict=True))
    assert tokenizer.decode_rows(tokens) == [tokenizer.decode(row) for row in tokens]
    wider = np.pad(tokens, ((0, 0), (2, 3)))
    assert tokenizer.decode_rows(wider) == tokenizer.decode_rows(tokens)


@given(
    st.lists(st.integers(0, 97), min_size=6, max_size=6), st.lists(st.integers(0, 97), min_size=6, max_size=6)
)
def test_whatever_a_model_says_is_decoded(first: list[int], second: list[int]) -> None:
    tokenizer = Tokenizer()
    texts = tokenizer.decode_rows(np.array([first, second], dtype=np.uint8))
    assert texts == [tokenizer.decode(first), tokenizer.decode(second)]
    until = first.index(EOS) if EOS in first else 6
    assert len(texts[0]) == sum(number not in (PAD, BOS) for number in first[:until])


@pytest.mark.parametrize("number", [-1, 98])
def test_no_such_id(tokenizer: Tokenizer, number: int) -> None:
    with pytest.raises(IndexError):
        tokenizer.decode([number])


@pytest.mark.parametrize("place", ["folder", "checkpoint"])
def test_auto_tokenizer_round_trips(
    place: str, tokenizer: Tokenizer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = AutoTokenizer.from_pretrained(request.getfixturevalue(place))
    assert loaded.is_fast
    assert len(loaded) == 98
    assert loaded.convert_ids_to_tokens(list(range(98))) == list(VOCAB)
    names = ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id", "model_max_length")
    assert [getattr(loaded, name) for name in names] == [0, 1, 2, 3, 512]
    for text in [*ROWS, "".join(VOCAB[4:]), "a , . ' !n't"]:
        ids = tokenizer.encode(text)
        plain = text.replace(" ", "")
        for form in (spaced(ids), f"<bos>{plain}<eos>", loaded.decode(ids)):
            assert loaded(form, add_special_tokens=False)["input_ids"] == ids
        assert loaded(plain)["input_ids"] == tokenizer.encode_prompt(text)  # <bos> comes by itself
        assert loaded.decode(ids) == f"<bos>{plain}<eos>"
        assert loaded.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids) == plain
        assert " ".join(loaded.convert_ids_to_tokens(ids)) == spaced(ids)


@pytest.fixture(scope="module")
def hf(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return tokenizer.to_hf()


@given(texts=st.lists(st.one_of(st.sampled_from(ROWS), CHARS), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_hugging_face_gives_the_same_rows(
    hf: PreTrainedTokenizerFast, tokenizer: Tokenizer, texts: list[str]
) -> None:
    tokens, lengths = tokenizer.encode_rows(texts)
    rows = [spaced(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    batch = hf(rows, padding=True, add_special_tokens=False)
    np.testing.assert_array_equal(batch["input_ids"], tokens)
    np.testing.assert_array_equal(batch["attention_mask"], tokens != PAD)


def test_saved_bytes_are_always_the_same(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from cwr_mech.tasks.tokenizer import Tokenizer; Tokenizer().save_pretrained(sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, check=True)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_that_cannot_be_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        tokenizer.save_pretrained(tmp_path / "file" / "below")


def test_importing_the_tokenizer_is_cheap() -> None:
    code = "import sys, cwr_mech.tasks.tokenizer, cwr_mech.world.cities\n"
    code += "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
