"""Activations of texts against transformers' hidden states; what a kill leaves; what does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qwen_cases import NAMES, TEMPLATE, XY, bpe, csv_of, qwen2, saved
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from cwr_mech.activations import extract_texts as module
from cwr_mech.activations import writer
from cwr_mech.activations.extract_texts import extract_again, extract_texts, holds
from cwr_mech.activations.prompts import Prompts, read_prompts
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.texts import TEXT_SITES, TokenRows, encode_prompts, name_features
from cwr_mech.errors import AnalysisError, ConfigError, CorruptArtifact, MissingArtifact, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.text import encode, read_tokenizer

PIECES = bpe(whole=False)


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    return read_prompts(csv_of(tmp_path / "towns.csv"), [TEMPLATE, "{name}"])


@pytest.fixture
def rows(prompts: Prompts) -> dict[str, TokenRows]:
    return encode_prompts(PIECES, prompts, len(PIECES), 64)


@pytest.fixture
def model() -> HookedQwen2:
    return HookedQwen2.from_hf(qwen2(PIECES), PIECES)


@pytest.fixture
def extract(
    tmp_path: Path, prompts: Prompts, rows: dict[str, TokenRows], model: HookedQwen2
) -> Callable[..., ActivationStore]:
    """Extract into a file of this name and open it; `model` unless another one is given."""

    def run(name: str, model: HookedQwen2 = model, **options: object) -> ActivationStore:
        extract_texts(model, prompts.entities, rows, tmp_path / name, **options)  # type: ignore[arg-type]
        return ActivationStore(tmp_path / name)

    return run


@pytest.fixture
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is on the disk before the next."""
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)


