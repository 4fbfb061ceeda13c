# make reproduce   the suite, with its tables and figures in outputs/$(PROFILE)/
# make ablations   the same with the suite of the study, params/suites/embedded.yaml (of other profiles: paper.yaml), or any:
#                  PROFILE=... SUITE=... CORES=...
#                  DEVICES=2: each adaptation in two processes, as `devices` in params/base.yaml
#                  GPUS=4: each run on a device of its own; CLUSTER=slurm: each a job, as params/cluster/slurm says
# make status      how many runs of a suite are done, failed, not finished, not run, and the minutes left
# make check-data  reads every file of a profile's data sets once, and says what is missing or broken
# make test        the tests, in CORES processes
# make lab         JupyterLab, opened on the tour
# Each creates .venv on first use, and brings it up to date when a pinned version has changed.

PYTHON  ?= python3
PROFILE ?= embedded
SUITE   ?= $(if $(filter ablations status,$(MAKECMDGOALS)),$(if $(filter embedded%,$(PROFILE)),embedded,paper),reproduce)
DATA    ?=
CORES   ?= 2
DEVICES ?=
GPUS    ?=
CLUSTER ?=

# On small models two processes of one thread each are faster than one process of two.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export PATH := $(CURDIR)/.venv/bin:$(PATH)

WHERE = $(if $(CLUSTER),--profile params/cluster/$(CLUSTER),-c $(CORES)) $(if $(GPUS),--resources gpu=$(GPUS))
SNAKEMAKE = .venv/bin/snakemake $(WHERE) --rerun-incomplete --rerun-triggers mtime params input \
            --nolock --keep-going --config 'profile=$(PROFILE)' 'suite=$(SUITE)' 'data=$(DATA)' 'devices=$(DEVICES)'

.PHONY: reproduce ablations status check-data test lab

# The dry run tells first, and once, what is wrong with what was asked for. When a run has failed, the tables are still
# made from the others, with the failed ones marked, and make fails at the end.
reproduce ablations: .venv/installed
	@trap 'exit 130' INT TERM; \
	plan=$$($(SNAKEMAKE) --dry-run --quiet all 2>&1) || { echo "$$plan" >&2; exit 2; }; \
	$(SNAKEMAKE) && exit 0; \
	$(SNAKEMAKE) partial=1; \
	echo 'make $@: some runs failed (messages above); the tables are made from the others.' >&2; \
	exit 1

status: .venv/installed
	@.venv/bin/python -m lib.suites '$(PROFILE)' '$(SUITE)' $(CORES) '$(DATA)'

check-data: .venv/installed
	.venv/bin/python -m lib.check '$(PROFILE)' --data '$(DATA)' --workers $(CORES)

# A file of tests is one process's: what its tests share is made once.
test: .venv/installed
	.venv/bin/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

# The kernel "python3" must be this environment's, not one of the same name that the user has installed elsewhere.
lab: .venv/installed
	JUPYTER_PREFER_ENV_PATH=1 .venv/bin/jupyter lab notebooks/00_tour.ipynb

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit( \
	    f"Python 3.11 or newer is needed, but $(PYTHON) is {v}: make PYTHON=<path of a newer python>")'
	@echo 'Setting up .venv: one to three minutes, plus the download'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@
