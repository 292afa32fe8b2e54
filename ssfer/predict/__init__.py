"""Apply a trained model to new photos and videos."""
