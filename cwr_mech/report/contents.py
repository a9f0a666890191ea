"""What a report may hold: a row for each kind of result, in the order of the report."""

from cwr_mech.analysis.registry import shows
from cwr_mech.analysis.routing import show as report_routing
from cwr_mech.analysis.transfer import show as transfer_show
from cwr_mech.findings import show as report_zoo
from cwr_mech.render.shown import Section

_SECTIONS = (
    Section(
        "zoo",
        "The models",
        "Everything below is about these models; each can be loaded as zoo:NAME.",
        report_zoo.models,
    ),
    Section(
        "maps",
        "Maps, model by model",
        "A linear probe for the place of a city in each model, at its best layer; new cities are decoded by "
        "a probe fitted on the others.",
        report_zoo.maps,
    ),
    Section(
        "transfer",
        "What fine-tuning teaches",
        "Models that were shown new cities through some tasks, asked about them through all; and what they "
        "still know of the old ones.",
        transfer_show.transfer,
    ),
    Section(
        "subspace",
        "Where updates go",
        "The change of a city's activation that a task asks for or makes: how much of it lies in the few "
        "directions in which ordinary cities differ because of their place, and where it moves the city.",
        report_routing.subspace,
    ),
    Section(
        "conflict",
        "Do tasks pull the weights the same way?",
        "Gradients of every weight matrix, task by task.",
        report_routing.conflict,
    ),
    Section(
        "trajectory",
        "Where fine-tuning puts new cities",
        "In the wrong place on the map, or off the map: beside ordinary cities.",
        report_routing.trajectory,
    ),
    Section(
        "prediction",
        "Can divergence be told before training?",
        "Similarity of the tasks' gradients before and early in training, and of the tasks themselves, "
        "against what became of them.",
        report_routing.prediction,
    ),
    Section(
        "stretch",
        "A stretch of the paper's training",
        "The same weights, batches and rates here and under transformers' Trainer.",
        report_zoo.stretch,
    ),
)
SECTIONS = (*(show.section for show in shows().values()), *_SECTIONS)
"""Kinds of results in the order of the report. Kinds without a row come last, shown as they are."""
