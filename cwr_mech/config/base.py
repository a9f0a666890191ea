"""What all settings share: immutable, strict about names, and one line about a fault."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from cwr_mech.errors import ConfigError

NONE_IS_EMPTY = BeforeValidator(lambda given: given or ())
"""For lists: none and an empty word are the empty list."""
Words = Annotated[tuple[str, ...], NONE_IS_EMPTY]


class Config(BaseModel):
    """Base of all settings: immutable, strict about names, lenient about nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def parse(kind: type[C], content: object) -> C:
    """Build a config from plain data. Raises ConfigError with the first fault, its place and its value."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Where a setting may be of several types, pydantic adds the type's own name, which no user knows.
        place = ".".join(str(part) for part in first["loc"] if str(part).replace("_", "a").isalnum())
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown setting '{place}'") from error
        raise ConfigError(f"setting '{place}' cannot be {_short(first['input'])}: {first['msg']}") from error


def _short(value: object) -> str:
    """What was given, as a line that fits into a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} letters)"
