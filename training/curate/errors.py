"""What stops a stage.

CurationError     the user's files or options are not what they must be
StageStopped      something outside failed; the same command goes on where it stopped
"""


class CurationError(ValueError):
    """The message names the file or option, what was expected and what was found."""


class StageStopped(RuntimeError):
    """Nothing half-written is left under a final name; finished calls are kept."""
