"""Write an ONNX model: uint8 crops in, probabilities out, any batch size, metadata under the key "ssfer".

torch's exporter (`torch.export`, dynamo) needs the package onnxscript; torch no longer maintains the older exporter.
"""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim

from ssfer.core.extras import need
from ssfer.export.network import INPUT, OUTPUT, Exportable, Run, checked_deviation, public

if TYPE_CHECKING:
    import onnx

OPSET = 20
KEY = "ssfer"  # of the metadata
HALF_FROM = 256  # elements; `halve` keeps smaller tensors in float32


def onnx_model(exportable: Exportable) -> tuple[onnx.ModelProto, float]:
    """Return the float32 model and its largest difference from torch, run by onnxruntime in batches of 1, 3 and 8.

    Raises:
        SsferError: a missing package, or probabilities that differ from torch's.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "export", "exporting to ONNX")
    import onnx

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own code
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            exportable.module,
            (exportable.example,),
            dynamo=True,
            dynamic_shapes={"images": {0: Dim("batch", min=1)}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    describe(model, exportable)
    onnx.checker.check_model(model, full_check=True)
    return model, checked_deviation(onnx_run(model), exportable, "the ONNX model")


def describe(model: onnx.ModelProto, exportable: Exportable, **more: Any) -> None:
    """Write the metadata into a model and remove the exporter's, which names source files and lines."""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    model.producer_name, model.doc_string = KEY, exportable.meta["input"]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(public(exportable.meta) | more, sort_keys=True)


def onnx_run(model: onnx.ModelProto, threads: int = 0) -> Run:
    """Return a function from crops to probabilities that uses onnxruntime on the CPU; 0 threads: one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run([OUTPUT], {INPUT: crops})[0]
        return probabilities

    return run


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose large weights are stored as float16 and used as float32, so the file has half the size.

    Each stored tensor is followed by a cast, which onnxruntime applies once, when it loads the model.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    casts = []
    for tensor in made.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < HALF_FROM:
            continue
        name, stored = tensor.name, f"{tensor.name}.float16"
        values = numpy_helper.to_array(tensor)
        limit = np.finfo(np.float16).max
        tensor.CopyFrom(numpy_helper.from_array(values.clip(-limit, limit).astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.float32", to=TensorProto.FLOAT))
    nodes = [*casts, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
