"""Models as members of groups: how a model was trained and which of its tasks it has learned."""

from collections.abc import Sequence

from cwr_mech.analysis.answers.curves import losses_of, scores_of
from cwr_mech.analysis.sources import Source
from cwr_mech.analysis.stats.models import Member
from cwr_mech.data.summary import gain
from cwr_mech.errors import ArtifactError
from cwr_mech.experiments.zoo import recorded_gains
from cwr_mech.training.runs import Run


def gains(model: Run) -> dict[str, float]:
    """Trained task -> share of the gap between the best constant answer and perfect ones, training cities.

    From the recorded test questions of a model of the zoo, else from a run's last evaluation. Raises
    MissingArtifact for a run without metrics.
    """
    if model.from_zoo:
        return recorded_gains(model)
    metrics = model.metrics()
    losses_of(model, metrics)  # for what it raises
    table = scores_of(model, metrics, "old")
    return {
        row["task"]: gain(row["metric"], row["value"], row["baseline"])
        for row in table
        if row["step"] == table[-1]["step"] and row["value"] is not None
        if row["task"] in model.config.data.tasks
    }


def member_of(source: Source) -> Member:
    """How the model behind an activation file was trained and what it has learned.

    A file without a run, and a state that is not the run's last, is a model on its own.
    """
    run = source.trained()
    try:
        learned = None if run is None else gains(run)
    except ArtifactError:
        run = None
    if run is None:
        return Member(source.label, source.tasks or (source.label,), None, 0, 0)
    if source.store.attrs["step"] != run.last_step:
        return Member(source.label, (source.label,), None, 0, 0)
    config = run.config
    rows = config.train.steps * config.train.batch_size
    tasks = tuple(config.data.tasks)
    about = (config.train.seed, rows, rows // len(tasks), learned or None, config.data.label_noise)
    return Member(source.label, tasks, *about)


def members(sources: Sequence[Source]) -> dict[str, Member]:
    """Label -> member, for several files."""
    return {source.label: member_of(source) for source in sources}
