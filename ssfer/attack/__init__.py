"""Where a classifier looks and how little it takes to deceive it there (SSFER, Table 7): Grad-CAM, regions, FGSM."""
