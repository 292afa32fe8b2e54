"""How long the stages of a build took, from MLflow: metrics/ holds no times, so equal runs write equal files."""

from __future__ import annotations

from ssfer.config.schema import Params
from ssfer.core.files import project_root
from ssfer.tracking.mlflow_run import open_store, settings_key


def build_seconds(params: Params) -> float | None:
    """Return the seconds that the stages of a build with these settings took, the newest run of each; None if unknown.

    Stages that DVC skipped or restored count with the time of the run that made them only if that run is of the same
    build.
    """
    if not (project_root() / "mlflow.db").is_file():
        return None
    client = open_store(None, project_root())
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    if experiment is None:
        return None
    query = f"tags.`ssfer.build` LIKE '%-{settings_key(params)}' and tags.`ssfer.role` = 'stage'"
    newest: dict[str, float] = {}
    for run in client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]):
        if run.info.status == "FINISHED":
            newest[run.data.tags["dvc.stage"]] = (run.info.end_time - run.info.start_time) / 1000
    return sum(newest.values()) if newest else None
