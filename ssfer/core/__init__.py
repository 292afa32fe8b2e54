"""What every part uses: errors, files, randomness, progress, images, labels. Knows nothing above it."""
