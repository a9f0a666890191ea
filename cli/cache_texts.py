"""`cwr-mech cache-acts FOLDER --prompts FILE.csv`: what a model that reads text holds about entities."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

    from .cache_acts import Places


class TextOptions(NamedTuple):
    """What the texts are and how they are run."""

    prompts: Path | None
    templates: list[str]
    n_cities: int | None
    batch_tokens: int
    device: str


def cache_texts(
    run: "Run",
    options: TextOptions,
    places: "Places",
    *,
    step: int | None,
    untrained: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Run every text and keep the chosen layers at the chosen tokens of its entity.

    Raises ArtifactExists for a file of something else at `out`.
    """
    import time

    from cwr_mech.activations.extract import default_hooks, model_digest
    from cwr_mech.activations.extract_texts import extract_texts, holds
    from cwr_mech.activations.prompts import city_prompts, read_prompts
    from cwr_mech.activations.site import Site
    from cwr_mech.activations.texts import TEXT_SITES, encode_prompts
    from cwr_mech.analysis.sources import texts_path
    from cwr_mech.analysis.study import names
    from cwr_mech.model.bridge import untrained as untrained_model
    from cwr_mech.model.text import read_tokenizer
    from cwr_mech.training.compute import choose

    from .cache_acts import reusable, size
    from .common import duration, number, progress, say

    device = choose(options.device, "float32", "off").device
    if options.prompts is not None:
        prompts = read_prompts(options.prompts, options.templates)
    else:
        prompts = city_prompts(options.templates, options.n_cities)
    stem = options.prompts.stem if options.prompts else "cities"
    path = out or texts_path(run, stem, untrained=untrained)
    rows = encode_prompts(read_tokenizer(run.checkpoint(step)), prompts, *run.text_sizes)
    model = untrained_model(run.settings) if untrained else run.text_model(step)
    digest = model_digest(model) if untrained else run.sha256(step)
    named = [*(names(places.layers) or []), *(names(places.hooks) or [])]
    hooks = [Site.parse(name).hook for name in named] or list(default_hooks(model.cfg.n_layers))
    sites = names(places.sites) or [*TEXT_SITES[:1]]
    old = None if force else reusable(path, digest, prompts.entities.sha256, named=out is not None)
    if old is not None and holds(old, rows, hooks, sites):
        say(f"{path} is up to date; --force writes it anew, --show {path} prints what is inside")
        return
    began = time.monotonic()
    n = prompts.entities.n * len(rows)
    with progress(f"caching {path.name}", n, "texts") as advance:
        extract_texts(
            model.to(device),
            prompts.entities,
            rows,
            path,
            hooks=hooks,
            sites=sites,
            batch_tokens=options.batch_tokens,
            attrs={"run": run.name, "folder": run.source, "model_sha256": digest},
            advance=advance,
        )
    seconds = time.monotonic() - began
    say(f"{path}  {size(path)}, {duration(seconds)}, {number(n / seconds)} texts/s")
    say(f"{prompts.entities.n} entities x {len(rows)} prompts; --show {path} prints what is inside")
    say(f"go on with: cwr-mech probe --activations {path}")
