"""Create .venv and install requirements.lock into it: `python3 tools/bootstrap.py` (or `make setup`).

`--dev` (`make setup-dev`) adds requirements-dev.lock: what tests, style checks, the documentation site and Ray need.

Needs nothing but Python 3.11 to 3.14: uv is used when it is on PATH, else the standard library's venv and pip
(`BOOTSTRAP=pip` forces the latter). The lock is installed with --no-deps, because the two detector packages pin torch
versions of 2021 and 2023 and run unchanged on today's. Bytecode is compiled of what commands and stages import; that
of all packages takes 0.5 GiB. A stamp inside .venv (sha256 of its locks) makes every later call instant; a marker in
.venv tells an interrupted installation, which is then redone from nothing. The project itself is installed as an
editable one: the command `ssfer` in .venv runs this checkout's code.

`TORCH=cpu` and `TORCH=cuda12` take PyTorch from locks of their own, requirements-torch-*.lock (Linux; elsewhere there
is no CUDA), and so does a new .venv without an NVIDIA driver, or with one too old for CUDA 13; `TORCH=cuda` asks for
CUDA 13. `WHEELS=folder` installs without network from a folder of packages.
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 14)  # the lock has packages for these
if sys.version_info < OLDEST:  # before anything that an old Python cannot parse or import
    sys.exit(
        "bootstrap: error: Python 3.11 or newer is needed, this is Python %d.%d; run the command with a newer one, "
        "for example: python3.12 tools/bootstrap.py" % sys.version_info[:2]
    )

import hashlib
import http.client
import os
import platform
import re
import shutil
import subprocess
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = "ssfer-lock.sha256"  # inside the environment: where it was built, for which build of torch, and its locks
MARKER = "ssfer-installing"  # inside the environment while we install into one of our own
LOCK = "requirements.lock"  # with PyTorch for CUDA 13; other builds are in requirements-torch-<build>.lock
DEV_LOCK = "requirements-dev.lock"  # no package of LOCK
SIZES = {"cuda": 6.9, "cuda12": 8.4, "cpu": 2.4}  # GiB of .venv, on Linux
DEV_SIZE = 0.6  # GiB more
USED = "torch, torchvision, dvc.cli, mlflow, ssfer.cli.main, ssfer.predict.recognizer, ssfer.stages.semisup"
CUDA_ONLY = re.compile(r"(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==")
DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
CUDA12_DRIVERS = range(525, 580)  # too old for CUDA 13; ssfer.core.device has the numbers, too


class BootstrapError(Exception):
    """One sentence for the user: what failed and what to do."""


def env_python(env: Path) -> Path:
    """Return the path of the environment's interpreter."""
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def lock_files(root: Path, build: str, dev: bool = False) -> list[Path]:
    """Return the locks of a build of torch, in the order in which they are installed."""
    torch = [] if build == "cuda" else [f"requirements-torch-{build}.lock"]
    return [root / name for name in [*torch, LOCK, *([DEV_LOCK] if dev else [])]]


def stamp_of(env: Path) -> list[str]:
    """Return the lines of the environment's stamp; none if it is incomplete or not ours."""
    stamp = env / STAMP
    return stamp.read_text().splitlines() if stamp.is_file() else []


def digest(lock: Path) -> str:
    """Return a lock's line in the stamp."""
    return f"{hashlib.sha256(lock.read_bytes()).hexdigest()}  {lock.name}"


def stamped_build(env: Path) -> str | None:
    """Return which build of torch an environment of ours was made for."""
    stamp = stamp_of(env)
    return next((line for line in stamp if line in SIZES), "cuda") if stamp else None


def is_current(env: Path, build: str, locks: list[Path]) -> bool:
    """Tell whether `env` is complete and holds these locks; scripts carry absolute paths, so a moved one does not."""
    return {str(env), build, *map(digest, locks)} <= set(stamp_of(env)) and env_python(env).exists()


def wheels() -> Path | None:
    """Return the folder that WHEELS names, if it names one."""
    if not os.environ.get("WHEELS"):
        return None
    folder = Path(os.environ["WHEELS"]).resolve()
    if not any(folder.glob("*.whl")):
        raise BootstrapError(f"WHEELS names {folder}, which is no folder with .whl files (docs/start/install.md)")
    return folder


def cpu_builds_at_hand(root: Path) -> bool:
    """Tell whether the CPU builds of torch can be had: in the folder of wheels, else from the index of their lock."""
    if folder := wheels():
        return any(folder.glob("torch-*+cpu-*.whl"))
    try:
        index = re.search(r"(?m)^--extra-index-url (\S+)", lock_files(root, "cpu")[0].read_text())
        request = urllib.request.Request(f"{index[1]}/torch/" if index else "", method="HEAD")
        return bool(urllib.request.urlopen(request, timeout=5))
    except (OSError, ValueError, http.client.HTTPException):
        return False


