"""Benchmarks take minutes and are not part of the pipeline: `python -m benchmarks.<name> --help`.

Each prints a table or numbers, downloads nothing and writes nothing into the project.
"""

from ssfer.core.process import set_environment

set_environment()  # before a benchmark imports torch
