"""Fingerprints: that they are as docs/fingerprint.md defines them, what they depend on, and what not."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import posneg
from helpers import RULES, equal, parameters, set_gradients, twins, values
from posneg import _fingerprint, _library, _safetensors
from posneg.__main__ import main
from test_diff import write
from test_docs import fingerprint_page
from test_go import FORMATS

SIZES = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2}
DEFINITION = fingerprint_page()


def defined(name, dtype, data, first=0):
    """The fingerprint of a tensor, as the page defines it."""
    return posneg.Fingerprint(tuple(map(int, DEFINITION["fingerprint"](name, dtype, data, first * SIZES.get(dtype, 1)))))


def defined_of(file):
    """The fingerprint of a file, with nothing of the package but its class."""
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    groups = json.loads(header.pop("__metadata__", {}).get("posneg.groups", "[]"))
    parts = [defined(name, t["dtype"], data[slice(*(begin + at for at in t["data_offsets"]))]) for name, t in header.items()]
    parts += [defined(f"step.{t['name']}", "I64", t["step"].to_bytes(8, "little")) for g in groups for t in g["tensors"]]
    return sum(parts, posneg.Fingerprint())


def saved(optimizer, **how):
    file = io.BytesIO()
    returned = posneg.save_checkpoint(file, optimizer, **how)
    assert posneg.read_fingerprint(io.BytesIO(file.getvalue())) == returned
    return file.getvalue()


def run(rule, form, shapes=((3, 37), (17,), (), (2, 3, 5)), steps=3, names=True):
    ours, options = RULES[rule]
    dtype, how, _ = FORMATS[form]
    params = parameters(*shapes, dtype=dtype)
    given = [(f"p{i}", p) for i, p in enumerate(params)] if names else params
    optimizer = ours(given, **{"lr": 0.01, **options, **how})
    for _ in range(steps):
        set_gradients(params)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_definition(rule, form):
    _, optimizer = run(rule, form)
    file = saved(optimizer)
    expected = defined_of(file)
    assert optimizer.fingerprint() == expected == posneg.read_fingerprint(io.BytesIO(file))
    _, again = run(rule, form, steps=1)
    posneg.load_checkpoint(io.BytesIO(file), again, fingerprint=expected)
    assert again.fingerprint() == expected
    without = saved(optimizer, params=False)
    assert posneg.read_fingerprint(io.BytesIO(without)) == defined_of(without)


@pytest.mark.parametrize("form", FORMATS)
def test_larger_than_pieces_and_blocks(form, monkeypatch):
    monkeypatch.setattr(_safetensors, "PIECE", 1 << 10)
    _, optimizer = run("AdaPNM", form, shapes=[(130, 70), (5000,)])
    file = saved(optimizer)
    assert optimizer.fingerprint() == defined_of(file)


def test_names():
    params, optimizer = run("AdaPNM", "float32")
    own, named = optimizer.fingerprint(), [(f"q{i}", p) for i, p in enumerate(params)]
    called = optimizer.fingerprint(names=named)
    assert len({own, called, optimizer.fingerprint(names=zip("abcd", params)), optimizer.fingerprint(names=zip("bacd", params))}) == 4
    assert optimizer.fingerprint(names=((f"p{i}", p) for i, p in enumerate(params))) == own
    assert posneg.save_checkpoint(io.BytesIO(), optimizer, names=named) == called
    with pytest.raises(ValueError, match="no name for parameter 1"):
        optimizer.fingerprint(names=[("x", params[0])])
    named = [(f"p\0{i}", p) for i, p in enumerate(params)]  # which no name in C can have
    assert optimizer.fingerprint(names=named) == defined_of(saved(optimizer, names=named)) != own


def test_what_does_not_count():
    params, optimizer = run("AdaPNM", "float32, bf16 state")
    before = optimizer.fingerprint()
    optimizer.param_groups[0].update(lr=5.0, initial_lr=3.0, seed=8)
    for p in params:
        p.grad = None
    assert optimizer.fingerprint() == before
    groups = [{"params": [(f"p{i}", params[i])]} for i in (2, 0, 3, 1)]
    other = posneg.AdaPNM(groups, state_dtype=torch.bfloat16)
    for p in params:
        other.state[p] = optimizer.state[p]
    assert other.fingerprint() == before


def test_threads():
    _, optimizer = run("AdaPNM", "bf16, masters", shapes=[(300, 1000), (7,), (400_000,)])
    found = set()
    try:
        for n in (1, 2, 5):
            posneg.set_num_threads(n)
            found.add(optimizer.fingerprint())
    finally:
        posneg.set_num_threads(None)
    assert len(found) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_bit(form):
    params, optimizer = run("AdaPNM", form, shapes=[(3, 37), (17,), (2, 3, 5)])
    before, generator = optimizer.fingerprint(), torch.Generator().manual_seed(2)
    state = [t for p in params for t in optimizer.state[p].values() if torch.is_tensor(t) and t.dim() == p.dim()]
    for t in [*params, *state]:
        flat = t.detach().view(torch.uint8).reshape(-1)
        for at in torch.randint(len(flat), (5,), generator=generator).tolist():
            for bit in range(8):
                flat[at] ^= 1 << bit
                assert optimizer.fingerprint() != before
                flat[at] ^= 1 << bit
    assert optimizer.fingerprint() == before
    optimizer.state[params[1]]["step"] += 1
    assert optimizer.fingerprint() != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nans(dtype):
    """All are one, and infinities are none."""
    params, optimizer = run("PNM", {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bf16, bf16 state"}[dtype])
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[params[0].element_size()]
    bits, width = params[0].detach().view(kind).reshape(-1), 8 * params[0].element_size()
    mantissa = {16: 7, 32: 23, 64: 52}[width]
    infinity = (1 << width - 1) - (1 << mantissa)
    found = []
    for nan in (infinity + 1, infinity | 1 << mantissa - 1, (1 << width - 1) - 1, -1, infinity + 1 - (1 << width - 1)):
        bits[5] = nan
        found.append(optimizer.fingerprint())
    assert len(set(found)) == 1
    for other in (infinity, infinity - (1 << width - 1), 0, infinity - 1):
        bits[5] = other
        assert optimizer.fingerprint() != found[0]


def test_zeros_and_signs():
    p = torch.nn.Parameter(torch.zeros(100))
    optimizer = posneg.PNM([("p", p)], lr=1.0)
    count = defined("step.p", "I64", bytes(8))
    assert optimizer.fingerprint() == count == posneg.Fingerprint()
    p.grad = torch.zeros(100)
    optimizer.step()
    assert optimizer.fingerprint() == defined("step.p", "I64", (1).to_bytes(8, "little"))
    with torch.no_grad():
        p[7] = -0.0
    assert optimizer.fingerprint() != defined("step.p", "I64", (1).to_bytes(8, "little"))


@pytest.mark.parametrize("form", ["bf16, masters", "f16, masters"])
def test_masters(form):
    """The master counts, also where others have written to its copy, and is that of a float32 run."""
    wide, narrow = (run("AdaPNM", f, shapes=[(40, 5), (9,)], steps=0) for f in ("float32", form))
    for p, q in zip(wide[0], narrow[0]):
        p.data.copy_(q.detach())
    dtype = narrow[0][0].dtype
    for _ in range(3):
        for p, q in zip(wide[0], narrow[0]):
            q.grad = torch.randn(q.shape).to(dtype)
            p.grad = q.grad.float()
        wide[1].step(), narrow[1].step()
    assert wide[1].fingerprint() == narrow[1].fingerprint()
    with torch.no_grad():
        narrow[0][0][3, 2] = wide[0][0][3, 2] = 0.5
    assert (wide[1].fingerprint() == narrow[1].fingerprint()) == (dtype == torch.float16)  # of a split one, the lower half stays
    assert narrow[1].fingerprint() == defined_of(saved(narrow[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_layouts(dtype):
    """The elements count in row-major order, wherever they lie in memory."""
    a = torch.randn(4, 6, 3, 5, dtype=dtype)
    gaps = torch.randn(4, 6, 3, 10, dtype=dtype)[..., ::2].copy_(a)
    ways = [a.clone(), a.contiguous(memory_format=torch.channels_last), gaps, a.transpose(0, 3).contiguous().transpose(0, 3)]
    found = []
    for way in ways:
        p = torch.nn.Parameter(way)
        optimizer = posneg.AdaPNM([("p", p)])
        torch.manual_seed(3)
        for _ in range(2):
            p.grad = torch.randn(a.shape, dtype=dtype)
            optimizer.step()
        found.append(optimizer.fingerprint())
    assert set(found) == {defined_of(saved(optimizer))}


@pytest.mark.parametrize("form", ["float32", "bf16, bf16 state", "float32, mxfp8 state"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_resumed(form, steps):
    """After odd and even steps."""
    params, optimizer = run("AdaPNM", form, steps=steps)
    file, again = saved(optimizer), twins(params)
    resumed = posneg.AdaPNM([(f"p{i}", p) for i, p in enumerate(again)], **FORMATS[form][1])
    posneg.load_checkpoint(io.BytesIO(file), resumed)
    for _ in range(3):
        set_gradients(params, again)
        optimizer.step(), resumed.step()
        assert optimizer.fingerprint() == resumed.fingerprint()
    set_gradients(params)
    optimizer.step()
    assert optimizer.fingerprint() != resumed.fingerprint()


def test_it_changes_nothing():
    params, optimizer = run("AdaPNM", "bf16, masters", steps=0)
    others = twins(params)
    reference = posneg.AdaPNM([(f"p{i}", p) for i, p in enumerate(others)], **{"lr": 0.01, **RULES["AdaPNM"][1], "master_weights": True})
    for _ in range(3):
        optimizer.fingerprint()
        set_gradients(params, others)
        optimizer.step(), reference.step()
    equal(params, others)
    equal(values(optimizer), values(reference))


def test_parts_add_up(tmp_path):
    """Parts of a tensor, as Go's processes save them, have the sum of the whole; the part with element 0 has the count."""
    for form in ("float32", "float32, mxfp8 state", "bf16, bf16 state"):
        (p,), optimizer = run("AdaPNM", form, shapes=[(12, 45)])
        total = posneg.Fingerprint()
        for lo, hi in ((0, 5), (5, 6), (6, 12)):
            part = torch.nn.Parameter(p.detach()[lo:hi].clone())
            share = posneg.AdaPNM([("p0", part)], **FORMATS[form][1])
            state = optimizer.state[p]
            share.state[part] = {name: t[lo:hi].clone() if torch.is_tensor(t) and t.dim() else t for name, t in state.items()}
            share.state[part]["rounding"] = 7 + (45 * lo << 64)
            total += share.fingerprint()
            file = saved(share)
            assert posneg.read_fingerprint(io.BytesIO(file)) == share.fingerprint()
            (tmp_path / "part").write_bytes(file)
            assert main(["fingerprint", str(tmp_path / "part")]) == 0
            again = posneg.AdaPNM([("p0", torch.nn.Parameter(torch.zeros_like(part)))], **FORMATS[form][1])
            posneg.load_checkpoint(tmp_path / "part", again, fingerprint=share.fingerprint())
            assert again.fingerprint() == share.fingerprint() and saved(again) == file
        assert total == optimizer.fingerprint()


