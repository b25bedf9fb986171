"""How what the server logs is written: one event a line, for people or as JSON."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["text", "json"]


def configure_logging(format: LogFormat, *, stream: TextIO | None = None) -> None:
    """Our own events to `stream` (stderr); other libraries only from warnings on, in the same form."""
    out = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    structlog.configure(
        processors=[*shared, *_rendering(format, colors=out.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    handler = logging.StreamHandler(out)
    if format == "json":
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_rendering(format, colors=False),
                ],
            )
        )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _rendering(format: LogFormat, *, colors: bool) -> list[Processor]:
    # Tracebacks without local variables, unlike structlog's own default: they hold prompts.
    if format == "text":
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        return [console if colors else PlainText(console)]
    transform = ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(transform), structlog.processors.JSONRenderer(_json)]


class PlainText:
    """What `ConsoleRenderer` writes without colors, in a third of its time: every request has a line."""

    def __init__(self, console: structlog.dev.ConsoleRenderer) -> None:
        self._console = console

    def __call__(self, logger: WrappedLogger, name: str, fields: EventDict) -> str:
        if not _TRACEBACKS.isdisjoint(fields) or not fields.keys() >= _HEAD or "logger" in fields:
            return self._console(logger, name, fields)
        begin = f"{fields.pop('timestamp')} [{fields.pop('level'):<9}] {fields.pop('event')!s:<30}"
        return " ".join([begin, *[f"{key}={_shown(fields[key])}" for key in sorted(fields)]]).rstrip(" ")


_TRACEBACKS = frozenset({"exc_info", "exception", "stack", "stack_info"})
_HEAD = frozenset({"timestamp", "level", "event"})
_needs_quotes = re.compile(r"[ \t=\r\n\"']").search


def _shown(value: object) -> str:
    return value if isinstance(value, str) and not _needs_quotes(value) else repr(value)


def _json(event: Any, **_: Any) -> str:
    # A value that JSON doesn't know must not cost the line.
    return orjson.dumps(event, default=str).decode()
