"""The embedded data set: rendered heads with true boxes, landmarks and expressions."""
