"""A training of a few numbers, with everything that checkpoints hold."""

import torch
from accelerate import Accelerator
from torch import nn


class Average:
    """Something registered for checkpoints, as a weight average is; ``on_save`` happens in the middle of writing."""

    def __init__(self, on_save=None):
        self.values, self.on_save = torch.zeros(3), on_save

    def state_dict(self):
        if self.on_save is not None:
            self.on_save()
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def make(width=3, on_save=None, optimizer=torch.optim.AdamW):
    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    model = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = optimizer(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    average = Average(on_save)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule, average)
    return accelerator, model, optimizer, schedule, average


def train(model, optimizer, schedule, average, steps):
    losses = []
    for _ in range(steps):
        loss = model(torch.rand(5, 3)).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.values += loss.detach()
        losses.append((loss.item(), average.values.tolist(), schedule.get_last_lr()))
    return losses


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def damage(folder, file="model.safetensors"):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