@pytest.mark.parametrize("verify", [True, False])
def test_loading_checks_it(verify, tmp_path):
    params, optimizer = run("AdaPNM", "float32, mxfp8 state")
    file = tmp_path / "run.safetensors"
    right = posneg.save_checkpoint(file, optimizer, metadata={"epoch": "3"})
    loaded = run("AdaPNM", "float32, mxfp8 state")[1]
    before = loaded.fingerprint()
    for wrong in (right + right, str(before)):
        with pytest.raises(posneg.FingerprintError, match=f"{right}, must be {wrong}") as e:
            posneg.load_checkpoint(file, loaded, verify=verify, fingerprint=wrong)
        assert str(file) in str(e.value) and isinstance(e.value, posneg.CheckpointError)
        assert loaded.fingerprint() == before
    for given in (right, str(right), str(right).upper()):
        assert posneg.load_checkpoint(file, loaded, verify=verify, fingerprint=given) == {"epoch": "3"}
        assert loaded.fingerprint() == right
    for bad, error in (("0", ValueError), (5, ValueError), (b"0" * 32, ValueError)):
        with pytest.raises(error, match="32 hexadecimal digits"):
            posneg.load_checkpoint(file, loaded, fingerprint=bad)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(posneg.FingerprintError):
        posneg.load_checkpoint(file, loaded, verify=False, fingerprint=right)
    assert loaded.fingerprint() == right


