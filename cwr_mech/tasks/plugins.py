"""Tables of names that users add to: what the package brings, what was registered, what plug-ins bring.

A plug-in is an installed package with entry points of a table's group, in its pyproject.toml:

    [project.entry-points."cwr_mech.tasks"]
    nearer = "my_package.tasks:NEARER"
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from cwr_mech.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> thing: the package's own in their order, then those added. Only `add` changes it.

    Plug-ins are loaded when a name is asked for that is not there, or when all names are. A plug-in that
    cannot be loaded, or whose name is taken, is left out with a warning: it must not break other work.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, T], read: Callable[[str, Any], Mapping[str, T]]
    ) -> None:
        """kind: what one thing is called in messages. group: of the entry points. read: makes named things
        of an entry point's name and its object."""
        self.kind, self.group, self._read = kind, group, read
        self._things: dict[str, T] = dict(own)
        self._own = frozenset(own)
        self._loaded = False

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            self._load()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._things))

    def __len__(self) -> int:
        self._load()
        return len(self._things)

    def __repr__(self) -> str:
        return f"<{self.kind}s {', '.join(self)}>"

    def index(self, name: str) -> int:
        """Place of a name in the table. It may differ between processes: never write it to a file."""
        self[name]
        return list(self._things).index(name)

    def at(self, index: int) -> T:
        """The thing at a place."""
        return list(self._things.values())[index]

    def add(self, name: str, thing: T, *, replace: bool = False) -> None:
        """Add a thing. `replace` takes the place of one added before, never of the package's own.

        Raises ConfigError when the name is taken by another thing.
        """
        if name not in self._things:
            self._load()
        if self._things.get(name, thing) != thing and (name in self._own or not replace):
            raise ConfigError(
                f"there is a {self.kind} '{name}' already",
                "choose another name"
                + ("" if name in self._own else ", or say replace=True to put the new one in its place"),
            )
        self._things[name] = thing

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # first: a plug-in's module may itself look into the table
        for entry in entry_points(group=self.group):
            package = entry.dist.name if entry.dist else "an unknown package"
            try:
                for name, thing in self._read(entry.name, entry.load()).items():
                    self.add(name, thing)
            except Exception as error:  # whatever a stranger's module raises
                warnings.warn(
                    f"{self.kind} '{entry.name}' of package {package} is left out: {error}", stacklevel=2
                )