def driver_major() -> int | None:
    """Return the NVIDIA driver's major version; None if it cannot be read."""
    try:
        found = re.search(r"Kernel Module.*?\b(\d+)\.\d+", Path(DRIVER[0]).read_text())
    except (IndexError, OSError):
        return None
    return int(found[1]) if found else None


def choose_build(root: Path, env: Path) -> str:
    """Return which build of torch to install, of SIZES; what was chosen without being asked for is printed."""
    asked = os.environ.get("TORCH", "")
    if asked not in ("", *SIZES):
        raise BootstrapError(f"TORCH is '{asked}'; it takes one of {', '.join(SIZES)}, or leave it out")
    if not sys.platform.startswith("linux"):
        return "cuda"  # requirements.lock, whose builds for other systems have no CUDA
    if asked == "cuda12" and platform.machine() != "x86_64":
        raise BootstrapError(
            f"TORCH=cuda12 is for x86_64, this is {platform.machine()}; use TORCH=cuda with an NVIDIA driver "
            f"{CUDA12_DRIVERS.stop} or newer, or TORCH=cpu"
        )
    if asked or (env.exists() and not (env / MARKER).exists()):
        return asked or stamped_build(env) or "cuda"
    driver = driver_major()
    if driver in CUDA12_DRIVERS and platform.machine() == "x86_64":
        print(f"bootstrap: NVIDIA driver {driver} is too old for CUDA 13: CUDA 12 builds of PyTorch", flush=True)
        return "cuda12"
    if shutil.which("nvidia-smi") or any(Path(path).exists() for path in DRIVER):
        return "cuda"
    if not cpu_builds_at_hand(root):
        print("bootstrap: no NVIDIA driver, but PyTorch's CPU builds are out of reach: CUDA builds, which also run")
        return "cuda"
    print("bootstrap: no NVIDIA driver: CPU builds of PyTorch (TORCH=cuda asks for CUDA)", flush=True)
    return "cpu"


def is_usable(env: Path) -> bool:
    """Tell whether the environment is one (a half-made one would be its base Python) and fits the lock."""
    if not (env / "pyvenv.cfg").is_file():
        return False
    code = f"import sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.run([env_python(env), "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def why_rebuild(env: Path, build: str) -> str | None:
    """Return the reason to throw an existing environment away, or None to install into it as it is."""
    if (env / MARKER).exists():
        return "the last installation was interrupted"
    if not is_usable(env):
        return "its Python does not start or does not fit the lock"
    if stamp_of(env) and str(env) not in stamp_of(env):
        return "it was built in another folder"
    if stamped_build(env) not in (None, build):
        return f"it holds the {stamped_build(env)} build of PyTorch"
    return None


def run(*command: object) -> int:
    """Run a command without input and return its exit status."""
    return subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL).returncode


def remove(env: Path) -> None:
    """Delete an environment, its interpreter first: if that is interrupted, the rest is known to be unusable.

    Of a link to one the link alone: the environment is somebody else's.
    """
    if env.is_symlink():
        env.unlink()
        return
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
    """Install a lock: exact versions, every file checked against its hash, nothing resolved anew."""
    folder = wheels()
    options = ["--no-deps", "--require-hashes", *(["--no-index", "--find-links", folder] if folder else []), "-r", lock]
    python = env_python(env)
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    if uv:  # packages that both indexes have are told apart by their hashes
        options = ["--index-strategy", "unsafe-best-match", *options]
        status = run(uv, "pip", "install", *quiet, "--python", python, *options)
    else:
        if run(python, "-c", "import pip") and run(python, "-m", "ensurepip", "--upgrade"):
            raise BootstrapError(
                "the environment has no pip and this Python has no ensurepip; install its ensurepip part (on Debian "
                "and Ubuntu: the package python3-venv), delete .venv and run this again, or put uv on PATH"
            )
        options = ["--no-compile", "--no-input", "--disable-pip-version-check", *options]
        status = run(python, "-m", "pip", "install", *quiet, *options)
    if status:
        raise BootstrapError(
            f"the packages of {lock.name} could not be installed ({'uv' if uv else 'pip'} ended with status {status}, "
            f"its message is above); check {f'that {folder} holds them all' if folder else 'the network'} and the disk "
            "space, then run the same command again"
        )


