"""What the toolkit costs: `python -m benchmarks speed|memory|live|loader|training`; `--help` tells the rest."""
