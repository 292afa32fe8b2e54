"""The arguments of `ssfer profile`."""

from __future__ import annotations

import argparse


def parser() -> argparse.ArgumentParser:
    """Return the parser of `ssfer profile`; nothing heavy is imported, so that --help answers at once."""
    made = argparse.ArgumentParser(
        prog="ssfer profile",
        description="Print profiles as flags of `dvc exp run`, or run them, show them, or merge them into params.yaml.",
        epilog="Recipe first, data set second: ssfer profile paper ferplus --run. With --run, arguments after -- go to "
        "`dvc exp run`. Exit status: 0, or 2 with one line on stderr that says what is wrong.",
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="profiles, later ones win")
    action = made.add_mutually_exclusive_group()
    action.add_argument("--run", action="store_true", help="run the pipeline with them: dvc exp run log -S ...")
    action.add_argument("--write", action="store_true", help="merge them into params.yaml, comments kept")
    action.add_argument("--show", action="store_true", help="print the resulting params.yaml")
    action.add_argument("--list", action="store_true", help="list the profiles")
    made.add_argument(
        "-S",
        dest="extra",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one more value (--run or printed)",
    )
    return made
