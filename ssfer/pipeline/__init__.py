"""What the training stages do, one module each; the scripts in stages/ only call them."""
