"""Build KenLM's lmplz and build_binary, which estimate language models of any size on disk:

    make lmplz            # or: python recipes/build_lmplz.py [--boost DIR] [--force]

The source is the archive of the kenlm release that requirements.txt pins, as PyPI serves it. Needs cmake, a
C++ compiler and Boost (program_options, thread, system, test). Boost is --boost or the system's;
failing both, on Debian and Ubuntu, its packages are fetched with `apt-get download` and unpacked here, which
needs no root. Without any of it recipes/train_lm.py estimates the same model in memory.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.text.language_model import TOOLS, tool

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / ".build" / "kenlm"
BOOST_LIBRARIES = ("program-options", "system", "thread", "test", "chrono", "atomic")


def run(command: list[str | Path], purpose: str, **options) -> str:
    """Run a command quietly; UserError with the end of its output when it fails."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, encoding="utf-8", errors="replace", **options
    )
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()
        errors = (line.strip() for line in output if "error" in line.lower())
        reason = next(errors, output[-1] if output else "no output")
        raise UserError(
            f"{purpose} failed ({reason[:200]}): see the requirements in {Path(__file__).name} --help"
        )
    return done.stdout


def kenlm_version() -> str:
    """Return the kenlm release that requirements.txt pins."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return re.findall(r"^kenlm==([\w.]+)", text, re.MULTILINE)[0]


def check_compilers() -> None:
    missing = [name for name in ("cmake", "c++") if not shutil.which(name)]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not found: install cmake and a C++ compiler (Debian: apt-get install "
            "cmake g++), or leave lmplz out: recipes/train_lm.py then estimates in memory"
        )


def fetch_source(folder: Path) -> Path:
    """Download kenlm's source archive through pip and unpack it."""
    try:
        from backports import tarfile  # Python before 3.11.4 extracts without filters
    except ImportError:
        import tarfile

    version = kenlm_version()
    print(f"fetching the source of kenlm {version}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    run(
        [*pip, "--no-binary", "kenlm", f"kenlm=={version}", "-d", folder], "pip download of kenlm", cwd=folder
    )
    with tarfile.open(next(folder.glob("kenlm-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"kenlm-{version}"


def _has_boost(*options: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        text = "cmake_minimum_required(VERSION 3.10)\nproject(probe CXX)\n"
        text += "find_package(Boost REQUIRED COMPONENTS program_options system thread unit_test_framework)\n"
        Path(name, "CMakeLists.txt").write_text(text, encoding="utf-8")
        done = subprocess.run(["cmake", "-S", name, "-B", f"{name}/b", *options], capture_output=True)
    return done.returncode == 0


def unpack_debian_boost(folder: Path) -> list[str]:
    """Fetch Debian's Boost into ``folder``; return the cmake options that find it, [] without apt."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return []
    print("Boost is not installed: fetching Debian's packages (13 MB, nothing is installed)", flush=True)
    depends = subprocess.run(
        ["apt-cache", "depends", "libboost-dev"], capture_output=True, encoding="utf-8"
    ).stdout
    found = re.search(r"libboost([\d.]+)-dev", depends)
    if not found:
        return []
    names = [f"libboost{found[1]}-dev", *(f"libboost-{name}{found[1]}-dev" for name in BOOST_LIBRARIES)]
    folder.mkdir(parents=True, exist_ok=True)
    run(["apt-get", "download", "-qq", *names], "apt-get download of Boost", cwd=folder)
    for package in folder.glob("*.deb"):
        run(["dpkg", "-x", package, folder], f"unpacking {package.name}")
    return boost_options(folder / "usr")


def boost_options(folder: Path) -> list[str]:
    return [f"-DBOOST_ROOT={folder}", "-DBoost_NO_SYSTEM_PATHS=ON", "-DBoost_USE_STATIC_LIBS=ON"]


def find_boost(given: Path | None, work: Path) -> list[str]:
    """Return cmake options under which Boost is found; UserError when it is nowhere."""
    if given:
        options = boost_options(given.absolute())
    else:
        options = [] if _has_boost() else unpack_debian_boost(work / "boost")
    if _has_boost(*options):
        return options
    raise UserError(
        "Boost with program_options, system, thread and test was not found: install it (Debian: apt-get "
        "install libboost-all-dev), name its folder with --boost, or leave lmplz out: then "
        "recipes/train_lm.py estimates in memory"
    )


def build(source: Path, options: list[str]) -> None:
    """Compile the tools and put them into BUILD, the last step."""
    print("compiling (about a minute on one core)", flush=True)
    target = source.parent / "build"
    common = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", "-DCMAKE_POLICY_VERSION_MINIMUM=3.5"]
    run(["cmake", "-S", source, "-B", target, *common, *options], "cmake of kenlm")
    jobs = str(os.cpu_count() or 1)
    run(["cmake", "--build", target, "--target", *TOOLS, "--parallel", jobs], "compiling kenlm")
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in TOOLS:
        shutil.move(target / "bin" / name, BUILD / f"{name}.new")
        os.replace(BUILD / f"{name}.new", BUILD / name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boost", type=Path, help="folder that holds Boost's include and lib")
    parser.add_argument("--force", action="store_true", help="build again")
    arguments = parser.parse_args()
    if all(tool(name, BUILD) for name in TOOLS) and not arguments.force:
        print(f"{', '.join(str(tool(name, BUILD)) for name in TOOLS)}: built already (--force builds again)")
        return
    check_compilers()
    with tempfile.TemporaryDirectory(prefix="kenlm-") as name:
        work = Path(name)
        options = find_boost(arguments.boost, work)
        build(fetch_source(work), options)
    print(f"wrote {', '.join(str(BUILD / name) for name in TOOLS)}")
    print("next: python recipes/train_lm.py --model X.nemo --manifest data/ksponspeech/train.jsonl --out lm")


if __name__ == "__main__":
    run_main(main)
