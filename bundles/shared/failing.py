"""How a training or an evaluation ends that cannot go on: with one line."""

from __future__ import annotations

import logging
import math
import sys
import threading
from functools import partial
from multiprocessing.dummy import DummyProcess
from types import TracebackType
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import MONAIEnvVars, ensure_tuple
from shared.errors import StudyError, describe
from shared.knobs import config_names, given_options
from shared.networks import not_finite
from torch import nn

CHECK = "Check the knobs and files given; MONAI_DEBUG=1 shows where it comes from."


def fail_in_one_line() -> None:
    """Let ``python -m monai.bundle run`` end with ``ERROR <file>: <cause>. <fix>`` and exit status 1 at any error.

    MONAI wraps an error once for every part of a config that it makes, and the cause is buried under their tracebacks.
    MONAI's own MONAI_DEBUG=1 keeps these. A workflow that Python code makes is left alone.
    """
    given = given_options()
    if given is not None and not MONAIEnvVars.debug():
        sys.excepthook = partial(_say, config_names(given))


def _say(source: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Exception):  # Ctrl-C
        sys.__excepthook__(kind, error, trace)
        return
    for thread in threading.enumerate():  # CacheDataset's, which end the process with an abort where they still read
        if isinstance(thread, DummyProcess):
            thread.join(60)
    memory = "Close other programs, or lower the size of a batch or --cache_rate."
    print(f"ERROR {describe(error, source, 'it', memory, CHECK)}", file=sys.stderr, flush=True)


def run_engine(engine: Engine) -> None:
    """Run an engine to its end; under `fail_in_one_line` neither ignite nor MONAI logs an error before that line.

    Args:
        engine: a trainer or evaluator, with its handlers.
    """
    hushed = isinstance(sys.excepthook, partial) and sys.excepthook.func is _say
    names = [name for name in logging.root.manager.loggerDict if hushed and name.startswith(("ignite.", "monai."))]
    for name in names:
        logging.getLogger(name).addFilter(_below_error)
    try:
        engine.run()
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(_below_error)


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


class StopOnNan:
    """Handler that ends a training whose loss or weights are no longer finite, before anything is saved.

    ignite's TerminateOnNan ends it as if all were well, and MONAI would save what it left.

    Args:
        averaged: the weights that are kept; NaN once in the network stays in its average.
        loss_of: from the engine's output to the loss.

    Raises:
        StudyError: from the engine's run.
    """

    def __init__(self, averaged: nn.Module, loss_of: Any) -> None:
        self.averaged, self.loss_of = averaged, loss_of

    def attach(self, engine: Engine) -> None:
        """Look at the loss of every step and at the weights of every epoch."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.check_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check_weights)

    def check_loss(self, engine: Engine) -> None:
        """Raise StudyError unless the step's loss is finite."""
        for loss in map(float, ensure_tuple(self.loss_of(engine.state.output))):
            if not math.isfinite(loss):
                self._stop(engine, f"the loss became {loss}")

    def check_weights(self, engine: Engine) -> None:
        """Raise StudyError unless all of the averaged weights are finite."""
        if lost := not_finite(self.averaged.state_dict()):
            self._stop(engine, f"the weights became NaN or infinite (first {lost})")

    def _stop(self, engine: Engine, cause: str) -> None:
        place = f"in step {engine.state.iteration}, epoch {engine.state.epoch}"
        raise StudyError(f"--learning_rate: {cause} {place}. Lower it, or look at the weights and CTs begun with.")
