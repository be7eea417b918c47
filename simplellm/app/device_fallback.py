"""Fallback from an automatically chosen GPU to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from simplellm.device import choose_device, failures_reported
from simplellm.errors import DeviceFailure, Notice

T = TypeVar("T")


class DeviceFallback:
    """The device of one command: the requested one, or the CPU once an automatic GPU has failed.

    `requested`: auto, cpu, cuda or mps.
    """

    def __init__(self, requested: str, notice: Notice) -> None:
        self._requested = requested
        self._notice = notice

    @property
    def is_automatic(self) -> bool:
        return self._requested == "auto"

    def run(
        self, job: Callable[[torch.device], T], is_final: Callable[[], bool] | None = None
    ) -> T:
        """`job(device)`, repeated on the CPU if an automatically chosen GPU fails.

        `is_final` is asked after a failure: True means that the job must not be repeated.
        DeviceFailure if the job fails on a named device or must not be repeated. After a fallback
        all later jobs run on the CPU.
        """
        device = choose_device(self._requested)
        try:
            with failures_reported(device):
                return job(device)
        except DeviceFailure as failure:
            if not self.is_automatic or (is_final is not None and is_final()):
                raise
            self._notice(f"{failure}; continuing on the CPU")
        self._requested = "cpu"
        cpu = torch.device("cpu")
        with failures_reported(cpu):
            return job(cpu)
