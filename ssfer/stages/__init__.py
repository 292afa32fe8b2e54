"""What each stage does; the scripts in stages/ at the root only call them."""
