"""Where the networks compute: the CPU, a GPU of NVIDIA's, or Apple's MPS."""

from __future__ import annotations

import copy
import os
import re

import torch

from liver_ct.errors import StudyError

USE = "Use cpu or cuda (cuda:1 is the second GPU), or mps on a Mac."
MOST_APART = 0.1  # of probabilities; half precision on a GPU is 0.02 to 0.07 away


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or a GPU of NVIDIA's if there is one; raises StudyError for one that is not there."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(device)
    if gpu := re.fullmatch(r"cuda(?::([0-9]{1,3}))?", name):
        return _pick_gpu(name, gpu[1])
    if name == "mps":
        _check_mps()
    elif name != "cpu":
        raise StudyError(f"--device {name}: unknown. {USE}")
    return torch.device(name)


def _pick_gpu(name: str, number: str | None) -> torch.device:
    """The GPU of a number; without one, that of this process: those that torchrun starts take one each."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise StudyError(f"--device {name}: no GPU that PyTorch can use. Use --device cpu.")
    if number is not None and int(number) >= count:
        there = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise StudyError(f"--device {name}: no such GPU; PyTorch finds {there}. Use one that is there.")
    index = int(os.environ.get("LOCAL_RANK", 0)) % count if number is None else int(number)
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _check_mps() -> None:
    """Raise StudyError where there is no MPS."""
    if not torch.backends.mps.is_built():
        raise StudyError("--device mps: this PyTorch is built without Apple's MPS. Use --device cpu.")
    if not torch.backends.mps.is_available():
        raise StudyError("--device mps: this Mac or its macOS has no MPS that PyTorch can use. Use --device cpu.")


def check_answer(network: torch.nn.Module, device: torch.device) -> None:
    """Raise StudyError unless a 2D network answers a fixed pattern on a device as it does on the CPU.

    Convolutions on MPS have been wrong without a word in some versions of PyTorch.
    """
    channels = next(p for p in network.parameters() if p.ndim == 4).shape[1]
    line = torch.linspace(-3, 3, 64)
    pattern = torch.stack([(line[:, None] * (1 + c / 8)).sin() * (line - c / 4).cos() for c in range(channels)])[None]
    pattern = pattern.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        there, here = network(pattern.to(device)), copy.deepcopy(network).cpu()(pattern)
    apart = (there.cpu().float().sigmoid() - here.float().sigmoid()).abs().max()
    if not apart < MOST_APART:  # NaN compares false
        cause = f"PyTorch {torch.__version__} computes another answer there than on the CPU"
        raise StudyError(f"--device {device}: {cause}. Use --device cpu, or another version of PyTorch.")
