"""What the aggregator logs: one line an event, as text or as JSON, and never a secret.

Nothing in this project hands keys, tokens, spend-key secrets or whole signatures to a log. The filter here is the
second line of defence: what looks like a token, a bearer header or a signature is struck out wherever it comes from,
libraries included (threat 32).
"""

import json
import logging
import re
import sys
import time
from typing import Any, Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")
TRACEBACK_CHARS_MAX: Final = 8_192
"""In JSON; the end of a traceback tells most."""

_SECRETS: Final = re.compile(
    r"ts_[A-Za-z0-9_-]{20,}"  # sellers' tokens
    r"|(?i:bearer\s+[^\s'\"]+)"
    r"|(?:0x)?(?<![0-9a-fA-F])[0-9a-fA-F]{128,}"  # signatures; hashes have 64 digits
)
_STRUCK_OUT: Final = "[struck out]"
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_QUIET: Final = ("web3", "aiohttp", "urllib3", "asyncio", "grpc", "eth_account")
"""Libraries whose debugging output would drown ours, and show raw requests."""


def configure(level: str, *, as_json: bool, stream: TextIO = sys.stderr) -> None:
    """Log to `stream` from this level on; replaces what was configured before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and the extra fields as key=value."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return the line without a traceback."""
        extras = "".join(f" {key}={value}" for key, value in extras_of(record).items())
        return super().formatMessage(record) + extras

    def format(self, record: logging.LogRecord) -> str:
        """Return the whole entry."""
        return strike_out(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the extra fields, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | extras_of(record)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)[-TRACEBACK_CHARS_MAX:]
        return strike_out(json.dumps(entry, default=str))


def extras_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was logged with `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _OWN}


def strike_out(text: str) -> str:
    """Return the text without what looks like a secret."""
    return _SECRETS.sub(_STRUCK_OUT, text)
