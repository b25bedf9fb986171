"""How every command runs its stage: once if it is finished, and with every expected error in one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from training.curate.errors import CurationError, StageStopped
from training.curate.files import questions_file
from training.curate.progress import Progress
from training.curate.stage import Outcome, Stage
from training.endpoints.errors import CacheError, EndpointError, EndpointRefuses
from training.terminal import fail

_RESUME = "Run the same command to go on."


@contextlib.contextmanager
def one_line_errors(progress: Progress, out: Path) -> Iterator[None]:
    """Exit status 2: input or options must change. 1 (130 if interrupted): the same command will go on."""
    try:
        yield
    except (CurationError, CacheError) as error:
        fail(progress, str(error), 2)
    except EndpointRefuses as error:
        fail(progress, f"{error}. What was answered is kept.", 2)
    except KeyboardInterrupt:
        fail(progress, f"interrupted. {_RESUME}", 130)
    except (EndpointError, StageStopped) as error:
        fail(progress, f"{error}. {_RESUME}", 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            fail(progress, f"{error.filename or ''}: {error.strerror}".lstrip(": "), 2)
        reason = error.strerror or str(error)
        message = f"can't write to {out}: {reason}; nothing is half-written. {_RESUME}"
        fail(progress, message, 1)


def run_stage(
    stage: Stage,
    previous: Sequence[Mapping[str, Any]],
    make: Callable[[], Outcome],
    progress: Progress,
) -> None:
    """Run the stage unless it is finished; print its funnel either way."""
    manifest = stage.finished()
    if manifest is None:
        manifest = stage.publish(make(), previous=previous)
    else:
        done = f"{stage.out} is finished already, with these inputs and settings."
        progress.errors.print(escape(done), soft_wrap=True, highlight=False)
    progress.funnel(manifest["funnel"])
    progress.console.print(escape(str(questions_file(stage.out))), soft_wrap=True, highlight=False)