def test_a_sharded_tied_bf16_checkpoint_has_the_hidden_states_of_transformers(
    tmp_path: Path, prompts: Prompts
) -> None:
    theirs = qwen2(PIECES, tie_word_embeddings=True).to(torch.bfloat16)
    folder = saved(tmp_path / "model", theirs, PIECES, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    ours = HookedQwen2.from_pretrained(folder)
    assert (ours.cfg.n_kv, ours.cfg.n_heads, ours.config.tied) == (2, 4, True)
    rows = encode_prompts(ours.tokenizer, prompts, ours.cfg.d_vocab, ours.cfg.n_ctx)
    extract_texts(ours, prompts.entities, rows, tmp_path / "a.h5", sites=TEXT_SITES, batch_tokens=200)
    store = ActivationStore(tmp_path / "a.h5")
    wide = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, row in (("template1", 0), ("template1", 77), ("template2", 3)):
        text = prompts.texts[prompt][row]
        given = PIECES(text, return_tensors="pt", return_offsets_mapping=True)
        first, after = prompts.spans[prompt][row]
        inside = [k for k, (a, b) in enumerate(given["offset_mapping"][0]) if a < after and b > first]
        assert len(inside) > 1, "a name of several tokens"
        with torch.no_grad():
            states = wide(given["input_ids"], output_hidden_states=True).hidden_states
        for hook, state in zip((*store.hooks[:-2], store.hooks[-1]), states, strict=True):
            expected = state[0].numpy()
            reads = {"last_token": inside[-1], "first_token": inside[0], "text_end": -1}
            wanted = {site: expected[at] for site, at in reads.items()}
            wanted["span_mean"] = expected[inside].mean(axis=0)
            for site, values in wanted.items():
                # Two layers of float32 sums of up to 64 products; the wrong token is off by whole units.
                found = store.get(hook, prompt, site)[row]
                np.testing.assert_allclose(found, values, atol=2e-5 * np.abs(expected).max())
            control = np.abs(store.get(hook, prompt, "last_token")[row] - expected[inside[0]]).max()
            assert control > 1e-2 * np.abs(expected).max()


@pytest.mark.usefixtures("kept_at_once")
def test_a_killed_extraction_goes_on_and_ends_alike(
    tmp_path: Path, extract: Callable[..., ActivationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = extract("whole.h5", batch_tokens=100)
    ran: list[int] = []
    original = module.run_texts

    def counted(*args: object) -> object:
        ran.append(len(args[2]))  # type: ignore[arg-type]
        return original(*args)  # type: ignore[arg-type]

    def killed(n: int) -> None:
        if sum(ran) > 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_texts", counted)
    with pytest.raises(KeyboardInterrupt):
        extract("cut.h5", batch_tokens=100, advance=killed)
    assert not (tmp_path / "cut.h5").exists()
    already, shown = sum(ran), []
    ran.clear()
    b = extract("cut.h5", batch_tokens=100, advance=shown.append)
    assert sum(ran) == 2 * len(NAMES) - already < 2 * len(NAMES)
    assert sum(shown) == 2 * len(NAMES), "what was done before counts as progress"
    assert [place.name for place in tmp_path.glob("*.partial")] == []
    for hook in a.hooks:
        for task in a.tasks:
            assert (a.get(hook, task, "last_token") == b.get(hook, task, "last_token")).all()


@pytest.mark.usefixtures("kept_at_once")
def test_what_another_model_left_behind_is_not_gone_on_with(
    model: HookedQwen2, extract: Callable[..., ActivationStore]
) -> None:
    def killed(n: int) -> None:
        raise KeyboardInterrupt

    other = HookedQwen2(model.config, seed=9)
    with pytest.raises(KeyboardInterrupt):
        extract("a.h5", other, advance=killed)
    a, b = extract("a.h5"), extract("b.h5")
    assert (a.get("final", "template1", "last_token") == b.get("final", "template1", "last_token")).all()


def test_a_large_file_is_written_on_the_disk_and_is_the_same(
    tmp_path: Path, extract: Callable[..., ActivationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = extract("a.h5")
    monkeypatch.setattr(writer, "MOST_IN_MEMORY", 0)
    b = extract("b.h5", batch_tokens=150)
    for hook in a.hooks:  # other batches: sums of the same numbers in another order
        x, y = (store.get(hook, "template1", "last_token") for store in (a, b))
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(x).max())
    content = bytearray((tmp_path / "b.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b.h5").write_bytes(content)
    with pytest.raises(CorruptArtifact, match="changed or damaged"):
        ActivationStore(tmp_path / "b.h5")


def test_the_file_holds_what_was_read(
    tmp_path: Path,
    prompts: Prompts,
    rows: dict[str, TokenRows],
    model: HookedQwen2,
    extract: Callable[..., ActivationStore],
) -> None:
    store = extract("a.h5", hooks=["embed", 1], attrs={"run": "m"})
    assert store.reads_text
    assert store.world().sha256 == prompts.entities.sha256
    assert (store.xy == XY).all()
    assert store.names.tolist() == list(NAMES)
    read = store.token_rows("template1")
    assert read.texts == prompts.texts["template1"]
    name = PIECES.decode(read.tokens[5][slice(*read.span[5])]).strip()
    assert name == NAMES[5]
    assert holds(store, rows, ["blocks.1.hook_resid_post"], ["last_token"])
    assert not holds(store, rows, ["blocks.0.hook_resid_post"], ["last_token"])
    fresh = HookedQwen2(model.config, seed=4)
    extract_again(fresh, store, tmp_path / "fresh.h5")
    again = ActivationStore(tmp_path / "fresh.h5")
    assert holds(again, rows, store.hooks, store.sites)
    assert (
        np.abs(again.get(1, "template1", "last_token") - store.get(1, "template1", "last_token")).max() > 0.1
    )
    with pytest.raises(UnknownName, match="'last_digit'"):
        extract("c.h5", sites=["last_digit"])
    with pytest.raises(AnalysisError, match="logits are not kept"):
        extract("c.h5", hooks=["unembed.hook_out"])
    assert not (tmp_path / "c.h5").exists()


def test_a_text_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "town": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    words.save_pretrained(tmp_path)
    read = read_tokenizer(tmp_path)  # transformers' AutoTokenizer would read nothing at all here
    assert encode(read, ["the town"], 3, 8)[0] == [[1, 2]]
    for text, sizes, said in (
        ("the city", (3, 8), 'no token for "city" in "the city"'),
        ("the town", (2, 8), "gives token 2 .* the model has 2"),
        ("the the town", (3, 2), "has 3 tokens, and the model 2 positions"),
        ("", (3, 8), '"" has no token'),
    ):
        with pytest.raises(ConfigError, match=said):
            encode(read, [text], *sizes)
    with pytest.raises(MissingArtifact, match="holds no tokenizer"):
        read_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(CorruptArtifact, match="tokenizer that cannot be read"):
        read_tokenizer(tmp_path)


def test_texts_with_other_answers_are_other_texts(rows: dict[str, TokenRows]) -> None:
    plain = next(iter(rows.values()))
    answered = replace(plain, answer=np.arange(len(plain.texts), dtype=np.int32))
    assert plain.same(replace(plain))
    assert answered.same(replace(answered))
    assert not plain.same(answered)


def test_features_of_names_are_shared_tokens_alone(rows: dict[str, TokenRows]) -> None:
    bag, last = name_features(rows["template1"]).values()
    assert (bag.sum(axis=0) >= 2).all(), "a token of one name says nothing about others"
    assert last.shape[1] == 2 * bag.shape[1]
    whole = bpe()
    towns = TokenRows(NAMES, np.array(whole([f" {name}" for name in NAMES])["input_ids"], dtype=np.int32),
                      np.tile(np.array([0, 1], dtype=np.int32), (len(NAMES), 1)))  # fmt: skip
    assert not name_features(towns)["bag of name tokens"].any(), "control: each name is a token of its own"
