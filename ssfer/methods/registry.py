"""The semi-supervised methods, by the name used in params `semisup.method`."""

from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry
from ssfer.methods.base import SemiSupervised

METHODS: Registry[SemiSupervised] = Registry("method", "ssfer.methods", SemiSupervised)


def headline_of(name: str, average: float | None, headline: str) -> str:
    """Return the network whose number is the result.

    Args:
        name: of the method.
        average: semisup.average.
        headline: evaluate.headline; auto: the network that the method names.

    Raises:
        SsferError: a network that the method does not train.
    """
    method = METHODS[name]
    chosen, exports = method.evaluated if headline == "auto" else headline, method.exported(average)
    if chosen not in exports:
        raise SsferError(
            f"evaluate.headline is {chosen}, but semisup.method {name} trains {' and '.join(exports)} only; "
            "set it to auto"
        )
    return chosen
