"""Contracts of components, as checks for their authors' tests; helpers of this repository's own tests are in tests/."""
