"""A plan as a Snakemake workflow, so that SLURM, Kubernetes and the like come from Snakemake's executors.

The workflow holds one rule, which calls the same command as the local sweep. That a run is done is told by an
empty file beside the runs, because a run's own files are there from its beginning, to be resumed.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from cwr_mech.experiments.planned import Planned

SNAKEFILE = '''"""Written by: {command}"""

BASE = {bases}
DONE = "{root}/.sweep/{{name}}.done"


rule all:
    input:
        [DONE.format(name=name) for name in BASE],


rule train:
    input:
        lambda wildcards: [DONE.format(name=BASE[wildcards.name])] if BASE[wildcards.name] else [],
    output:
        touch(DONE),
    log:
        "{root}/.sweep/{{name}}.log",
    threads: 1
    resources:
        mem_mb=1500,
    shell:
        "OMP_NUM_THREADS=1 {argv} --only {{wildcards.name}} >> {{log}} 2>&1"
'''


def snakefile(plan: Sequence[Planned], root: Path, argv: Sequence[str], command: str) -> str:
    """The text of a Snakefile that trains `plan` into `root` with `argv --only NAME` for each run."""
    bases = json.dumps({planned.name: planned.base or "" for planned in plan}, indent=4)
    quoted = shlex.join(argv).replace("{", "{{").replace("}", "}}").replace('"', '\\"')
    return SNAKEFILE.format(command=command, bases=bases, root=root.as_posix(), argv=quoted)


def snakemake_argv(program: str, file: Path, jobs: int, more: Sequence[str]) -> list[str]:
    """The command that drives the workflow; a failed run does not stop the others."""
    keep_on = ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    return [program, "--snakefile", str(file), "--cores", str(jobs), *keep_on, *more]
