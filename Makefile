# make demo    environment if missing, then train, probe, compare and patch, and write a report
# make test    environment if missing, then every check a change must pass
# make docs    the documentation site in build/docs; its tutorials are run (DOCS_EXECUTE=false: shown only)
# make readme  the README's tables of analyses and verdicts anew
# make bench   time and memory of the parts that claim to be fast
# make patching reports/patching anew, from the zoo
# make routes  results about fine-tuned runs that are not in the zoo, from runs/ (see below)
# make sealed  the same of the bases that were kept sealed
# make together  similarity of models of two tasks
# make longer  similarity of models of distance that saw twice the rows
# make variants  models with label noise and of other sizes
# make env     environment only; for a CUDA build of torch: make env TORCH=torch==2.13.0
# make clean   remove the environment and caches; runs, activations and reports stay

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)

BASES := ripe ripe-seed2 ripe-seed3
SEALED := ripe-seed4 ripe-seed5 ripe-seed6
WITH_MAP := ripe-seed4 ripe-seed6 ripe-seed7
CWR := $(PY) -m cwr_mech_cli.main

.PHONY: demo test docs readme bench patching routes sealed together longer variants env clean FORCE

demo: .venv/.ready
	@$(PY) -m cwr_mech_cli.main demo

test: .venv/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist worksteal

docs: .venv/.ready
	@$(PIP) install -qq -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "documentation: build/docs/index.html"

readme: .venv/.ready
	@$(PY) tools/docs_pages.py

bench: .venv/.ready
	@$(PY) tests/benchmarks/run.py

patching: .venv/.ready
	@$(CWR) sites zoo:$(firstword $(BASES)) --report patching
	@for task in distance angle compass; do $(CWR) patch $(BASES:%=zoo:%) --task $$task \
	  --spans swapped_reading,swapped_last,equals,answer1,answer2 --metric logit_diff --subspace all --report patching || exit; done
	@$(CWR) patch-tasks $(BASES:%=zoo:%) --tasks distance,angle,compass --report patching
	@$(CWR) patch-parts $(foreach run,$(BASES),zoo:$(run)-ft-distance zoo:$(run)-ft-compass) --tasks distance,compass \
	  --cities old,new --report patching
	@$(CWR) report patching

# Results about runs for which the zoo has no room: `cwr-mech sweep ripe` trains them, some minutes each beside the bases'
# hour or more.
WHERE := digit3+last_digit-unscaled
SINGLES := distance trianglearea angle compass inside perimeter crossing
TWO := $(addprefix distance+,trianglearea crossing angle perimeter compass inside) angle+compass inside+perimeter \
  trianglearea+angle compass+inside perimeter+crossing trianglearea+compass
# of = $(call of,bases,sets,conditions): all fine-tunings of these bases on these sets under these conditions
of = $(foreach run,$(1),$(foreach set,$(2),$(foreach end,$(3),$(run)-ft-$(set)$(filter-out -none,-$(end)))))
HALF = $(call of,$(1),distance compass perimeter,replay-all-half)
LATER := distance angle compass perimeter $(addprefix distance+,angle compass perimeter) \
  angle+compass angle+perimeter compass+perimeter
REHEARSED = $(call of,$(1),distance compass perimeter,replay-all)
PROJECTED = $(call of,$(BASES),distance,$(addsuffix -$(WHERE),off-manifold on-manifold covariance-matched))
ELICITED = $(call of,$(BASES),distance compass perimeter,elicit-new)
FROZEN = $(call of,$(BASES),distance compass angle,only-city only-answer)
CUT = $(call of,$(1),$(2),$(addprefix replay-all-half-only-city-,unprojected-digit3+last_digit-cut \
  $(addsuffix -$(WHERE)-cut,on-manifold off-manifold covariance-matched matched-complement)))
PLACES := --tasks distance,compass,perimeter

routes: .venv/.ready
	@$(CWR) course $(call of,$(BASES),$(SINGLES),none) --rows 64 --report ripe
	@$(CWR) transfer $(call REHEARSED,$(BASES)) --rows 200 --suffix rehearsed --report ripe
	@$(CWR) transfer $(call of,$(BASES),$(SINGLES) $(TWO),none) --rows 200 --suffix pairs --report ripe
	@$(CWR) transfer $(call of,$(wordlist 1,2,$(BASES)),distance compass perimeter,elicit-world) --rows 200 \
	  --suffix elicited-world --report ripe
	@$(CWR) transfer $(call of,$(BASES),$(filter-out %crossing,$(SINGLES) $(TWO)),replay-all-half) --rows 200 --suffix half \
	  --report ripe
	@for report in ripe routing; do \
	  $(CWR) transfer $(ELICITED) --rows 200 --suffix elicited --report $$report || exit; done
	@$(CWR) locate $(ELICITED) $(PLACES) --suffix elicited --report routing
	@$(CWR) locate $(BASES) $(call of,$(BASES),distance,none replay-all) $(call of,$(BASES),compass perimeter,replay-all) \
	  $(PLACES) --suffix rehearsed --report routing
	@$(CWR) transfer $(PROJECTED) --rows 200 --suffix projected --report routing
	@$(CWR) locate $(PROJECTED) $(PLACES) --suffix projected --report routing
	@$(CWR) transfer $(call CUT,$(BASES),distance compass) --rows 200 --suffix cut --report routing
	@$(CWR) transfer $(call CUT,$(BASES),angle) --rows 200 --suffix cut-angle --report routing
	@$(CWR) transfer $(FROZEN) --rows 200 --suffix frozen --report routing
	@$(CWR) anatomy $(FROZEN) --suffix frozen --report routing
	@for report in ripe routing; do $(CWR) report $$report || exit; done

