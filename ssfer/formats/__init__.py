"""The files that stages hand to each other: manifest, shards, weights; and checkpoints of others, read without running code."""
