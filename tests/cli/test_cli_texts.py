"""Is there a map in a language model: three commands on checkpoints whose answer is known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import caller, failed, said
from cwr_mech_cli import cache_acts
from cwr_mech_cli.analyses import command_of, commands
from qwen_cases import NAMES, TEMPLATE, XY, bpe, csv_of, gpt2, llama, plant, qwen2, saved
from transformers import PreTrainedModel, Qwen2ForCausalLM

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.results import load_result

ANALYSES = ("probe", "cka", "similarity", "surfacing", "manifold", "eval", "patch", "patch-parts")
call = caller({"cache-acts": cache_acts.command} | {name: command_of(commands()[name]) for name in ANALYSES})
TOKENIZER = bpe()
TEXTS = ("--prompts", "towns.csv", "--template", TEMPLATE)


def taught(xy: np.ndarray, steps: int = 150) -> Qwen2ForCausalLM:
    """A model trained on sentences that say in which column and row of a grid each town lies."""
    model = qwen2(TOKENIZER, initializer_range=0.05)
    cells = np.stack([np.digitize(xy[:, k], np.quantile(xy[:, k], np.arange(1, 6) / 6)) for k in (0, 1)], 1)
    texts = [f"{TEMPLATE.replace('{name}', name)} {x} {y}" for name, (x, y) in zip(NAMES, cells, strict=True)]
    tokens = torch.tensor(TOKENIZER(texts)["input_ids"])
    labels = tokens.clone()
    labels[:, :-4] = -100  # the two numbers, each a space and a digit or one token
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a map planted into one model, and none in another."""
    monkeypatch.chdir(tmp_path)
    planted = qwen2(TOKENIZER, tie_word_embeddings=True)
    plant(planted, TOKENIZER)
    saved(Path("planted"), planted.to(torch.bfloat16), TOKENIZER, max_shard_size="20KB")
    saved(Path("plain"), qwen2(TOKENIZER, tie_word_embeddings=True), TOKENIZER)
    csv_of(Path("towns.csv"))
    return tmp_path


def best(name: str) -> dict[str, float]:
    rows = load_result(Path(f"reports/{name}/results/probe.json")).tables["layers"]
    return max(rows, key=lambda row: row["r2"])


def told_apart() -> tuple[dict[str, float], dict[str, float]]:
    """The best probes of both models, of which one finds the map, its controls and the other do not."""
    found, absent = best("planted"), best("plain")
    assert found["r2"] > 0.9
    for control in ("control_r2_shuffled", "control_r2_untrained", "control_r2_tokens"):
        assert found[control] < 0.1, control
    assert absent["r2"] < 0.1
    return found, absent


