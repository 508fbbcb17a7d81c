"""Averaged weights, which are what a training leaves."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn


class AverageWeights(EMAHandler):
    """Keep an exponential moving average of a network's weights while it trains.

    ignite's handler takes what the network holds when the handler is made, before weights to start from are loaded:
    after few steps most of the average would still be the random start. This one begins when the training does.

    Args:
        network: that trains, bare or in DistributedDataParallel.
        averaged: a copy of it, bare, which gets the average.
        momentum: weight of the latest weights.
        warmup: their weight in the first step; it comes down to ``momentum`` within 200.
        buffers: ``update`` averages batch norm's statistics too, ``copy`` takes the latest.
    """

    def __init__(
        self, network: nn.Module, averaged: nn.Module, momentum: float, warmup: float = 0.1, buffers: str = "update"
    ) -> None:
        super().__init__(network, momentum, momentum_warmup=warmup, warmup_iters=200, handle_buffers=buffers)
        self.ema_model = averaged.eval().requires_grad_(False)

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Begin with the training and follow each of its steps."""
        engine.add_event_handler(Events.STARTED, self.begin)
        super().attach(engine, *args, **kwargs)

    def begin(self) -> None:
        """Take the network's weights as they are."""
        self.ema_model.load_state_dict(self.model.state_dict())
