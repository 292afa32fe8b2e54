"""Register the trained weights as a version of a model in MLflow's registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.export.mlflow_model import mlflow_model
from ssfer.export.network import load_exportable
from ssfer.tracking.mlflow_run import MlflowRun, say

DIGEST_TAG = "ssfer.sha256"  # of a version's weights


@contextmanager
def registration(name: str, weights: Path) -> Iterator[Callable[[MlflowRun], None] | None]:
    """Yield a function that registers the weights from a run, as a model for `mlflow models serve`.

    Without usable weights, print one line and yield None.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        try:
            if not weights.is_file():
                raise SsferError(f"there is no {weights}; stage evaluate writes it")
            mlflow_model(load_exportable(weights), model)
        except (SsferError, OSError) as error:
            say(f"no model is registered as {name}: {error}")
            yield None
        else:
            yield partial(_register, name=name, model=model, digest=sha256_file(weights))


def _register(run: MlflowRun, name: str, model: Path, digest: str) -> None:
    """Register a model as the next version, unless the last version has the same weights."""
    if not run.keeps_files:
        return
    client = run.client
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
    if versions and versions[0].tags.get(DIGEST_TAG) == digest:
        return
    client.log_artifacts(run.parent, str(model), "model")
    source = f"{client.get_run(run.parent).info.artifact_uri}/model"
    made = client.create_model_version(name, source, run.parent, tags={DIGEST_TAG: digest})
    say(f"{run.name} has the model as {name}, version {made.version}")
