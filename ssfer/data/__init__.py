"""Splits, augmentation and batches."""
