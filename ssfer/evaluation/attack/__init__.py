"""Grad-CAM and FGSM."""