def test_files_that_record_none_or_nonsense(tmp_path):
    _, optimizer = run("PNM", "float32")
    posneg.save_checkpoint(tmp_path / "run", optimizer)
    data, text = (tmp_path / "run").read_bytes(), str(optimizer.fingerprint()).encode()
    at = data.index(b'"posneg.checkpoint":"1 ')
    unsummed = data[: at + 23].replace(b'"1 ', b'"1"') + b" " * 9 + data[at + 32 :]
    assert len(unsummed) == len(data)
    (tmp_path / "none").write_bytes(unsummed.replace(b'"posneg.fingerprint":"' + text + b'",', b" " * (len(text) + 24)))
    assert posneg.read_fingerprint(tmp_path / "none") is None
    assert main(["fingerprint", str(tmp_path / "none")]) == 0
    posneg.load_checkpoint(tmp_path / "none", optimizer, fingerprint=text.decode())
    (tmp_path / "bad").write_bytes(unsummed.replace(text, b"x" + text[1:]))
    for call in (lambda: posneg.read_fingerprint(tmp_path / "bad"), lambda: posneg.load_checkpoint(tmp_path / "bad", optimizer)):
        with pytest.raises(posneg.CheckpointError, match="posneg.fingerprint is 'x.*, must have 32 hexadecimal digits"):
            call()


