"""`python -m ssfer`: the command line."""

from ssfer.cli import main

if __name__ == "__main__":
    main()
