"""Augmentations of one stored crop, one file each; geometry and contract are in `base`."""
