"""What analyses compare: arrays of activations picked out of files and joined on city id."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.activations.reader import CITY_GROUPS, EMBED, FINAL, ActivationStore, join
from cwr_mech.activations.site import Site
from cwr_mech.activations.texts import name_features
from cwr_mech.errors import AnalysisError, UnknownName


@dataclass(frozen=True)
class Item:
    """One representation: a store (a state of a model), a hook, a prompt (the task it asks) and a site.

    `label` names the model where its run's name does not: several checkpoints of one run.
    """

    store: ActivationStore
    hook: str
    task: str
    site: str
    label: str = ""

    @property
    def run(self) -> str:
        """Name of the model."""
        return self.label or run_label(self.store)

    @property
    def layer(self) -> int:
        """-1 for the embedding, L after block L, and one more than the last block after the final norm."""
        return layer_number(self.hook, self.store.hooks)

    @property
    def columns(self) -> dict[str, str | int]:
        """Where it was read, as columns of a table."""
        where: dict[str, str | int] = {"run": self.run, "layer": self.layer, "hook": self.hook}
        return where | {"task": self.task, "site": self.site}

    def get(self, ids: Int[np.ndarray, "city"] | None = None) -> Float[np.ndarray, "city p"]:
        """Activations of these cities, in this order; of all without `ids`."""
        return self.store.get(self.hook, self.task, self.site, ids)


def run_label(store: ActivationStore) -> str:
    """Name of the run a file was made from; "NAME (untrained)" for a model before training."""
    name = str(store.attrs.get("run") or store.path.stem)
    return f"{name} (untrained)" if store.path.stem.endswith("-untrained") else name


def layer_number(hook: str, hooks: Sequence[str] = ()) -> int:
    """Layer of a hook as a number for tables and axes. Raises AnalysisError for a hook without a layer."""
    blocks = [site.layer for name in (*hooks, hook) if (site := Site.parse(name)).layer is not None]
    return Site.parse(hook).number(max(blocks, default=-1) + 1)


def choose_hooks(store: ActivationStore, layers: Sequence[str] | None) -> list[str]:
    """Hooks for the layers asked for, all residual-stream hooks of the file when none is.

    Raises UnknownName for a layer the file does not hold.
    """
    if not layers:
        return [hook for hook in store.hooks if hook in (EMBED, FINAL) or hook.endswith("hook_resid_post")]
    chosen = [Site.parse(layer).hook for layer in layers]
    for layer, hook in zip(layers, chosen, strict=True):
        if hook not in store.hooks:
            known = [str(name) for name in store.hooks]
            raise UnknownName(f"layer in {store.path.name}", layer, known)
    return chosen


def shared_ids(stores: Sequence[ActivationStore], cities: str = "old") -> Int[np.ndarray, "city"]:
    """Ids of the cities that all files hold, in the order of the first: the old ones, the new ones or all.

    A city counts as new when it is new in any of the files. Raises AnalysisError when none is left or the
    files are about different worlds, UnknownName for another group.
    """
    if cities not in CITY_GROUPS:
        raise UnknownName("group of cities", cities, CITY_GROUPS)
    first = stores[0]
    ids = reduce(np.intersect1d, [join(first, other) for other in stores[1:]], first.city_ids)
    ids = first.city_ids[np.isin(first.city_ids, ids)]
    is_new = np.any([store.is_new[store.rows(ids)] for store in stores], axis=0)
    kept = {"old": ids[~is_new], "new": ids[is_new], "all": ids}[cities]
    if not len(kept):
        raise AnalysisError(f"no {cities} city is in all {len(stores)} activation files")
    return kept


def token_features(store: ActivationStore, ids: Int[np.ndarray, "city"]) -> dict[str, np.ndarray]:
    """What an entity's tokens say without a model, as arrays [city feature], the strictest last: the digits
    of a city's id, or the tokens of a name in a text (those of the file's first prompt).
    """
    if store.reads_text:
        rows = store.rows(ids)
        return {name: x[rows] for name, x in name_features(store.token_rows(store.tasks[0])).items()}
    return {"bag of id digits": bag_of_digits(ids), "id digits in place": digits_in_place(ids)}


def bag_of_digits(ids: Int[np.ndarray, "city"]) -> Float[np.ndarray, "city 10"]:
    """How often each digit stands in the id: what a model could know without order and without a map."""
    return digits_in_place(ids).reshape(len(ids), -1, 10).sum(axis=1)


def digits_in_place(ids: Int[np.ndarray, "city"]) -> Float[np.ndarray, "city feature"]:
    """One-hot digits of each place of the zero-padded id, 10 a place: the tokens themselves.

    Its span holds the bag of digits, so as the input of a probe it is the stricter token-only control.
    """
    width = len(str(int(ids.max())))  # digits of the longest id
    digits = np.array([[int(char) for char in f"{city:0{width}d}"] for city in ids.tolist()])
    return np.eye(10)[digits].reshape(len(ids), -1)
