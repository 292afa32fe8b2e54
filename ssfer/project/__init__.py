"""Projects outside the checkout of ssfer."""
