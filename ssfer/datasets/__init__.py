"""Importers of raw data: one per data set, and what they share."""
