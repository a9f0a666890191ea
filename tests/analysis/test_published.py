"""The published correlation of similarity with transfer comes out of the published tables."""

import pytest

from cwr_mech.analysis.published import correlate, matrix, published_correlation, published_pair
from cwr_mech.errors import AnalysisError


def test_what_is_published_of_single_tasks_stands_beside_no_model_of_several() -> None:
    both = ("distance", "trianglearea")
    for measure, value in (("procrustes_3", 0.6197), ("cka", matrix("cka")[0, 1])):
        assert published_pair(measure, both[1:], both[:1]) == value
        assert published_pair(measure, both, both) is None


CASES = [
    # tasks left out, trainers left out, points, r, r within asked tasks
    (("crossing",), (), 30, 0.436, 0.78),
    (("crossing", "distance"), (), 20, 0.06, 0.53),
    (("crossing",), ("distance",), 25, 0.23, None),
    ((), (), 42, -0.05, None),
]


@pytest.mark.parametrize(("out", "trainers", "n", "r", "adjusted"), CASES)
def test_with_and_without_distance(out: tuple, trainers: tuple, n: int, r: float, adjusted: float) -> None:
    found = correlate(matrix("cka"), matrix("transfer"), leave_out=out, leave_out_trainers=trainers)
    assert found["n"] == n
    assert found["r"] == pytest.approx(r, abs=0.006)
    if adjusted is not None:
        assert found["r_adjusted"] == pytest.approx(adjusted, abs=0.006)


def test_the_published_line_comes_out_of_the_rounded_tables() -> None:
    found, paper = (
        correlate(matrix("cka"), matrix("transfer"), leave_out=("crossing",)),
        published_correlation(),
    )
    assert (found["n"], found["slope"]) == (paper["n"], pytest.approx(paper["slope"], abs=0.01))
    assert found["r2"] == pytest.approx(paper["r2"], abs=0.005)
    assert found["intercept"] == pytest.approx(paper["intercept"], abs=0.01)
    with pytest.raises(AnalysisError, match="too few"):
        correlate(
            matrix("cka"),
            matrix("transfer"),
            leave_out=("distance", "angle", "compass", "crossing", "inside"),
        )
