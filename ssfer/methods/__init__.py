"""Training methods, one file each; `shared/` holds what several use."""
