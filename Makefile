# make demo   a fresh environment, then a sample face says a sample speech
# make test   the same environment, then the whole test suite
# make lint   ruff
# make train-default DATA=...   the default weights again, from a preprocessed tree or a pack; goes on where it stopped

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
OUT := results/demo

RUNS := runs/default
FILELISTS := filelists

.PHONY: demo test lint train-default

$(VENV)/.installed: requirements.txt
	@echo "== environment: $(VENV), with what requirements.txt names (some minutes the first time)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(VENV)/.installed
	@echo "== sample face and speech"
	$(PY) -m demo.make_samples --folder $(OUT)
	@echo "== a moving face says the speech"
	$(PY) inference.py --face $(OUT)/face.mp4 --audio demo/speech.wav --outfile $(OUT)/talking_video.mp4
	$(PY) -m demo.contact_sheet $(OUT)/talking_video.mp4
	@echo "== a picture says the speech"
	$(PY) inference.py --face $(OUT)/face.png --audio demo/speech.wav --outfile $(OUT)/talking_picture.mp4
	$(PY) -m demo.contact_sheet $(OUT)/talking_picture.mp4
	@echo "== done: watch $(OUT)/talking_video.mp4 and $(OUT)/talking_picture.mp4"

test: $(VENV)/.installed
	@echo "== the whole test suite"
	$(PY) -m pytest -q

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

train-default: $(VENV)/.installed
	@test -n "$(DATA)" || { echo "error: say where the data are: make train-default DATA=lrs2_preprocessed" >&2; exit 2; }
	$(PY) -m training.recipe --data_root "$(DATA)" --filelists "$(FILELISTS)" --runs "$(RUNS)" $(ARGS)
