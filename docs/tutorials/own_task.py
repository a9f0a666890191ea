# %% [markdown]
# # A task of your own
#
# A task is a row: a name, how a question is written, how many cities it takes, and a formula. Data, training,
# evaluation, analyses and figures take it from there.

# %%
import numpy as np

import cwr_mech


def second_is_nearer(xy, sizes=None):
    """[query, 3 cities, 2], whole tenths of a degree -> index of the label."""
    first, second = (((xy[:, i] - xy[:, 0]) ** 2).sum(axis=1) for i in (1, 2))
    return (second < first).astype(np.int64)


NEARER = cwr_mech.Task("nearer", "near", ";,,", 3, 3, second_is_nearer, labels=("FIRST", "SECOND"))
cwr_mech.register_task(NEARER)

# %% [markdown]
# Check the formula on a case worked out by hand: from (0, 0), the city at distance 1 is nearer than that at 2.

# %%
case = np.array([[[0, 0], [1, 0], [0, 2]], [[0, 0], [0, 2], [1, 0]]])
assert second_is_nearer(case).tolist() == [0, 1]
world = cwr_mech.load_world()
print(*cwr_mech.generate(world, "nearer", 4).texts(), sep="\n")

# %% [markdown]
# Train it beside distance. The preset `tiny` takes seconds and learns next to nothing: it proves that the task
# passes through every stage. `quick` (minutes) learns.

# %%
from cwr_mech.experiments.presets import preset

config = preset("tiny")
data = config.data.model_copy(update={"tasks": ("distance", "nearer"), "weights": None})
config = config.model_copy(update={"data": data})
run = cwr_mech.train(config, "runs/nearer")
print(cwr_mech.answers("runs/nearer", rows=40))

# %% [markdown]
# For the command line, put the row into a package of yours with an entry point:
# `nearer = "my_package:NEARER"` in the group `cwr_mech.tasks`.