def without_cuda(lock: Path, env: Path) -> Path:
    """Write the lock without PyTorch and what only its CUDA builds need, inside the environment."""
    blocks = re.split(r"\n(?=\w)", lock.read_text())
    rest = env / "requirements-without-torch.lock"
    rest.write_text("\n".join(block for block in blocks if not CUDA_ONLY.match(block)))
    return rest


def install_project(env: Path, root: Path, uv: str | None) -> None:
    """Install this checkout as an editable package: the command `ssfer`, and its version and entry points."""
    installer = [uv, "pip", "install", "--python", env_python(env)] if uv else [env_python(env), "-m", "pip", "install"]
    if run(*installer, "--quiet", "--no-deps", "--no-build-isolation", "--editable", root):
        raise BootstrapError("the project itself could not be installed into .venv; delete .venv and run this again")


def announce(env: Path, locks: list[Path], build: str, uv: str | None) -> None:
    """Say which of the locks are installed, and what the environment takes with all of them."""
    size = SIZES[build] + (DEV_SIZE if locks[-1].name == DEV_LOCK else 0)
    size_text = f".venv takes about {size:.1f} GiB, " if sys.platform.startswith("linux") else ""
    names = " and ".join(lock.name for lock in locks if digest(lock) not in stamp_of(env))
    print(f"bootstrap: installing {names} with {'uv' if uv else 'pip'}: {size_text}1 to 5 minutes", flush=True)


def install_locks(env: Path, root: Path, build: str, dev: bool, uv: str | None) -> None:
    """Install the locks that a marked environment does not hold, then the project, and stamp the environment."""
    stamp, locks = stamp_of(env), lock_files(root, build, dev)
    (env / STAMP).unlink(missing_ok=True)
    try:
        for path in locks:
            if digest(path) not in stamp:
                install(env, without_cuda(path, env) if path.name == LOCK and build != "cuda" else path, uv)
    except BootstrapError:
        if build != "cpu" or os.environ.get("TORCH"):
            raise
        print("bootstrap: PyTorch's CPU builds cannot be had here: CUDA builds, which also run", flush=True)
        return install_locks(env, root, "cuda", dev, uv)
    install_project(env, root, uv)
    if run(env_python(env), "-c", f"import sys; sys.dont_write_bytecode = False; import {USED}"):
        raise BootstrapError("the packages in .venv do not work together (see above); delete .venv and run this again")
    (env / STAMP).write_text("\n".join([str(env), build, *map(digest, locks)]) + "\n")


def bootstrap(root: Path = ROOT, dev: bool = False) -> None:
    """Bring root/.venv to the state of root/requirements.lock, and with `dev` of root/requirements-dev.lock.

    Raises:
        BootstrapError: no lock, a Python that it does not fit, no environment, or a failed installation.
    """
    env = root / ".venv"
    for lock in lock_files(root, "cuda", dev):
        if not lock.is_file():
            raise BootstrapError(f"{lock.name} is missing beside this project's pyproject.toml; restore it from git")
    if sys.version_info[:2] > NEWEST:
        raise BootstrapError(
            f"{LOCK} has packages for Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}, this is Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}; run it with one of those: make setup PYTHON=python3.14"
        )
    build = choose_build(root, env)
    if is_current(env, build, lock_files(root, build, dev)):
        return
    uv = None if os.environ.get("BOOTSTRAP") == "pip" else shutil.which("uv")
    reason = why_rebuild(env, build) if env.exists() else None
    if reason:
        print(f"bootstrap: rebuilding .venv: {reason}", flush=True)
        remove(env)
    dev |= any(line.endswith(DEV_LOCK) for line in stamp_of(env))  # what is there stays, and stays in step
    announce(env, lock_files(root, build, dev), build, uv)
    if not env.exists():
        create(env, uv)
    elif stamp_of(env):  # one made by hand gets no marker: a failed download must not cost its owner the environment
        (env / MARKER).touch()
    install_locks(env, root, build, dev, uv)
    (env / MARKER).unlink(missing_ok=True)
    if dev and sys.dont_write_bytecode:  # tests start many processes, none of which could keep what it compiles
        print("bootstrap: compiling all packages: 1 to 2 minutes", flush=True)
        run(env_python(env), "-m", "compileall", "-qq", "-j", "0", env)
    print("bootstrap: .venv is ready; activate it, or use make (the command is ssfer)", flush=True)


if __name__ == "__main__":
    try:
        bootstrap(dev="--dev" in sys.argv[1:])
    except BootstrapError as problem:
        sys.exit(f"bootstrap: error: {problem}")
    except KeyboardInterrupt:
        sys.exit("bootstrap: interrupted; run the same command again")
