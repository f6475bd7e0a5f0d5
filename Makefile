# Shortcuts for developers; the README's two commands need none of them.
.PHONY: test slow lint site tour benchmarks

test:
	python -m pytest -n 2 --dist loadfile

slow:
	python -m pytest -m slow

lint:
	ruff check . && ruff format --check . && basedpyright --level error

site:
	mkdocs build --strict

tour:
	python experiments/tour.py

benchmarks:
	python experiments/benchmarks/probe.py
	python experiments/benchmarks/transposed_convolution.py
	python experiments/benchmarks/import_time.py
