"""Importers: one module per layout, and the rendered demo faces."""
