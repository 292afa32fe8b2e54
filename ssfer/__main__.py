"""`python -m ssfer`: the command line."""

from ssfer.cli.main import main

if __name__ == "__main__":
    main()
