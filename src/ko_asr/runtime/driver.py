"""The GPU and its driver, asked through libcuda."""

import contextlib
import ctypes


def _first_gpu() -> tuple[ctypes.CDLL, ctypes.c_int] | None:
    """The driver and the number of its first GPU; None where there is no GPU."""
    with contextlib.suppress(OSError, AttributeError):
        driver, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        if not (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)):
            return driver, device
    return None


def compute_capability() -> str | None:
    """Compute capability of the first GPU, such as "8.6"; None where there is no GPU."""
    if (found := _first_gpu()) is None:
        return None
    driver, device = found
    values = [ctypes.c_int(), ctypes.c_int()]
    for value, attribute in zip(values, (75, 76), strict=True):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return ".".join(str(value.value) for value in values)


def gpu_name() -> str | None:
    """Name of the first GPU; None where there is no GPU."""
    if (found := _first_gpu()) is None:
        return None
    driver, device = found
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, 128, device)
    return name.value.decode("utf-8", "replace")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, such as (12, 4); None where there is no driver."""
    with contextlib.suppress(OSError, AttributeError):
        version = ctypes.c_int()
        if not ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
            return version.value // 1000, version.value % 1000 // 10
    return None
