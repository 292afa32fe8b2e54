"""Contracts of components as checks, for their authors' tests and, in `own`, before a pipeline with them begins."""
