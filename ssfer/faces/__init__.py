"""From photos to aligned face crops: detectors, alignment, and the workers that store the crops."""
