"""A GPU that PyTorch cannot use is refused in a sentence, not passed over for the CPU.

There is no GPU here: a stub of the driver's library stands in for one, and says that its CUDA is too old.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.models.device import device_of, runs_on
from ko_asr.runtime.driver import gpu_name

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = pytest.mark.skipif(gpu_name() is not None, reason="this machine has a GPU")
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # torch 2.13.0 from PyPI
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number != 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA Stub", size); return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) { *value = what == 75 ? 8 : 6; return 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine whose NVIDIA driver is of CUDA 12.4."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stub of the driver")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER, encoding="utf-8")
    command = ["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"]
    subprocess.run(command, check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder)}


@NO_GPU
@pytest.mark.parametrize(
    ("command", "cpu"),
    [
        ("recipes/transcribe.py x.wav --model {demo.model}", "--device cpu"),
        (
            "recipes/evaluate.py --model {demo.model} --manifest {demo.manifests[dev]} --out {out} "
            "--device cuda",
            "--device cpu",
        ),
        (
            "recipes/train_ctc.py --config-name fastconformer_ko data.dir={demo.work}/data/demo "
            "data.tokenizer={demo.work}/tokenizers/demo model.encoder.subsampling_factor=4 "
            "exp_manager.exp_dir={out}",
            "trainer.accelerator=cpu trainer.devices=1 trainer.precision=32",
        ),
    ],
)
def test_a_gpu_that_pytorch_cannot_use_is_not_passed_over(
    demo, stub, tmp_path, command: str, cpu: str
) -> None:
    import torch

    shutil.copy(next(demo.work.glob("data/demo_corpus/held_out/*.wav")), tmp_path / "x.wav")
    script, *arguments = command.format(demo=demo, out=tmp_path / "out").split()
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=stub,
        check=False,
    )
    reason = f"this PyTorch ({torch.__version__}) was built without CUDA"
    if torch.version.cuda is not None:
        reason = f"its driver runs CUDA 12.4 at most and this PyTorch ({torch.__version__}) needs "
    assert done.returncode == 2, done
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith(f"error: NVIDIA Stub is there, but {reason}"), said
    assert said.endswith(f", or choose the CPU with {cpu}")
    assert not list(tmp_path.glob("out/**/*.nemo"))


def test_the_driver_is_asked(stub) -> None:
    code = "from ko_asr.runtime.driver import *; print(gpu_name(), compute_capability(), driver_cuda())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=stub)
    assert done.stdout.strip() == "NVIDIA Stub 8.6 (12, 4)", done.stderr


@NO_GPU
def test_devices_by_name() -> None:
    assert device_of("auto") == "cpu" and device_of("cpu") == "cpu"
    for choice in ("cuda", "cuda:3"):
        with pytest.raises(UserError, match=rf"--device {choice}: PyTorch finds 0 GPUs here"):
            device_of(choice)
    for choice in ("tpu", "cuda:", "cuda:x", "gpu", "", "cpu "):
        with pytest.raises(UserError, match="say auto, cpu, cuda or cuda:N"):
            device_of(choice)


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 0), False), ((7, 5), True), ((8, 9), True), ((9, 0), True), ((10, 3), True), ((11, 0), False)],
)
def test_architectures_of_the_wheel(capability: tuple[int, int], runs: bool) -> None:
    """V100 (7.0) is no longer among them; 8.9 runs what was built for 8.0."""
    assert runs_on(capability, BUILT) is runs


@given(st.integers(5, 15), st.integers(0, 9), st.integers(5, 15), st.integers(0, 9))
def test_machine_code_keeps_to_its_major_version_and_ptx_does_not(
    a: int, b: int, major: int, minor: int
) -> None:
    assert runs_on((major, minor), [f"sm_{a}{b}"]) is (a == major and b <= minor)
    assert runs_on((major, minor), [f"compute_{a}{b}"]) is ((a, b) <= (major, minor))
    assert runs_on((major, minor), [f"sm_{a}{b}a"]) is ((a, b) == (major, minor))
    assert runs_on((major, minor), [f"compute_{a}{b}f"]) is (a == major and b <= minor)
