"""What is timed: one training step (forward, backward, update), built alike for each contender."""

from collections.abc import Callable

import numpy as np

# name: (what it is, dense widths or None, batch)
WORKLOADS = {
    "a": ("dense 2-16-16-1, batch 32", (2, 16, 16, 1), 32),
    "b": ("dense 64-128-128-10, batch 64", (64, 128, 128, 10), 64),
    "c": ("dense 784-512-512-10, batch 128", (784, 512, 512, 10), 128),
    "d": ("residual, width 64, 50 blocks with batch norm, batch 64", (64,) * 51 + (10,), 64),
    "e": ("convolutional, 8×8 images, batch 64", None, 64),
    "f": ("dense 2048 × 4, batch 512", (2048,) * 4, 512),
    "g": ("gradient descent on a 2-D quadratic", None, 1),
}
CONTENDERS = ("torch", "torch, fused Adam", "dlmini, NumPy", "dlmini, torch arrays")


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and targets of a workload, float32 and class numbers."""
    _, widths, batch = WORKLOADS[name]
    rng = np.random.default_rng(0)
    shape = (batch, 1, 8, 8) if name == "e" else (batch, widths[0] if widths else 2)
    x = rng.standard_normal(shape).astype(np.float32)
    if name == "a":
        return x, rng.standard_normal((batch, 1)).astype(np.float32)
    return x, rng.integers(0, widths[-1] if widths else 10, batch)


def build(name: str, contender: str) -> Callable[[], None]:
    """A function that takes one step."""
    if contender.startswith("torch"):
        return _torch_step(name, fused="fused" in contender)
    return _dlmini_step(name, "numpy" if "NumPy" in contender else "torch")


def _dlmini_step(name, backend):
    import dlmini as dl
    from dlmini import nn

    dl.use(backend)
    dl.seed(0)
    x, y = (dl.asarray(a) for a in data(name))
    if name == "g":
        h = dl.asarray([[3.0, 1.0], [1.0, 2.0]])
        theta = dl.Tensor([[1.0, 1.0]], requires_grad=True)
        optimizer = dl.optim.SGD([theta], 0.01)

        def loss():
            return 0.5 * (dl.matmul(theta, h) * theta).sum()

    else:
        net = _network(name, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Sequential, nn.Residual, nn)
        optimizer = dl.optim.Adam(net.parameters(), 1e-3)
        criterion = dl.mse_loss if name == "a" else dl.cross_entropy

        def loss():
            return criterion(net(x), y)

    return _step(optimizer, loss)


def _torch_step(name, fused):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = (torch.as_tensor(a) for a in data(name))
    if name == "g":
        h = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
        theta = torch.ones(1, 2, requires_grad=True)
        optimizer = torch.optim.SGD([theta], 0.01, fused=fused)

        def loss():
            return 0.5 * ((theta @ h) * theta).sum()

    else:

        class Residual(nn.Module):
            def __init__(self, branch):
                super().__init__()
                self.branch = branch

            def forward(self, x):
                return x + self.branch(x)

        net = _network(name, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Sequential, Residual, nn)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=fused)
        criterion = nn.functional.mse_loss if name == "a" else nn.functional.cross_entropy

        def loss():
            return criterion(net(x), y)

    return _step(optimizer, loss)


def _step(optimizer, loss):
    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _network(name, linear, relu, norm, sequential, residual, nn):
    """The same layers from either library."""
    if name == "e":
        return sequential(
            nn.Conv2d(1, 16, 3, padding=1), relu(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), relu(), nn.MaxPool2d(2),
            nn.Flatten(), linear(128, 10),
        )  # fmt: skip
    widths = WORKLOADS[name][1]
    layers = []
    for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
        last = i == len(widths) - 2
        if name == "d" and not last:
            layers.append(residual(sequential(linear(n, m), norm(m), relu())))
        else:
            layers.append(linear(n, m))
            if not last:
                layers.append(relu())
    return sequential(*layers)
