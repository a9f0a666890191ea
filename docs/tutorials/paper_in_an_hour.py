# %% [markdown]
# # The paper in an hour
#
# *Convergent World Representations and Divergent Tasks* (arXiv 2602.00533) trains small transformers on geometry
# questions about cities and asks whether they come to hold one map, and what fine-tuning does to it. Here each
# step is one call on models that ship with the package: `zoo:small` (all seven tasks, 256 cities) and two
# fine-tunings of it that introduce 16 new cities through one task each.

# %%
import cwr_mech

run = cwr_mech.load_run("zoo:small")
world = run.world()
print(world.n, "cities, of which", len(world.new()), "were withheld from pretraining")
print(*cwr_mech.generate(world, "distance", 3).texts(), sep="\n")

# %% [markdown]
# ## Does it answer?
#
# An error means little alone; beside it stands the best constant answer.

# %%
answered = cwr_mech.answers("zoo:small", tasks="distance,compass", cities="old", rows=100)
print(answered)

# %% [markdown]
# ## Does it hold a map?
#
# A linear probe reads x and y from the residual stream; every city is decoded by a probe that was not fitted on it.
# Controls: shuffled places, the digits of the id, the untrained model.

# %%
probed = cwr_mech.probe("zoo:small", prompts="distance")
best = probed.to_pandas("layers").sort_values("r2").iloc[-1]
print(probed)
assert best.r2 > 0.9 > best.control_r2_shuffled

# %% [markdown]
# ## Do new cities come onto the map?
#
# The withheld cities before fine-tuning, and after fine-tuning on distance and on compass alone.

# %%
placed = cwr_mech.places(
    "zoo:small,zoo:small-ft-distance,zoo:small-ft-compass", prompts="distance", layers="3"
)
print(placed.to_pandas("scores")[["run", "r2", "error_mean", "error_new"]].round(3))

# %% [markdown]
# `error_new` is how far new cities decode from their places, in tenths of a degree; `error_mean` the same for
# held-out training cities. What a probe decodes is not what a model answers: the tutorial *Does fine-tuning put new
# cities on the map?* asks the model itself.
#
# One seed shows how to look; it decides nothing. The verdicts, with trained models as units, are in the
# [table of verdicts](../index.md#is-the-paper-right) and in the reports `ripe` and `routing`.
