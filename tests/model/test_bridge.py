"""Other architectures: states and logits of transformers under TransformerLens' hook names, or one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_cases import NAMES, SIZES, TEMPLATE, bpe, csv_of, gpt2, llama, qwen2, saved
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from cwr_mech.activations.extract_texts import extract_texts
from cwr_mech.activations.prompts import read_prompts
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.texts import encode_prompts
from cwr_mech.analysis.patching.text_swaps import swaps_result
from cwr_mech.errors import AnalysisError, ArtifactError, ConfigError
from cwr_mech.model.bridge import BridgedModel, TextModel, read_bridged, untrained
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.runs import load_run

PIECES = bpe(whole=False)
MODELS: dict[str, Callable[..., PreTrainedModel]] = {"gpt2": gpt2, "llama": llama}
TEXTS = [TEMPLATE.replace("{name}", name) for name in NAMES[:3]]


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / request.param, MODELS[request.param](PIECES), PIECES)


def close(found: Any, expected: torch.Tensor) -> bool:
    """Two layers of float32 sums of up to 192 products; another token or layer is off by whole units."""
    return bool((torch.as_tensor(found) - expected).abs().max() < 2e-5 * expected.abs().max())


def test_states_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    prompts = read_prompts(csv_of(tmp_path / "towns.csv"), [TEMPLATE, "{name}"])
    run = load_run(folder)
    rows = encode_prompts(PIECES, prompts, *run.text_sizes)
    assert isinstance(run.text_model(), TextModel)
    extract_texts(run.text_model(), prompts.entities, rows, tmp_path / "a.h5", batch_tokens=200)
    store = ActivationStore(tmp_path / "a.h5")
    assert store.hooks[1:] == ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "unembed.hook_in")
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    last = {}
    theirs.get_decoder()._modules.get(
        "norm", getattr(theirs.get_decoder(), "ln_f", None)
    ).register_forward_hook(lambda module, given, out: last.update(before=given[0]))
    for prompt, row in (("template1", 0), ("template1", 77), ("template2", 3)):
        tokens = torch.tensor(rows[prompt].tokens[row, : rows[prompt].lengths[row]]).long()[None]
        at = rows[prompt].span[row, 1] - 1
        with torch.no_grad():
            states = theirs(tokens, output_hidden_states=True).hidden_states
        expected = (theirs.get_input_embeddings()(tokens), states[1], last["before"], states[2])
        for hook, state in zip(store.hooks, expected, strict=True):
            assert close(store.get(hook, prompt, "last_token")[row], state[0, at].detach()), hook
            assert not close(store.get(hook, prompt, "last_token")[row], state[0, 0].detach()), "the control"


def test_predictions_are_those_of_transformers_and_follow_what_is_put_in(folder: Path) -> None:
    model, theirs = read_bridged(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    given = [PIECES(text)["input_ids"] for text in TEXTS]
    length = min(map(len, given))
    tokens = torch.tensor([row[:length] for row in given])
    kept: dict[str, torch.Tensor] = {}
    hook = "blocks.1.hook_resid_pre"
    with torch.no_grad():
        own = model.predict(tokens, {hook: lambda act: kept.update({hook: act.clone()})})
        assert close(own, theirs(tokens).logits[:, -1])
        others = model.predict(tokens, {hook: lambda act: kept[hook].roll(1, 0)}, (1, kept[hook]))
    assert close(others, own.roll(1, 0)), "the whole state of another text gives that text's prediction"
    assert not close(others, own)


def test_swaps_carry_everything_or_nothing_where_they_must(folder: Path, tmp_path: Path) -> None:
    prompts = read_prompts(csv_of(tmp_path / "towns.csv"), [TEMPLATE])
    run = load_run(folder)
    model = run.text_model()
    rows = encode_prompts(PIECES, prompts, *run.text_sizes)
    extract_texts(model, prompts.entities, rows, tmp_path / "a.h5")
    result = swaps_result(model, ActivationStore(tmp_path / "a.h5"), "template1", run="m", pairs=8)
    cells = {(row["component"], row["layer"], row["position"]): row for row in result.tables["cells"]}
    for key in (("resid_post", -1, "span"), ("resid_post", 1, "text_end")):
        assert cells[key]["recovered"] == pytest.approx(1, abs=1e-3)
        assert abs(cells[key]["null"] - 1) > 0.1, "a third entity is not the source"
    for key in (("resid_post", -1, "text_end"), ("resid_post", 1, "span"), ("mlp_out", 1, "last_token")):
        assert cells[key]["recovered"] == pytest.approx(0, abs=1e-3)


def test_an_untrained_model_has_the_shape_and_other_weights(folder: Path) -> None:
    run = load_run(folder)
    one, two = untrained(run.settings), untrained(run.text_model().settings)
    assert isinstance(one, BridgedModel)
    assert folder.as_posix() not in run.settings
    trained = run.text_model().state_dict()
    drawn, again = one.state_dict(), two.state_dict()
    assert {name: value.shape for name, value in drawn.items()} == {
        name: value.shape for name, value in trained.items()
    }
    embedding = next(name for name in drawn if "wte" in name or "embed_tokens" in name)
    assert torch.equal(drawn[embedding], again[embedding]), "drawn by a seed"
    assert not torch.equal(drawn[embedding], trained[embedding])
    ours = HookedQwen2.from_hf(qwen2(PIECES))
    assert untrained(ours.settings).cfg.n_layers == ours.cfg.n_layers


def test_what_needs_a_qwen2_says_so(folder: Path) -> None:
    run = load_run(folder)
    with pytest.raises(AnalysisError, match="model, and this needs a Qwen2"):
        run.model()
    with pytest.raises(AnalysisError, match="has a tokenizer of its own"):
        run.world()
    tokens = torch.tensor([[5, 6]])
    with pytest.raises(ConfigError, match="has no hook 'blocks"):
        run.text_model().predict(tokens, {"blocks.7.hook_resid_post": lambda act: None})


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def encoder(folder: Path) -> None:
    saved(folder, BertForMaskedLM(BertConfig(vocab_size=300, **small("num_attention_heads"))), PIECES)


def translator(folder: Path) -> None:
    saved(
        folder,
        T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_ff=16, num_layers=1)),
        PIECES,
    )


def small(*names: str) -> dict[str, Any]:
    return {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size", *names)}


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an encoder": (encoder, "BertForMaskedLM is not a language model that predicts the next token"),
    "encoder and decoder": (translator, "T5ForConditionalGeneration is not a language model"),
    "an unknown architecture": (lambda f: settings(f, model_type="gpt9"), "no model type 'gpt9'"),
    "no architecture": (
        lambda f: settings(f, model_type=None, architectures=None),
        "no model type None",
    ),
    "quantised": (lambda f: settings(f, quantization_config={"quant_method": "fp8"}), "quantised"),
    "a weight is missing": (lambda f: without(f, "transformer.ln_f.weight"), "weights lack transformer.ln_f"),
    "weights of another shape": (lambda f: settings(f, n_embd=64), "weight .* has shape"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        "cannot be read",
    ),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no model.safetensors",
    ),
    "code of its own": (
        lambda f: (
            settings(f, model_type="mine", auto_map={"AutoConfig": "code.Mine"}),
            (f / "code.py").write_text("raise SystemExit('ran')\n"),
        ),
        "'mine', whose code the folder brings along; it is not run",
    ),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "m", gpt2(PIECES), PIECES)
    assert np.isfinite(read_bridged(folder).predict(torch.tensor([[5, 6]]), {}).detach().numpy()).all()
    change(folder)
    with pytest.raises(ArtifactError, match=said) as error:
        load_run(folder).text_model()
    assert "\n" not in str(error.value)