# The same of the bases that were sealed until what is asked of them was fixed (reports/PREREGISTRATION.md), and of
# base 7: base 5 holds no map where gradients are projected.
sealed: .venv/.ready
	@$(foreach run,$(SEALED),$(CWR) course $(call of,$(run),$(SINGLES),none) --rows 64 --suffix $(run) --report ripe &&) true
	@$(CWR) transfer $(call of,$(SEALED),$(SINGLES),none) --rows 200 --suffix sealed --report ripe
	@$(CWR) transfer $(call CUT,$(WITH_MAP),distance compass) --rows 200 --suffix cut-sealed --report routing
	@for report in ripe routing; do \
	  $(CWR) transfer $(call REHEARSED,$(SEALED)) --rows 200 --suffix rehearsed-sealed --report $$report || exit; done
	@$(CWR) transfer $(call of,$(SEALED) ripe-seed7,$(LATER),replay-all-half) --rows 200 --suffix half-sealed --report ripe
	@$(CWR) transfer $(call HALF,$(SEALED) ripe-seed7) --rows 200 --suffix half-sealed --report routing
	@$(CWR) locate $(SEALED) $(call of,$(SEALED),distance compass perimeter,none replay-all) $(PLACES) --suffix sealed \
	  --report routing
	@$(CWR) locate $(SEALED) ripe-seed7 $(call HALF,$(SEALED) ripe-seed7) $(PLACES) --suffix half-sealed --report routing
	@for report in ripe routing; do $(CWR) report $$report || exit; done

# Models of two tasks, beside those of one that ship with the zoo and, once trained, those that saw twice the rows:
# make together LONGER="distance compass"
TOGETHER := distance+trianglearea angle+compass inside+perimeter trianglearea+angle
LONGER :=
together: .venv/.ready
	@$(CWR) similarity $(foreach task,$(filter-out crossing,$(SINGLES)),zoo:ripe-$(task) zoo:ripe-$(task)-seed2 zoo:ripe-$(task)-seed3) \
	  $(TOGETHER:%=ripe-%) $(LONGER:%=ripe-%-longer) --layers 2 --measures cka --suffix together --report ripe
	@$(CWR) report ripe --claims

# Models of distance that saw twice the rows, beside those of all single tasks: is distance apart because it is not learned
# as well?
MORE := -seed4 -seed5 -longer $(addsuffix -longer,-seed2 -seed3 -seed4 -seed5)
longer: .venv/.ready
	@$(CWR) similarity $(patsubst zoo/%,zoo:%,$(foreach task,$(SINGLES),$(wildcard zoo/ripe-$(task) zoo/ripe-$(task)-seed?))) \
	  $(addprefix ripe-distance,$(MORE)) --layers 2 --measures cka --suffix longer --report ripe
	@$(CWR) report ripe --claims

# Models with label noise and of other sizes, beside usual bases. Of those trained so far:
# make variants ALONE=noise0.2 SIZE="width32 depth2" (ALONE: with which noise models of one task were trained)
NOISE := noise0.2 noise0.05
ALONE := $(NOISE)
SIZE := width32 width128 depth2 depth8
ALL_BASES := $(BASES) $(SEALED) ripe-seed7
variants: .venv/.ready
	@$(CWR) plot $(ALL_BASES) $(addprefix ripe-,$(NOISE) $(SIZE)) --report variants
	@$(CWR) places $(ALL_BASES) $(addprefix ripe-,$(NOISE)) --prompts own --report variants
	@[ -z "$(ALONE)" ] || $(CWR) similarity $(foreach noise,$(ALONE),$(addprefix ripe-$(noise)-,distance angle compass)) \
	  --layers 2 --measures cka --report variants
	@$(CWR) transfer $(call HALF,$(ALL_BASES)) --rows 200 --report variants
	@$(CWR) locate $(ALL_BASES) $(call HALF,$(ALL_BASES)) $(PLACES) --report variants
	@for some in noise size; do \
	  case $$some in noise) models="$(call HALF,$(addprefix ripe-,$(NOISE)))";; \
	    size) models="$(call HALF,$(addprefix ripe-,$(SIZE)))";; esac; \
	  [ -n "$$models" ] || continue; \
	  $(CWR) transfer $$models --rows 200 --suffix $$some --report variants || exit; \
	  $(CWR) locate $$models $(PLACES) --suffix $$some --report variants || exit; done
	@$(CWR) report variants --claims

env: .venv/.ready

# .venv/.making marks an installation under way. Left behind by an interruption it means that packages may be
# half there, which pip cannot tell, so the environment starts afresh. Debian without python3-venv has no
# ensurepip; then the system's pip puts a pip into the environment.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cwr-mech needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; say which with: make PYTHON=python3.12 ...")'
	@if [ -e .venv/.making ] || ! $(PIP) --version >/dev/null 2>&1; then rm -rf .venv; fi
	@echo "installing into .venv (a few minutes the first time)"
	@mkdir -p .venv && touch .venv/.making
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv >/dev/null || \
		{ $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python $(PY) install -qq pip; }
ifdef TORCH
	@$(PIP) install -qq --force-reinstall --no-deps '$(TORCH)'
else
	@$(PIP) install -qq torch==$(TORCH_VERSION)+cpu 2>/dev/null || \
		$(PIP) install -qq --index-url https://download.pytorch.org/whl/cpu torch==$(TORCH_VERSION)
endif
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@mv .venv/.making $@ && touch $@

ifdef TORCH
.venv/.ready: FORCE
endif

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
