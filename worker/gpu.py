"""Is there an NVIDIA GPU? Asked of the driver itself, since importing torch to know takes seconds."""

import ctypes


def has_gpu() -> bool:
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False
