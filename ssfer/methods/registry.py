"""The semi-supervised methods, by the name used in params `semisup.method`."""

from ssfer.core.registry import Registry
from ssfer.methods.base import SemiSupervised

METHODS: Registry[SemiSupervised] = Registry("method", "ssfer.methods", SemiSupervised)
