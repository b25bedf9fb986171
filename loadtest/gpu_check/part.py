"""One part as a process: `python -m loadtest.gpu_check.part NAME RESULT LOGS LIMIT_S OPTIONS`."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from loadtest.gpu_check import exactness, overhead, smoke
from loadtest.gpu_check.options import Options
from loadtest.gpu_check.result import PartResult

_PARTS = {"smoke": smoke.run, "exactness": exactness.run, "overhead": overhead.run}


def main(arguments: list[str]) -> None:
    name, path, logs, limit_s, options = arguments
    result = PartResult(Path(path))
    began = time.monotonic()
    try:
        _PARTS[name](Options.from_json(options), result, deadline=began + float(limit_s), logs=Path(logs))
    except Exception as error:  # noqa: BLE001 -- the part's boundary: the other parts go on, the report shows it
        traceback.print_exc()
        result.check(name, False, f"{type(error).__name__}: {error}")
    result.seconds = time.monotonic() - began
    result.save()


if __name__ == "__main__":
    main(sys.argv[1:])
