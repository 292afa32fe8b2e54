"""Build the wheel, install it in an empty environment, and use it elsewhere: `python -m tools.check_package`.

The environment has nothing of its own but the wheel; it sees the packages of the environment that runs this. Then every
command that needs no data is run, a project is made, and its pipeline runs on a few rendered faces (about two minutes).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A demo that takes seconds: what counts is that each stage runs, not what it learns.
SMALL = {
    "generate": {"train": 84, "test": 28, "people": 24, "people_identities": 12},
    "split": {"labeled_fraction": 0.5, "val_fraction": 0.3},
    "model": {"embed_dim": 24, "depth": 1, "num_heads": 2},
    "pretrain": {"epochs": 1, "warmup_epochs": 0, "batch_size": 32, "decoder_embed_dim": 16, "decoder_num_heads": 2},
    "finetune": {"epochs": 1, "epochs_few_labels": 1, "warmup_epochs": 0, "batch_size": 16, "eval_every": 1},
    "semisup": {"epochs": 1, "batch_size": 16, "eval_every": 1},
}


class Installed:
    """An environment that holds the wheel, and a folder outside the checkout.

    Args:
        folder: where both are made.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self.env = folder / "work", folder / "env"
        self.work.mkdir()
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(self.env)
        site = next(self.env.glob("lib/python*/site-packages"), self.env / "Lib/site-packages")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        self.run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT), quiet=True)
        (wheel,) = folder.glob("*.whl")
        self.run(*pip, "--python", str(self.python), "install", "--no-deps", str(wheel), quiet=True)
        # A .pth file in it is not followed, so the editable installation of the checkout is out of sight.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(self, *command: str, folder: Path | None = None, quiet: bool = False) -> str:
        """Run a command outside the checkout and return what it prints.

        Raises:
            SystemExit: it failed; its output is printed.
        """
        path = os.pathsep.join([str(self.python.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DVC_"))}
        environment |= {"PATH": path, "SSFER_MLFLOW": "0", "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=folder or self.work, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
        if not quiet:
            print(f"{' '.join(command)}: ok", flush=True)
        return done.stdout


def shrink(params: Path) -> None:
    """Give a project's params.yaml the values of SMALL."""
    from ssfer.config.profiles import merge
    from ssfer.core.yaml import read_yaml, round_trip

    document = read_yaml(params, keep_comments=True)
    merge(document, SMALL, str(params))
    with open(params, "w", encoding="utf-8") as file:
        round_trip().dump(document, file)


def main() -> None:
    """Run the command line; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-pipeline", action="store_true", help="only the commands that need no data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ssfer-package-") as temporary:
        installed = Installed(Path(temporary))
        where = installed.run(str(installed.python), "-c", "import ssfer; print(ssfer.__file__)", quiet=True)
        if str(installed.env) not in where:
            sys.exit(f"the checkout's package was imported instead of the wheel's: {where}")
        installed.run("ssfer", "--version")
        installed.run("ssfer", "init", "demo")
        project = installed.work / "demo"
        for words in (("experiments", "list"), ("complexity",), ("profile", "--list"), ("params",)):
            installed.run("ssfer", *words, folder=project)
        if not args.no_pipeline:
            shrink(project / "params.yaml")
            installed.run("dvc", "repro", "report", folder=project)
            page = (project / "metrics/report.html").stat().st_size
            print(f"metrics/report.html: {page / 1000:.0f} kB")


if __name__ == "__main__":
    main()
