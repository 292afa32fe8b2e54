#!/usr/bin/env bash
# A first day on a GPU, 15 minutes, with a table at the end: see benchmarks/gpu_day.py. GPU_DAY=toy: small, on a CPU.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.gpu_day ${GPU_DAY:+"--$GPU_DAY"} "$@"
