"""What `python -m posneg diff` finds."""

import io
import json
import os
import re
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

import posneg
from posneg import _diff, _library
from posneg.__main__ import main
from posneg._compare import Found, indices, number
from posneg._safetensors import _BITS, encode_header, size_of


def write(path, tensors, metadata=None):
    """A file of tensors: a dtype, a shape, and the bits as an array of unsigned integers."""
    header, order = encode_header(metadata or {}, {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in tensors.items()})
    data = [np.ascontiguousarray(tensors[name][2]) for name in order]
    path.write_bytes(header + b"".join(x.astype(x.dtype.newbyteorder("<")).tobytes() for x in data))


@pytest.fixture
def diff(tmp_path, monkeypatch, capsys):
    """Compares two files, or the tensors for two files. Returns the exit status and what is printed."""
    monkeypatch.chdir(tmp_path)

    def run(a, b, *arguments):
        for name, tensors in (("a", a), ("b", b)):
            if isinstance(tensors, dict):
                write(tmp_path / name, tensors)
        status = main(["diff", *arguments, *(name if isinstance(x, dict) else x for name, x in (("a", a), ("b", b)))])
        printed = capsys.readouterr()
        assert printed.err == "" or status == 2
        return status, printed.out if status < 2 else printed.err

    return run


def f32(*values):
    return "F32", [len(values)], np.array(values, np.float32).view(np.uint32)


def test_equal(diff):
    a = {"x": f32(1, -0.0, np.nan, np.inf), "empty": ("F32", [0, 3], np.empty(0, np.uint32)), "scalar": ("I64", [], np.uint64([7]))}
    assert diff(a, a) == (0, "The files are equal: 3 tensors\n")
    status, said = diff(a, a, "--all")
    assert status == 0 and said.endswith("x  F32 [4]\n    equal\n") and "scalar  I64 []\n    equal\n" in said


def test_the_first_and_the_farthest(diff):
    a = np.arange(1, 4001, dtype=np.float32).reshape(40, 100)
    b = a.copy()
    b[3, 17], b[20, 5] = np.nextafter(b[3, 17], np.float32(9e9)), -b[20, 5]
    files = [{"x.bias": f32(1), "x.weight": ("F32", [40, 100], x.view(np.uint32))} for x in (a, b)]
    apart = 2 * int(a[20, 5].view(np.int32))
    assert diff(*files) == (
        1,
        "The files differ in 1 of 2 tensors, first in x.weight[3, 17]\n\n"
        "x.weight  F32 [40, 100]\n"
        f"    2 of 4000 elements differ, by at most {apart} ulps\n"
        f"    first at [3, 17]: 318.0 (0x439f0000) and 318.00003 (0x439f0001)\n"
        f"    most at [20, 5]: 2006.0 (0x44fac000) and -2006.0 (0xc4fac000)\n",
    )


def test_in_pieces(diff, monkeypatch):
    """An element may be in any piece, and pieces end within rows."""
    monkeypatch.setattr(_diff, "_PIECE", 64)
    for at in (0, 15, 16, 99):
        a = np.zeros(100, np.float32)
        b = a.copy()
        b[at] = 1
        status, said = diff(*({"x": ("F32", [10, 10], x.view(np.uint32))} for x in (a, b)))
        assert status == 1 and f"x[{at // 10}, {at % 10}]\n" in said and "1 of 100 elements differs, by at most" in said


def test_specials(diff):
    a = {"x": f32(np.nan, 0.0, np.nan, np.inf, 1, 0)}
    b = {"x": f32(np.nan, -0.0, 1, -np.inf, 1, 0)}
    b["x"][2][0] = 0xFFC01234
    status, said = diff(a, b)
    assert status == 1 and said.partition("\n\n")[2] == (
        "x  F32 [6]\n"
        "    3 of 6 elements differ, by at most 4278190080 ulps\n"
        "    first at [1]: 0.0 (0x00000000) and -0.0 (0x80000000)\n"
        "    most at [3]: inf (0x7f800000) and -inf (0xff800000)\n"
        "    NaN in one file only: 1\n"
        "    0 in one file and -0 in the other: 1\n"
        "    NaN with other bits, which counts as equal: 1\n"
    )
    for x in (a, b):
        x["x"] = ("F32", [1], x["x"][2][:1])
    status, said = diff(a, b)
    assert status == 0 and "The files are equal" in said and "NaN with other bits, which counts as equal: 1" in said


