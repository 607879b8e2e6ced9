"""What the docs say, works: the first programs run; the programs of docs/trainers.md go on from each other's file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks_of(page):
    """The blocks of code of a page, by their language."""
    blocks = {}
    for language, text in re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.S):
        blocks.setdefault(language, []).append(text)
    return blocks


@pytest.mark.parametrize("page", ["README.md", "python/README.md"])
def test_the_first_program(page):
    program = [sys.executable, "-c", blocks_of(page)["python"][0]]
    out = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(re.fullmatch(r"inside the circle or not: (\d+)% right\n", out)[1]) >= 95


def test_the_first_program_in_go(tmp_path):
    (tmp_path / "main.go").write_text(blocks_of("README.md")["go"][0])
    out = subprocess.run(["go", "run", tmp_path / "main.go"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert out == "the minimum is at [3.000 -2.000]\n"


def test_trainers(tmp_path):
    blocks = blocks_of("docs/trainers.md")
    (tmp_path / "plane.go").write_text(blocks["go"][0])
    (tmp_path / "plane.py").write_text(blocks["python"][0])
    subprocess.run(["go", "build", "-o", tmp_path / "plane", tmp_path / "plane.go"], cwd=ROOT, check=True)

    def prints(*command):
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout

    python = sys.executable, "plane.py"
    first, second, _ = blocks[""][0].splitlines(keepends=True)
    assert [prints("./plane"), prints(*python)] == [first, second]
    (tmp_path / "plane.safetensors").unlink()
    assert [prints(*python), prints("./plane")] == [first, second]
    recorded = re.search(rb'"posneg.fingerprint": ?"(\w+)"', (tmp_path / "plane.safetensors").read_bytes())[1].decode()
    assert fingerprint_page()["fingerprint_of_file"](tmp_path / "plane.safetensors") == recorded


def fingerprint_page():
    """The functions of the page on fingerprints."""
    pytest.importorskip("numpy")
    functions = {}
    exec(blocks_of("docs/fingerprint.md")["python"][-1], functions)
    return functions


def test_the_definition_of_fingerprints():
    """Its NumPy code gives what fingerprint_test.go has recorded, for elements 96 and following of a tensor."""
    page = fingerprint_page()
    np = page["np"]
    seeds = [7]
    for _ in range(5000):
        seeds.append((seeds[-1] * 6364136223846793005 + 1442695040888963407) % 2**64)
    x = np.array([(seed >> 40) / 2**23 - 1 for seed in seeds[1:]])
    recorded = dict(re.findall(r"\t(f\d+): +\"(\w{32})\"", (ROOT / "fingerprint_test.go").read_text()))
    for name, dtype, kind in [("f32", "F32", "<f4"), ("f64", "F64", "<f8"), ("f16", "F16", "<f2")]:
        data = x.astype(kind).tobytes()
        sums = page["fingerprint"]("state.fc.weight.exp_avg", dtype, data, 96 * len(data) // 5000)
        assert "%016x%016x" % tuple(sums) == recorded[name]


def test_the_nans_of_fingerprints():
    """All NaNs of a format are one, by the page's code too; an infinity is none."""
    fingerprint = fingerprint_page()["fingerprint"]
    for dtype, infinity, nans in [
        ("F32", "7f800000", ["7fc00000", "7f800001", "ffc00000", "ffffffff"]),
        ("F64", "7ff0000000000000", ["7ff8000000000000", "7ff0000000000001", "fff8000000000000"]),
        ("BF16", "7f80", ["7fc0", "7f81", "ffff"]),
        ("F16", "7c00", ["7e00", "7c01", "fe00"]),
        ("F8_E4M3", "7e", ["7f", "ff"]),
    ]:
        little = [bytes.fromhex(number)[::-1] for number in nans]
        assert len({tuple(fingerprint("a", dtype, number)) for number in little}) == 1
        assert fingerprint("a", dtype, little[0]) == fingerprint("a", "", little[0])
        number = bytes.fromhex(infinity)[::-1]
        assert fingerprint("a", dtype, number) == fingerprint("a", "", number)
