"""What computes a network's probabilities: one file each, named as in `ssfer.load(runtime=...)`."""