def small(bits, exponent, fraction, bias, nan):
    """The number of a small format; None for NaN."""
    sign, magnitude = bits >> exponent + fraction, bits & (1 << exponent + fraction) - 1
    if magnitude > nan:
        return None
    e, f = magnitude >> fraction, magnitude & (1 << fraction) - 1
    value = (f / 2**fraction + (e > 0)) * 2.0 ** (max(e, 1) - bias)
    return -value if sign else value


FLOATS = {
    "F16": (5, 10, 15, 0x7C00), "BF16": (8, 7, 127, 0x7F80), "F8_E5M2": (5, 2, 15, 0x7C), "F8_E4M3": (4, 3, 7, 0x7E),
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulps_of_small_formats(dtype):
    """The number of steps from one number of a format to another, by a list of all of them."""
    bits = 1 + sum(FLOATS[dtype][:2])
    values = [small(x, *FLOATS[dtype]) for x in range(1 << bits)]
    place = {value: i for i, value in enumerate(sorted({v for v in values if v is not None}))}
    rng = np.random.default_rng(1)
    for a, b in rng.integers(0, 1 << bits, (2000, 2)).tolist():
        found = Found(dtype)
        found.add(5, *(np.array([0, x, 0], f"u{bits // 8}") for x in (a, b)))
        x, y = values[a], values[b]
        assert found.differing == (a != b and (x, y) != (None, None))
        assert found._nans == ((x is None) != (y is None)) and found._same_nans == (a != b and x is y is None)
        apart = 0 if x is None or y is None else abs(place[x] - place[y])
        assert found._distance == apart and found._zeros == (a != b and x == y == 0)
        if found.differing:
            assert found.first.at == 6 and found.first.bits == (a, b)


@pytest.mark.parametrize("dtype, wide, bits", [("F32", np.float32, np.uint32), ("F64", np.float64, np.uint64)])
def test_ulps(dtype, wide, bits):
    rng = np.random.default_rng(1)
    for x in [0, 1, -1, 2**-126, np.finfo(wide).smallest_subnormal, np.finfo(wide).max, *rng.standard_normal(50)]:
        y = x = wide(x)
        for k in range(1, 6):
            y = np.nextafter(y, wide(-np.inf))
            found = Found(dtype)
            found.add(0, np.array([x]).view(bits), np.array([y]).view(bits))
            assert found._distance == k
    found = Found(dtype)
    found.add(0, np.array([np.inf], wide).view(bits), np.array([-np.inf], wide).view(bits))
    assert found._distance == 2 * int(np.array(np.inf, wide).view(bits))


@pytest.mark.parametrize("dtype", ["I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"])
def test_integers(dtype, diff):
    kind = np.dtype(f"{dtype[0].lower()}{int(dtype[1:]) // 8}")
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    files = [{"x": (dtype, [1], np.array([v], kind).view(f"u{kind.itemsize}"))} for v in (least, most)]
    status, said = diff(*files)
    assert status == 1 and f"by at most {int(most) - int(least)}\n" in said and f": {least} (0x" in said and f" and {most} (0x" in said


def file_of(path, dtype, shape, data):
    """A file of a tensor x of any dtype, which needs no whole number of bytes for each element."""
    text = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("dtype", _BITS)
def test_all_formats(dtype, diff, tmp_path):
    """The number of elements, the place and the bits of one that differs. Elements of less than a byte count as bytes, complex ones as two."""
    size = size_of(dtype)
    counted = {"C64": [24, 2]}.get(dtype, [24 * _BITS[dtype] // 8] if _BITS[dtype] % 8 else [24])
    of_counted = size // 2 if dtype == "C64" else size
    bits = bytearray(24 * _BITS[dtype] // 8)
    file_of(tmp_path / "a", dtype, [24], bits)
    assert diff("a", "a")[0] == 0
    bits[5 * size] = 1
    file_of(tmp_path / "b", dtype, [24], bits)
    place = "[5, 0]" if dtype == "C64" else "[5]"
    status, said = diff("a", "b")
    assert status == 1 and f"first in x{place}\n" in said
    assert f"1 of {prod(counted)} elements differs" in said and f"first at {place}: " in said
    assert f" (0x{0:0{2 * of_counted}x}) and " in said and f" (0x{1:0{2 * of_counted}x})\n" in said


@pytest.mark.parametrize("dtype, kind, nan", [("F64", "f8", 0xFFF4 << 48), ("F32", "f4", 0xFFC01234), ("F16", "f2", 0xFC01)])
def test_numbers_of_floats(dtype, kind, nan, diff):
    bits = f"u{kind[1:]}"
    a, b = np.array([0, np.nan, np.inf], kind).view(bits), np.array([-0.0, 1, -np.inf], kind).view(bits)
    status, said = diff({"x": (dtype, [3], a)}, {"x": (dtype, [3], b)})
    assert status == 1 and "3 of 3 elements differ, by at most " in said and "first at [0]: 0.0 (0x0" in said and " and -0.0 (0x8" in said
    assert "most at [2]: inf (0x7" in said and "NaN in one file only: 1" in said
    other = a.copy()
    other[1] = nan
    status, said = diff({"x": (dtype, [3], a)}, {"x": (dtype, [3], other)})
    assert status == 0 and "NaN with other bits, which counts as equal: 1" in said


def test_formats_shapes_and_missing_ones(diff):
    a = {"x": f32(1, 2), "y": f32(1, 2, 3, 4), "z": f32(1), "shape": ("F32", [2, 2], f32(1, 2, 3, 4)[2])}
    b = {"x": ("F64", [2], np.zeros(2, np.uint64)), "w": f32(1)}
    b.update({name: ("F32", shape, f32(1, 2, 3, 4)[2]) for name, shape in (("y", [2, 2]), ("shape", [1, 4]))})
    status, said = diff(a, b)
    assert status == 1 and "The files differ in 4 of 5 tensors, first in shape\n" in said
    assert "x  F32 [2] and F64 [2]\n    different formats or shapes, which are not compared\n" in said
    assert "shape  F32 [2, 2] and F32 [1, 4]\n    different formats or shapes" in said
    assert "w  F32 [1]\n    only in b\n" in said and "z  F32 [1]\n    only in a\n" in said
    assert "y  F32 [4]\n    the shapes are [4] and [2, 2]: the same order of elements, which counts as equal\n" in said


def test_order_and_number(diff):
    names = [f"layers.{i}.w" for i in range(12)]
    a, b = ({name: f32(i) for name in reversed(names)} for i in (1, 2))
    status, said = diff(a, b)
    assert status == 1 and "first in layers.0.w[0]" in said and said.endswith("\n\n2 more tensors differ: --all describes all of them\n")
    assert [line.split()[0] for line in said.splitlines() if line.startswith("layers")] == names[:10]
    status, said = diff(a, b, "--all")
    assert [line.split()[0] for line in said.splitlines() if line.startswith("layers")] == names and "more tensors" not in said


def mx(elements, scales):
    elements, scales = np.array(elements, np.uint8), np.array(scales, np.uint8)
    return {"m": ("F8_E4M3", elements.shape, elements), "m.scales": ("F8_E8M0", scales.shape, scales)}


def test_mxfp8(diff):
    a, b = np.full((2, 40), 0x38), np.full((2, 40), 0x38)  # 1.0
    b[0, 3], b[1, 35], b[1, 39] = 0x3A, 0xB8, 0x7F
    scales = np.array([[127, 127], [127, 130]])
    status, said = diff(mx(a, scales), mx(b, scales))
    assert status == 1 and said == (
        "The files differ in 1 of 1 tensors, first in m[0, 3]\n\n"
        "m  MXFP8 [2, 40], scales [2, 2]\n"
        "    3 of 80 elements differ, by at most 112 ulps\n"
        "    first at [0, 3]: 1.0 (0x38 × 2^0) and 1.25 (0x3a × 2^0)\n"
        "    most at [1, 35]: 8.0 (0x38 × 2^3) and -8.0 (0xb8 × 2^3)\n"
        "    NaN in one file only: 1\n"
    )
    other = scales.copy()
    other[1, 1] = 131
    a[1, 36], a[1, 37] = 0, 0x80  # zeros are zeros at any scale
    status, said = diff(mx(a, scales), mx(a, other))
    assert status == 1 and "6 of 80 elements differ\n    first at [1, 32]: 8.0 (0x38 × 2^3) and 16.0 (0x38 × 2^4)\n" in said
    assert "numbers with another scale: 6\n" in said
    status, said = diff(mx(a, scales), mx(a, scales.reshape(-1)))  # other blocks
    assert status == 1 and "MXFP8 [2, 40], scales [2, 2] and F8_E4M3 [2, 40]" in said
    status, said = diff(mx(a.reshape(-1), [127, 127, 1]), mx(a.reshape(-1), [127, 128, 1]))
    assert status == 1 and "first in m[32]" in said


def test_mxfp8_in_pieces(diff, monkeypatch):
    a = np.full((7, 45), 0x38)
    scales = np.arange(100, 114).reshape(7, 2)
    b, others = a.copy(), scales.copy()
    b[5, 31], others[2, 1], others[6, 0] = 0x39, 3, 255
    _, whole = diff(mx(a, scales), mx(b, others))
    monkeypatch.setattr(_diff, "_PIECE", 19)
    assert diff(mx(a, scales), mx(b, others)) == (1, whole)
    assert "m[2, 32]" in whole and "46 of 315 elements differ" in whole and "NaN in one file only: 32" in whole


def test_texts():
    assert indices(0, []) == "" and indices(7, [2, 4]) == "[1, 3]" and indices(3, [9]) == "[3]"
    assert number(0x3F81, "BF16") == "1.0078125" and number(0xC2, "F8_E4M3", 120) == "-0.01953125" and number(0x7F, "F8_E4M3") == "nan"
    assert number(0x38, "F8_E4M3", 255) == "nan" and number(1, "F8_E4M3", 0) == str(2.0**-136) and number(0x7C, "F8_E5M2") == "inf"
    for bits in range(255):
        value = small(bits, *FLOATS["F8_E4M3"])
        assert value is None or float(number(bits, "F8_E4M3")) == value


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of runs."""
    folder = tmp_path_factory.mktemp("runs")

    def save(name, steps=3, nudge=0.0, metadata=None, rule=posneg.AdaPNM, **options):
        torch.manual_seed(1)
        named = [(f"layer.{n}", torch.nn.Parameter(torch.randn(n, 5))) for n in (10, 2)]
        optimizer = rule(named, **options)
        for i in range(steps):
            for _, p in named:
                p.grad = torch.randn(p.shape) + nudge * (i < 2)
            optimizer.step()
        posneg.save_checkpoint(folder / name, optimizer, metadata=metadata)

    save("run", metadata={"epoch": "3"})
    save("same", metadata={"epoch": "3"})
    save("other", nudge=0.5, metadata={"epoch": "4", "host": "there"})
    save("later", steps=5, lr=0.5, metadata={"epoch": "3"})
    save("sgd", rule=posneg.SGD)
    save("mx", state_dtype="mxfp8", seed=1)
    save("mx seed", state_dtype="mxfp8", seed=2)
    save("begun", steps=0)
    return folder


def test_runs(runs, diff, monkeypatch):
    monkeypatch.chdir(runs)
    assert diff("run", "same") == (0, "The runs, both at step 3, are equal: 10 tensors\n")

    status, said = diff("run", "other")
    assert status == 1
    assert said.startswith(
        "The runs, both at step 3, differ in 10 of 10 tensors, first in params.layer.10[0, 0]\n\n"
        "metadata epoch  '3' and '4'\n"
        "metadata host   nothing and 'there'\n\nparams.layer.10  F32 [10, 5]\n"
    )
    slots = ["exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    wanted = [key for name in ("layer.10", "layer.2") for key in (f"params.{name}", *(f"state.{name}.{slot}" for slot in slots))]
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("params.", "state."))] == wanted

    status, said = diff("run", "later")
    assert status == 1 and "The runs, at step 3 and step 5, differ" in said and "\nstep  3 and 5\nlr    0.001 and 0.5\n" in said

    status, said = diff("run", "sgd")
    assert re.search("^rule +'AdaPNM' and 'SGD'$", said, re.M) and re.search(r"^momentum +nothing and 0\.0$", said, re.M)
    assert "state.layer.10.exp_avg  F32 [10, 5]\n    only in run\n" in said

    status, said = diff("mx", "mx seed")
    assert said.count("\nrandom numbers  [1, ") == 2 and "state.layer.10.exp_avg  MXFP8 [10, 5], scales [10, 1]" in said
    assert "(layer.10)\n" in said and ".scales" not in said


def test_other_random_numbers_alone(runs, diff, monkeypatch, tmp_path):
    """Equal numbers are not all of a run."""
    monkeypatch.chdir(runs)
    p = torch.nn.Parameter(torch.zeros(3))
    for seed in (1, 2):
        posneg.save_checkpoint(tmp_path / str(seed), posneg.AdaPNM([p], seed=seed, state_dtype="mxfp8"))
    status, said = diff(str(tmp_path / "1"), str(tmp_path / "2"))
    assert status == 1 and said.startswith("The runs, both at step 0, have equal numbers in 1 tensors, but differ\n\nrandom numbers  [1, ")


def test_counts_of_single_parameters(tmp_path, diff):
    for name, late in (("a", True), ("b", False)):
        torch.manual_seed(1)
        named = [(f"p{i}", torch.nn.Parameter(torch.zeros(2))) for i in range(5)]
        optimizer = posneg.SGD(named, lr=0.0)
        for step in range(2):
            for i, (_, p) in enumerate(named):
                p.grad = None if late and i and step else torch.zeros(2)
            optimizer.step()
        posneg.save_checkpoint(tmp_path / name, optimizer)
    status, said = diff(str(tmp_path / "a"), str(tmp_path / "b"))
    assert status == 1 and "The runs, at steps 1 to 2 and step 2, have equal numbers" in said
    assert "\nstep  1 and 2 (p1, p2, p3 and 1 more)\n" in said


@pytest.mark.parametrize("state_dtype", [None, "mxfp8"])
def test_zero_state_may_be_missing(state_dtype, tmp_path, diff):
    p = torch.nn.Parameter(torch.ones(40, 2))
    optimizer = posneg.PNM([("p", p)], lr=1.0, state_dtype=state_dtype)
    posneg.save_checkpoint(tmp_path / "a", optimizer)
    p.grad = torch.zeros(40, 2)
    optimizer.step()
    optimizer.state[p]["step"].zero_()
    posneg.save_checkpoint(tmp_path / "b", optimizer)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    for x, y in ((a, b), (b, a)):
        status, said = diff(x, y)
        assert status == 0 and "both at step 0, are equal: 3 tensors\n" in said
        assert said.count(f"    only in {b}, but zero, as where it is missing\n") == 2
    optimizer.state[p]["neg_momentum"].view(torch.uint8)[-1] = 1
    posneg.save_checkpoint(tmp_path / "b", optimizer)
    status, said = diff(a, b)
    assert status == 1 and "differ in 1 of 3 tensors, first in state.p.neg_momentum\n" in said


def test_damaged(runs, tmp_path, diff):
    """A file that says itself that it is damaged."""
    data = bytearray((runs / "mx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "element").write_bytes(data)
    text = (runs / "run").read_bytes()
    (tmp_path / "header").write_bytes(text.replace(b'"epoch":"3"', b'"epoch":"5"'))
    status, said = diff(str(runs / "mx"), str(tmp_path / "element"))
    assert status == 1 and "is damaged: the checksum of state.layer." in said and said.count(" is damaged: ") == 1
    status, said = diff(str(runs / "run"), str(tmp_path / "header"))
    assert status == 1 and f"{tmp_path / 'header'} has a bad header: the checksum differs: the file is damaged\n" in said
    assert "metadata epoch  '3' and '5'\n" in said
    at = text.index(b'"posneg.fingerprint":"') + len(b'"posneg.fingerprint":"')
    (tmp_path / "number").write_bytes(text[:at] + (b"1" if text[at : at + 1] == b"0" else b"0") + text[at + 1 :])
    for a, b in (("number", runs / "run"), (runs / "run", "number"), ("number", "number")):
        status, said = diff(str(tmp_path / a), str(tmp_path / b))
        assert status == 1 and "have equal numbers" in said and "number has a bad header: the checksum differs" in said


@pytest.mark.parametrize("name, problem", [("none", "No such file"), ("folder", "is not a file"), ("text", "it is not a safetensors file")])
def test_trouble(name, problem, tmp_path, diff):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_bytes(b"text")
    write(tmp_path / "good", {"x": f32(1)})
    for files in (("good", name), (name, "good")):
        status, said = diff(*(str(tmp_path / file) for file in files))
        assert status == 2 and problem in said and str(tmp_path / name) in said


def test_names_that_no_terminal_should_see(diff):
    status, said = diff({"x\x1b[2J\n": f32(1)}, {"x\x1b[2J\n": f32(2)})
    assert status == 1 and "\x1b" not in said and "'x\\x1b[2J\\n'  F32 [1]\n" in said


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(terminal, tmp_path):
    write(tmp_path / "a", {"x": f32(*range(1000))})
    progress, out = io.StringIO(), io.StringIO()
    progress.isatty = lambda: terminal
    with open(tmp_path / "a", "rb") as a, open(tmp_path / "a", "rb") as b:
        assert not _diff.report(_diff.Run("a", a), _diff.Run("b", b), False, out, progress)
    assert progress.getvalue() == ("\r\x1b[K100% of 0.0 GB\r\x1b[K" if terminal else "")


def test_as_a_program(tmp_path):
    """Needs no library, and a terminal's encoding may lack characters."""
    write(tmp_path / "a", {"größe": f32(1)})
    write(tmp_path / "b", {"größe": f32(2)})
    environment = {**os.environ, "POSNEG_LIBRARY": str(tmp_path / "none"), "PYTHONIOENCODING": "ascii"}
    for files, status in (("aa", 0), ("ab", 1), ("ac", 2)):
        p = subprocess.run(
            [sys.executable, "-m", "posneg", "diff", *files], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert p.returncode == status and "Traceback" not in p.stderr
        assert status != 1 or "gr\\xf6\\xdfe[0]" in p.stdout


def test_no_library_is_loaded(diff, monkeypatch):
    monkeypatch.setattr(_library, "load", lambda: pytest.fail("it loads the library"))
    assert diff({"x": f32(1)}, {"x": f32(1)})[0] == 0


@pytest.mark.parametrize("arguments", [["diff"], ["diff", "a"], ["diff", "a", "b", "c"], ["diff", "a", "b", "--none"], ["dif", "a", "b"]])
def test_refused(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_documented(tmp_path, diff):
    """The example in docs/checkpoints.md: gradients are one operation from the parameters, so it is the same on every machine."""
    for name in ("run-a", "run-b"):
        shapes = {"fc.weight": (10, 784), "fc.bias": (10,)}
        named = [(n, torch.nn.Parameter(torch.arange(prod(shape)).reshape(shape) % 97 / 128 - 0.25)) for n, shape in shapes.items()]
        optimizer = posneg.PNM(named, lr=0.1)
        for step in range(1000):
            if (name, step) == ("run-b", 990):
                with torch.no_grad():
                    named[0][1][2, 301] += 2**-24
            for _, p in named:
                p.grad = p.detach() - 0.125
            optimizer.step()
        posneg.save_checkpoint(tmp_path / f"{name}.safetensors", optimizer)
    status, said = diff("run-a.safetensors", "run-b.safetensors")
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert status == 1 and f"$ python -m posneg diff run-a.safetensors run-b.safetensors\n{said}" in page, said
