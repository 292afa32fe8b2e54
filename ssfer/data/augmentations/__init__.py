"""Augmentations of one stored crop, one file each; geometry and interface are in `base`."""
