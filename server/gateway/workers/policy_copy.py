"""The policy that is in force in all workers: a checked copy of the file.

A worker that replaces another must not find a file that is half done, nor a policy that its siblings don't
have.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from server.gateway.policy_file import PolicyFileError, parse_policy

log = structlog.get_logger(__name__)


class PolicyCopy:
    def __init__(self, source: Path, directory: Path) -> None:
        """
        Raises:
            PolicyFileError: the file can't be used.
        """
        self.path = directory / "policy.yaml"
        self._source = source
        self._take()

    def renew(self) -> bool:
        """Copy the file again, unless it can't be used. Whether it was taken."""
        try:
            self._take()
        except PolicyFileError as error:
            log.error("policy not reloaded: the old one stays in force", reason=str(error))
            return False
        return True

    def _take(self) -> None:
        try:
            text = self._source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyFileError(f"{self._source}: the policy can't be read: {error}") from error
        parse_policy(text, name=str(self._source))
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.path)
