"""What a sweep found, in words: where a city is read, how it moves, where the answer is formed.

A source that only takes the old answer away moves the scores too, and an unrelated city does that as well. So
a place counts as holding the city when it recovers at least half of what an unrelated city leaves open:
(recovered - null) / (1 - null) >= 1/2.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cwr_mech.analysis.best import best_of_each, carrying
from cwr_mech.analysis.patching.pairs import READING, Pairs
from cwr_mech.results import Row, where

HALF, LEAST, MOST_HEADS = 0.5, 0.1, 4
CITY = (READING, "swapped_last")
"""Spans at which a city is said to be held: where the model reads it, or its last digit if only that was
patched."""
GROUPED = ("training_tasks", "task", "group", "direction", "states_from")
"""Columns of table `parts` that name one comparison of subspaces; models taught the same are its units."""


def place(row: Row) -> str:
    """A cell in words, such as "resid_post of layer 2 at equals"."""
    head = "" if row["head"] is None else f" head {row['head']}"
    subspace = f" inside {row['subspace']}" if row["subspace"] else ""
    return f"{row['component']}{head} of layer {row['layer']} at {row['span'].replace('_', ' ')}{subspace}"


def in_words(rows: Sequence[Row], values: Mapping[str, Any], pairs: Pairs) -> list[str]:
    """What the sweep found, for a reader, with its nulls beside it."""
    lost = ", ".join(f"{n} {reason}" for reason, n in pairs.attrition.items() if reason != "kept")
    notes = [
        f"{len(pairs)} pairs were used, of {values['n_pairs']} candidates tried ({lost}); spans follow the "
        f"swapped city, {READING} is where this model reads it ({pairs.reading}), and layers count from 0 "
        "after their block (the paper's layer L is our L - 1)."
    ]
    notes += course(rows)
    for direction, verb in (("denoise", "restores"), ("noise", "destroys")):
        mine = [row for row in where(rows, direction=direction) if row["recovered"] == row["recovered"]]
        sure = [row for row in mine if row["p_adj"] < 0.05]
        for row in best_of_each(sure, "component", "recovered"):
            notes.append(f"{direction}: {place(row)} {verb} {_share(row)} of the answer.")
        if mine and not sure:
            notes.append(f"{direction}: no cell differs from 0 after correction over {len(mine)} cells.")
    notes.append(
        f"Self-patches change no score by more than {values['self_patch_max']:.1g}. Of "
        f"{values['halves_discovered']} cells found in one half of the cities, {values['halves_confirmed']} "
        "were confirmed in the other half."
    )
    return notes


def course(rows: Sequence[Row]) -> list[str]:
    """Up to three sentences: where the city is read, how it moves to '=', where the answer is formed."""
    of, (held, arrived), city = stream(rows), turning_points(rows), city_span(rows)
    told = []
    if held is not None:
        first = min(layer for (span, layer), row in of.items() if span == city and _holds(row))
        until = f", and still after layer {held}: {_share(of[city, held])}" if held > first else ""
        it = "last digit stands" if city != READING else "tokens where the model reads it stand"
        told.append(
            f"Read: after layer {first} the city's {it} for the whole city: "
            f"{_share(of[city, first])}{until}.{_heads(rows, city, 'It is gathered by')}"
        )
    if carriers := _heads(rows, "equals", "Moved: it is brought to '=' by"):
        told.append(carriers.strip())
    most = _largest(row for (span, _), row in of.items() if span == "equals")
    if arrived is not None:
        there = where(rows, direction="denoise", span="equals")
        step = _largest(row for row in there if row["component"] in ("attn_out", "mlp_out"))
        told_step = f" The largest step there is {place(step)}: {_share(step)}." if step else ""
        told.append(
            f"Formed: '=' holds what the answer needs from layer {arrived}: "
            f"{_share(of['equals', arrived])}.{told_step}"
        )
    elif most is not None and _number(most["recovered"]) >= LEAST:
        rest = _largest(row for (span, _), row in of.items() if span.startswith("answer"))
        then = f" The largest share later is that of {place(rest)}: {_share(rest)}." if rest else ""
        told.append(
            f"Formed: '=' alone never holds all that the score needs, most after layer {most['layer']}: "
            f"{_share(most)}; answers go on to be formed while they are written.{then}"
        )
    if told:
        told.append(
            "Shares are of the score's gap, with 95 % intervals; a place counts as holding the city when it "
            "recovers at least half of what an unrelated city leaves open."
        )
    return told


def city_span(rows: Sequence[Row]) -> str:
    """The first span of CITY that was patched, the last of them where none was."""
    there = {row["span"] for row in rows}
    return next((span for span in CITY if span in there), CITY[-1])


def turning_points(rows: Sequence[Row]) -> tuple[int | None, int | None]:
    """Last layer whose residual stream holds the city at its span (`city_span`), and the first at which '='
    holds what the answer needs."""
    of, city = stream(rows), city_span(rows)
    held = [layer for (span, layer), row in of.items() if span == city and _holds(row)]
    arrived = [layer for (span, layer), row in of.items() if span == "equals" and _holds(row)]
    return max(held, default=None), min(arrived, default=None)


def stream(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Rows of the whole residual stream after each layer, clean into corrupt, by (span, layer)."""
    whole = where(rows, component="resid_post", direction="denoise", subspace=None)
    return {(row["span"], row["layer"]): row for row in whole}


