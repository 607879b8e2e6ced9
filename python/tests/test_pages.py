"""Large state lies at different offsets within its pages, on huge ones where the system has them, in tensors as any others."""

import copy
import io
import mmap
import pickle
import re
from pathlib import Path

import pytest
import torch

import posneg
from helpers import equal, set_gradients, twins
from posneg import _memory

N = _memory.LEAST // 4  # elements of float32
MASTERED = dict(ours=posneg.AdamW, dtype=torch.bfloat16, master_weights=True, size=2 * N)
LARGE = {
    "AdaPNM": dict(ours=posneg.AdaPNM),
    "AdamW, bfloat16 masters": MASTERED,
    "AdamW, float64": dict(ours=posneg.AdamW, dtype=torch.float64),
    "Lion, complex": dict(ours=posneg.Lion, dtype=torch.complex64),
    "PNM, mxfp8 state": dict(ours=posneg.PNM, lr=0.1, state_dtype="mxfp8", size=4 * N),
    "PNM, bfloat16 state": dict(ours=posneg.PNM, lr=0.1, state_dtype=torch.bfloat16, size=2 * N),
}
large = pytest.mark.parametrize("what", LARGE.values(), ids=LARGE.keys())
mapped = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux can be asked for huge pages")


def stepped(ours, dtype=torch.float32, size=N, steps=1, **options):
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(size, dtype=dtype))
    optimizer = ours([("weight", p)], **options)
    for _ in range(steps):
        set_gradients([p])
        optimizer.step()
    return p, optimizer


def tensors(optimizer):
    return [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()]


def offsets(optimizer):
    return [t.data_ptr() % 4096 for t in tensors(optimizer) if t.numel() * t.element_size() >= _memory.LEAST]


@mapped
@large
def test_no_two_begin_alike_within_a_page(what):
    p, optimizer = stepped(**what)
    starts = sorted([*offsets(optimizer), 64])
    assert len(starts) > 1 and min(b - a for a, b in zip(starts, starts[1:])) >= 256
    assert all(start % 64 == 0 for start in starts)


@large
def test_bits_do_not_depend_on_it(what, monkeypatch):
    a, x = stepped(**what, steps=3)
    monkeypatch.setattr(_memory, "_CAN_MAP", False)
    b, y = stepped(**what, steps=3)
    equal([a, *tensors(x)], [b, *tensors(y)])


@large
def test_they_are_tensors_as_any_others(what):
    p, optimizer = stepped(**what)
    for t in tensors(optimizer):
        assert t._base is None and t.storage_offset() == 0 and not t.requires_grad and t.stride() == p.stride()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert len(file.getvalue()) < sum(t.numel() * t.element_size() for t in tensors(optimizer)) + 8192  # no storage has more than its tensor
    copied, (q, pickled) = copy.deepcopy(optimizer), pickle.loads(pickle.dumps((p, optimizer)))
    tensors(optimizer)[0].share_memory_()  # moves it
    ways = [p, copied.param_groups[0]["params"][0], q]
    set_gradients(*([w] for w in ways))
    for o in (optimizer, copied, pickled):
        o.step()
    equal([ways[0], *tensors(optimizer)], [ways[1], *tensors(copied)])
    equal([ways[0], *tensors(optimizer)], [ways[2], *tensors(pickled)])


def test_the_parameters_layout():
    torch.manual_seed(1)
    a = torch.nn.Parameter(torch.randn(4, 8, 256, N // 8192).contiguous(memory_format=torch.channels_last))
    b = torch.nn.Parameter(torch.randn(N // 512, 1024)[:, ::2].t())  # with gaps
    optimizer = posneg.PNM([a, b], lr=0.1)
    set_gradients([a, b])
    optimizer.step()
    for p in (a, b):
        assert all(t.stride() == torch.empty_like(p).stride() for t in optimizer.state[p].values() if t.dim())


@mapped
def test_a_checkpoints_state_too(tmp_path):
    p, optimizer = stepped(**MASTERED)
    posneg.save_checkpoint(tmp_path / "run", optimizer)
    q, = twins([p])
    loaded = posneg.AdamW([("weight", q)], master_weights=True)
    posneg.load_checkpoint(tmp_path / "run", loaded)
    ours, theirs = loaded.state[q], optimizer.state[p]
    assert all(ours[name].data_ptr() % 4096 == t.data_ptr() % 4096 for name, t in theirs.items() if t.dim())
    equal([ours[name] for name in theirs], theirs.values())


def test_a_system_that_refuses(monkeypatch):
    p, expected = stepped(posneg.AdaPNM)

    class WithoutHugePages(mmap.mmap):
        def madvise(self, *_):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(_memory.mmap, "mmap", WithoutHugePages)
    q, optimizer = stepped(posneg.AdaPNM)
    equal([p, *tensors(expected)], [q, *tensors(optimizer)])

    def full(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(_memory.mmap, "mmap", full)
    q, optimizer = stepped(posneg.AdaPNM)
    equal([p, *tensors(expected)], [q, *tensors(optimizer)])


def memory(key):
    """How many bytes of the process are resident, or on huge pages."""
    return 1024 * int(re.search(rf"{key}: *(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])


def given():
    """How much of 32 MiB the system puts on huge pages for one who asks."""
    before, asked = memory("AnonHugePages"), mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    asked.madvise(mmap.MADV_HUGEPAGE)
    asked.write(bytes(32 << 20))
    return memory("AnonHugePages") - before


@mapped
def test_it_is_on_huge_pages_and_takes_no_more_memory():
    if given() < 16 << 20:
        pytest.skip("the system gives no huge pages")
    p = torch.nn.Parameter(torch.ones(8 << 20))
    p.grad = torch.ones_like(p)
    optimizer = posneg.PNM([p], lr=0.1)
    huge, resident = memory("AnonHugePages"), memory("Rss")
    for _ in range(2):  # each writes one of the momenta
        optimizer.step()
    full = memory("Rss")
    assert memory("AnonHugePages") - huge >= 32 << 20  # of 64 MiB
    assert full - resident < (64 << 20) + 2 * (2 << 20) + (8 << 20)  # what the library and its threads take
    del optimizer
    assert full - memory("Rss") > 56 << 20
