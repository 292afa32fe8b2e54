"""A batch under attack: Grad-CAM and the gradient's sign are computed once, for all regions and epsilons."""

from dataclasses import dataclass

from torch import Tensor, nn

from ssfer.evaluation.attack.fgsm import Space, ascent, perturb
from ssfer.evaluation.attack.forward import Triple, predicted_class
from ssfer.evaluation.attack.gradcam import grad_cam
from ssfer.evaluation.attack.masks import regions


@dataclass(frozen=True)
class Setting:
    """Settings of the attack: Grad-CAM above `threshold` is the focused region; epsilon is measured in `space`."""

    threshold: float
    space: Space
    mean: Triple
    std: Triple


class AttackedBatch:
    """Images (B, 3, H, W) in 0..1 with labels (B,), the images after FGSM, and the model's predictions for them.

    The random pixels of an image depend only on its key, keys being (B,) int64.

    Attributes:
        cam: (B, H, W), see `grad_cam`.
        masks: region -> (B, 1, H, W), bool.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, setting: Setting) -> None:
        self._model, self._images, self._setting = model, images, setting
        self.cam = grad_cam(model, images, setting.mean, setting.std)
        self.masks = regions(self.cam, setting.threshold, keys)
        self._direction = ascent(model, images, labels, setting.mean, setting.std)

    def images(self, region: str, epsilon: float) -> Tensor:
        """Return the attacked images, (B, 3, H, W) in 0..1."""
        s = self._setting
        return perturb(self._images, self._direction, epsilon, s.std, self.masks[region], s.space)

    def predicted(self, region: str, epsilon: float) -> Tensor:
        """Return the classes that the model predicts for the attacked images, (B,) int64."""
        return predicted_class(self._model, self.images(region, epsilon), self._setting.mean, self._setting.std)
