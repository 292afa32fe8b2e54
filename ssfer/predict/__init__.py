"""A trained model on new photos and videos."""
