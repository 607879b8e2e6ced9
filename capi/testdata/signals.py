"""Ctrl-C reaches Python during calls and between them, and forked children get an error. Argument: the library's path."""
import ctypes
import os
import signal
import sys
import threading
import time

pnm = ctypes.CDLL(sys.argv[1])
pnm.pnm_isa.restype = pnm.pnm_last_error.restype = ctypes.c_char_p


class Vector(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("reserved_flags", ctypes.c_int32 * 1),
        ("reserved", ctypes.c_int64 * 3),
    ]


N = 1 << 22
memory = (ctypes.c_float * N)()
grads = Vector(ctypes.addressof(memory), N)
squares = (ctypes.c_int64 * 334)()


def call():
    return pnm.pnm_sum_squares(ctypes.byref(grads), ctypes.c_int64(1), 0, squares)


def interrupted(action):
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            action()
    except KeyboardInterrupt:
        return True
    finally:
        timer.join()
    return False


for _ in range(5):
    assert interrupted(call), "no KeyboardInterrupt during calls"
    assert interrupted(lambda: time.sleep(0.01)), "no KeyboardInterrupt between calls"
    assert call() == 0, pnm.pnm_last_error()
    child = os.fork()
    if child == 0:
        os._exit(call())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
assert pnm.pnm_isa() != b""
