"""Linear probe: how well the features of a frozen encoder separate the classes linearly."""

import warnings
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfer.core.distributed import interleaved
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import eval_batches
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.settings import ModelSettings
from ssfer.train.device import Machine

ITERATIONS = 500  # of L-BFGS; with more, the accuracy on a few thousand faces changes by less than its noise


def probe_accuracy(
    train: NDArray[np.float32], train_labels: NDArray[np.int64], test: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Return the accuracy on (`test`, `labels`) of a logistic regression fitted on the others.

    Args:
        train, test: (N, D) and (M, D) features; both are standardized with mean and standard deviation of `train`,
            instead of the batch norm without scale that He et al. (2022, appendix A.1) put before their classifier.
        train_labels, labels: (N,) and (M,) class indices.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        probe.fit(train, train_labels)
    return float(probe.score(test, labels))


@torch.inference_mode()
def class_tokens(
    mae: MaskedAutoencoder, faces: FaceDataset, model: ModelSettings, machine: Machine
) -> NDArray[np.float32] | None:
    """Return the encoder's class token (N, D) of every face under the eval transform, without masking.

    All processes call it and share the faces: each encodes every `machine.world`-th. The network computes in
    machine.eval_precision.

    Returns:
        None in all processes but the first.
    """
    own = range(machine.rank, len(faces), machine.world)
    found = [np.empty((0, mae.cls_token.shape[-1]), np.float32)]
    batches = eval_batches(faces, machine=machine, model=model, chosen=own)
    with machine.compute.evaluating(), closing(batches):
        for batch in batches:
            found.append(_encode(mae, batch["x_lb"]).float().cpu().numpy())
    return interleaved(np.concatenate(found), machine.rank, machine.world)


def _encode(mae: MaskedAutoencoder, images: Tensor) -> Tensor:
    order = torch.zeros(len(images), mae.patch_embed.num_patches, device=images.device)  # ties: patches stay in order
    return mae.encode(images, 0.0, order)[0][:, 0]
