# make install: what train.py and evaluate.py need; make dev: what the tests and the lint need as well.
PIP = pip install -q -c requirements.lock

# make test: the tests in two processes; the tests of a file share what they have trained, so they stay together.
.PHONY: install dev test torch

install: torch
	$(PIP) -e .

dev: torch
	$(PIP) -e ".[dev]"

test:
	pytest -n 2 --dist loadfile --no-loadscope-reorder

# On Linux pip's own choice is torch with all of CUDA; without an NVIDIA GPU the CPU build comes first. A torch that is there stays.
torch:
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi > /dev/null; then \
		$(PIP) --retries 1 --no-deps torch --index-url https://download.pytorch.org/whl/cpu || true; \
	fi
