"""Run scripts, one per DVC stage: read params, one call into ssfer, write metrics."""
