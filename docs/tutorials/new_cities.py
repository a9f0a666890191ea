# %% [markdown]
# # Does fine-tuning put new cities on the map?
#
# `zoo:small` has never met 16 cities. `zoo:small-ft-distance` and `zoo:small-ft-compass` were fine-tuned on questions of
# one task about them. Two ways to ask where the new cities are now: a probe reads the residual stream; and the model's
# own answers imply a place, task by task.

# %%
import cwr_mech

RUNS = "zoo:small,zoo:small-ft-distance,zoo:small-ft-compass"
placed = cwr_mech.places(RUNS, prompts="distance", layers="1,3")
print(placed.to_pandas("scores")[["run", "layer", "error_mean", "error_new"]].round(0).to_string(index=False))

# %% [markdown]
# ## What the answers say
#
# `locate` asks each model questions about every new city and finds the coordinates that explain its answers best.
# Beside it: training cities, as the yardstick.

# %%
located = cwr_mech.locate(RUNS, tasks="distance,compass", questions=32, draws=50)
errors = located.to_pandas("errors").query("answers == 'model' and layer.isna()")
print(errors.pivot_table(index="run", columns=["cities", "task"], values="error").round(0).to_string())

# %% [markdown]
# Read a row: the fine-tuned task puts new cities nearer to their places than the base does. Whether the *other* task
# follows is the question of the paper's *divergent tasks*.

# %%
base, tuned = (
    errors.query(f"run == '{name}' and cities == 'new' and task == 'distance'").error.item()
    for name in ("zoo:small", "zoo:small-ft-distance")
)
print(
    f"distance puts new cities {base:.0f} from their places before, {tuned:.0f} after fine-tuning on distance"
)
assert tuned < base

# %% [markdown]
# One base model decides nothing; `reports/routing` asks seven bases and their fine-tunings, and judges the claims with
# base models as units. `cwr-mech report routing --html` shows the implied places on a map.
