"""PyTorch: eager or compiled, with its default Adam (it loops over the parameters) or the fused."""

import torch
from torch import nn

from ..workloads import CHANNELS, FEATURES, HESSIAN, Workload, data, initial
from . import Step


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.branch(x)


def network(w: Workload) -> nn.Module:
    if w.kind == "conv":
        layers = []
        for n, m in zip(CHANNELS, CHANNELS[1:], strict=False):
            layers += [nn.Conv2d(n, m, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FEATURES, w.widths[-1]))
    layers = []
    for n, m in zip(w.widths[:-2], w.widths[1:-1], strict=True):
        if w.kind == "residual":
            layers.append(Residual(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU()))
        else:
            layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*w.widths[-2:]))


def build(w: Workload, lr: float, fused=False, compiled=None, device="cpu") -> Step:
    start = [torch.as_tensor(a, device=device) for a in initial(w)]
    if w.kind == "quadratic":
        hessian = torch.as_tensor(HESSIAN, device=device)
        parameters = [start[0].clone().requires_grad_()]

        def loss():
            return 0.5 * ((parameters[0] @ hessian) * parameters[0]).sum()

        optimizer = torch.optim.SGD(parameters, lr, fused=fused)
    else:
        x, y = (torch.as_tensor(a, device=device) for a in data(w))
        net = network(w).to(device)
        parameters = list(net.parameters())
        with torch.no_grad():
            for p, a in zip(parameters, start, strict=True):
                p.copy_(a)
        criterion = nn.functional.mse_loss if w.regression else nn.functional.cross_entropy

        def loss():
            return criterion(net(x), y)

        optimizer = torch.optim.Adam(parameters, lr, fused=fused)
    if compiled:
        loss = torch.compile(loss, fullgraph=True, backend=compiled)

    def take():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value

    return Step(take, lambda: [p.detach().cpu().numpy().copy() for p in parameters])
