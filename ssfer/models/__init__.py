"""Networks and their weights: classifiers, masked autoencoder, heads, text encoders, memories, moving averages."""
