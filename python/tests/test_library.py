"""The C interface as the package sees it."""

import ctypes
import re
import sys
from pathlib import Path

import pytest

import posneg
from posneg import _library, _system
from helpers import parameters, set_gradients
from test_processes import in_child, needs_fork

LAYOUT = Path(__file__).resolve().parents[2] / "capi" / "testdata" / "layout.c"  # which the C compiler checks
STRUCTS = {"vector": _library.VECTOR, "const_vector": _library.VECTOR, "rule": _library.RULE, "update": _library.UPDATE, "report": _library.REPORT}
NOT_USED = "portion"  # the package hashes bytes piece by piece


def test_structs_are_those_of_the_header():
    seen = set()
    for struct, size in re.findall(r"SAME\(sizeof\(pnm_(\w+)\), (\d+)\)", LAYOUT.read_text()):
        if struct == NOT_USED:
            continue
        ours = ctypes.sizeof(_library.Options) if struct == "options" else STRUCTS[struct].itemsize
        assert ours == int(size), struct
        seen.add(struct)
    assert seen == {*STRUCTS, "options"}
    places = re.findall(r"SAME\(offsetof\(pnm_(\w+), (\w+)\), (\d+)\)", LAYOUT.read_text())
    assert len(places) > 25
    for struct, field, place in places:
        if struct == NOT_USED:
            continue
        ours = getattr(_library.Options, field).offset if struct == "options" else STRUCTS[struct].fields[field][1]
        assert ours == int(place), (struct, field)


def names(optimizer):
    return optimizer._slots(optimizer.param_groups[0])


def test_names_of_state():
    p = parameters(3)
    assert names(posneg.PNM(p, lr=1)) == ("pos_momentum", "neg_momentum")
    assert names(posneg.AdaPNM(p)) == ("exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    assert names(posneg.AdaPNM(p, amsgrad=False)) == ("exp_avg", "neg_exp_avg", "exp_avg_sq")
    assert names(posneg.SGD(p, lr=1)) == ()
    assert names(posneg.SGD(p, lr=1, momentum=0.5)) == ("momentum_buffer",)
    assert names(posneg.Adam(p)) == names(posneg.AdamW(p)) == ("exp_avg", "exp_avg_sq")
    assert names(posneg.Adam(p, amsgrad=True)) == ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def test_names_are_asked_for_once():
    optimizer = posneg.Adam(parameters(3), betas=(0.25, 0.75))
    first, asked = names(optimizer), _library.state_names.cache_info().misses
    optimizer.param_groups[0]["lr"] = 0.125
    assert names(optimizer) is first and _library.state_names.cache_info().misses == asked


def test_an_unknown_rule_has_no_names():
    rule = posneg.PNM(parameters(3), lr=1)._rule({"lr": 1, "betas": (0, 0), "weight_decay": 0, "decoupled": True, "maximize": False})
    with pytest.raises(ValueError, match="rule.kind is 99"):
        _library.state_names((99, *rule[1:]))


@needs_fork
def test_names_in_a_forked_child():
    params = parameters(3)
    optimizer = posneg.Adam(params, betas=(0.375, 0.5))
    set_gradients(params)
    optimizer.step()

    def ask():
        assert names(optimizer) == ("exp_avg", "exp_avg_sq")  # which are known
        try:
            return names(posneg.Adam(params, betas=(0.5, 0.5)))
        except RuntimeError as error:
            return error

    said, code = in_child(ask)
    assert code == 0 and "fork" in said and "'spawn'" in said


@pytest.mark.parametrize(
    "content, message",
    [(b"text", "for an unknown system, and this is"), (b"\x7fELF\2\2" + bytes(12) + b"\0\x16", "for Linux on s390x, and this is")],
)
def test_other_systems_library(monkeypatch, tmp_path, content, message):
    file = tmp_path / "libpnm.so"
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSNEG_LIBRARY", file.name)  # which the loader itself would look for elsewhere
    with pytest.raises(ImportError, match=f"{re.escape(str(file))} does not load: it is {message} {re.escape(_system.here())}"):
        _library.load.__wrapped__()


def test_damaged_library(monkeypatch, tmp_path):
    file = tmp_path / "libpnm.so"
    file.write_bytes(_library.path().read_bytes()[: 4096 if sys.platform == "win32" else 40])
    monkeypatch.setenv("POSNEG_LIBRARY", str(file))
    with pytest.raises(ImportError, match="does not load: (?!it is)"):
        _library.load.__wrapped__()
