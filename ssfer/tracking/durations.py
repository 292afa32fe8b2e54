"""How long the stages of a build took, from MLflow; metrics/ has no times, so that equal runs write equal files."""

from __future__ import annotations

from ssfer.config.schema import Params
from ssfer.core.files import project_root
from ssfer.tracking.mlflow_run import open_store, reason, say, settings_key


def build_seconds(params: Params) -> float | None:
    """Return the total seconds of the newest run of each stage of builds with these settings; None if there is none.

    A stage that DVC skipped or restored counts only if an earlier build with the same settings ran it. What MLflow
    cannot read is said and not counted.
    """
    if not (project_root() / "mlflow.db").is_file():
        return None
    try:
        return _newest_seconds(params)
    except Exception as error:
        say(f"no times are shown ({reason(error)})")
        return None


def _newest_seconds(params: Params) -> float | None:
    client = open_store(None, project_root())
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    if experiment is None:
        return None
    query = f"tags.`ssfer.build` LIKE '%-{settings_key(params)}' and tags.`ssfer.role` = 'stage'"
    newest: dict[str, float] = {}
    for run in client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time DESC"]):
        if run.info.status == "FINISHED":
            newest.setdefault(run.data.tags["dvc.stage"], (run.info.end_time - run.info.start_time) / 1000)
    return sum(newest.values()) if newest else None
