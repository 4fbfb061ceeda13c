# make reproduce    the suite, with its tables and figures in outputs/$(PROFILE)/
# make ablations    the same with the suite of the study, params/suites/embedded.yaml (of other profiles: paper.yaml), or any:
#                   PROFILE=... SUITE=... CORES=...
#                   DATA=...: another folder of videos than the profile's, with results in a folder of their own
#                   DEVICES=2: each adaptation in two processes, as `devices` in params/base.yaml
#                   GPUS=4: each run on a device of its own; CLUSTER=slurm: each a job, as params/cluster/slurm says
# make pilot        a short pass at several rates, judged on held-out training clips: go, change this or stop, and the hours of a whole run
# make status       how many runs of a suite are done, failed, not finished, not run, and the minutes left
# make check-data   reads every file of a profile's data sets once, and says what is missing or broken
# make publish      copies what a finished suite wrote to outputs/published, which git keeps
# make clean-cache  lists what can be made again, and its size; FREE=1 removes it
# make test         the tests, in CORES processes
# make gallery      runs the notebooks that show the method, and writes them as pages to outputs/gallery
# make lab          JupyterLab, opened on the tour; notebooks stay as they are committed
# Each creates .venv on first use, and brings it up to date when a pinned version has changed.

PYTHON  ?= python3
PROFILE ?=
SUITE   ?=
DATA    ?=
CORES   ?= 2
DEVICES ?=
GPUS    ?=
CLUSTER ?=
FREE    ?=

# Values reach Python through the environment alone, as they were typed: `$(value)` keeps make from expanding a $ in them.
override PYTHON  := $(value PYTHON)
override PROFILE := $(value PROFILE)
override SUITE   := $(value SUITE)
override DATA    := $(value DATA)
export PYTHON PROFILE SUITE DATA CORES DEVICES GPUS CLUSTER FREE

# On small models two processes of one thread each are faster than one process of two.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
# The kernel "python3" is this environment's, not one of the same name that the user has installed elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Snakemake and Jupyter write below HOME, which containers may lack, and ask for the name of the user.
ifneq ($(shell test -d "$$HOME" && test -w "$$HOME" && echo writable),writable)
# Models that are in its cache are found there all the same.
ifeq ($(shell test -z "$$HF_HOME" && test -d "$$HOME/.cache/huggingface" && echo there),there)
export HF_HOME := $(value HOME)/.cache/huggingface
endif
export HOME := $(CURDIR)/outputs/.home
_ := $(shell mkdir -p outputs/.home)
endif
export USER ?= $(shell id -u)

.PHONY: reproduce ablations pilot status check-data publish clean-cache test gallery lab

reproduce ablations pilot status check-data publish: .venv/installed
	@.venv/bin/python -m workflow.make $@

clean-cache: .venv/installed
	@.venv/bin/python -m workflow.cache

# A file of tests is one process's: what its tests share is made once.
test: .venv/installed
	.venv/bin/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

gallery: .venv/installed
	@.venv/bin/python -m workflow.gallery

lab: .venv/installed
	.venv/bin/python -m workflow.lab

.venv/installed: pyproject.toml constraints.txt
	@"$$PYTHON" -m workflow.environment
