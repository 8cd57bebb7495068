"""The NVIDIA GPU of this machine: what its driver says, and whether this PyTorch can use it.

PyTorch passes over a GPU that it cannot use without an error: one whose driver is older than the CUDA that
PyTorch was built for, one that it was not compiled for, or any GPU where it was built without CUDA. Hours of
work meant for a GPU would begin on the CPU. The driver itself is asked through libcuda, which the server's
Python models can do, too.
"""

import re
from collections.abc import Sequence

from ko_asr.errors import UserError
from ko_asr.runtime.driver import driver_cuda, gpu_name


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """True where code ``built`` for these architectures runs on a GPU of ``capability``.

    Machine code (sm_) runs on its own major version from its minor version on, PTX (compute_) on every later
    GPU; an f at the end keeps PTX to its major version, too, and an a ties both to one GPU (NVIDIA, CUDA C++
    Programming Guide, binary compatibility and family-specific features).

    >>> built = ["sm_75", "sm_80"]
    >>> runs_on((8, 9), built), runs_on((7, 0), built), runs_on((12, 1), ["compute_90"])
    (True, False, True)
    """
    for architecture in built:
        if (parts := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)) is None:
            continue
        kind, major, minor, letter = parts[1], int(parts[2]), int(parts[3]), parts[4]
        if (major, minor) == capability:
            return True
        anywhere_later = kind == "compute" and not letter
        if letter != "a" and (major, minor) <= capability and (anywhere_later or major == capability[0]):
            return True
    return False


def check_usable(cpu: str) -> None:
    """Raise UserError when there is a GPU that this PyTorch cannot use; ``cpu`` asks for the CPU."""
    import torch

    def refused(reason: str, remedy: str) -> UserError:
        return UserError(f"{reason}: {remedy}, or choose the CPU with {cpu}")

    this = f"this PyTorch ({torch.__version__})"
    if torch.cuda.is_available():
        built = torch.cuda.get_arch_list()
        for number in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(number)
            if built and not runs_on((major, minor), built):
                raise refused(
                    f"GPU {number}, {torch.cuda.get_device_name(number)}, has compute capability "
                    f"{major}.{minor}, which {this} was not built for ({' '.join(built)})",
                    "install one that was, or leave the GPU out with CUDA_VISIBLE_DEVICES",
                )
        return
    if (gpu := gpu_name()) is None:
        return
    if torch.version.cuda is None:
        raise refused(f"{gpu} is there, but {this} was built without CUDA", "install one that has it")
    newest, wanted = driver_cuda(), torch.version.cuda
    if newest is not None and newest[0] < int(wanted.partition(".")[0]):
        raise refused(
            f"{gpu} is there, but its driver runs CUDA {newest[0]}.{newest[1]} at most "
            f"and {this} needs {wanted}",
            "update the driver, or install a PyTorch built for the driver's CUDA",
        )
    raise refused(
        f"{gpu} is there, but {this} cannot start it",
        "look at what python -c 'import torch; torch.cuda.init()' says",
    )


def device_of(choice: str, cpu: str = "--device cpu") -> str:
    """The PyTorch device of a ``--device``: auto (a GPU if there is one), cpu, cuda or cuda:N.

    ``cpu`` is what a refusal advises for the CPU. UserError on another word, and where there is no such GPU
    or PyTorch cannot use it.
    """
    if choice == "cpu":
        return choice
    if choice != "auto" and not re.fullmatch(r"cuda(:\d+)?", choice):
        raise UserError(f"--device {choice}: say auto, cpu, cuda or cuda:N")
    import torch

    check_usable(cpu)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "auto":
        return "cuda" if count else "cpu"
    if int(choice.partition(":")[2] or 0) >= count:
        raise UserError(f"--device {choice}: PyTorch finds {count} GPUs here; say --device cpu for the CPU")
    return choice
