"""Monitoring of pretraining while it runs: reconstructions of the same faces, and a linear probe.

All processes of a launch compute the probe's features; the first one does the rest while the others wait for it.
Results go to the terminal, to MLflow and to data/reports/pretrain. They are not outputs of the stage: monitoring
changes nothing and can be switched on during a run, and the probe uses the labels of the present split, on which
pretraining must not depend.
"""

import shutil
import sys
from pathlib import Path

from torch import nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import write_bytes
from ssfer.core.places import SPLIT_FILE
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.evaluation.probe import class_tokens, probe_accuracy
from ssfer.evaluation.reconstruction import SHOWN, reconstruction_png
from ssfer.models.mae import MaskedAutoencoder
from ssfer.stages.common import split_dataset
from ssfer.train.device import Machine

REPORTS = Path("data/reports/pretrain")


class Watch:
    """Callback of the training loop.

    Attributes:
        every: epochs between pictures.

    Raises:
        SsferError: the probe is on, but there is no split, or a split without validation images.
    """

    def __init__(self, params: Params, corpus: FaceDataset, machine: Machine) -> None:
        self.every, self._params, self._machine = params.tracking.watch_every, params, machine
        self._shown = [corpus.image(i) for i in range(min(SHOWN, len(corpus)))]
        self._parts: list[FaceDataset] = []
        if params.tracking.probe:
            if not SPLIT_FILE.is_file():
                raise SsferError(
                    "tracking.probe needs the labeled faces of a split and there is none yet; run dvc repro split"
                )
            split = load_split()
            self._parts = [split_dataset(split, part, params) for part in ("labeled", "valid")]
            if not len(self._parts[1]):
                raise SsferError("tracking.probe needs held-out labels to be measured on; raise split.val_fraction")

    def clear(self) -> None:
        """Remove the pictures of an earlier run."""
        shutil.rmtree(REPORTS, ignore_errors=True)

    def __call__(self, method: nn.Module, epoch: int) -> dict[str, float]:
        """Write the picture of this epoch; return metrics to log. All processes call it together."""
        mae = method.student
        assert isinstance(mae, MaskedAutoencoder)
        model, ratio = self._params.model, self._params.pretrain.mask_ratio
        if self._machine.rank == 0:
            path = REPORTS / f"reconstruction_epoch_{epoch:04d}.png"
            write_bytes(path, reconstruction_png(mae, self._shown, model, ratio))
        if not self._parts:
            return {}
        training = mae.training
        mae.eval()
        labeled, valid = self._parts
        tokens = [class_tokens(mae, part, model, self._machine) for part in self._parts]
        mae.train(training)
        if tokens[0] is None or tokens[1] is None:  # the first process has them
            return {}
        accuracy = probe_accuracy(tokens[0], labeled.labels, tokens[1], valid.labels)
        print(
            f"pretrain: epoch {epoch}: a linear probe on {len(labeled)} labels gets {accuracy:.1%} of "
            f"{len(valid)} held-out faces right",
            file=sys.stderr,
            flush=True,
        )
        return {"probe_accuracy": accuracy}
