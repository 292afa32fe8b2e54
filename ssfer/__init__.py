"""ssfer: semi-supervised facial expression recognition as one reproducible pipeline."""

__version__ = "0.1.0"
