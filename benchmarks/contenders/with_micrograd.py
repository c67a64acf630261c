"""micrograd: one number a node. It has no Adam; this is the formula over its parameters."""

import math

import numpy as np
from micrograd.nn import MLP

from ..workloads import Workload, data, initial
from . import Step


def build(w: Workload, lr: float) -> Step:
    x, y = (a.tolist() for a in data(w))
    net = MLP(w.widths[0], list(w.widths[1:]))
    start = initial(w)
    for layer, weight, bias in zip(net.layers, start[::2], start[1::2], strict=True):
        for neuron, row, b in zip(layer.neurons, weight.tolist(), bias.tolist(), strict=True):
            neuron.b.data = b
            for parameter, number in zip(neuron.w, row, strict=True):
                parameter.data = number
    parameters = net.parameters()
    m, v = [0.0] * len(parameters), [0.0] * len(parameters)
    t = 0

    def take():
        nonlocal t
        loss = sum((net(row) - target[0]) ** 2 for row, target in zip(x, y, strict=True))
        loss = loss * (1 / len(x))
        net.zero_grad()
        loss.backward()
        t += 1
        rate, root = lr / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
        for i, p in enumerate(parameters):
            m[i] += 0.1 * (p.grad - m[i])
            v[i] += 0.001 * (p.grad * p.grad - v[i])
            p.data -= rate * m[i] / (math.sqrt(v[i]) / root + 1e-8)
        return loss.data

    def now():
        arrays = []
        for layer in net.layers:
            arrays.append(np.array([[p.data for p in n.w] for n in layer.neurons]))
            arrays.append(np.array([n.b.data for n in layer.neurons]))
        return arrays

    return Step(take, now)
