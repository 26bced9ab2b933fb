# Two commands are all: `make learn` and `make test`. Everything else is `course`; see `course --help`.
PYTHON ?= python3
BIN := .venv/bin
COURSE := $(BIN)/course
READY := .venv/.ready

.PHONY: learn test build book grade milestones doctor

learn: $(READY)
	@$(COURSE) learn $(if $(HEADLESS),--headless)

test: $(READY)
	@$(COURSE) test $(ARGS)

build book milestones doctor: $(READY)
	@$(COURSE) $@ $(ARGS)

grade: $(READY)
	@$(COURSE) grade $(CHAPTER) $(ARGS)

# torch first and by its pin: asked for by another package, it would come with gigabytes of CUDA libraries.
$(READY): requirements.in requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Install Python 3.11 to 3.13, or name one: make learn PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "The course needs Python 3.11 to 3.13, and $(PYTHON) is another. Name one: make learn PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing torch (1 of 3)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	@echo "Installing the pinned set (2 of 3), a few minutes on a fresh machine"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -r requirements.txt | grep --line-buffered -E '^(Collecting|Installing|ERROR)' | sed -u -e 's/ (from.*//' -e 's/^\(Installing collected packages\).*/\1/'
	@$(BIN)/python -c 'import jupyterlab, nbgrader, torch' || { echo "The installation did not finish; see the messages above and run make learn again."; exit 1; }
	@echo "Installing the course (3 of 3)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
