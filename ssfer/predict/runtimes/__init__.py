"""Runtimes compute a network's probabilities: one file each, named as in `ssfer.load(runtime=...)`."""
