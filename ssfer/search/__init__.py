"""Search of settings on held-out labeled images: the grey wolf optimizer and the search of learning rates."""