def _holds(row: Row) -> bool:
    share, null = _number(row["recovered"]), min(_number(row["null"]), 0.99)
    return (share - null) / (1 - null) >= HALF


def _number(value: float | None) -> float:
    """The value, 0 where there is none."""
    return 0.0 if value is None or value != value else value


def _largest(rows: Iterable[Row]) -> Row | None:
    """The row that recovers most, if there is one."""
    return max(rows, key=lambda row: _number(row["recovered"]), default=None)


def _heads(rows: Sequence[Row], span: str, begin: str) -> str:
    """The strongest heads at a span as a sentence, "" when none is sure to matter."""
    heads = where(rows, component="z", direction="denoise", span=span)
    sure = [row for row in heads if _number(row["recovered"]) >= LEAST and _number(row["lo"]) > 0]
    strongest = sorted(sure, key=lambda row: -row["recovered"])[:MOST_HEADS]
    told = "; ".join(f"{row['layer']}.{row['head']}, {_share(row)}" for row in strongest)
    return f" {begin} heads (layer.head) {told}." if told else ""


def _share(row: Row) -> str:
    """A row's share with its interval and its null."""
    return (
        f"{row['recovered']:.2f} [{_number(row['lo']):.2f}, {_number(row['hi']):.2f}] (an unrelated city "
        f"{_number(row['null']):.2f})"
    )


def reading_layer(rows: Sequence[Row]) -> int:
    """The layer after which the city is read: the last whose whole state moves answers as much as any does.

    Below it the tokens of the id carry the city one by one, and no subspace of their states is a map.
    """
    whole = sorted(where(rows, subspace=None), key=lambda row: row["layer"])
    return int((carrying(whole) or whole)[-1]["layer"])


def where_read(rows: Sequence[Row]) -> tuple[int, dict[str | None, Row]]:
    """`reading_layer`, and the rows there by their subspace."""
    layer = reading_layer(rows)
    return layer, {row["subspace"]: row for row in where(rows, layer=layer)}


def subspace_notes(rows: Sequence[Row], n: int) -> list[str]:
    """What the subspaces carry at the layer after which the city is read."""
    layer, at = where_read(rows)
    told = [f"whole state {at[None]['iia']:.2f}"]
    told += [f"{name} ({row['rank']} dimensions) {row['iia']:.2f}" for name, row in at.items() if name]
    return [
        f"IIA over {n} pairs when only a part of the first city's state after layer {layer} is replaced, "
        f"where the model reads it: {', '.join(told)}."
    ]


def verdict(rows: Sequence[Row]) -> str:
    """One model, task, group, direction and origin of the states in words: which part the answers read.

    One part carries more than another when their intervals do not meet. Where even the whole state moves
    less than half of the answers, there is nothing to divide. The manifold's span says something about
    coordinates only if it carries more than covariance-matched directions do.
    """
    layer, at = where_read(rows)
    inside, outside, matched = at["manifold"], at["not-manifold"], at.get("covariance-matched")
    labels = {
        None: "whole state",
        "manifold": f"manifold ({inside['rank']:.0f} dimensions)",
        "not-manifold": f"its complement ({outside['rank']:.0f})",
        "pca": "PCA of the manifold's rank",
        "covariance-matched": "covariance-matched",
        "random": "random",
    }
    shares = {key: f"{row['iia']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]" for key, row in at.items()}
    told = ", ".join(f"{label} {shares[key]}" for key, label in labels.items() if key in at)
    if _number(at[None]["iia"]) < HALF:
        word = "not mediated by this state (IIA below 0.5)"
    elif inside["lo"] > outside["hi"]:
        word = "through the manifold's span"
        if matched is not None and not inside["lo"] > matched["hi"]:
            word += ", which carries no more than covariance-matched directions"
    elif outside["lo"] > inside["hi"]:
        word = "through the complement of the manifold's span"
    else:
        word = "through neither part more than the other"
    return f"{word}: after layer {layer}, {told}"
