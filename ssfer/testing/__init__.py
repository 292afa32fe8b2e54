"""Contracts of components, as checks for their authors' tests; helpers of this repository's tests are in tests/."""
