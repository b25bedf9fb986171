"""Print the pins of a constraints file whose packages aren't installed here: `missing_pins.py CONSTRAINTS`.

On top of an image that has its own versions, those stay and only what is added is pinned.
"""

import importlib.metadata
import sys
from pathlib import Path


def missing(constraints: str) -> list[str]:
    pins = [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    return [pin for pin in pins if not _installed(pin.split("==", 1)[0])]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    sys.stdout.writelines(f"{pin}\n" for pin in missing(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    main()
