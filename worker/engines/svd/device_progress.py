"""How far the device is, without ever waiting for all that it was given."""

import torch

from worker.attempt import Attempt


class DeviceProgress:
    """Reports the parts of a phase that are done; on a GPU these are fewer than Python has queued.

    It is told when a part is queued, and waits for the one before: the GPU always has work, but never more than one
    part of it, so a stop comes through within a part.
    """

    def __init__(self, attempt: Attempt, total: int, device: torch.device) -> None:
        self.attempt, self.total, self.on_gpu = attempt, total, device.type == "cuda"
        self.last: torch.cuda.Event | None = None
        """Passes once the device is done with the part queued last; None if a part is done when it is queued."""
        self._queued = 0

    def queued(self) -> None:
        """Raises Stopped."""
        self._queued += 1
        done = self._queued
        if self.on_gpu:
            self._wait_for_the_part_before()
            done -= 1
        self.attempt.advance(done, self.total)

    def _wait_for_the_part_before(self) -> None:
        before, self.last = self.last, torch.cuda.Event(blocking=True)  # else waiting would keep a core busy
        self.last.record()
        if before is not None:
            before.synchronize()


def wait_for(device: torch.device) -> None:
    """Until the device has done all that was queued, so that a phase is charged for its own work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
