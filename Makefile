# Shortcuts for developers; the README's two commands need none of them.
.PHONY: test slow lint tour benchmarks

test:
	python -m pytest -n 2 --dist loadfile

slow:
	python -m pytest -m slow

lint:
	ruff check . && ruff format --check . && pyright

tour:
	python experiments/tour.py

benchmarks:
	python experiments/benchmarks/probe.py
	python experiments/benchmarks/transposed_convolution.py
	python experiments/benchmarks/import_time.py
