"""What `python -m posneg` prints, and what --bench measures and writes."""

import csv
import functools
import io
import os
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posneg
from posneg import _bench, _library
from posneg.__main__ import main

REPOSITORY = Path(__file__).parents[2]


def test_about():
    p = subprocess.run([sys.executable, "-m", "posneg"], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and p.stderr == ""
    lines = dict(line.split(None, 1) for line in p.stdout.splitlines())
    assert lines["ISA"] == posneg.isa()
    assert lines["torch"].startswith(torch.__version__)
    assert str(Path(posneg.__file__).parent) in lines["posneg"]
    assert str(_library.path()) in lines["library"]
    assert str(posneg.get_num_threads()) == lines["threads"].split()[0]


@pytest.mark.parametrize("arguments", [[], ["--bench"]])
@pytest.mark.parametrize("content", [None, b"no library"])
def test_without_the_library(arguments, content, tmp_path, monkeypatch, capsys):
    file = tmp_path / "libpnm.so"
    if content:
        file.write_bytes(content)
    monkeypatch.setenv("POSNEG_LIBRARY", str(file))
    monkeypatch.setattr(_library, "load", _library.load.__wrapped__)  # which keeps nothing
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "cannot be used" in out and str(file) in out and torch.__version__ in out and "of the limit" not in out


def test_with_a_library_that_refuses_steps():
    p = subprocess.run(
        [sys.executable, "-m", "posneg"], env={**os.environ, "PNM_ISA": "no such thing"}, capture_output=True, text=True, timeout=300
    )
    assert p.returncode == 1 and "Traceback" not in p.stderr
    assert "cannot be used: pnm: PNM_ISA is" in p.stdout


def test_bench(tmp_path, capsys):
    file, threads, chosen = tmp_path / "speed.csv", torch.get_num_threads(), posneg.get_num_threads()
    assert main(["--bench", "--mebi", "1", "--seconds", "0", "--machine", "a, machine", "--csv", str(file)]) == 0
    assert (torch.get_num_threads(), posneg.get_num_threads()) == (threads, chosen)
    out = capsys.readouterr().out
    with open(file, newline="") as f:
        rows = list(csv.DictReader(f))
    assert {int(r["threads"]) for r in rows} == {1, chosen}
    assert {r["machine"] for r in rows} == {"a, machine"} and {int(r["elements"]) for r in rows} == {1 << 20}
    for r in rows:
        assert float(r["ns"]) > 0
        if posneg.isa() == "generic":
            assert r["limit_ns"] == r["of_limit"] == ""
        else:
            assert float(r["limit_ns"]) > 0 and float(r["of_limit"]) > 0
        assert f"{r['by']}, {r['format']}" in out
    bytes = {(r["rule"], r["by"], r["format"]): float(r["bytes"]) for r in rows}
    assert bytes["AdaPNM", "posneg", "float32"] == bytes["AdaPNM", "torch operations", "float32"] == 40  # docs/performance.md
    assert bytes["PNM", "posneg", "float32"] == bytes["PNM", "torch operations", "float32"] == 24
    assert bytes["AdamW", "posneg", "float32"] == bytes["AdamW", "torch", "float32"] == 28
    assert [bytes[rule, "posneg", "bf16 state"] for rule in ("AdaPNM", "PNM", "AdamW")] == [26, 18, 20]
    assert bytes["PNM", "posneg", "mxfp8 momenta"] == pytest.approx(15.09375, abs=1e-4)
    assert bytes["AdaPNM", "posneg", "mxfp8 momenta"] == pytest.approx(23.09375, abs=1e-4)


def test_medians(monkeypatch):
    monkeypatch.setattr(_bench, "candidates", lambda: [_bench.Candidate("PNM", "posneg", "float32", lambda p: posneg.PNM(p, lr=1.0), 24)])
    turns = _bench.Turns(64, [1])
    turns.limits[1], turns.times[1] = [[1.5], [1.2], [0.1]], [[3.0], [2.0], [0.4]]
    (result,) = turns.results("")
    assert (result.ns, result.limit_ns, result.of_limit) == (2.0, 1.2, 0.5)


def test_limit_changes_nothing():
    """Not even what torch's tools have changed since the step, and there is none for short rows of mxfp8."""
    p = torch.nn.Parameter(torch.randn(5000))
    p.grad = torch.randn(5000)
    optimizer = posneg.AdaPNM([p])
    optimizer.step()
    before = [t.clone() for t in (p, p.grad, *optimizer.state[p].values())]
    assert optimizer._plans.last_call().limit(2) == (posneg.isa() != "generic")
    for was, now in zip(before, (p, p.grad, *optimizer.state[p].values())):
        assert torch.equal(was, now)
    with pytest.raises(ValueError, match="workers"):
        optimizer._plans.last_call().limit(-1)
    optimizer = posneg.AdaPNM([p], state_dtype="mxfp8")
    optimizer.step()
    assert not optimizer._plans.last_call().limit(1)


@pytest.mark.parametrize("error", [RuntimeError, TypeError])
def test_torch_without_a_fused_optimizer(monkeypatch, error):
    adamw = torch.optim.AdamW

    def old(params, **options):
        if options:
            raise error("no fused")
        return adamw(params)

    monkeypatch.setattr(torch.optim, "AdamW", old)
    assert [c.by for c in _bench.candidates() if c.rule == "AdamW"] == ["posneg"] * 3 + ["torch"]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(terminal):
    out = io.StringIO()
    out.isatty = lambda: terminal
    _bench.measure(64, 0, "", out)
    assert bool(out.getvalue()) == terminal and ("round 3, " in out.getvalue()) == terminal


@pytest.mark.parametrize(
    "arguments", ["--mebi 0 --bench", "--mebi 16385 --bench", "--csv x", "--seconds nan --bench", "--mebi 1", "--machine x"]
)
def test_refused(arguments, capsys):
    arguments = arguments.split()
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_too_little_memory(monkeypatch, capsys):
    monkeypatch.setattr(_bench, "free_memory", lambda: 2**30)
    with pytest.raises(SystemExit):
        main(["--bench", "--mebi", "8"])
    assert "--mebi 8 takes 1056 MiB of memory, but only 1024 MiB are free" in capsys.readouterr().err


@pytest.mark.parametrize("name, problem", [("no folder/speed.csv", "No such file or directory"), ("", "")])
def test_a_file_that_cannot_be_written_is_refused_first(name, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_bench, "measure", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit):
        main(["--bench", "--csv", str(tmp_path / name)])
    assert f"{tmp_path / name}: {problem}" in capsys.readouterr().err


def test_no_empty_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(_bench, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(["--bench", "--csv", str(tmp_path / "speed.csv")])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")
@pytest.mark.parametrize("arguments", [[], ["--bench", "--mebi", "1"]])
def test_ends_quietly(arguments):
    """When nobody reads its output, or at Ctrl-C."""
    command = [sys.executable, "-u", "-m", "posneg", *arguments]
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    if arguments:
        while not p.stdout.readline().startswith("system"):
            pass
        p.send_signal(signal.SIGINT)
    else:
        p.stdout.close()
    assert p.stderr.read() == ""
    assert p.wait(timeout=300) == (130 if arguments else 1)


def test_size():
    assert [_bench.fitting(memory) for memory in (0, 2**30, 2**32, 2**40, None)] == [1, 3, 15, 32, 32]
    assert _bench.free_memory() is None or _bench.free_memory() > 0
    assert _bench.cpu()


def test_published():
    """The file in docs/ has the columns of today, of two numbers of threads."""
    with open(REPOSITORY / "docs" / "speed.csv", newline="") as f:
        rows = csv.DictReader(f)
        assert tuple(rows.fieldnames) == _bench.Result._fields
        assert len({row["threads"] for row in rows if math.isfinite(float(row["ns"]))}) == 2
