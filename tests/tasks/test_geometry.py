"""Geometry against slow exact routes over a small grid, where coincident and collinear points abound."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.tasks import geometry
from cwr_mech.tasks.registry import COMPASS

Z, A, B, C, D = (0, 0), (10, 0), (10, 10), (0, 10), (5, 5)

# function, points, answer, why
CASES = [
    (geometry.distance, [Z, Z], 0, "coincident"),
    (geometry.distance, [Z, (30, 40)], 50, "3-4-5"),
    (geometry.distance, [(-1800, -900), (1800, 900)], 4025, "the largest legal distance"),
    (geometry.triangle_area, [Z, A, (20, 0)], 0, "collinear"),
    (geometry.triangle_area, [Z, Z, A], 0, "coincident"),
    (geometry.triangle_area, [Z, (1, 0), (0, 1)], 0, "a half goes to the even 0"),
    (geometry.triangle_area, [Z, (3, 0), (0, 1)], 2, "one and a half goes to the even 2"),
    (geometry.triangle_area, [(-1800, -900), (1800, -900), (1800, 900)], 3_240_000, "the largest"),
    (geometry.angle, [A, Z, C], 90, "right"),
    (geometry.angle, [A, Z, (-10, 0)], 180, "straight"),
    (geometry.angle, [A, Z, (20, 0)], 0, "same direction"),
    (geometry.angle, [Z, Z, A], 0, "first ray has no length"),
    (geometry.angle, [A, Z, Z], 0, "second ray has no length"),
    (geometry.compass, [Z, Z], "N", "coincident"),
    (geometry.compass, [Z, (0, 5)], "N", ""),
    (geometry.compass, [Z, (5, 5)], "NE", ""),
    (geometry.compass, [Z, (5, 0)], "E", ""),
    (geometry.compass, [Z, (5, -5)], "SE", ""),
    (geometry.compass, [Z, (0, -5)], "S", ""),
    (geometry.compass, [Z, (-5, -5)], "SW", ""),
    (geometry.compass, [Z, (-5, 0)], "W", "the cut of atan2"),
    (geometry.compass, [Z, (-5, 5)], "NW", ""),
    (geometry.compass, [Z, (1000, 414)], "E", "just under 22.5 degrees"),
    (geometry.compass, [Z, (1000, 415)], "NE", "just over 22.5 degrees"),
    (geometry.inside, [(6, 2), Z, A, B], 1, "in the triangle"),
    (geometry.inside, [(2, 6), Z, A, B], 0, "beside the triangle"),
    (geometry.inside, [(5, 0), Z, A, B], 1, "on an edge"),
    (geometry.inside, [B, Z, A, B], 1, "on a corner"),
    (geometry.inside, [D, Z, A, (20, 0)], 0, "collinear hull"),
    (geometry.inside, [(5, 0), Z, A, (20, 0)], 0, "on a collinear hull"),
    (geometry.inside, [Z, Z, Z, Z], 0, "a hull of one point"),
    (geometry.inside, [(6, 2), Z, A, A, B], 1, "a corner twice"),
    (geometry.inside, [(6, 2), Z, A, A, A], 0, "a corner thrice: a line"),
    (geometry.inside, [(9, 1), Z, A, B, C, D], 1, "a point of the five inside their hull"),
    (geometry.perimeter, [Z, A], 10, "two points: once, not there and back"),
    (geometry.perimeter, [Z, Z], 0, "two coincident points"),
    (geometry.perimeter, [Z, A, A], 20, "three points of which two coincide: there and back"),
    (geometry.perimeter, [Z, A, B, C], 40, "square"),
    (geometry.perimeter, [Z, B, A, C], 48, "the same points in a crossing order"),
    (geometry.crossing, [Z, B, A, C], 1, "diagonals"),
    (geometry.crossing, [Z, A, B, C], 0, "parallel"),
    (geometry.crossing, [Z, A, Z, C], 0, "shared end"),
    (geometry.crossing, [Z, A, (5, 0), B], 0, "an end on the other segment"),
    (geometry.crossing, [Z, (20, 0), A, (30, 0)], 0, "overlap on one line"),
    (geometry.crossing, [Z, Z, A, C], 0, "a segment without length"),
    (geometry.crossing, [Z, A, Z, A], 0, "the same segment"),
]


@pytest.mark.parametrize(("function", "points", "answer", "why"), CASES)
def test_cases(function, points, answer, why):
    found = function(np.array([points], dtype=np.int64))[0]
    assert (COMPASS[found] if function is geometry.compass else found) == answer, why


coordinate = st.integers(-3, 3)
point = st.tuples(coordinate, coordinate)


def points(k):
    """Many point sets of k points on a 7 by 7 grid."""
    return st.lists(st.lists(point, min_size=k, max_size=k), min_size=1, max_size=40).map(np.array)


def turn(p, q, r):
    return int((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))


def in_hull(q, corners):
    """q is left of, or on, every edge of the counter-clockwise hull found by Andrew's monotone chain."""
    corners = sorted({tuple(map(int, corner)) for corner in corners})

    def chain(ordered):
        hull = []
        for p in ordered:
            while len(hull) > 1 and turn(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        return hull[:-1]

    hull = chain(corners) + chain(corners[::-1])
    if len(hull) < 3:
        return False
    return all(turn(p, r, q) >= 0 for p, r in zip(hull, hull[1:] + hull[:1], strict=True))


@given(st.integers(3, 5).flatmap(lambda n: points(n + 1)))
def test_inside_equals_the_hull_by_monotone_chain(xy):
    assert geometry.inside(xy).tolist() == [in_hull(row[0], row[1:]) for row in xy]


def crosses(a, b, c, d):
    """The two open segments meet in one point, solved exactly: a + t(b - a) = c + s(d - c), 0 < t, s < 1."""
    u, v, w = ([int(x) for x in q - p] for p, q in ((a, b), (c, d), (a, c)))
    det = u[0] * v[1] - u[1] * v[0]
    if det == 0:
        return False
    t = Fraction(w[0] * v[1] - w[1] * v[0], det)
    s = Fraction(w[0] * u[1] - w[1] * u[0], det)
    return 0 < t < 1 and 0 < s < 1


def reference_crosses(a, b, c, d):
    """The reference's test: strictly counter-clockwise, or not, differs for both pairs."""
    return (turn(a, c, d) > 0) != (turn(b, c, d) > 0) and (turn(a, b, c) > 0) != (turn(a, b, d) > 0)


@given(points(4))
def test_crossing_is_the_exact_meeting_point_and_the_reference_off_touching_cases(xy):
    found = geometry.crossing(xy)
    assert found.tolist() == [crosses(*row) for row in xy]
    for row, answer in zip(xy, found, strict=True):
        if all(turn(*three) for three in combinations(row, 3)):
            assert answer == reference_crosses(*row)


def test_the_reference_depends_on_the_order_of_touching_segments_and_ours_does_not():
    touching = [(0, 0), (10, 0), (5, 0), (5, 5)]
    orders = [[touching[i] for i in order] for order in ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2))]
    assert len({reference_crosses(*row) for row in orders}) == 2
    assert set(geometry.crossing(np.array(orders)).tolist()) == {0}


