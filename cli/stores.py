"""What commands record of their own call, and lists given as text."""

import shlex
import sys


def command_line() -> str:
    """What the user typed, for a result's `command`; a result does not depend on being resumed."""
    return shlex.join(["cwr-mech", *(word for word in sys.argv[1:] if word != "--resume")])


def split(text: str | None) -> list[str] | None:
    """The comma-separated parts of an option, None when it was not given."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None
