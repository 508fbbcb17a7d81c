"""Any 2D network of MONAI's: sizes that it does not divide, the form of its answer, and weights that are not its."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from shared.errors import StudyError, is_memory_error, printable

DIVISORS = (1, 8, 16, 32, 64, 128)
Answer = Callable[[torch.Tensor], Any]


def answer_of(
    network: Answer, x: torch.Tensor, divisor: int, padding: str, one_logit: bool
) -> tuple[torch.Tensor, int]:
    """A network's logits for ``[N, C, X, Y]``, which is padded at the far ends as far as the network needs it.

    How often a network halves its input is nowhere to be asked for: sizes are tried.

    Args:
        network: gives ``[N, 1, X, Y]``, or ``[N, 1]``.
        x: its input.
        divisor: X and Y are padded to a multiple of this first, then of larger ones.
        padding: what with, as for torch's pad.
        one_logit: whether one logit for the whole of an input will do, too.

    Returns:
        ``[N, 1, X, Y]`` or ``[N, 1]``, and the divisor that would do.

    Raises:
        StudyError: the network cannot take such an input, or answers in another form.
    """
    problems = []
    for enough, padded in paddings(x, divisor, padding):
        try:
            answer = network(padded)
        except ImportError as e:
            raise StudyError(f"network_def: this network lacks a package: {first_line(e)}. Install it.") from e
        except Exception as e:
            if is_memory_error(e):  # the network's size is not at fault, and a larger input would need more
                raise
            cause = f"cannot take an input {list(x.shape)} ({first_line(e)})"
            problems.append(f"{cause}. Give a 2D one of {x.shape[1]} channels")
            continue
        logits = lone_tensor(answer)
        if logits is not None and logits.shape == (len(x), 1, *padded.shape[2:]):
            return logits[..., : x.shape[2], : x.shape[3]], enough
        if one_logit and logits is not None and logits.shape[:1] == x.shape[:1] and logits.numel() == len(x):
            return logits.reshape(len(x), 1), enough
        given = type(answer).__name__ if logits is None else list(logits.shape)
        wanted = "one logit per pixel, or one in all" if one_logit else "one logit per pixel"
        problems.append(f"answers an input {list(padded.shape)} with {given}. Give one with {wanted}")
    raise StudyError(f"network_def: this network {problems[0]}.")


def first_line(error: Exception) -> str:
    """What an error says, without its full stop and what comes after the first line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(". ")


def paddings(x: torch.Tensor, divisor: int, mode: str) -> Iterator[tuple[int, torch.Tensor]]:
    """``[N, C, X, Y]`` with X and Y padded to multiples of ``divisor`` and of larger ones, each size once."""
    seen = set()
    for enough in (d for d in DIVISORS if d >= divisor):
        more = (0, -x.shape[3] % enough, 0, -x.shape[2] % enough)
        if more not in seen:
            seen.add(more)
            yield enough, F.pad(x, more, mode=mode) if any(more) else x


def lone_tensor(answer: Any) -> torch.Tensor | None:
    """An answer that is a tensor, or a list that holds just one, as BasicUNetPlusPlus gives."""
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    return answer if isinstance(answer, torch.Tensor) else None


def require_network(network: torch.nn.Module, inferer: Inferer, channels: int, size: tuple[int, int]) -> None:
    """Raise SystemExit, before anything is trained, when a network does not fit what it is to be trained on.

    Args:
        network: that will train.
        inferer: which calls it.
        channels: of its input.
        size: pixels of its input.
    """
    x = torch.zeros(2, channels, *size, device=next(network.parameters()).device)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            inferer(x, network)
    except StudyError as e:
        raise SystemExit(f"ERROR {e}") from None
    finally:
        network.train(training)


def require_weights(network: torch.nn.Module, path: str, kept: bool = False) -> None:
    """Raise SystemExit with one line for weights that are missing, damaged, not finite or another network's.

    MONAI's loader, which comes later, would list every tensor, or take what is not finite.

    Args:
        network: bare or in DistributedDataParallel.
        path: a state dict, plain or under ``model``; "" for none.
        kept: whether they have to be what a training keeps. In a checkpoint to go on from these are ``averaged``, and
            MONAI's loader would take the others.
    """
    problem = weights_problem(getattr(network, "module", network), Path(path), kept) if path else None
    if problem:
        raise SystemExit(printable(f"ERROR {path}: {problem}"))


def weights_problem(network: torch.nn.Module, path: Path, kept: bool = False) -> str | None:
    """What is to be said against a file of weights for a bare network, and what to do; or None."""
    if not path.is_file():
        return "no such weights. Check the path."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        if zipfile.is_zipfile(path):  # whole, as PyTorch writes it
            return "no state dict but other objects, which are not loaded. Save the network's state_dict()."
        return "damaged, or no weights. Train them, or fetch them again."
    if kept and isinstance(state, Mapping) and "averaged" in state:
        cause = "a checkpoint to go on from, whose last weights are not the averaged ones that a training keeps"
        return f"{cause}. Give the model.pt beside it, or save its 'averaged' alone with torch.save."
    state = state.get("model", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        return "no state dict. Save the network's state_dict()."
    own, found = ({key: value.shape for key, value in each.items()} for each in (network.state_dict(), state))
    wrong = [key for key in {**own, **found} if own.get(key) != found.get(key)]
    if wrong:
        cause = f"weights of another network than this network_def, a {type(network).__name__}"
        return f"{cause} (first at {wrong[0]}). Give the network_def they were trained with."
    if lost := not_finite(state):
        return f"weights that are not finite (first at {lost}). Train them again, or fetch them again."
    return None


def not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The first of some tensors that holds NaN or infinity, or None."""
    return next((key for key, value in state.items() if not torch.isfinite(value.sum())), None)  # a third of the time
