"""ssfer: semi-supervised facial expression recognition as one reproducible pipeline.

`ssfer.load(weights)` gives a `Recognizer` for photos and videos of one's own. Importing the package imports no other
library and changes nothing in the process.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recognizer", "__version__", "load"]

if TYPE_CHECKING:
    from ssfer.predict.recognizer import Recognizer, load


def __getattr__(name: str) -> Any:
    if name in ("Recognizer", "load"):
        from ssfer.predict import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module 'ssfer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
