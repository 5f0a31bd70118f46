# make train ARGS="--trainer.max_epochs 3" passes options on. VENV=elsewhere uses another environment.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
# Dependency groups to install beside the project and its tools, each with a locks/NAME.lock: those
# installed already, at first this one, and what is added, as in make setup ADD=wandb.
FIRST_EXTRAS = template
ADD ?=
INSTALLED = $(patsubst .requirements-%,%,$(notdir $(wildcard $(VENV)/.requirements-*)))
EXTRAS ?= $(sort $(or $(subst -, ,$(INSTALLED)),$(FIRST_EXTRAS)) $(ADD))
LOCKS = requirements.lock $(EXTRAS:%=locks/%.lock)
# The stamp names the extras, and is older than a changed lock: either installs again.
STAMP = $(VENV)/.requirements$(subst $() ,,$(EXTRAS:%=-%))

.PHONY: setup train test check lock

setup: $(STAMP)

$(STAMP): $(LOCKS)
	@if command -v uv >/dev/null 2>&1; then \
		{ [ -x $(VENV)/bin/python ] || uv venv --quiet --python $(PYTHON) $(VENV); } && \
		uv pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)/bin/python $(LOCKS); \
	else \
		{ [ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV); } && \
		{ $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)/bin/python -m ensurepip; } && \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
			$(LOCKS:%=-r %); \
	fi
	@rm -f $(VENV)/.requirements*
	@touch $@

train: setup
	$(VENV)/bin/python -m src.train $(ARGS)

test: setup
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Newest versions that pyproject.toml allows; needs uv.
COMPILE = uv pip compile --universal --python-version 3.10 --upgrade --generate-hashes --no-annotate \
	--no-header --quiet
lock:
	$(COMPILE) pyproject.toml --group dev --output-file requirements.lock
	for group in $(patsubst locks/%.lock,%,$(wildcard locks/*.lock)); do \
		$(COMPILE) --group $$group --constraint requirements.lock \
			--output-file locks/$$group.lock || exit; \
	done

# Of this repository alone.
.PHONY: docs labs
labs: setup # tables and pictures of docs/labs/, half an hour
	$(VENV)/bin/python -m labs --all

docs: # the site, in site/
	$(MAKE) setup ADD=docs
	$(VENV)/bin/mkdocs build
