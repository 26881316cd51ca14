"""The alarms of an aggregator, from the JSON lines that it writes to its log."""

import json
from pathlib import Path
from typing import Final, NamedTuple

ALARM: Final = "tallystick.alarm"


class Alarm(NamedTuple):
    """One line of the alarm logger: when it was written, in seconds since the epoch, and what it says."""

    at: float
    message: str


class Alarms:
    """Reads on where it read last."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self.all: list[Alarm] = []

    def look(self) -> list[Alarm]:
        """All alarms so far."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # a line may be half written
        self._read += len(whole)
        for line in whole.splitlines():
            if ALARM.encode() not in line or not line.startswith(b"{"):
                continue
            entry = json.loads(line)
            if entry.get("logger") == ALARM:
                self.all.append(Alarm(entry["time"], entry["message"]))
        return self.all

    def since(self, at: float) -> list[Alarm]:
        """Those at this time or later."""
        return [alarm for alarm in self.look() if alarm.at >= at]
