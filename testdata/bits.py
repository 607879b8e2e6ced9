#!/usr/bin/env python3
"""Records the bits that the update must give on every machine: bits.py > bits.json

Each case is a trajectory, computed by NumPy in the element type, one rounded operation after the other, in the order of
the package comment. What is recorded is the SHA-256 of the parameters and the state, as little-endian bytes, after each
of some steps. NumPy does not fuse operations, so that a Go compiler that does so is found out by the first hash.

Inputs are x_i from s = s*6364136223846793005+1442695040888963407 mod 2^64, starting from s = seed; x = (s>>40)/2^23 - 1:
parameters from the case's seed, gradients of step t (from 1) from seed + t. They are multiples of 2^-23 below 1.
"""
import hashlib
import json
import math

import numpy as np

N = 67
STEPS = 1000
RECORDED = [1, 2, 3, 4, 10, 101, STEPS]

PNM = {"LR": 0.5, "Beta1": 0.9, "Beta0": 1.0, "WeightDecay": 0.0, "Decoupled": True, "Maximize": False}
ADAPNM = {"LR": 1e-3, "Beta1": 0.9, "Beta2": 0.999, "Beta0": 1.0, "Eps": 1e-8, "WeightDecay": 0.0, "Decoupled": True,
          "AMSGrad": True, "Maximize": False, "ExactBias": False}
RULES = [
    {"PNM": PNM},
    {"PNM": {**PNM, "LR": 0.3, "WeightDecay": 0.01}},
    {"PNM": {**PNM, "LR": 0.3, "WeightDecay": 0.01, "Decoupled": False, "Beta1": 0.95, "Beta0": 2.0}},
    {"PNM": {**PNM, "LR": 0.1, "Maximize": True, "Beta0": -0.7}},
    {"AdaPNM": ADAPNM},
    {"AdaPNM": {**ADAPNM, "AMSGrad": False, "WeightDecay": 0.5}},
    {"AdaPNM": {**ADAPNM, "ExactBias": True, "Beta1": 0.8, "Beta2": 0.95, "Beta0": 0.5, "Eps": 1e-6}},
    {"AdaPNM": {**ADAPNM, "AMSGrad": False, "WeightDecay": 0.01, "Decoupled": False, "Maximize": True, "Beta2": 0.99}},
]


def inputs(seed, T):
    s, out = seed, []
    for _ in range(N):
        s = (s * 6364136223846793005 + 1442695040888963407) & ((1 << 64) - 1)
        out.append((s >> 40) / float(1 << 23) - 1.0)
    return np.array(out, T)


def trajectory(name, h, seed, T):
    adaptive = name == "AdaPNM"
    p = inputs(seed, T)
    a, b, v, x = (np.zeros(N, T) for _ in range(4))
    state = [a, b] + ([v] if adaptive else []) + ([x] if h.get("AMSGrad") else [])
    hashes = {}
    for t in range(1, STEPS + 1):
        # Coefficients: float64, rounded once to T.
        lr, beta1, beta0, wd = h["LR"], h["Beta1"], h["Beta0"], h["WeightDecay"]
        norm = math.sqrt((1 + beta0) ** 2 + beta0**2)
        k1, k2 = lr * (1 + beta0) / norm, lr * beta0 / norm
        gs = T(-1 if h["Maximize"] else 1)
        l2 = T(0 if h["Decoupled"] else wd)
        keep = T(1 - lr * wd if h["Decoupled"] else 1)

        m, n = (a, b) if t % 2 else (b, a)
        g = gs * inputs(seed + t, T)
        g = g + l2 * p
        m[:] = T(beta1**2) * m + T(1 - beta1**2) * g
        if adaptive:
            beta2 = h["Beta2"]
            bias = 1 - beta1 ** (t + t % 2 if h["ExactBias"] else t)
            k1, k2 = k1 / bias, k2 / bias
            r = T(1 / math.sqrt(1 - beta2**t))
            v[:] = T(beta2) * v + T(1 - beta2) * (g * g)
            w = v
            if h["AMSGrad"]:
                x[:] = np.maximum(x, v)
                w = x
            u = (T(k1) * m - T(k2) * n) / (np.sqrt(w) * r + T(h["Eps"]))
        else:
            u = T(k1) * m - T(k2) * n
        p[:] = keep * p - u
        assert all(q.dtype == T for q in (p, g, m, u, *state))
        if t in RECORDED:
            data = b"".join(q.astype(q.dtype.newbyteorder("<")).tobytes() for q in (p, *state))
            hashes[t] = hashlib.sha256(data).hexdigest()
    return hashes


cases = []
for i, rule in enumerate(RULES):
    (name, h), = rule.items()
    for dtype in (np.float32, np.float64):
        seed = 100_000 * (i + 1)
        cases.append({**rule, "dtype": dtype.__name__, "seed": seed, "sha256": trajectory(name, h, seed, dtype)})
print(json.dumps({"source": "testdata/bits.py (NumPy)", "n": N, "cases": cases}, indent=1))
