"""The unlabeled corpus for pretraining: which faces are in it, and why others are not."""
