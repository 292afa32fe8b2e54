"""Write an MLflow model (pyfunc) for `mlflow models serve`: photos in, one row per face out.

The folder holds the weights, ssfer's code and a module's name; nothing is pickled.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
import warnings
from pathlib import Path

import pandas as pd
from pandas.api.types import is_string_dtype

import ssfer
from ssfer.core.errors import SsferError
from ssfer.core.extras import need
from ssfer.core.files import new_dir
from ssfer.export import mlflow_loader
from ssfer.export.network import Exportable, public
from ssfer.models.base import is_own
from ssfer.models.settings import OWN_BACKBONE
from ssfer.predict.table import columns, typed

# What prediction needs besides ssfer. The detector's package is missing: it pins an old torch and is installed apart.
PACKAGES = (
    "torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "pandas", "pyarrow", "pillow", "imagehash",
    "opencv-python-headless", "simplejpeg", "pydantic", "pyyaml", "ruamel.yaml", "filelock", "rich", "typer",
)  # fmt: skip


def mlflow_model(exportable: Exportable, out: Path) -> None:
    """Write the folder.

    Raises:
        SsferError: MLflow is not installed, or the network is code that the folder would not hold.
    """
    if is_own(name := exportable.meta["arch"].get("backbone", OWN_BACKBONE)):
        raise SsferError(f"a model of MLflow's would not hold {name}; export it with --to onnx or --to torch")
    need("mlflow", "pipeline", "a model of MLflow's")
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    empty = typed(pd.DataFrame(columns=columns(exportable.meta["classes"])))
    kinds = {name: "string" if is_string_dtype(kind) else "double" for name, kind in empty.dtypes.items()}
    with new_dir(out) as folder, tempfile.TemporaryDirectory() as code, warnings.catch_warnings():
        package = Path(code) / "ssfer"
        shutil.copytree(Path(ssfer.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
        try:
            warnings.simplefilter("ignore")  # MLflow asks for an input example, which would be a photo
            pyfunc.save_model(
                path=str(folder),
                loader_module=mlflow_loader.__name__,
                data_path=str(exportable.source),
                code_paths=[str(package)],
                signature=ModelSignature(
                    Schema([ColSpec("binary", mlflow_loader.COLUMN)]),
                    Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()]),
                ),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
                metadata={"ssfer": public(exportable.meta)},
            )
        except Exception as error:  # MLflow raises its own classes
            raise SsferError(f"MLflow cannot write the model ({type(error).__name__}: {error})") from error
