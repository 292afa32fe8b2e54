"""tools/bootstrap.py without network: which environments it keeps, completes or rebuilds, and what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ssfer.core.extras import DEVELOPMENT
from tools import bootstrap as boot

ROOT = Path(__file__).resolve().parents[2]
Commands = list[list[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project folder with a lock of two packages, and one of one more."""
    (tmp_path / "requirements.lock").write_text("one==1 \\\n    --hash=sha256:aa\n    # via two\ntwo==2 \\\n")
    (tmp_path / "requirements-dev.lock").write_text("pytest==3 \\\n    --hash=sha256:bb\n")
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Record commands instead of running them; environments come into being as they would."""
    done: Commands = []

    def run(*command: object) -> int:
        words = [str(part) for part in command]
        done.append(words)
        if words[1] == "venv":
            make_env(Path(words[-1]))
        return 0

    monkeypatch.setattr(boot, "run", run)
    monkeypatch.setattr(boot.shutil, "which", lambda name: f"/bin/{name}" if name in ("uv", "nvidia-smi") else None)
    for name in ("BOOTSTRAP", "TORCH", "WHEELS"):
        monkeypatch.delenv(name, raising=False)
    return done


def make_env(env: Path) -> None:
    """Something that looks like an environment and whose interpreter starts."""
    python = boot.env_python(env)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.symlink_to(sys.executable)
    (env / "pyvenv.cfg").touch()


def installed(commands: Commands) -> list[str]:
    """The names of the locks that were installed."""
    return [Path(c[-1]).name for c in commands if "--require-hashes" in c]


def is_current(home: Path, build: str = "cuda", dev: bool = False) -> bool:
    return boot.is_current(home / ".venv", build, boot.lock_files(home, build, dev))


def test_install_takes_exactly_the_lock(home: Path, commands: Commands) -> None:
    boot.bootstrap(home)
    (install,) = [c for c in commands if "--require-hashes" in c]
    assert install[-4:] == ["--no-deps", "--require-hashes", "-r", str(home / "requirements.lock")]
    assert "--compile-bytecode" not in install
    assert not (home / ".venv" / boot.MARKER).exists()


def test_second_call_does_nothing(home: Path, commands: Commands) -> None:
    boot.bootstrap(home)
    commands.clear()
    boot.bootstrap(home)
    assert commands == []


def test_changed_lock_is_installed_into_the_same_environment(home: Path, commands: Commands) -> None:
    boot.bootstrap(home)
    (home / ".venv/mine").touch()
    (home / "requirements.lock").write_text("one==2\n")
    boot.bootstrap(home)
    assert installed(commands) == ["requirements.lock"] * 2
    assert (home / ".venv/mine").exists()
    assert is_current(home)


def test_development_lock_is_added_and_stays(
    home: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    boot.bootstrap(home)
    assert is_current(home) and not is_current(home, dev=True)
    assert "installing requirements.lock with uv" in capsys.readouterr().out
    boot.bootstrap(home, dev=True)
    assert "installing requirements-dev.lock with uv" in capsys.readouterr().out
    assert installed(commands) == ["requirements.lock", "requirements-dev.lock"]
    assert is_current(home) and is_current(home, dev=True)
    commands.clear()
    for dev in (False, True):
        boot.bootstrap(home, dev=dev)
    assert commands == []
    (home / "requirements.lock").write_text("one==2\n")
    boot.bootstrap(home)
    assert installed(commands) == ["requirements.lock"] and is_current(home, dev=True)


def test_changed_development_lock_concerns_only_who_asks_for_it(home: Path, commands: Commands) -> None:
    boot.bootstrap(home, dev=True)
    (home / "requirements-dev.lock").write_text("pytest==4\n")
    commands.clear()
    boot.bootstrap(home)
    assert commands == []
    boot.bootstrap(home, dev=True)
    assert installed(commands) == ["requirements-dev.lock"] and is_current(home, dev=True)


def test_environment_made_by_hand_is_installed_into(home: Path, commands: Commands) -> None:
    make_env(home / ".venv")
    (home / ".venv/mine").touch()
    boot.bootstrap(home)
    assert installed(commands) == ["requirements.lock"]
    assert (home / ".venv/mine").exists()


def spoil_marker(env: Path) -> None:
    (env / boot.STAMP).unlink()
    (env / boot.MARKER).touch()


def spoil_python(env: Path) -> None:
    boot.env_python(env).unlink()
    boot.env_python(env).symlink_to(env / "nowhere")


def spoil_config(env: Path) -> None:
    (env / boot.STAMP).unlink()
    (env / "pyvenv.cfg").unlink()


def spoil_place(env: Path) -> None:
    stamp = env / boot.STAMP
    stamp.write_text(stamp.read_text().replace(str(env), "/elsewhere/.venv"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_marker, "interrupted"),
        (spoil_python, "does not start"),
        (spoil_config, "does not start"),
        (spoil_place, "another folder"),
    ],
)
def test_unusable_environment_is_rebuilt_from_nothing(
    home: Path, commands: Commands, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], reason: str
) -> None:
    boot.bootstrap(home)
    (home / ".venv/leftover").touch()
    spoil(home / ".venv")
    boot.bootstrap(home)
    assert reason in capsys.readouterr().out
    assert not (home / ".venv/leftover").exists()
    assert is_current(home)


def test_failed_installation_is_said_and_redone(
    home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = boot.run
    monkeypatch.setattr(boot, "run", lambda *c: 7 if "install" in c else working(*c))
    with pytest.raises(boot.BootstrapError, match=r"could not be installed \(uv ended with status 7"):
        boot.bootstrap(home)
    assert not is_current(home)
    monkeypatch.setattr(boot, "run", working)
    boot.bootstrap(home)
    assert is_current(home)


def test_failed_installation_leaves_a_hand_made_environment(
    home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_env(home / ".venv")
    (home / ".venv/mine").touch()
    monkeypatch.setattr(boot, "run", lambda *c: 1)
    for _ in range(2):
        with pytest.raises(boot.BootstrapError):
            boot.bootstrap(home)
    assert (home / ".venv/mine").exists()


def test_pip_is_used_when_asked_for(home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    make_env(home / ".venv")
    monkeypatch.setenv("BOOTSTRAP", "pip")
    boot.bootstrap(home)
    assert [c[1:4] for c in commands if "install" in c] == [["-m", "pip", "install"]] * 2
    assert ["--no-compile" in c for c in commands if "--require-hashes" in c] == [True]
    assert not [c for c in commands if c[0] == "/bin/uv"]


def test_missing_ensurepip_gets_a_sentence(home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTSTRAP", "pip")

    def fail(*_: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(boot.venv.EnvBuilder, "create", fail)
    with pytest.raises(boot.BootstrapError, match="python3-venv"):
        boot.bootstrap(home)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_missing_lock_gets_a_sentence(home: Path, name: str) -> None:
    (home / name).unlink()
    with pytest.raises(boot.BootstrapError, match=f"{name} is missing beside this project's pyproject.toml; restore"):
        boot.bootstrap(home, dev=True)


def test_project_is_installed_after_its_packages(home: Path, commands: Commands) -> None:
    boot.bootstrap(home)
    assert "--require-hashes" in commands[-3] and commands[-2][-2:] == ["--editable", str(home)]
    assert "--no-deps" in commands[-2] and "--no-build-isolation" in commands[-2]


def test_packages_that_do_not_work_together_get_a_sentence(
    home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = boot.run
    monkeypatch.setattr(boot, "run", lambda *c: 1 if "-c" in c else working(*c))
    with pytest.raises(boot.BootstrapError, match=r"do not work together \(see above\); delete \.venv and run"):
        boot.bootstrap(home)
    assert not is_current(home)


@pytest.mark.parametrize(("dev", "forbidden", "compiles"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_everything_is_compiled_only_for_tests_where_python_may_not(
    dev: bool, forbidden: bool, compiles: int, home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot.sys, "dont_write_bytecode", forbidden)
    boot.bootstrap(home, dev)
    assert sum("compileall" in c for c in commands) == compiles


CPU_PART = "--extra-index-url http://127.0.0.1:9/cpu\ntorch==1+cpu \\\n    --hash=sha256:cc\n"
CUDA_LOCK = "".join(
    f"{name}==1 \\\n    --hash=sha256:aa\n    # via torch\n"
    for name in ("cuda-toolkit", "numpy", "nvidia-cudnn-cu13", "torch", "torchmetrics", "torchvision", "triton")
)


@pytest.fixture
def laptop(home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with all locks, on Linux without an NVIDIA driver."""
    (home / "requirements.lock").write_text(CUDA_LOCK)
    (home / "requirements-torch-cpu.lock").write_text(CPU_PART)
    (home / "requirements-torch-cuda12.lock").write_text("torch==1 \\\n    --hash=sha256:dd\n")
    monkeypatch.setattr(boot.shutil, "which", lambda name: "/bin/uv" if name == "uv" else None)
    monkeypatch.setattr(boot, "DRIVER", ())
    monkeypatch.setattr(boot.sys, "platform", "linux")
    monkeypatch.setattr(boot.platform, "machine", lambda: "x86_64")
    return home


