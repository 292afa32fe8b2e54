"""Files that stages hand to each other (manifest, shards, weights), and checkpoints of others, read safely."""
