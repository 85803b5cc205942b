"""That nothing else exists: see `experiments.theorem.__main__`, and docs/theorem.md for the mathematics."""
