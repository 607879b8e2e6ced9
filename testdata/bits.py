#!/usr/bin/env python3
"""Records the bits that the update must give on every machine: bits.py > bits.json

Each case is a trajectory, computed by NumPy in the element type, one rounded operation after the other, in the order of
the package comment. What is recorded is the SHA-256 of the parameters and the state, as little-endian bytes, after each
of some steps. NumPy does not fuse operations, so that a Go compiler that does so is found out by the first hash.

In mixed precision a case has formats: what a vector holds is kept here as float32, and rounded after each step: to nearest
even, or by adding a random number of 16 bits that depends on the seed, tensor 0, the step and the element. With state in
mxfp8, momenta are blocks of 32, of which the scales are recorded behind the elements, and averages are bf16.

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
SGD = {"LR": 0.1, "Momentum": 0.0, "Dampening": 0.0, "WeightDecay": 0.0, "Decoupled": False, "Nesterov": False,
       "Maximize": False}
ADAM = {"LR": 1e-3, "Beta1": 0.9, "Beta2": 0.999, "Eps": 1e-8, "WeightDecay": 0.0, "Decoupled": False, "AMSGrad": False,
        "Maximize": False}
LION = {"LR": 1e-4, "Beta1": 0.9, "Beta2": 0.99, "WeightDecay": 0.0, "Decoupled": True, "Maximize": False}
RULES = [
    {"PNM": PNM},
    {"PNM": {**PNM, "LR": 0.3, "WeightDecay": 0.01}},
    {"PNM": {**PNM, "LR": 0.3, "WeightDecay": 0.01, "Decoupled": False, "Beta1": 0.95, "Beta0": 2.0}},
    {"PNM": {**PNM, "LR": 0.1, "Maximize": True, "Beta0": -0.7}},
    {"AdaPNM": ADAPNM},
    {"AdaPNM": {**ADAPNM, "AMSGrad": False, "WeightDecay": 0.5}},
    {"AdaPNM": {**ADAPNM, "ExactBias": True, "Beta1": 0.8, "Beta2": 0.95, "Beta0": 0.5, "Eps": 1e-6}},
    {"AdaPNM": {**ADAPNM, "AMSGrad": False, "WeightDecay": 0.01, "Decoupled": False, "Maximize": True, "Beta2": 0.99}},
    {"SGD": {**SGD, "WeightDecay": 0.01}},
    {"SGD": {**SGD, "Momentum": 0.9, "Dampening": 0.1, "WeightDecay": 5e-4}},
    {"SGD": {**SGD, "Momentum": 0.9, "WeightDecay": 0.01, "Decoupled": True, "Maximize": True}},
    {"SGD": {**SGD, "LR": 0.03, "Momentum": 0.95, "Nesterov": True, "WeightDecay": 5e-4}},
    {"Adam": {**ADAM, "WeightDecay": 0.01}},
    {"Adam": {**ADAM, "Beta2": 0.95, "WeightDecay": 0.1, "Decoupled": True, "AMSGrad": True}},
    {"Adam": {**ADAM, "Beta1": 0.8, "Eps": 1e-6, "AMSGrad": True, "Maximize": True}},
    {"Lion": {**LION, "LR": 3e-4, "WeightDecay": 1.0}},
    {"Lion": {**LION, "Beta1": 0.95, "Beta2": 0.98, "WeightDecay": 0.01, "Decoupled": False, "Maximize": True}},
]
MOMENTA = {"PNM": 2, "AdaPNM": 2, "SGD": 1, "Adam": 1, "Lion": 1}

MIXED = [
    {"params": "float32", "grads": "bf16", "state": "float32", "copy": "bf16"},
    {"params": "float32", "grads": "f16", "state": "float32", "copy": "f16"},
    {"params": "float32", "grads": "float32", "state": "bf16", "copy": ""},
    {"params": "bf16", "grads": "bf16", "state": "bf16", "copy": ""},
    {"params": "float32", "grads": "bf16", "state": "mxfp8", "copy": ""},
    {"params": "bf16", "grads": "bf16", "state": "mxfp8", "copy": ""},
]


def inputs(seed, T):
    s, out = seed, []
    for _ in range(N):
        s = (s * 6364136223846793005 + 1442695040888963407) & ((1 << 64) - 1)
        out.append((s >> 40) / float(1 << 23) - 1.0)
    return np.array(out, T)


def scramble(x):  # the next number of SplitMix64
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def draw(seed, t):  # 16 random bits for each element, in blocks of 32: the lower halves of 16 words, then their upper halves
    h = scramble(scramble(scramble(scramble(seed)) + t & MASK))
    blocks = (N + 31) // 32
    x = np.arange(16 * blocks, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(h & 0xFFFFFFFF)
    x ^= np.uint32(h >> 32)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x846CA68B)
    x = (x ^ x >> np.uint32(15)).reshape(blocks, 16)
    return np.concatenate([x & np.uint32(0xFFFF), x >> np.uint32(16)], axis=1)


def slot(bits, n):  # of those that are drawn: momenta have slot 0, averages 1, parameters 2
    return (bits * np.uint32(pow(0x4F13, n, 1 << 16)) & np.uint32(0xFFFF)).reshape(-1)[:N]


def mxfp8(x, bits):  # the numbers that are stored, and the bytes, elements and then scales
    x = np.append(x, np.zeros(-N % 32, np.float32)).reshape(-1, 32)
    fraction, exponent = np.frexp(np.abs(x).max(axis=1))
    scale = np.where(fraction > 0, exponent - 9 + (fraction > 0.875), -127).clip(-127)  # 448 is 0.875·2⁹
    y = x * np.exp2(-8 - scale)[:, None].astype(np.float32)
    low = np.concatenate([bits[:, :16] & np.uint32(0x1FFF), bits[:, 16:] >> np.uint32(3)], axis=1)
    high = bits[:, [i // 2 + i % 2 * 16 for i in range(32)]] & np.uint32(0x7F)
    y = (y.view(np.uint32) + low).view(np.float32)
    place = np.exp2(np.frexp(np.abs(y))[1].clip(-13) - 11)  # the last of float16
    h = np.trunc(np.abs(y) / place) * place
    h = h.astype(np.float16).view(np.uint16) + high.astype(np.uint16) & np.uint16(0xFF80)
    elements = (h >> np.uint16(7)).astype(np.uint8) | np.signbit(y).astype(np.uint8) << np.uint8(7)
    value = np.copysign(h.view(np.float16).astype(np.float32) * np.exp2(8 + scale)[:, None].astype(np.float32), y)
    return value.reshape(-1)[:N], elements.reshape(-1)[:N].tobytes() + (scale + 127).astype(np.uint8).tobytes()


def bf16(x, random=None):
    b = x.view(np.uint32)
    if random is None:
        random = np.uint32(0x7FFF) + (b >> np.uint32(16) & np.uint32(1))
    return (b + random & np.uint32(0xFFFF0000)).view(np.float32)


def stored(x, kind):  # little-endian, as the format has it
    if kind == "bf16":
        return (x.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    if kind == "f16":
        return x.astype("<f2").tobytes()
    return x.astype(x.dtype.newbyteorder("<")).tobytes()


def rounded(x, kind):
    return {"float32": lambda: x, "bf16": lambda: bf16(x), "f16": lambda: x.astype(np.float16).astype(np.float32)}[kind]()


MASK = (1 << 64) - 1


def trajectory(name, h, seed, T, formats=None):
    own = T.__name__
    f = formats or {"params": own, "grads": own, "state": own, "copy": ""}
    p = inputs(seed, T)
    if formats:
        p = rounded(p, f["params"])
    momenta = 0 if h.get("Momentum") == 0 else MOMENTA[name]
    averages = ("Eps" in h) + h.get("AMSGrad", False)  # of squares: what ε joins is their root
    state = [np.zeros(N, T) for _ in range(momenta + averages)]
    packed = [bytes(N + (N + 31) // 32)] * momenta
    hashes = {}
    for t in range(1, STEPS + 1):
        g = inputs(seed + t, T)
        if formats:
            g = rounded(g, f["grads"])
        g = T(-1 if h["Maximize"] else 1) * g
        if h["WeightDecay"] and not h["Decoupled"]:
            g = g + T(h["WeightDecay"]) * p
        u = globals()[name.lower()](h, t, g, state, T)
        p[:] = T(1 - h["LR"] * h["WeightDecay"] if h["Decoupled"] else 1) * p - u
        assert all(q.dtype == T for q in (p, g, u, *state))
        copy = stored(rounded(p, f["copy"]), f["copy"]) if f["copy"] else b""
        bits = draw(seed, t) if formats else None
        if f["state"] == "mxfp8" and momenta:
            i = (t + 1) % momenta  # the one that this step has changed
            state[i][:], packed[i] = mxfp8(state[i], bits)
        if f["state"] in ("bf16", "mxfp8"):
            for i, q in enumerate(state):
                if i >= momenta:
                    q[:] = bf16(q, slot(bits, 1))
                elif f["state"] == "bf16":
                    q[:] = bf16(q)
        if f["params"] == "bf16":
            p[:] = bf16(p, slot(bits, 2))
        if t in RECORDED:
            average = "bf16" if f["state"] == "mxfp8" else f["state"]
            data = stored(p, f["params"]) + b"".join(
                packed[i] if i < momenta and f["state"] == "mxfp8" else stored(q, average) for i, q in enumerate(state)) + copy
            hashes[t] = hashlib.sha256(data).hexdigest()
    return hashes


# Each rule updates its state and returns what is subtracted from the parameters. Coefficients are computed in float64 and
# rounded once to T.

def pnm(h, t, g, state, T, bias=1.0):
    m, n = state[:2] if t % 2 else state[1::-1]
    beta1, beta0 = h["Beta1"], h["Beta0"]
    norm = math.sqrt((1 + beta0) ** 2 + beta0**2)
    k1, k2 = h["LR"] * (1 + beta0) / norm / bias, h["LR"] * beta0 / norm / bias
    m[:] = T(beta1**2) * m + T(1 - beta1**2) * g
    return T(k1) * m - T(k2) * n


def adapnm(h, t, g, state, T):
    bias = 1 - h["Beta1"] ** (t + t % 2 if h["ExactBias"] else t)
    return pnm(h, t, g, state, T, bias) / denominator(h, t, g, state[2:], T)


def sgd(h, t, g, state, T):
    lr, momentum = T(h["LR"]), T(h["Momentum"])
    if momentum == 0:
        return lr * g
    m = state[0]
    m[:] = g if t == 1 else momentum * m + T(1 - h["Dampening"]) * g
    return lr * (g + momentum * m) if h["Nesterov"] else lr * m


def adam(h, t, g, state, T):
    m, beta1 = state[0], h["Beta1"]
    m[:] = T(beta1) * m + T(1 - beta1) * g
    return T(h["LR"] / (1 - beta1**t)) * m / denominator(h, t, g, state[1:], T)


def lion(h, t, g, state, T):
    m, beta1, beta2 = state[0], h["Beta1"], h["Beta2"]
    c = T(beta1) * m + T(1 - beta1) * g
    m[:] = T(beta2) * m + T(1 - beta2) * g
    return T(h["LR"]) * np.sign(c)


def denominator(h, t, g, state, T):
    v, beta2 = state[0], h["Beta2"]
    v[:] = T(beta2) * v + T(1 - beta2) * g * g
    w = v
    if h["AMSGrad"]:
        w = state[1]
        w[:] = np.maximum(w, v)
    return np.sqrt(w) * T(1 / math.sqrt(1 - beta2**t)) + T(h["Eps"])


cases = []
for i, rule in enumerate(RULES):
    (name, h), = rule.items()
    for dtype in (np.float32, np.float64):
        seed = 100_000 * (i + 1)
        cases.append({**rule, "dtype": dtype.__name__, "seed": seed, "sha256": trajectory(name, h, seed, dtype)})
for i, rule in enumerate(RULES):
    (name, h), = rule.items()
    for k, formats in enumerate(MIXED):
        seed = 100_000 * (i + 1) + 20_000 * (k + 1)
        cases.append({**rule, "dtype": "mixed", "formats": formats, "seed": seed,
                      "sha256": trajectory(name, h, seed, np.float32, formats)})
print(json.dumps({"source": "testdata/bits.py (NumPy)", "n": N, "cases": cases}, indent=1))
