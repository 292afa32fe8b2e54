"""Log every run to MLflow; read durations from it."""
