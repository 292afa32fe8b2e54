"""Build the wheel, install it in an empty environment, and use it elsewhere: `python -m tools.check_package`.

The environment has nothing of its own but the wheel; it sees the packages of the environment that runs this. Then every
command that needs no data is run, a project is made, and its pipeline runs on a few rendered faces (about two minutes);
with `--method` also with a method of another package, the one of docs/howto/method-package.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

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
        self.pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
        (wheel,) = folder.glob("*.whl")
        self.pip("install", "--no-deps", str(wheel))
        # A .pth file in it is not followed, so the editable installation of the checkout is out of sight.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def pip(self, command: str, *words: str) -> None:
        """Run pip; what it installs, it installs into the environment."""
        into = ["--python", str(self.python)] if command == "install" else []
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *into]
        self.run(*pip, command, *words, quiet=True)

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


def write_their_package(folder: Path) -> None:
    """Write the files of docs/howto/method-package.md: a package that brings the method `theirs`."""
    page = (ROOT / "docs/howto/method-package.md").read_text(encoding="utf-8")
    for name, text in re.findall(r'(?ms)^```\w+ title="([^"]+)"\n(.*?)^```$', page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def try_their_package(installed: Installed, project: Path) -> None:
    """Install the package of the docs beside ssfer, run its tests, train with it, and change its code."""
    package = installed.work / "theirs"
    write_their_package(package)
    installed.pip("install", "--no-deps", "--no-build-isolation", str(package))
    installed.run(str(installed.python), "-m", "pytest", "-q", folder=package)
    installed.run("git", "add", "-A", folder=project, quiet=True)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    installed.run("git", *who, "commit", "-qm", "A project", folder=project, quiet=True)
    installed.run("ssfer", "run", "-S", "semisup.method=theirs", folder=project)
    used = json.loads((project / "data/identity/semisup.json").read_text())["code"]
    code = next(installed.env.rglob("ssfer_theirs/method.py"))
    for text, counts in ((f"# a remark\n{code.read_text()}", False), (f"{code.read_text()}\nX = 1\n", True)):
        code.write_text(text)
        installed.run("dvc", "repro", "identify", folder=project, quiet=True)
        stale = json.loads(installed.run("dvc", "status", "--json", "semisup", folder=project, quiet=True))
        if "ssfer_theirs.method" not in used or bool(stale) is not counts:
            sys.exit(f"semisup depends on {used}; after a change that counts ({counts}) dvc status says {stale}")
    print("ssfer_theirs: trained, and a change of its code is noticed", flush=True)


def change(params: Path, values: dict[str, Any]) -> None:
    """Change values in a project's params.yaml."""
    from ssfer.config.profiles import merge
    from ssfer.core.yaml import read_yaml, round_trip

    document = read_yaml(params, keep_comments=True)
    merge(document, values, str(params))
    with open(params, "w", encoding="utf-8") as file:
        round_trip().dump(document, file)


def main() -> None:
    """Run the command line; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-pipeline", action="store_true", help="only the commands that need no data")
    parser.add_argument("--method", action="store_true", help="also train with a method of another package")
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
            change(project / "params.yaml", SMALL)
            installed.run("dvc", "repro", "report", folder=project)
            page = (project / "metrics/report.html").stat().st_size
            print(f"metrics/report.html: {page / 1000:.0f} kB", flush=True)
            if args.method:
                try_their_package(installed, project)


if __name__ == "__main__":
    main()
