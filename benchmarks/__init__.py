"""Measurements that take minutes and belong to no pipeline stage: `python -m benchmarks.<name> --help`.

Each prints a Markdown table, downloads nothing and writes nothing into the project.
"""

from ssfer.core.process import set_environment

set_environment()  # before a benchmark imports torch
