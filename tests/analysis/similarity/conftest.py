"""What the tests of similarity share."""

import numpy as np
import pytest
from similarity_cases import DATA


@pytest.fixture(params=DATA, ids=lambda row: f"{row[0].__name__}-{row[1]}x{row[2]}x{row[3]}")
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    make, n, p, q = request.param
    return make(np.random.default_rng(7), n, p, q)
