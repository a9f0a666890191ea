"""The check of types and shapes at calls of cwr_mech: of each function the first calls in a test, then some.

Looking at every call took a third of the suite's time: some functions are called a hundred thousand times.
Which calls are looked at depends on nothing but the test.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isclass
from typing import Any

import jaxtyping

FIRST, EVERY = 16, 32
"""Calls of a function in one test that are all checked, and every how many of those after them."""

tests = 0
"""How many tests have begun."""


def begin_test() -> None:
    """The calls of every function are counted anew."""
    global tests
    tests += 1


def some_calls(checked: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """`checked` at some calls, `function` at the others."""
    seen, test = 0, 0

    @wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen, test
        if test != tests:
            seen, test = 0, tests
        seen += 1
        return (function if seen > FIRST and seen % EVERY else checked)(*args, **kwargs)

    return call


def install() -> None:
    """Check so wherever `--jaxtyping-packages` decorates a function, in modules not yet imported."""
    every_call = jaxtyping.jaxtyped

    def jaxtyped(**options: Any) -> Callable[[Any], Any]:
        decorate = every_call(**options)
        return lambda what: decorate(what) if isclass(what) else some_calls(decorate(what), what)

    jaxtyping.jaxtyped = jaxtyped