def test_offload():
    params, optimizer = run("AdaPNM", "bf16, masters", steps=0)
    others = twins(params)
    wrapped = posneg.offload.Offload([(f"p{i}", p) for i, p in enumerate(others)], posneg.AdaPNM, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        set_gradients(params, others)
        optimizer.step(), wrapped.step()
        assert optimizer.fingerprint() == wrapped.fingerprint()
    with torch.no_grad():
        for p in (params[0], others[0]):
            p[0] = 0.25
    assert optimizer.fingerprint() == wrapped.fingerprint() == posneg.save_checkpoint(io.BytesIO(), wrapped)
    named = [(f"q{i}", p) for i, p in enumerate(others)]
    assert wrapped.fingerprint(named) == optimizer.fingerprint([(f"q{i}", p) for i, p in enumerate(params)])


def test_class():
    a, b = posneg.Fingerprint.parse("f" * 32), posneg.Fingerprint((1, 2))
    assert a + b == posneg.Fingerprint((0, 1)) and str(b) == f"{1:016x}{2:016x}" and posneg.Fingerprint.parse(str(b)) == b
    assert len({a, b, posneg.Fingerprint((1, 2))}) == 2 and a != b and repr(b) == f"Fingerprint.parse('{b}')"
    assert b == str(b) and str(b) == b and b != str(a) and a != (1, 2) and {b: 3}[str(b)] == {str(b): 3}[b] == 3
    for bad in ("", "0" * 31, "0" * 33, "g" * 32, " " + "0" * 31, "0" * 32 + "\n", None):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            posneg.Fingerprint.parse(bad)


def refuses(*_):
    raise _library.Forked


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "F64", "BF16", "F16", "F8_E4M3", "F8_E8M0", "I64", "U8"])
def test_streams(dtype, forked, monkeypatch):
    """Cuts anywhere add up, and special bits are all there."""
    if forked:
        monkeypatch.setattr(_library, "fingerprint_bytes", refuses)
    size, rng = SIZES.get(dtype, 1), np.random.default_rng(1)
    data = rng.integers(0, 256, 3000 * size, np.uint8)
    data[: 400 * size] |= 0x7F
    expected = defined("größe", dtype, data.tobytes(), 5)
    for cut in (0, 1, 7, 1019, 2999, 3000):
        total = posneg.Fingerprint()
        for lo, hi in ((0, cut), (cut, 3000)):
            stream = _fingerprint.Stream("größe", dtype, 5 + lo)
            middle = size * (lo + (hi - lo) // 3)
            stream.add(data[size * lo : middle])
            stream.add(data[middle : size * hi])
            total += stream.sum
        assert total == expected
    far = _fingerprint.Stream("x", dtype, 2**50 + 3)
    far.add(data)
    assert far.sum == defined("x", dtype, data.tobytes(), 2**50 + 3)


def test_command(tmp_path, capsys):
    _, optimizer = run("AdaPNM", "float32, mxfp8 state")
    good, other, bad = (tmp_path / name for name in ("good", "other", "bad"))
    text = str(posneg.save_checkpoint(good, optimizer))
    write(other, {"x": ("F32", [5], np.arange(5, dtype=np.float32).view(np.uint32)), "y": ("I64", [3], np.arange(3))})
    assert main(["fingerprint", str(good), str(other)]) == 0
    assert capsys.readouterr().out == f"{text}  {good}\n{defined_of(other)}  {other}\n"
    data = bytearray(good.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    assert main(["fingerprint", str(bad), str(good)]) == 1
    printed = capsys.readouterr()
    assert f"{bad} records the fingerprint {text}: it is damaged" in printed.err
    assert printed.out == f"{defined_of(bad)}  {bad}\n{text}  {good}\n"
    assert main(["fingerprint", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_command_without_the_library(tmp_path):
    _, optimizer = run("AdaPNM", "float32")
    posneg.save_checkpoint(tmp_path / "run", optimizer)
    p = subprocess.run(
        [sys.executable, "-m", "posneg", "fingerprint", "run"], cwd=tmp_path, env={**os.environ, "POSNEG_LIBRARY": str(tmp_path / "none")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert p.returncode == 2 and "does not exist" in p.stderr and "Traceback" not in p.stderr


def test_scales_without_elements(tmp_path, capsys):
    """In a part of a parameter, whose scales have other numbers than its elements."""
    p = torch.nn.Parameter(torch.zeros(64))
    optimizer = posneg.PNM([("w", p)], lr=0.1, state_dtype="mxfp8")
    p.grad = torch.ones(64)
    optimizer.step()
    data = saved(optimizer)
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    groups = json.loads(header["__metadata__"]["posneg.groups"])
    groups[0]["tensors"][0]["rounding"] = [0, 0, 32]
    header["__metadata__"].update({"posneg.groups": json.dumps(groups), "posneg.checkpoint": "1"})
    header["state.w.other.scales"] = header.pop("state.w.neg_momentum.scales")
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + data[begin:])
    assert main(["fingerprint", str(tmp_path / "file")]) in (0, 1) and re.match("[0-9a-f]{32}  ", capsys.readouterr().out)
