"""Run scripts, one per DVC stage: read params, one call into ssfer, write metrics."""

from ssfer.core.process import set_environment

set_environment()  # before a stage imports torch
