"""Create .venv and install requirements.lock into it: `python3 tools/bootstrap.py` (or `make setup`).

Needs nothing but Python 3.11 or newer: uv is used when it is on PATH, else the standard library's venv and pip
(`BOOTSTRAP=pip` forces the latter). The lock is installed with --no-deps, because the two detector packages pin torch
versions of 2021 and 2023 and run unchanged on today's. A stamp inside .venv (sha256 of the lock) makes every later
call instant; a marker inside .venv tells an interrupted installation, which is then redone from nothing. The project
itself is installed as an editable one: the command `ssfer` in .venv runs this checkout's code.
"""

import sys

OLDEST = (3, 11)
if sys.version_info < OLDEST:  # before anything that an old Python cannot parse or import
    sys.exit(
        "bootstrap: error: Python 3.11 or newer is needed, this is Python %d.%d; run the command with a newer one, "
        "for example: python3.12 tools/bootstrap.py" % sys.version_info[:2]
    )

import hashlib
import os
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = "ssfer-lock.sha256"  # inside the environment: which lock it holds, and where it was built
MARKER = "ssfer-installing"  # inside the environment while we install into one of our own


class BootstrapError(Exception):
    """One sentence for the user: what failed and what to do."""


def env_python(env: Path) -> Path:
    """Return the path of the environment's interpreter."""
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_text(env: Path, lock: Path) -> str:
    """Return what the stamp of a complete environment holds; scripts carry absolute paths, so a moved one differs."""
    return f"{hashlib.sha256(lock.read_bytes()).hexdigest()}\n{env}\n"


def is_current(env: Path, lock: Path) -> bool:
    """Tell whether `env` is complete and holds exactly this lock."""
    stamp = env / STAMP
    return stamp.is_file() and stamp.read_text() == stamp_text(env, lock) and env_python(env).exists()


def is_usable(env: Path) -> bool:
    """Tell whether the environment is one (a half-made one would be its base Python) and is new enough."""
    if not (env / "pyvenv.cfg").is_file():
        return False
    code = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.run([env_python(env), "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def why_rebuild(env: Path) -> str | None:
    """Return the reason to throw an existing environment away, or None to install into it as it is."""
    stamp = env / STAMP
    if (env / MARKER).exists():
        return "the last installation was interrupted"
    if not is_usable(env):
        return "its Python does not start or is too old"
    if stamp.is_file() and stamp.read_text().splitlines()[1:] != [str(env)]:
        return "it was built in another folder"
    return None


def run(*command: object) -> int:
    """Run a command without input and return its exit status."""
    return subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL).returncode


def remove(env: Path) -> None:
    """Delete an environment, its interpreter first: if that is interrupted, the rest is known to be unusable."""
    shutil.rmtree(env_python(env).parent, ignore_errors=True)
    shutil.rmtree(env)


def create(env: Path, uv: str | None) -> None:
    """Create an empty environment, marked as unfinished."""
    env.mkdir()
    (env / MARKER).touch()
    base = getattr(sys, "_base_executable", None) or sys.executable  # we may run inside another environment
    if uv:
        if run(uv, "venv", "--quiet", "--allow-existing", "--python", base, env):
            raise BootstrapError("uv could not create .venv (see above); try BOOTSTRAP=pip python3 tools/bootstrap.py")
    else:
        try:
            venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(env)
        except (subprocess.CalledProcessError, ImportError, OSError, SystemExit) as error:
            raise BootstrapError(
                f"this Python cannot create an environment with pip ({type(error).__name__}); install its venv and "
                "ensurepip parts (on Debian and Ubuntu: the package python3-venv), or put uv on PATH"
            ) from error


def install(env: Path, lock: Path, uv: str | None) -> None:
    """Install the lock: exact versions, every file checked against its hash, nothing resolved anew."""
    options = ["--no-deps", "--require-hashes", "-r", lock]
    python = env_python(env)
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    if uv:
        status = run(uv, "pip", "install", *quiet, "--python", python, "--compile-bytecode", *options)
    else:
        if run(python, "-c", "import pip") and run(python, "-m", "ensurepip", "--upgrade"):
            raise BootstrapError(
                "the environment has no pip and this Python has no ensurepip; install its ensurepip part (on Debian "
                "and Ubuntu: the package python3-venv), delete .venv and run this again, or put uv on PATH"
            )
        status = run(python, "-m", "pip", "install", *quiet, "--no-input", "--disable-pip-version-check", *options)
    if status:
        raise BootstrapError(
            f"the packages of {lock.name} could not be installed ({'uv' if uv else 'pip'} ended with status {status}, "
            "its message is above); check the network, the disk space and that this Python is not newer than the "
            "packages know, then run the same command again"
        )
    if run(python, "-c", "import torch, torchvision"):
        raise BootstrapError("torch and torchvision do not work together in .venv; delete .venv and run this again")


def install_project(env: Path, root: Path, uv: str | None) -> None:
    """Install this checkout as an editable package: the command `ssfer`, and its version and entry points."""
    installer = [uv, "pip", "install", "--python", env_python(env)] if uv else [env_python(env), "-m", "pip", "install"]
    if run(*installer, "--quiet", "--no-deps", "--no-build-isolation", "--editable", root):
        raise BootstrapError("the project itself could not be installed into .venv; delete .venv and run this again")


def bootstrap(root: Path = ROOT) -> None:
    """Bring root/.venv to the state of root/requirements.lock.

    Raises:
        BootstrapError: no lock, no environment, or a failed installation.
    """
    env, lock = root / ".venv", root / "requirements.lock"
    if not lock.is_file():
        raise BootstrapError(f"{lock.name} is missing beside this project's pyproject.toml; restore it from git")
    if is_current(env, lock):
        return
    uv = None if os.environ.get("BOOTSTRAP") == "pip" else shutil.which("uv")
    reason = why_rebuild(env) if env.exists() else None
    if reason:
        print(f"bootstrap: rebuilding .venv: {reason}", flush=True)
        remove(env)
    ours = (env / STAMP).exists() or not env.exists()
    (env / STAMP).unlink(missing_ok=True)
    packages = sum(line[:1].isalnum() for line in lock.read_text().splitlines())
    print(
        f"bootstrap: installing {packages} packages into .venv with {'uv' if uv else 'pip'}: "
        "about 6 GB and 1 to 5 minutes",
        flush=True,
    )
    if not env.exists():
        create(env, uv)
    elif ours:  # one made by hand gets no marker: a failed download must not cost its owner the environment
        (env / MARKER).touch()
    install(env, lock, uv)
    install_project(env, root, uv)
    (env / STAMP).write_text(stamp_text(env, lock))
    (env / MARKER).unlink(missing_ok=True)
    print("bootstrap: .venv is ready; activate it, or use make (the command is ssfer)", flush=True)


if __name__ == "__main__":
    try:
        bootstrap()
    except BootstrapError as problem:
        sys.exit(f"bootstrap: error: {problem}")
    except KeyboardInterrupt:
        sys.exit("bootstrap: interrupted; run the same command again")
