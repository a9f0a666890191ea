"""What a fine-tuned model answers beside its base: its own task and the others, new and training cities.

One function for every condition of a fine-tuning. Models of the zoo were asked when they were added
(`cwr_mech.experiments.zoo`); the same questions need no decoding again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from cwr_mech.analysis.transfer.transfer import Base, Tuned
from cwr_mech.config import STRICT, Protocol
from cwr_mech.data.rows import Rows, generate
from cwr_mech.experiments.finetuning import condition_of
from cwr_mech.experiments.zoo_files import QUESTIONS, SEED, recorded
from cwr_mech.model.evaluation import Answers, Evaluation, answer_rows, score_answers
from cwr_mech.tasks.registry import PAPER_TASKS, ordered
from cwr_mech.training.runs import Run
from cwr_mech.world.cities import World

GROUPS = ("old", "new")
Answerer = Callable[[Rows], Answers]


class Questions:
    """Test questions of some tasks about training cities and about new ones, drawn once for many models."""

    def __init__(
        self,
        world: World,
        tasks: Sequence[str] = PAPER_TASKS,
        n: int = QUESTIONS,
        seed: int = SEED,
        *,
        groups: Sequence[str] = GROUPS,
        protocol: Protocol = STRICT,
    ) -> None:
        self.seed = seed
        draw = partial(generate, world, split="test", seed=seed, protocol=protocol)
        self.rows = {group: [draw(task, n, group=group) for task in tasks] for group in groups}

    def __len__(self) -> int:
        return sum(len(rows) for several in self.rows.values() for rows in several)

    def ask(
        self, answer: Answerer, advance: Callable[[int], object] = lambda n: None
    ) -> dict[str, Evaluation]:
        """Group of cities -> scores of `answer`. `advance(n)` is called after every task's n answers."""
        found = {}
        for group, several in self.rows.items():
            scores = []
            for rows in several:
                scores.append(score_answers(rows, answer(rows), group))
                advance(len(rows))
            found[group] = Evaluation(tuple(scores), group, "test", self.seed)
        return found


def evaluations(
    run: Run,
    *,
    tasks: Sequence[str] | None = None,
    world: World | None = None,
    step: int | None = None,
    n: int = QUESTIONS,
    seed: int = SEED,
    groups: Sequence[str] = GROUPS,
    advance: Callable[[int], object] = lambda n: None,
) -> dict[str, Evaluation]:
    """Scores of a run by group of cities, on `tasks` (by default the paper's seven and those it was trained
    on): as recorded in the zoo, or by asking now.

    Asked is under the protocol it was trained by, at its last checkpoint or at `step`, in its own world or in
    `world`: a fine-tuning may have been taught other new cities than its base held back.
    """
    world = run.world() if world is None else world
    tasks = tasks or tasks_of([run])
    known = run.manifest.get("zoo", {}).get("questions", {})
    same = step in (None, run.last_step) and world.sha256 == run.world().sha256
    if same and (known.get("n"), known.get("seed")) == (n, seed):
        found = {group: recorded(run, group) for group in groups}
        if all(set(tasks) <= {score.task for score in one.scores} for one in found.values()):
            advance(n * len(tasks) * len(groups))
            return found
    questions = Questions(world, tasks, n, seed, groups=groups, protocol=run.config.data.protocol)
    return questions.ask(partial(answer_rows, run.model(step)), advance)


def tuned_of(run: Run, scores: Mapping[str, Evaluation]) -> Tuned:
    """A fine-tuned run with its scores."""
    return Tuned(
        run=run.name,
        base=str(run.parent),
        seed=run.config.train.seed,
        trained=run.config.data.tasks,
        condition=condition_of(run.config),
        steps=run.config.train.steps,
        lr=run.config.train.lr,
        old=scores["old"],
        new=scores["new"],
    )


def tasks_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """The paper's seven tasks and those that any of the runs was trained on."""
    return ordered((*PAPER_TASKS, *(task for run in runs for task in run.config.data.tasks)))


def asked_of(
    tuned: Sequence[Run],
    bases: Mapping[str, Run],
    steps: Mapping[str, Sequence[int]],
    *,
    tasks: Sequence[str],
    n: int,
    seed: int,
    advance: Callable[[int], object] = lambda n: None,
) -> tuple[dict[str, Base], dict[tuple[str, int], Tuned]]:
    """Scores of bases by name, and of fine-tuned runs by (name, step).

    Bases are asked in the world of their fine-tunings (one each, see `check_worlds`), once more with other
    questions about new cities.
    `advance(k)` is called after every k questions.
    """
    worlds = {run.parent: run.world() for run in tuned}
    ask = partial(evaluations, tasks=tasks, n=n, advance=advance)
    before = {}
    for name, run in bases.items():
        again = ask(run, world=worlds[name], seed=seed + 1, groups=("new",))["new"]
        before[name] = Base(name, **ask(run, world=worlds[name], seed=seed), again=again)
    asked = [(run, step) for run in tuned for step in steps[run.name]]
    after = {(run.name, step): tuned_of(run, ask(run, step=step, seed=seed)) for run, step in asked}
    return before, after