def test_a_planted_map_is_found_and_an_absent_one_is_not(folder: Path) -> None:
    for model in ("planted", "plain"):
        assert "120 entities x 1 prompts" in said(call("cache-acts", model, *TEXTS))
        said(call("probe", model, "--draws", 3))
    found, absent = told_apart()
    assert found["error_mean"] < 200 < absent["error_mean"]
    assert "is up to date" in said(call("cache-acts", "planted", *TEXTS))
    store = ActivationStore("activations/planted-towns.h5")
    assert "template1 The town of" in said(call("cache-acts", "--show", store.path))
    for command in (
        ("cka", "planted"),
        ("surfacing", "planted"),
        ("manifold", "planted", "--layers", 0),
        ("patch", "planted", "--pairs", 8),
        ("similarity", "planted", "plain", "--layers", "1", "--measures", "cka,mutual_knn", "--draws", 20),
    ):
        said(call(*command))
    swapped = load_result(Path("reports/planted/results/patch-texts-template1.json"))
    assert {row["component"] for row in swapped.tables["cells"]} == {"resid_post", "attn_out", "mlp_out"}
    cka = load_result(Path("reports/planted/results/cka.json"))
    assert [row["control"] for row in cka.tables["control"]] == [
        "shuffled cities", "bag of name tokens", "name tokens with the last one", "the model untrained",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_map_in_another_architecture_is_found_and_an_absent_one_is_not(
    make: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    csv_of(Path("towns.csv"))
    for name in ("planted", "plain"):
        model = make(TOKENIZER)
        if name == "planted":
            plant(model, TOKENIZER)
        saved(Path(name), model, TOKENIZER)
        said(call("cache-acts", name, *TEXTS))
        said(call("probe", name, "--draws", 2))
    told_apart()
    said(call("patch", "planted", "--pairs", 8, "--components", "resid_post,mlp_out"))
    cells = load_result(Path("reports/planted/results/patch-texts-template1.json")).tables["cells"]
    whole = [row for row in cells if (row["layer"], row["position"]) == (-1, "span")]
    assert [round(row["recovered"], 3) for row in whole] == [1.0]
    assert "planted has a tokenizer of its own" in failed(call("eval", "planted"))
    assert "model, and this needs a Qwen2" in failed(call("patch-parts", "planted"))


def test_a_map_that_is_learned_is_found_where_its_places_are_true(folder: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(XY)
    for name, xy in (("true", XY), ("false", shuffled)):
        saved(Path(name), taught(xy), TOKENIZER)
        said(call("cache-acts", name, *TEXTS))
        said(call("probe", name, "--draws", 2))
    assert best("true")["r2"] > 0.5
    assert best("true")["control_r2_untrained"] < 0.1
    assert best("false")["r2"] < 0.1, "the same training on places of other towns"


def test_a_file_of_texts_keeps_what_it_holds(folder: Path) -> None:
    path = "activations/planted-towns.h5"
    said(call("cache-acts", "planted", *TEXTS))
    first = ActivationStore(path)
    other = ("--prompts", "towns.csv", "--template", "Once in {name}")
    hook = "blocks.0.hook_resid_pre"
    assert "120 entities x 2 prompts" in said(call("cache-acts", "planted", *other, "--hooks", hook))
    both = ActivationStore(path)
    assert both.tasks == ("template1", "template2")
    assert both.hooks == (*first.hooks, hook)
    values = [store.get(0, "template1", "last_token") for store in (first, both)]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)
    assert both.token_rows("template2").texts[0].startswith("Once in ")
    for options in (TEXTS, other):
        assert "is up to date" in said(call("cache-acts", "planted", *options))
    said(call("cache-acts", "planted", *other, "--force"))
    assert ActivationStore(path).tasks == ("template1",)
    named = "prompt,entity,lon,lat,text\n" + "".join(f"{p},{n},1,2,{p} {n}\n" for p in "ab" for n in NAMES)
    Path("mine.csv").write_text(named)
    said(call("cache-acts", "planted", "--prompts", "mine.csv"))
    Path("mine.csv").write_text(named.replace(",b ", ",c "))
    said(call("cache-acts", "planted", "--prompts", "mine.csv"))
    edited = ActivationStore("activations/planted-mine.h5")
    assert [edited.token_rows(task).texts[0][0] for task in edited.tasks] == ["a", "c"]


def test_other_entities_or_weights_do_not_mix(folder: Path) -> None:
    cities = ("cache-acts", "planted", "--template", "{name}", "--n-cities")
    said(call(*cities, 30))
    refused = failed(call(*cities, 40))
    assert "planted-cities.h5 is about 30 entities of other names or coordinates hint: " in refused
    assert "--out" in refused
    said(call(*cities, 40, "--out", "more.h5"))
    said(call(*cities, 40, "--force"))
    shutil.copytree("plain", "planted", dirs_exist_ok=True)  # weights that were trained on
    for left in Path("planted").glob("model-*"):
        left.unlink()
    said(call("cache-acts", "planted", "--template", "In {name}", "--n-cities", 30))
    anew = ActivationStore("activations/planted-cities.h5")
    assert (len(anew), anew.tasks) == (30, ("template1",))


def test_mistakes_are_one_line(folder: Path) -> None:
    for arguments, words in (
        (("cache-acts", "planted"), "planted has a tokenizer of its own"),
        (
            ("eval", "planted"),
            "our questions about cities do not fit it hint: keep what it holds about texts",
        ),
        (("probe", "planted"), "no activation file of planted in activations/ hint: make one with"),
        (("cache-acts", "planted", "--prompts", "no.csv"), "no such file of prompts: no.csv"),
        (("cache-acts", "planted", "--template", "x"), "must hold {name} once"),
        (("cache-acts", "planted", "--template", "{name}", "--n-cities", 1), "1 cities were asked for"),
        (
            ("cache-acts", "planted", *TEXTS, "--n-cities", 9),
            "--n-cities is about --template without --prompts",
        ),
        (("cache-acts", "planted", *TEXTS, "--tasks", "distance"), "--tasks is about questions"),
        (("cache-acts", "planted", *TEXTS, "--sites", "last_digit"), "unknown site of a text 'last_digit'"),
        (("cache-acts", "planted", *TEXTS, "--layers", "7"), "unknown hook 'blocks.7.hook_resid_post'"),
    ):
        assert words in failed(call(*arguments))
    assert not list(Path("activations").glob("*.h5"))
    said(call("cache-acts", "planted", "--template", "{name}", "--n-cities", 30))
    said(call("cache-acts", "planted", *TEXTS))
    assert "2 files are of planted: planted-cities.h5, planted-towns.h5" in failed(call("probe", "planted"))
