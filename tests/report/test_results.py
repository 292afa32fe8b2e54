"""What the report takes for the steps of a run."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ssfer.report.results import Results


@pytest.mark.parametrize(
    ("headline", "steps"),
    [("teacher_last", ["plain", "teacher"]), ("plain_ema_last", ["plain", "plain_ema"])],
)
def test_an_average_of_the_fine_tuned_network_is_a_step_only_as_the_headline(headline: str, steps: list[str]) -> None:
    models = dict.fromkeys(("plain_ema", "teacher", "student", "plain"), cast(Any, {"last": {}}))
    evaluate = {"models": models, "headline_model": headline}
    found = Results(*[cast(Any, None)] * 2, evaluate, *[cast(Any, None)] * 4)
    assert found.steps == steps
    assert found.title("facemix_ema") == "+ FaceMix, its average"
