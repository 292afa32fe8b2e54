"""What several methods share: losses, thresholds, targets, corrections of imbalance."""
