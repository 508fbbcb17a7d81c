"""Where the networks compute: names that are taken, and one line for those that are not."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_cascade import bundles  # noqa: F401

from liver_ct import LiverCT
from liver_ct.chain.devices import check_answer, pick_device
from liver_ct.errors import StudyError


@pytest.fixture
def gpus(monkeypatch):
    """Function that makes PyTorch find so many GPUs; returns the list of those that were chosen."""

    def pretend(count: int) -> list[int]:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


def test_a_gpu_is_taken_by_its_number_or_by_the_process(gpus, monkeypatch):
    chosen = gpus(2)
    assert [str(pick_device(name)) for name in (None, "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(pick_device(name)) for name in ("cuda", "cuda:0")] == ["cuda:1", "cuda:0"]
    assert chosen == [0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    "count, name, cause",
    [
        (0, "cuda", "no GPU that PyTorch can use"),
        (0, "cuda:1", "no GPU that PyTorch can use"),
        (1, "cuda:1", "PyTorch finds one GPU, cuda:0"),
        (2, "cuda:2", "PyTorch finds 2 GPUs, cuda:0 to cuda:1"),
        *(
            (2, name, "cpu or cuda")
            for name in ("cuda:", "cuda:-1", "cuda:x", "cuda:٣٣٣٣", "cpu:0", "mps:0", "CUDA", "tpu", "")
        ),
    ],
)
def test_one_that_is_not_there_is_refused_by_one_line(gpus, count, name, cause):
    gpus(count)
    with pytest.raises(StudyError) as error:
        pick_device(name)
    line = str(error.value)
    assert line.startswith(f"--device {name}: ") and cause in line and "\n" not in line


def test_mps_is_refused_where_pytorch_has_none_and_never_chosen(gpus, monkeypatch):
    gpus(0)
    for built, cause in ((False, "built without"), (True, "this Mac or its macOS")):
        monkeypatch.setattr(torch.backends.mps, "is_built", lambda built=built: built)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(StudyError, match=cause):
            pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(pick_device("mps")) == "mps" and str(pick_device(None)) == "cpu"


def test_the_shipped_networks_pass_the_check_of_a_device_and_a_wrong_one_does_not():
    chain = LiverCT(device="cpu")
    for stage in (chain.seg, chain.cls):
        check_answer(stage.network, torch.device("cpu"))
    wrong = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3), Alternating())
    with pytest.raises(StudyError, match="another answer there than on the CPU"):
        check_answer(wrong, torch.device("cpu"))


class Alternating(torch.nn.Module):
    """Gives another answer each time, also as a copy."""

    calls = itertools.count()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + (-1) ** next(Alternating.calls) * 3