@pytest.mark.parametrize("build", ["cpu", "cuda12"])
def test_other_builds_come_from_their_lock_and_cuda_13_stays_out(
    build: str, laptop: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH", build)
    boot.bootstrap(laptop, dev=True)
    first, second, third = (Path(c[-1]) for c in commands if "--require-hashes" in c)
    assert (first, third) == (laptop / f"requirements-torch-{build}.lock", laptop / "requirements-dev.lock")
    assert re.findall(r"(?m)^[a-z0-9-]+(?===)", second.read_text()) == ["numpy", "torchmetrics"]
    commands.clear()
    monkeypatch.delenv("TORCH")
    for dev in (False, True):
        boot.bootstrap(laptop, dev)  # what was built once is kept
    assert commands == []
    assert boot.stamped_build(laptop / ".venv") == build


def test_interrupted_cpu_installation_is_redone_as_one(
    laptop: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot.urllib.request, "urlopen", lambda request, timeout: request.full_url)
    boot.bootstrap(laptop)
    spoil_marker(laptop / ".venv")
    boot.bootstrap(laptop)
    assert boot.stamped_build(laptop / ".venv") == "cpu"


def test_other_build_is_a_new_environment(
    laptop: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH", "cpu")
    boot.bootstrap(laptop)
    monkeypatch.setenv("TORCH", "cuda")
    boot.bootstrap(laptop)
    assert "rebuilding .venv: it holds the cpu build of PyTorch" in capsys.readouterr().out
    assert is_current(laptop)


@pytest.mark.parametrize(
    ("answers", "build", "said"),
    [(True, "cpu", "no NVIDIA driver: CPU builds of PyTorch"), (False, "cuda", "CPU builds are out of reach")],
)
def test_no_driver_takes_cpu_builds_where_they_can_be_had(
    laptop: Path,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: bool,
    build: str,
    said: str,
) -> None:
    if answers:
        monkeypatch.setattr(boot.urllib.request, "urlopen", lambda request, timeout: request.full_url)
    boot.bootstrap(laptop)  # nothing listens on port 9
    assert boot.stamped_build(laptop / ".venv") == build
    assert said in capsys.readouterr().out


def test_cpu_builds_that_fail_give_way_to_cuda_unless_asked_for(
    laptop: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot.urllib.request, "urlopen", lambda request, timeout: request.full_url)
    working = boot.run
    monkeypatch.setattr(boot, "run", lambda *c: 1 if str(c[-1]).endswith("cpu.lock") else working(*c))
    boot.bootstrap(laptop)
    assert is_current(laptop)
    assert "CPU builds cannot be had here" in capsys.readouterr().out
    monkeypatch.setenv("TORCH", "cpu")
    with pytest.raises(boot.BootstrapError, match=r"requirements-torch-cpu\.lock could not be installed"):
        boot.bootstrap(laptop)


def test_linked_environment_of_another_folder_stays_whole(home: Path, commands: Commands) -> None:
    other = home / "other"
    make_env(other)
    (home / ".venv").symlink_to(other)
    (other / boot.STAMP).write_text(f"digest\n{other}\n")
    boot.bootstrap(home)
    assert boot.env_python(other).exists() and not (home / ".venv").is_symlink()


@pytest.mark.parametrize(
    ("driver", "processor", "build"),
    [
        ("580.159.03", "x86_64", "cuda"),
        ("570.133.20", "x86_64", "cuda12"),
        ("525.60.13", "x86_64", "cuda12"),
        ("470.82.01", "x86_64", "cuda"),  # too old for CUDA 12, too
        ("570.133.20", "aarch64", "cuda"),  # PyTorch has no CUDA 12 there
        ("?", "x86_64", "cuda"),
    ],
)
def test_driver_takes_the_cuda_that_it_runs(
    driver: str, processor: str, build: str, laptop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = laptop / "version"
    version.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\n")
    monkeypatch.setattr(boot, "DRIVER", (str(version),))
    monkeypatch.setattr(boot.platform, "machine", lambda: processor)
    assert boot.choose_build(laptop, laptop / ".venv") == build


def test_cuda_12_for_another_processor_gets_a_sentence(laptop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "cuda12")
    monkeypatch.setattr(boot.platform, "machine", lambda: "aarch64")
    with pytest.raises(
        boot.BootstrapError, match="is for x86_64, this is aarch64; use TORCH=cuda with .* 580 or newer"
    ):
        boot.bootstrap(laptop)


def test_unknown_build_gets_a_sentence(laptop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "gpu")
    with pytest.raises(boot.BootstrapError, match="TORCH is 'gpu'; it takes one of cuda, cuda12, cpu"):
        boot.bootstrap(laptop)


def test_folder_of_wheels_takes_the_place_of_the_network(
    laptop: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHEELS", str(laptop / "wheels"))
    with pytest.raises(boot.BootstrapError, match=r"wheels, which is no folder with \.whl files"):
        boot.bootstrap(laptop)
    (laptop / "wheels").mkdir()
    (laptop / "wheels/torch-1+cpu-py3-none-any.whl").touch()
    boot.bootstrap(laptop)
    for command in (c for c in commands if "--require-hashes" in c):
        at = command.index("--no-index")
        assert command[at : at + 3] == ["--no-index", "--find-links", str(laptop / "wheels")]
    assert boot.stamped_build(laptop / ".venv") == "cpu"  # the folder has its CPU build


def test_newer_python_than_the_lock_gets_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot.sys, "version_info", (3, 15, 0))
    with pytest.raises(boot.BootstrapError, match=r"packages for Python 3\.11 to 3\.14, this is Python 3\.15; run it"):
        boot.bootstrap(home)


def old_pythons() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    return [
        python for python in found if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    ]


def test_old_python_gets_a_sentence() -> None:
    """The version is checked before anything an old Python cannot import; also tried with real ones where there are."""
    code = "import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path('tools/bootstrap.py')"
    answers = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)]
    for python in old_pythons():
        answers.append(subprocess.run([python, "tools/bootstrap.py"], cwd=ROOT, capture_output=True, text=True))
    for answer in answers:
        assert answer.returncode == 1
        assert re.search(r"^bootstrap: error: Python 3\.11 or newer is needed, this is Python 3\.\d+;", answer.stderr)


@pytest.mark.slow
def test_real_environment_with_pip_and_no_network(home: Path) -> None:
    """Creates a real environment, fails to find the packages, says so, and starts from nothing the next time."""
    (home / "tools").mkdir()
    shutil.copy(ROOT / "tools/bootstrap.py", home / "tools")
    (home / "requirements.lock").write_text("no-such-package==1 --hash=sha256:" + "0" * 64 + "\n")
    environment = {**os.environ, "BOOTSTRAP": "pip", "PIP_NO_INDEX": "1", "TORCH": "cuda"}
    for _ in range(2):
        command = [sys.executable, "tools/bootstrap.py"]
        answer = subprocess.run(command, cwd=home, capture_output=True, text=True, env=environment)
        assert answer.returncode == 1
        assert "bootstrap: error: the packages of requirements.lock could not be installed" in answer.stderr
    assert "rebuilding .venv: the last installation was interrupted" in answer.stdout


FILES = [
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-torch-cuda12.lock",
    "Makefile",
    "tools/bootstrap.py",
    ".ci/run",
    "dvc.yaml",
    ".dvc/config",
    "pyproject.toml",
]
HOST = r"https?://[^\s\"'/]+"


@pytest.mark.parametrize("name", FILES)
def test_no_host_is_named(name: str) -> None:
    """No package index, mirror or machine: the lock works with whatever index its user has."""
    text = (ROOT / name).read_text()
    assert set(re.findall(HOST + "|--index-url|--find-links [./]", text)) == set()
    addresses = set(re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", text)) - {"127.0.0.1"}
    assert not {a for a in addresses if not name.endswith(".lock")}


def blocks(lock: str) -> list[str]:
    return re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.IGNORECASE)


def test_locks_hold_hashes_for_everything_and_one_release_of_torch() -> None:
    whole, cpu = blocks("requirements.lock"), blocks("requirements-torch-cpu.lock")
    everything = [*whole, *blocks("requirements-dev.lock"), *cpu[1:]]
    assert [b.splitlines()[0] for b in everything if "--hash=sha256:" not in b] == []
    assert re.findall(HOST, cpu[0]) == ["https://download.pytorch.org"]
    (torch,) = (b.split()[0] for b in whole if b.startswith("torch=="))
    assert [b.split()[0].split("==")[0] for b in cpu[1:]] == ["torch", "torchvision"]
    assert cpu[1].split()[0] == f"{torch}+cpu"


def test_lock_for_cuda_12_holds_hashes_and_nothing_that_the_other_has() -> None:
    packages = blocks("requirements-torch-cuda12.lock")[1:]
    assert [b.split()[0] for b in packages if "--hash=sha256:" not in b or not boot.CUDA_ONLY.match(b)] == []
    names = {b.split("==")[0] for b in packages}
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu12"} <= names
    assert not {n for n in names if n.endswith("cu13")}


def test_lock_and_bootstrap_agree_on_the_newest_python() -> None:
    """PyTorch's CUDA packages name the first Python that they are not built for."""
    (triton,) = (b for b in blocks("requirements.lock") if b.startswith("triton=="))
    assert f"python_full_version < '3.{boot.NEWEST[1] + 1}'" in triton


def package_name(requirement: str) -> str:
    return re.split(r"[<>=~!\[ ;]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def test_locks_are_compiled_from_all_direct_dependencies_and_share_none() -> None:
    """requirements.lock has what a user of the checkout needs, requirements-dev.lock what the rest needs beyond it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for_development = [d for extra in DEVELOPMENT for d in extras.pop(extra)]
    wanted = [*project["dependencies"], *(d for extra in extras.values() for d in extra)]
    locked, more = ({package_name(b) for b in blocks(f"requirements{part}.lock")} for part in ("", "-dev"))
    assert set(map(package_name, wanted)) - locked == set()
    assert set(map(package_name, for_development)) - locked - more == set()
    assert locked & more == set()
    assert not [name for name in more if boot.CUDA_ONLY.match(f"{name}==")]  # they would stay in with other builds
    assert more & {"pytest", "ray", "zensical", "playwright", "mypy"} == {
        "pytest",
        "ray",
        "zensical",
        "playwright",
        "mypy",
    }
