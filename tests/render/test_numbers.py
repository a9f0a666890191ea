"""Numbers as readers see them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.render.numbers import number

CASES = (
    (None, "-"), (math.nan, "-"), (math.inf, "inf"), (True, "yes"), (False, "no"), (0, "0"), (7, "7"),
    (9999, "9999"), (10000, "10,000"), (-12345, "-12,345"), (0.0, "0.000"), (0.97145, "0.971"),
    (0.012, "0.012"), (-0.25, "-0.250"), (4.128, "4.13"), (12.34, "12.3"), (123.4, "123"), (1234.6, "1235"),
    (9999.4, "9999"),
    (12345.6, "12,346"), (3e-7, "3.0e-07"), (1e9, "1.0e+09"), ("text", "text"),
)  # fmt: skip


@pytest.mark.parametrize(("value", "text"), CASES)
def test_cases(value: object, text: str) -> None:
    assert number(value) == text


@given(st.floats(min_value=-1e12, max_value=1e12), st.integers(3, 6))
def test_what_is_shown_is_near_the_value(value: float, digits: int) -> None:
    shown = float(number(value, digits).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.6 * 10 ** (2 - digits), abs=0.5 * 10**-digits)
