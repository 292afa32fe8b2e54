"""Progress: the rate is told with two digits where it is low."""

from __future__ import annotations

import pytest

from ssfer.core.progress import Progress


@pytest.mark.parametrize(("rounds", "rate"), [(1, "0.25"), (5, "1.2"), (400, "100"), (0, "0")])
def test_slow_work_has_a_rate_above_zero(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rounds: int, rate: str
) -> None:
    now = [0.0]
    monkeypatch.setattr("ssfer.core.progress.time.monotonic", lambda: now[0])
    with Progress("predict", None, unit="pictures") as progress:
        now[0] = 4.0
        progress.advance(rounds)
    assert capsys.readouterr().err == f"predict: {rounds} {rate} pictures/s, in 0:04\n"
