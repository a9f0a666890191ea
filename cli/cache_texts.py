"""`cwr-mech cache-acts FOLDER --prompts FILE.csv`: what a model that reads text holds about entities."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cwr_mech.errors import ArtifactExists

from .cache_acts import UP_TO_DATE, caching, joined, kept
from .common import say

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run


def cache_texts(
    run: "Run",
    file: Path | None,
    templates: Sequence[str],
    n_cities: int | None,
    *,
    hooks: Sequence[str],
    sites: Sequence[str] | None,
    batch_tokens: int,
    device: str,
    step: int | None,
    untrained: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Run every text (of a file, or of templates about so many cities) and keep the hooks, by default the
    residual stream at all layers, at the chosen tokens of its entity.

    What a file of the same model and entities holds stays in it. A prompt of a file of texts takes the place
    of one of its name; templates, which have no names of their own, are numbered in the order they come.
    Raises ArtifactExists for a file about other entities, and of something else at `out`.
    """
    from cwr_mech.activations.extract import default_hooks, model_digest
    from cwr_mech.activations.extract_texts import beside, extract_texts, holds
    from cwr_mech.activations.prompts import city_prompts, read_prompts
    from cwr_mech.activations.texts import TEXT_SITES, encode_prompts
    from cwr_mech.analysis.sources import texts_path
    from cwr_mech.model.bridge import untrained as untrained_model
    from cwr_mech.model.text import read_tokenizer

    prompts = read_prompts(file, templates) if file is not None else city_prompts(templates, n_cities)
    path = out or texts_path(run, file.stem if file else "cities", untrained=untrained)
    rows = encode_prompts(read_tokenizer(run.checkpoint(step)), prompts, *run.text_sizes)
    model = untrained_model(run.settings) if untrained else run.text_model(step)
    digest = model_digest(model) if untrained else run.sha256(step)
    hooks, sites = hooks or default_hooks(model.cfg.n_layers), sites or TEXT_SITES[:1]
    old = None if force else kept(path, digest, named=out is not None)
    if old is not None:
        if old.attrs["world_sha256"] != prompts.entities.sha256:
            raise ArtifactExists(
                f"not overwritten: {path} is about {len(old)} entities of other names or coordinates",
                "keep both with another --out, or replace it with --force",
            )
        held = {task: old.token_rows(task) for task in old.tasks}
        rows = beside(held, rows) if templates else held | rows
        hooks, sites = joined(old.hooks, hooks), joined(old.sites, sites)
        if holds(old, rows, hooks, sites):
            say(UP_TO_DATE.format(path))
            return
    with caching(path, prompts.entities.n * len(rows), "texts") as advance:
        extract_texts(
            model.to(device),
            prompts.entities,
            rows,
            path,
            hooks=hooks,
            sites=sites,
            batch_tokens=batch_tokens,
            attrs={"run": run.name, "folder": run.source, "model_sha256": digest},
            advance=advance,
        )
    say(f"{prompts.entities.n} entities x {len(rows)} prompts; --show {path} prints what is inside")
    say(f"go on with: cwr-mech probe --activations {path}")
