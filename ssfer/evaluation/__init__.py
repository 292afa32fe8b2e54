"""Finished models measured: metrics, inference, probe, complexity, attacks."""
