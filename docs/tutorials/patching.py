# %% [markdown]
# # Patching, from question to verdict
#
# Question: **where does `zoo:small` hold the first city of a distance question, and until which layer?** Two questions
# that differ in one city are run; a state of one is put into the other (*interchange intervention*). If the answer
# follows, that state carried the city. `swapped_reading` is the token, or tokens, of the swapped city at which this model
# reads it, found by interchange beforehand: here the last digit of its id.

# %%
import cwr_mech

swept = cwr_mech.patch(
    "zoo:small",
    task="distance",
    components="resid_post",
    pairs=24,
    metric="logit_diff",
    spans="swapped_digits,swapped_reading,equals",
)
cells = swept.to_pandas("cells").query("direction == 'noise'")
print(cells.pivot(index="layer", columns="span", values="recovered").round(2))

# %% [markdown]
# ## The control
#
# A state of an unrelated city in the same place breaks the answer, too, and so recovers something of the score. What
# counts is what is left above it.

# %%
print(cells.pivot(index="layer", columns="span", values="null").round(2))
self_patch = swept.values["self_patch_max"]
print(f"a question patched with its own state changes by at most {self_patch:.1g}")
assert self_patch < 1e-3

# %% [markdown]
# ## Answers, not scores
#
# The strictest reading decodes whole answers: the share that become the model's own answer to the other question
# (interchange intervention accuracy, IIA), with its interval.

# %%
answers = swept.to_pandas("interchange").query(
    "direction == 'noise' and span in ('swapped_reading', 'equals')"
)
print(answers[["span", "layer", "iia", "lo", "hi", "unchanged"]].round(2).to_string(index=False))

# %% [markdown]
# ## The verdict
#
# The city is held where the model reads it as far as IIA there is high; `=` has it from the layer where most of the score is
# recovered there. Note what `=` alone does *not* do: it moves the score, that is the first token at which the two answers
# differ, and hardly ever a whole answer, since later answer tokens are computed at their own positions.

# %%
held = answers.query("span == 'swapped_reading' and iia >= 0.5").layer.max()
read = cells.query("span == 'equals' and recovered >= 0.5").layer.min()
whole = answers.query("span == 'equals'").iia.max()
print(
    f"held where it is read up to L{held:.0f}; at '=' from L{read:.0f}; whole answers from '=': {whole:.2f}"
)
assert read > held  # the city leaves its own tokens before the answer is written

# %% [markdown]
# One model, 24 pairs. `cwr-mech patch-tasks zoo:small zoo:small-seed2 zoo:small-seed3` compares tasks with models as
# units; `cwr-mech report NAME --html` shows the sweep cell by cell.
