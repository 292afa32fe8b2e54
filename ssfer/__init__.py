"""ssfer: semi-supervised facial expression recognition as one reproducible pipeline."""

import os as _os

__version__ = "0.1.0"

# Before torch and the other libraries are imported, hence here. No telemetry, no downloads, no windows; and OpenMP
# threads that sleep while they wait: spinning ones made a training step 6 times slower on two busy cores (measured:
# 55 images/s against 325), because they hold the core that the other process would use to let them go on.
for _key, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    _os.environ.setdefault(_key, _value)
