"""Install a real tritonserver without a container: from PyPI, into .server/, with a tritonserver command.

    python export/setup_server.py

Then, in the same environment: tritonserver --model-repository triton/

Takes about 10 seconds and 400 MB, and does nothing when it is up to date. The server gets an environment of
its own, because its Python models need numpy 1 and this project needs numpy 2.
"""

import argparse
import ctypes.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.serving.server import RECORD, check_path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements-server.txt"
BACKENDS = Path(__file__).resolve().parent / "backends"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"libpython{PYTHON}.so.1.0"

WRAPPER = """#!/bin/sh
# Written by export/setup_server.py: Triton with this checkout's server installation.
exec {python} -P -m ko_asr.serving.server {folder} "$@"
"""


def check_platform() -> None:
    """Raise UserError where PyPI has no server binary."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise UserError(f"this is Python {PYTHON}: the server needs Python 3.11 or 3.12")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise UserError(
            f"PyPI has no tritonserver for {sys.platform} {platform.machine()}: "
            "use the serving stage of the Dockerfile"
        )
    library, release = platform.libc_ver()
    if library == "glibc" and tuple(map(int, release.split("."))) < (2, 35):
        raise UserError(
            f"this system has glibc {release}; the tritonserver on PyPI needs 2.35 (Ubuntu 22.04, Debian 12, "
            "RHEL 10): use the serving stage of the Dockerfile"
        )


def shared_python(folder: Path) -> Path:
    """The folder of libpython3.X.so.1.0, which Triton's Python backend loads.

    A Python built without a shared library (Debian's own ``python3``) has none; Debian and Ubuntu keep it
    in a package that can be unpacked without root, so that is tried before giving up.
    """
    places = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", str(folder / "libpython")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    places += [f"{prefix}/lib/{multiarch}" for prefix in ("/usr", "/usr/local", "")] if multiarch else []
    for place in filter(None, places):
        if (Path(place) / LIBRARY).is_file():
            return Path(place)
    if ctypes.util.find_library(f"python{PYTHON}") == LIBRARY:
        return Path("/usr/lib")  # the loader knows where it is; any folder will do here
    if unpacked := unpack_debian_library(folder / "libpython"):
        return unpacked
    raise UserError(
        f"the Python in {sys.base_prefix} has no {LIBRARY}, which Triton's Python backend loads: install it "
        f"(Debian, Ubuntu: apt-get install libpython{PYTHON}; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), "
        "or make the environment with another Python 3.11 or 3.12"
    )


def unpack_debian_library(folder: Path) -> Path | None:
    """Fetch Debian's libpython package with apt and unpack it into ``folder``, without root; else None."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    work = folder.with_name("libpython.deb")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": work}
        if subprocess.run(["apt-get", "download", f"libpython{PYTHON}"], **quiet).returncode:
            return None
        package = next(work.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package.name, "tree"], check=True, **quiet)
        folder.mkdir(exist_ok=True)
        for found in (work / "tree").rglob(LIBRARY):
            shutil.copy(found, folder / LIBRARY)
            return folder
        return None
    except (OSError, subprocess.CalledProcessError, StopIteration):
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def install_packages(environment: Path) -> Path:
    """Make the server's environment and return its site-packages."""
    print(f"server environment: {environment}")
    venv.create(environment, clear=True, with_pip=False, symlinks=True)
    # The pip of the caller's environment installs: making another one would take half of the time.
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    options = ["-qq", "--disable-pip-version-check", "--no-deps", "--requirement", str(REQUIREMENTS)]
    subprocess.run([*pip, "install", *options], check=True, cwd="/")
    return environment / "lib" / f"python{PYTHON}" / "site-packages"


def install_backends(server: Path, folder: Path) -> None:
    """Copy Triton's Python backend with this Python's stub, and our ONNX Runtime backend beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(server / "backends" / "python", folder / "python")
    shutil.copy(server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub", folder / "python")
    shutil.copytree(BACKENDS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def fingerprint() -> dict[str, str]:
    """The facts that an installation depends on: where one differs, it must be made again."""
    sources = sorted(path for path in BACKENDS.rglob("*.py"))
    return {
        "python": sys.version,
        "requirements": REQUIREMENTS.read_text(encoding="utf-8"),
        "backends": "".join(path.read_text(encoding="utf-8") for path in sources),
    }


def up_to_date(folder: Path) -> bool:
    """True when the installation in ``folder`` is whole and was made from the same facts."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record.get("fingerprint") == fingerprint() and Path(record["installation"]["binary"]).exists()


def install(folder: Path) -> None:
    """Install the server into ``folder``; its record is written last."""
    (folder / RECORD).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    library = shared_python(folder)
    try:
        site = install_packages(folder / "venv")
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"pip could not install {REQUIREMENTS.name} (see above): check the network and try again"
        ) from error
    server = site / "pytriton" / "tritonserver"
    install_backends(server, folder / "backends")
    installation = {
        "binary": str(server / "bin" / "tritonserver"),
        "backends": str(folder / "backends"),
        "caches": str(server / "caches"),
        "python_bin": str(folder / "venv" / "bin"),
        "library_path": f"{library}:{site / 'nvidia_pytriton.libs'}",
    }
    os.chmod(installation["binary"], 0o755)
    with atomic_write(folder / RECORD) as stream:
        json.dump({"installation": installation, "fingerprint": fingerprint()}, stream, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".server", help="the installation's folder (default .server/)"
    )
    folder = parser.parse_args().out.resolve()
    check_platform()
    check_path(folder, "move this checkout, or give --out another folder")
    if not up_to_date(folder):
        install(folder)
    command = Path(sys.executable).parent / "tritonserver"
    with atomic_write(command) as stream:
        stream.write(WRAPPER.format(python=shlex.quote(sys.executable), folder=shlex.quote(str(folder))))
    command.chmod(0o755)
    print(f"wrote {folder} and {command}")
    print("next: tritonserver --model-repository triton/")


if __name__ == "__main__":
    run_main(main)