@given(points(3))
def test_angle_and_area_by_the_law_of_cosines_and_heron(xy):
    for row, degrees, area in zip(xy, geometry.angle(xy), geometry.triangle_area(xy), strict=True):
        a, b, c = math.dist(row[1], row[2]), math.dist(row[0], row[2]), math.dist(row[0], row[1])
        cosine = (a * a + c * c - b * b) / (2 * a * c) if a and c else 1.0
        assert abs(degrees - math.degrees(math.acos(max(-1.0, min(1.0, cosine))))) <= 0.5 + 1e-5
        s = (a + b + c) / 2
        assert abs(area - math.sqrt(max(0.0, s * (s - a) * (s - b) * (s - c)))) <= 0.5 + 1e-5


@given(st.integers(2, 5).flatmap(points))
def test_perimeter_by_math_dist(xy):
    k = xy.shape[1]
    edges = k if k > 2 else 1
    expected = [round(math.fsum(math.dist(row[i], row[(i + 1) % k]) for i in range(edges))) for row in xy]
    assert geometry.perimeter(xy).tolist() == expected


@pytest.mark.parametrize(("function", "smallest"), [(geometry.inside, 4), (geometry.perimeter, 2)])
def test_padded_rows_answer_as_unpadded_ones(function, smallest):
    rng = np.random.default_rng(0)
    widest = 6 if function is geometry.inside else 5
    xy = rng.integers(-20, 20, size=(2000, widest, 2))
    sizes = rng.integers(smallest, widest + 1, size=2000)
    padded = function(xy, sizes)
    for size in range(smallest, widest + 1):
        rows = sizes == size
        assert (padded[rows] == function(xy[rows, :size])).all()
    assert (padded != function(xy)).any()  # what is past a row's size would matter if it were read
