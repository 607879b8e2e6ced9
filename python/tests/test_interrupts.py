"""An exception between two instructions of a step, as a signal's handler raises it, leaves a step done and counted, or neither."""

import sys

import pytest
import torch

import posneg
from helpers import equal, values


def run(optimizer, params, interrupt_at):
    """A step that is interrupted before instruction number interrupt_at of this package; whether it was."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if "posneg" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "return"):
            seen += 1
            if seen == interrupt_at:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        optimizer.step()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)


CASES = {
    "first step": (0, torch.float32, lambda t: t, {}),
    "later": (2, torch.float32, lambda t: t, {}),
    "gaps": (1, torch.float32, lambda t: t[:, ::2], {}),
    "master": (1, torch.float16, lambda t: t, {}),
    "split master": (1, torch.bfloat16, lambda t: t, dict(master_weights=True)),
    "split master, gaps": (1, torch.bfloat16, lambda t: t[:, ::2], dict(master_weights=True)),
}


@pytest.mark.parametrize("before, dtype, layout, options", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("missing", [False, True], ids=["", "without one"])
def test_interrupted_anywhere(before, dtype, layout, options, missing):
    def make():
        params = [torch.nn.Parameter(layout(torch.ones(4, 4, dtype=dtype))) for _ in range(2)]
        for k, p in enumerate(params):
            p.grad = torch.full_like(p, k + 1.0)
        optimizer = posneg.PNM(params, lr=0.25, **options)
        for _ in range(before):
            optimizer.step()
        if missing:
            params[0].grad = None
        return params, optimizer

    ends = []
    for steps in range(3):
        params, optimizer = make()
        for _ in range(steps):
            optimizer.step()
        ends.append([t.detach().clone() for t in (*params, *values(optimizer))])
    moment, interrupted, seen = 0, True, set()
    while interrupted:
        moment += 1
        params, optimizer = make()
        interrupted = run(optimizer, params, moment)
        done = int(optimizer.state.get(params[1], {}).get("step", 0)) - before
        seen.add(done)
        equal(params, ends[done])
        optimizer.step()
        equal([*params, *values(optimizer)], ends[done + 1] if done < 2 else ends[2])
    assert seen == {0, 1} and moment > 100
