"""Networks: masked autoencoder, ViT classifier, exponential moving average."""
