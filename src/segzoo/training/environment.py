"""The hardware and software of a training, for reports; nothing that names a machine or its user."""

import os
import platform
from importlib import metadata

import torch

_PACKAGES = ("segzoo", "torch", "torchvision", "transformers", "accelerate", "datasets", "numpy", "pillow")


def hardware_facts(device: torch.device | str, num_processes: int = 1) -> dict[str, str]:
    """Device, processes, processor cores, memory and system, in words.

    Args:
        device: the device of this process.
        num_processes: number of processes of the training.
    """
    device = torch.device(device)
    facts = {"device": "CPU"}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts["device"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
        facts["largest memory in use"] = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    elif device.type != "cpu":
        facts["device"] = device.type.upper()
    facts["processes"] = str(num_processes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["processor"] = f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads for PyTorch"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    facts["system"] = f"{platform.system()} {platform.release()} ({platform.machine()})"
    return facts


def software_versions() -> dict[str, str]:
    """Versions of Python, segzoo, the libraries that its numbers depend on, and CUDA if PyTorch has it."""
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            versions[package] = "not installed"
    if torch.version.cuda is not None:
        versions["CUDA of PyTorch"] = torch.version.cuda
    return versions


def _processor() -> str:
    """The processor's name; on Linux only a file has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
