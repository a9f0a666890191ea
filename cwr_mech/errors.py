"""What can go wrong, sorted by what the caller can do about it.

CwrError                      one clear line in `message`, what to do in `hint`
|-- UserError                 the input is wrong; the command line exits with 2
|   |-- UnknownName           no task, preset, layer, hook ... of that name
|   |-- ConfigError           a setting is missing, unknown or out of range
|   |-- WorldError            cities that cannot make a world
|   |-- AnalysisError         data that cannot answer the question asked
|   `-- ArtifactError         a file or folder
|       |-- MissingArtifact   is not there
|       |-- CorruptArtifact   is there and broken, or is something else
|       |-- SchemaMismatch    was written by another version
|       |-- ArtifactExists    is there and must not be overwritten
|       |-- ArtifactLocked    is in use by another process
|       `-- NoSpace           cannot be written: the disk is full
|-- TrainingDiverged          the loss is no longer a number; the last good checkpoint is kept
`-- ProcessLost               one of the processes that train a model together has ended
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import TypeVar, cast

T = TypeVar("T")


class CwrError(Exception):
    """Base of all errors this package raises on purpose.

    `message` is one line that says what is wrong and quotes what was given;
    `hint`, when there is one, says what to do.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UserError(CwrError):
    """The input is wrong and the user can mend it."""


LONGEST = 100
"""Characters of a name that an error quotes."""


def quoted(name: object) -> str:
    """A name from a file or a command line in quotes, cut to what a line can hold."""
    text = str(name)
    return f"'{text}'" if len(text) <= LONGEST else f"'{text[:LONGEST]}...' ({len(text):,} characters)"


class UnknownName(UserError):
    """A name that is not in a table; says the nearest one or lists them all."""

    def __init__(self, kind: str, name: object, choices: Iterable[object]) -> None:
        known = [str(choice) for choice in choices]
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        shown = ", ".join(known[:24]) + (f", ... ({len(known)} in all)" if len(known) > 24 else "")
        super().__init__(f"unknown {kind} {quoted(name)}", f"{hint}known: {shown or 'there are none'}")


def one_of(kind: str, name: object, choices: Collection[T]) -> T:
    """The choice that `name` is. Raises UnknownName, which calls it by its `kind`."""
    if name not in choices:
        raise UnknownName(kind, name, choices)
    return cast(T, name)


class ConfigError(UserError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class WorldError(UserError):
    """Cities that cannot make a world, or a city that is not in it."""


class AnalysisError(UserError):
    """The data given cannot answer the question asked."""


class ArtifactError(UserError):
    """Something about a file or folder."""


class MissingArtifact(ArtifactError):
    """The file or folder is not there."""


class CorruptArtifact(ArtifactError):
    """The file is truncated, broken, or not the kind of file it should be."""


class SchemaMismatch(ArtifactError):
    """The file was written under another schema version."""


class ArtifactExists(ArtifactError):
    """The output is there already and would be overwritten."""


class ArtifactLocked(ArtifactError):
    """Another process is writing there."""


class NoSpace(ArtifactError):
    """The disk is full."""


class TrainingDiverged(CwrError):
    """The loss became infinite or not a number."""


class ProcessLost(CwrError):
    """Another process of the same training has ended before it was done."""
