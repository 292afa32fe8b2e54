"""Measurements on trained models: metrics, inference, probe, complexity, attacks."""
