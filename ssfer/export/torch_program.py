"""Write a `torch.export` program (.pt2): runs with torch alone, without ssfer; torch's runtimes need no Python."""

from __future__ import annotations

import io
import json

import torch
from torch.export import Dim

from ssfer.export.network import Exportable, checked_deviation, public, torch_run

METADATA = "ssfer.json"  # name of the metadata inside the file


def torch_program(exportable: Exportable) -> tuple[bytes, float]:
    """Return the bytes of a .pt2 file for any batch size, and its largest difference from the classifier.

    It contains the metadata: `torch.export.load(file, extra_files={"ssfer.json": ""})` returns them.

    Raises:
        SsferError: the program that is read back gives other probabilities than the classifier.
    """
    with torch.no_grad():
        program = torch.export.export(
            exportable.module, (exportable.example,), dynamic_shapes={"images": {0: Dim("batch", min=1)}}
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(public(exportable.meta), sort_keys=True)})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), checked_deviation(torch_run(loaded), exportable, "the torch.export program")
