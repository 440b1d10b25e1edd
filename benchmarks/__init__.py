"""What the toolkit costs: `python -m benchmarks speed|memory|live|loader`; `--help` tells the rest."""
