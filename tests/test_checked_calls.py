"""What is checked at calls in tests, and that it is."""

import numpy as np
import pytest
from checked_calls import EVERY, FIRST, begin_test, some_calls
from jaxtyping import TypeCheckError

from cwr_mech.analysis.patching.pairs import digits_differ


def test_the_first_calls_of_a_test_are_checked_and_then_some() -> None:
    looked: list[int] = []
    call = some_calls(looked.append, lambda k: None)
    for _ in range(2):
        looked.clear()
        begin_test()
        for k in range(1, 5 * EVERY):
            call(k)
        assert looked == [*range(1, FIRST + 1), *range(EVERY, 5 * EVERY, EVERY)]


@pytest.mark.parametrize("before", [0, EVERY - 1])
def test_shapes_that_do_not_fit_are_an_error_where_a_call_is_looked_at(before: int) -> None:
    ids = np.array([1234])
    for _ in range(before):
        assert digits_differ(ids, ids, 4).tolist() == [0]
    with pytest.raises(TypeCheckError, match="shape"):
        digits_differ(ids, np.array([1234, 1235]), 4)
