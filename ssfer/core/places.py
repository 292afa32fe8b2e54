"""The stages, and where they read and write, relative to the project's folder."""

from pathlib import Path

# In dvc.yaml's order.
STAGES = (
    "identify", "generate", "align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate", "robustness",
    "report", "log",
)  # fmt: skip
RAW = Path("data/raw")
FACES = Path("data/faces")
SPLIT_FILE = Path("data/splits/split.json")
CORPUS = Path("data/corpus")
WEIGHTS = Path("data/weights")
ENCODER = WEIGHTS / "pretrain" / "encoder.safetensors"
TRAINED_MODEL = WEIGHTS / "model.safetensors"
METRICS = Path("metrics")
CURVES = METRICS / "curves"
