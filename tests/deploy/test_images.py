"""The Dockerfile: what can be known without building it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.missing_pins import missing
from server import __version__
from tests.support.compose import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What the gateway's image doesn't have.
NOT_IN_SLIM = (
    "torch", "vllm", "transformers", "numpy", "zmq", "pyarrow", "datasets", "matplotlib", "redis", "psutil",
)  # fmt: skip


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_target_runs_as_an_ordinary_user_and_says_what_it_is() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    targets = {stage.split()[2]: stage for stage in stages}
    for name in ("gateway", "engine", "cpu", "training"):
        assert re.findall(r"^USER (\S+)$", targets[name], re.MULTILINE)[-1] == "10001:10001"
    for name in ("gateway", "engine", "cpu"):
        stage = targets[name]
        assert "HEALTHCHECK" in stage and "org.opencontainers.image.revision" in stage
        assert f"ARG VERSION={__version__}" in stage


def test_bases_have_a_version_and_vllm_is_the_pinned_one() -> None:
    bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(bases) == {"PYTHON_IMAGE", "VLLM_IMAGE"}
    assert all(":" in base and not base.endswith(":latest") for base in bases.values())
    assert "vllm==0.32.0" in (ROOT / "pyproject.toml").read_text()
    assert bases["VLLM_IMAGE"].endswith(":v0.32.0")


def test_no_secret_is_an_argument_or_a_variable() -> None:
    assert not re.search(
        r"^(ARG|ENV) .*(TOKEN|PASSWORD|SECRET|KEY)", DOCKERFILE, re.MULTILINE | re.IGNORECASE
    )


def test_everything_that_is_copied_passes_the_ignore_file() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert any(source == k or source.startswith(f"{k}/") for k in kept), source


def test_the_command_starts_without_what_the_gateway_image_lacks() -> None:
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {NOT_IN_SLIM!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from server.cli import main\n"
        "sys.argv = ['s1', 'serve', '--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_what_is_missing_is_pinned() -> None:
    assert missing("# a comment\npytest==1.0\nno-such-package==2.0\n") == ["no-such-package==2.0"]


def test_the_sizing_table_is_computed() -> None:
    script = ROOT / "scripts" / "sizing_table.py"
    argv = [sys.executable, str(script), "--check", str(ROOT / "docs" / "deploy.md")]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
