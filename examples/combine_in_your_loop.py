"""Surgery in a training loop of your own, text or not: `python examples/combine_in_your_loop.py`."""

import torch
from torch.nn import functional as F

import mtk

torch.manual_seed(0)
rows = torch.randn(512, 16)  # [B, D]
kinds, sizes = (rows[:, 0] > 0).long(), rows[:, 1:2] - rows[:, 0:1]
trunk = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU())
kind, size = torch.nn.Linear(32, 2), torch.nn.Linear(32, 1)
optimizer = torch.optim.AdamW([p for module in (trunk, kind, size) for p in module.parameters()], lr=1e-2)

conflicts = 0
for step in range(60):
    features = trunk(rows)  # [B, D] -> [B, 32]
    losses = {"kind": F.cross_entropy(kind(features), kinds), "size": F.mse_loss(size(features), sizes)}
    optimizer.zero_grad()
    report = mtk.combine(losses, trunk.parameters(), "pcgrad")  # in place of sum(losses.values()).backward()
    optimizer.step()
    conflicts += report.conflicts or 0
    if step % 20 == 0:
        print(step, {task: round(loss.item(), 3) for task, loss in losses.items()}, "conflicts so far:", conflicts)
