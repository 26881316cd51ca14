"""What the aggregator logs: one line an event, as text or as JSON, and never a secret.

Three lines of defence, each enough by itself for what it covers (threat 32):
1. Nothing in this project hands keys, tokens, spend-key secrets or whole signatures to a log, and what holds one does
   not show it in its text form.
2. Libraries are heard from their warnings on, whatever our own level is: what they say for debugging holds all that
   passes through them, such as the parameters of SQL statements, requests with their headers, and URLs. It is emptied
   where the record is made, so that no handler gets it, whoever sets a logger's level to what.
3. What looks like a secret is struck out of what is left: tokens, bearer headers, signatures, signed transactions, raw
   bytes, and of URLs what follows the host, which is where providers have their keys.
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
    r"|(?:0x)?(?<![0-9a-fA-F])[0-9a-fA-F]{128,}"  # signatures and signed transactions; hashes have 64 digits
    r"|\bb'(?:[^'\\]|\\.){16,}'|\bb\"(?:[^\"\\]|\\.){16,}\""  # bytes as Python shows them: ours are told in hex
    r"|(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{42,}={1,2}(?![A-Za-z0-9+/_=-])"  # 32 bytes or more in base64
)
_URL: Final = re.compile(r"(?i)\b(https?://)(?:[^\s/?#'\"@]*@)?([^\s/?#'\"@]+)(?:[/?#][^\s'\"<>]+)")
"""Of a URL what comes before the host is a password, and what follows it may be a provider's key."""
_STRUCK_OUT: Final = "[struck out]"
_EMPTIED: Final = "[a library's words below a warning]"
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OURS: Final = ("tallystick", "tallystick_aggregator", "tallystick_client", "tallystick_contracts", "tallystick_chain")
_LOUDER: Final = {"asyncio": logging.ERROR}
"""Libraries that are heard later than from WARNING on: in its debug mode asyncio warns of slow calls, with what was
handed to them."""


def configure(level: str, *, as_json: bool, stream: TextIO = sys.stderr) -> None:
    """Log to `stream` from this level on; replaces what was configured before.

    From here on no handler of the process, of whatever logger, gets what a library says below a warning.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(is_told)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in list(root.manager.loggerDict):  # it costs less not to make the records
        if not _is_ours(name):
            logging.getLogger(name).setLevel(_told_from(name))
    logging.setLogRecordFactory(safe_record)


def is_told(record: logging.LogRecord) -> bool:
    """Return whether a record reaches our log: ours, or a library's that warns."""
    return record.levelno >= _told_from(record.name)


def safe_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
    """Make a log record that holds no secret, for whichever handler. See `logging.setLogRecordFactory`."""
    record = logging.LogRecord(*arguments, **keywords)
    if not is_told(record):
        record.msg, record.args, record.exc_info, record.stack_info = _EMPTIED, (), None, None
        return record
    try:
        record.msg, record.args = strike_out(record.getMessage()), ()
    except Exception:  # noqa: BLE001 - what does not format is told by the handler, and struck out by its formatter
        return record
    return record


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in _OURS


def _told_from(name: str) -> int:
    return logging.NOTSET if _is_ours(name) else _LOUDER.get(name.partition(".")[0], logging.WARNING)


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
    return _SECRETS.sub(_STRUCK_OUT, _URL.sub(rf"\1\2/{_STRUCK_OUT}", text))
