"""Images that are copies of each other: an index of perceptual hashes, thumbnails and their registration."""
