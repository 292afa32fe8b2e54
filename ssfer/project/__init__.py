"""A project of one's own, outside the checkout."""
