"""Parameters and operations of the classifier: closed forms, the specification's table, the command."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from ssfer.cli.main import app
from ssfer.core.errors import SsferError
from ssfer.evaluation.complexity import (
    Complexity,
    complexity,
    device_name,
    measure,
    summarize_times,
    variant_params,
)
from ssfer.formats.weights import save_weights
from ssfer.models.backbone import params_of
from ssfer.models.classifier import metadata
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier
from ssfer.models.vit_sizes import VIT_SIZES
from ssfer.tables.complexity import networks
from ssfer.tables.paper import PaperRow, paper_rows
from tests.support import factory
from tests.support.stage_runs import make_project

Capture = pytest.CaptureFixture[str]


def closed_form(m: ModelSettings, classes: int) -> Complexity:
    """Count a ViT by hand, section 5 of the specification."""
    d, patches = m.embed_dim, (m.img_size // m.patch_size) ** 2
    tokens, pixels = patches + 1, 3 * m.patch_size**2
    block = 12 * d**2 + 13 * d  # qkv 3, projection 1, MLP 4 + 4; biases 3 + 1 + 4 + 1, two norms of 2
    layers = pixels * d + d + m.depth * block + 2 * d + d * classes + classes
    linear = patches * pixels * d + m.depth * 12 * tokens * d**2 + d * classes  # the head sees the class token alone
    attention = m.depth * 2 * tokens**2 * d
    return Complexity(layers + d + tokens * d, layers, linear + attention, linear)


@cache
def counted(name: str) -> Complexity:
    """Count a variant with 7 classes; the large one takes seconds."""
    return complexity(variant_params(name), 7)


@pytest.mark.parametrize("name", VIT_SIZES)
def test_variants_have_the_closed_form(name: str) -> None:
    assert counted(name) == closed_form(variant_params(name), 7)


def test_the_head_has_an_output_per_class() -> None:
    model = variant_params("tiny")
    assert complexity(model, 8) == closed_form(model, 8) != counted("tiny")


def test_another_input_size_patch_and_number_of_heads_has_the_closed_form() -> None:
    arch = {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 3}
    assert complexity(params_of({**arch, "num_heads": 2}), 3) == closed_form(params_of({**arch, "num_heads": 2}), 3)
    assert complexity(params_of({**arch, "num_heads": 6}), 3) == complexity(params_of({**arch, "num_heads": 2}), 3)


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [("tiny", 5.49, 1.07), ("small", 21.59, 4.24), ("base", 85.65, 16.85), ("large", 303.11, 59.65)],
)
def test_paper_count_is_the_table_of_the_specification(name: str, millions: float, giga: float) -> None:
    found = counted(name)
    assert (round(found.paper_params / 1e6, 2), round(found.paper_macs / 1e9, 2)) == (millions, giga)


def test_paper_count_explains_what_table_6_prints() -> None:
    printed = {row.method: row for row in paper_rows()}
    for name in VIT_SIZES:
        found, row = counted(name), printed[f"ViT-{name.title()}"]
        assert found.paper_params / 1e6 == pytest.approx(row.params_m, abs=0.06)
        assert found.paper_macs / 1e9 == pytest.approx(row.flops_g, abs=0.065)
        # The complete count does not: attention alone is more than the rounding.
        assert found.macs / 1e9 - row.flops_g > 0.13


def test_table_6_is_read_as_printed() -> None:
    rows = paper_rows()
    assert len(rows) == 19
    assert rows[0] == PaperRow("DMUE", 78.4, 13.4, 89.42)
    assert rows[-1] == PaperRow("SSFER-25%", 85.7, 16.9, 88.23)


def test_times_are_summarized_by_median_and_95th_percentile() -> None:
    found = summarize_times([k / 1000 for k in range(101)], batch=4)  # 0 .. 100 ms
    assert (found.batch, found.repeats) == (4, 101)
    assert found.median_ms == pytest.approx(50)
    assert found.p95_ms == pytest.approx(95)
    assert found.images_per_second == pytest.approx(4 / 0.05)


class _Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.calls += 1
        time.sleep(self.seconds if self.calls > 2 else 0.05)  # the first two are slow: warming up
        return images


def test_measuring_warms_up_and_repeats_often_and_long_enough() -> None:
    net = _Sleeper(0.002)
    found = measure(net, torch.zeros(3, 1), seconds=0, repeats=7, warmup=2)
    assert (net.calls, found.repeats, found.batch) == (9, 7, 3)
    assert 2 <= found.median_ms <= found.p95_ms < 50
    assert measure(_Sleeper(0.002), torch.zeros(3, 1), seconds=0.08, repeats=2, warmup=2).repeats > 2


def test_cpu_is_named_with_its_threads() -> None:
    threads = torch.get_num_threads()
    assert device_name(torch.device("cpu")).endswith(f", {threads} thread{'s' if threads > 1 else ''}")
    assert not device_name(torch.device("cpu")).startswith(",")


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of `ssfer complexity`."""
    with pytest.raises(SystemExit) as end:
        app(["complexity", *map(str, words)], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_json_has_both_counts_and_the_printed_rows(capsys: Capture) -> None:
    status, out, _ = run(capsys, "--variant", "tiny", "--variant", "small", "--json")
    report = json.loads(out)
    small = closed_form(variant_params("small"), 7)
    assert status == 0 and [entry["name"] for entry in report["models"]] == ["ViT-Tiny", "ViT-Small"]
    found = report["models"][1]
    assert (found["params"], found["paper_params"]) == (small.params, small.paper_params)
    assert (found["macs"], found["paper_macs"], found["flops"]) == (small.macs, small.paper_macs, 2 * small.macs)
    assert "latency" not in found and len(report["paper"]) == 19


def test_tables_put_ours_beside_the_paper_s(capsys: Capture) -> None:
    _, out, _ = run(capsys, "--variant", "base", "--markdown")
    lines = out.splitlines()
    assert "| ViT-Base | 85.65 | 16.85 | 85.80 | 17.56 | 35.13 | – |" in lines
    assert "| ViT-Base (paper) | 85.7 | 16.9 | – | – | – | 87.48 |" in lines
    assert lines[-1].startswith("ViT-Base: 224 px, patches of 16 px, width 768, depth 12, 12 heads, 7 classes")
    _, text, _ = run(capsys, "--variant", "base")
    rows = text.splitlines()
    assert rows[1].split() == ["ViT-Base", "85.65", "16.85", "85.80", "17.56", "35.13", "–"]
    assert len({len(row) for row in rows[:21]}) == 1


def test_latency_names_batch_device_and_threads(project: Path, capsys: Capture) -> None:
    before = torch.get_num_threads()
    try:
        _, out, _ = run(capsys, "--latency", "--batch", 2, "--device", "cpu", "--threads", 1, "--json")
    finally:
        torch.set_num_threads(before)
    times = json.loads(out)["models"][0]["latency"]
    assert times["batch"] == 2 and times["repeats"] >= 30 and times["device"].endswith(", 1 thread")
    assert 0 < times["median_ms"] <= times["p95_ms"]
    assert times["images_per_second"] == pytest.approx(2000 / times["median_ms"])


def test_network_is_that_of_the_settings_or_of_the_weights(project: Path) -> None:
    (name, model, classes), *rest = networks(None, None, [], None)
    assert (name, classes, rest) == ("params.yaml", 7, [])
    assert (model.img_size, model.embed_dim) == (32, 96)
    assert networks(None, project / "params.yaml", [], 3)[0][2] == 3

    tiny = factory.tiny_params().model
    state = build_classifier(tiny, 3).state_dict()
    save_weights(
        project / "c.safetensors", state, metadata("classifier", tiny, "x", "y", classes=list(factory.CLASSES))
    )
    save_weights(project / "e.safetensors", state, metadata("encoder", tiny, "x", "y"))
    (name, model, classes), *_ = networks(project / "c.safetensors", None, [], None)
    assert (name, classes) == ("c.safetensors", 3)
    assert complexity(model, classes).params == sum(value.numel() for value in state.values())
    assert networks(project / "e.safetensors", None, [], None)[0][2] == 7
    assert networks(project / "c.safetensors", None, [], 9)[0][2] == 9


def test_without_a_class_list_the_split_says_how_many_classes_there_are(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["data"]["classes"] = "auto"
    (tmp_path / "mine/params.yaml").write_text(yaml.safe_dump(params))
    assert networks(None, None, [], None)[0][2] == len(factory.CLASSES)


def test_bad_input_is_refused_in_one_line(project: Path, capsys: Capture) -> None:
    for words, message in (
        (("--variant", "bas"), "unknown variant 'bas'; did you mean 'base'? (known: base, large, small, tiny)"),
        (("--variant", "base", "--params", "params.yaml"), "give one of them"),
        (("--params", "none.yaml"), "none.yaml is missing"),
        (("--weights", "none.safetensors"), "no weights at none.safetensors"),
        (("--latency", "--device", "tpu"), "expected device auto, cpu, cuda, cuda:N or mps, found 'tpu'"),
        *([] if torch.cuda.is_available() else [(("--latency", "--device", "cuda"), "device is 'cuda' but")]),
    ):
        status, _, err = run(capsys, *words)
        assert status == 2 and message in err and len(err.splitlines()) == 1, words
    with pytest.raises(SsferError, match="known"):
        variant_params("huge")
