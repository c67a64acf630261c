"""dlmini, on NumPy arrays or on torch tensors used as plain arrays."""

import dlmini as dl
from dlmini import nn

from ..workloads import CHANNELS, FEATURES, HESSIAN, Workload, data, initial
from . import Step


def network(w: Workload) -> nn.Module:
    if w.kind == "conv":
        layers = []
        for n, m in zip(CHANNELS, CHANNELS[1:], strict=False):
            layers += [nn.Conv2d(n, m, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FEATURES, w.widths[-1]))
    layers = []
    for n, m in zip(w.widths[:-2], w.widths[1:-1], strict=True):
        if w.kind == "residual":
            branch = nn.Sequential(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU())
            layers.append(nn.Residual(branch))
        else:
            layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*w.widths[-2:]))


def build(w: Workload, lr: float, backend: str = "numpy") -> Step:
    dl.use(backend)
    if w.kind == "quadratic":
        hessian = dl.asarray(HESSIAN)
        parameters = [dl.Tensor(initial(w)[0], requires_grad=True)]

        def loss():
            return 0.5 * (dl.matmul(parameters[0], hessian) * parameters[0]).sum()

        optimizer = dl.optim.SGD(parameters, lr)
    else:
        x, y = (dl.asarray(a) for a in data(w))
        net = network(w)
        parameters = net.parameters()
        for p, a in zip(parameters, initial(w), strict=True):
            p.data = a
        criterion = dl.mse_loss if w.regression else dl.cross_entropy

        def loss():
            return criterion(net(x), y)

        optimizer = dl.optim.Adam(parameters, lr)

    def take():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value

    return Step(take, lambda: [p.numpy().copy() for p in parameters])
