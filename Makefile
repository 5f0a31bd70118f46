# make train ARGS="--config cifar10" passes options on. VENV=elsewhere uses another environment.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
STAMP = $(VENV)/.requirements

.PHONY: setup train test check lock

setup: $(STAMP)

# The stamp names the lock file that is installed, so a changed lock installs again.
$(STAMP): requirements.lock
	@if command -v uv >/dev/null 2>&1; then \
		{ [ -x $(VENV)/bin/python ] || uv venv --quiet --python $(PYTHON) $(VENV); } && \
		uv pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)/bin/python requirements.lock; \
	else \
		{ [ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV); } && \
		{ $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)/bin/python -m ensurepip; } && \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	@touch $@

train: setup
	$(VENV)/bin/python -m src.train $(ARGS)

test: setup
	$(VENV)/bin/python -m pytest $(ARGS)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Newest versions that pyproject.toml allows; needs uv.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.10 --upgrade \
		--generate-hashes --no-annotate --no-header --quiet --output-file requirements.lock
