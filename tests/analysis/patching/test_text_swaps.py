"""Swapped entities: exact where the answer is known, and equal to a patch by hooks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from qwen_cases import NAMES, TEMPLATE, bpe, csv_of, qwen2

from cwr_mech.activations.extract_texts import extract_texts
from cwr_mech.activations.prompts import read_prompts
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.texts import TokenRows, encode_prompts
from cwr_mech.analysis.patching.show import texts, texts_figure
from cwr_mech.analysis.patching.text_swaps import (
    COMPONENTS,
    Cell,
    cells_of,
    draw_swaps,
    swap_rows,
    swap_scores,
    swaps_result,
)
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2

TOKENIZER = bpe(whole=False)
CLOSE = 1e-4
"""Ratios of divergences of some hundredths of a nat in float32."""


@pytest.fixture(scope="module")
def model() -> HookedQwen2:
    return HookedQwen2.from_hf(qwen2(TOKENIZER), TOKENIZER)


@pytest.fixture(scope="module")
def store(model: HookedQwen2, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Texts of towns that go on with 1 in the west and 2 in the east."""
    folder = tmp_path_factory.mktemp("swaps")
    plain = csv_of(folder / "towns.csv").read_text().splitlines()[1:]
    lines = ["entity,x,y,group,text,answer"]
    for line in plain:
        name, *_, group = line.split(",")
        lines.append(f"{line},{TEMPLATE.replace('{name}', name)},{1 + (group == 'east')}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    prompts = read_prompts(folder / "texts.csv")
    rows = encode_prompts(TOKENIZER, prompts, model.cfg.d_vocab, model.cfg.n_ctx)
    extract_texts(model, prompts.entities, rows, folder / "a.h5", attrs={"run": "m"})
    return ActivationStore(folder / "a.h5")


def test_what_must_carry_everything_or_nothing_does(model: HookedQwen2, store: ActivationStore) -> None:
    result = swaps_result(model, store, "text", run="m", components=["all"], pairs=16)
    assert result.params["components"] == list(COMPONENTS)
    cells = {
        (row["component"], row["layer"], row["position"], row["metric"]): row
        for row in result.tables["cells"]
    }
    for metric in ("kl", "logit_diff"):
        whole = [("resid_post", -1, "span"), ("resid_post", 1, "text_end")]
        nothing = [("resid_post", -1, "text_end"), ("resid_post", 1, "span"), ("mlp_out", 1, "last_token")]
        for key in whole:
            assert abs(cells[(*key, metric)]["recovered"] - 1) < CLOSE, key
            assert abs(cells[(*key, metric)]["null"] - 1) > 0.1, "a third entity is not the source"
        for key in nothing:
            assert abs(cells[(*key, metric)]["recovered"]) < CLOSE, key
    assert cells["resid_post", -1, "span", "kl"]["flipped"] == 1
    last = cells["resid_post", -1, "last_token", "kl"]["recovered"]
    assert last < 1 - CLOSE, "a name of several tokens is more than its last one"
    assert cells["attn_out", 0, "text_end", "kl"]["recovered"] > 0.05
    assert "'The town of" in texts(result)
    assert len(texts_figure(result).axes) == 3


def test_a_patch_equals_one_by_hooks(model: HookedQwen2, store: ActivationStore) -> None:
    rows = store.token_rows("text")
    swaps = draw_swaps(rows, 8, np.random.default_rng(0))
    assert sum(map(len, swaps)) == 8
    cells = [Cell("attn_out", 1, "text_end"), Cell("mlp_out", 0, "span"), Cell("resid_post", 0, "last_token")]
    scores = swap_scores(model, rows, swaps, cells)
    pairs = [pair for group in swaps for pair in group]
    for number, (a, b, c) in enumerate(pairs):
        tokens = {
            k: torch.tensor(rows.tokens[row, : rows.lengths[row]]).long()[None]
            for k, row in zip("abc", (a, b, c), strict=True)
        }
        start, stop = rows.span[a]
        assert rows.lengths[a] == rows.lengths[b] == rows.lengths[c]
        places = {
            "text_end": slice(-1, None),
            "span": slice(start, stop),
            "last_token": slice(stop - 1, stop),
        }
        with torch.no_grad():
            target = model(tokens["b"])[0, -1].log_softmax(-1)
            for index, cell in enumerate(cells):
                hook = f"blocks.{cell.layer}.hook_{cell.component}"
                for source, k in enumerate("bc"):
                    _, cache = model.run_with_cache(tokens[k], names_filter=hook)

                    def swap(
                        act: torch.Tensor,
                        hook: object,
                        at: slice = places[cell.position],
                        kept: torch.Tensor = cache[hook],
                    ) -> torch.Tensor:
                        act = act.clone()
                        act[:, at] = kept[:, at]
                        return act

                    logits = model.run_with_hooks(tokens["a"], fwd_hooks=[(hook, swap)])[0, -1]
                    kl = (target.exp() * (target - logits.log_softmax(-1))).sum()
                    assert abs(float(kl) - scores["kl"][source, index, number]) < 1e-5
                    difference = float(logits[rows.answer[b]] - logits[rows.answer[a]])
                    assert abs(difference - scores["diff"][source, index, number]) < 1e-4
    assert scores["kl"].max() > 1e-3, "control"


def test_pairs_have_names_of_one_length(store: ActivationStore) -> None:
    rows = store.token_rows("text")
    swaps = draw_swaps(rows, 200, np.random.default_rng(1))
    assert len(swaps) > 1, "names of several lengths"
    for group in swaps:
        assert len({tuple(rows.span[row]) for row in group.ravel()}) == 1
        assert all(len(set(pair)) == 3 for pair in group.tolist())
    few = np.arange(2)
    two = TokenRows(rows.texts[:2], rows.tokens[few], rows.span[few])
    with pytest.raises(AnalysisError, match="no three entities"):
        draw_swaps(two, 8, np.random.default_rng(0))


def test_mistakes(model: HookedQwen2, store: ActivationStore) -> None:
    with pytest.raises(UnknownName, match="'z'"):
        cells_of(2, ["z"])
    with pytest.raises(AnalysisError, match="4 pairs are too few"):
        swaps_result(model, store, "text", run="m", pairs=4)
    with pytest.raises(UnknownName, match="'other'"):
        swaps_result(model, store, "other", run="m")
    rows = store.token_rows("text")
    same = np.zeros((8, 3), dtype=np.int64)  # an entity in its own place: nothing changes, nothing to recover
    cells = cells_of(2, ["resid_post"])
    scores = swap_scores(model, rows, [same], cells)
    assert np.abs(scores["kl"]).max() < 1e-6
    with pytest.raises(AnalysisError, match="does not depend on the entity"):
        swap_rows(
            {name: np.maximum(array, 0) * 0 for name, array in scores.items()},
            cells,
            np.random.default_rng(0),
        )


def test_an_answer_that_melts_into_its_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(f"entity,x,y,text,answer\n{NAMES[0]},1,2,The town of {NAMES[0]} li,es\n")
    with pytest.raises(AnalysisError, match='the answer "es" is no token of its own'):
        encode_prompts(TOKENIZER, read_prompts(path), len(TOKENIZER), 64)
