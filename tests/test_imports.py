"""Imports point one way, and the gateway stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "server/budget": {"server.budget"},
    "server/engine": {"server.budget", "server.engine"},
    "server/gateway": {"server", "server.budget", "server.garbage", "server.gateway", "server.logs"},
    "server/chat": {"server.budget", "server.chat"},
    "server/commands": {
        "server.budget",
        "server.commands",
        "server.engine",
        "server.gateway.access.keys",
        "server.gateway.policy_file",
        "server.sizing",
        "training",
    },
    "loadtest": {"loadtest", "server", "server.budget", "server.engine", "server.chat.events"},
    "training": {"training", "server.budget"},
}


def own_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name for name in names if name.split(".")[0] in ("server", "training", "loadtest")}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in own_imports(path):
            assert any(covers(package, name, folder) for package in ALLOWED[folder]), (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def covers(package: str, name: str, folder: str) -> bool:
    """Another's whole top package is never meant, only what its `__init__` says."""
    if package in ("server", "training") and package != folder:
        return name == package
    return f"{name}.".startswith(f"{package}.")


def test_the_gateway_loads_neither_torch_nor_vllm() -> None:
    program = (
        "import sys, server.gateway.app\n"
        "print(sorted({'torch', 'vllm', 'transformers', 'numpy', 'server.engine'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_waits_for_no_other_commands_imports() -> None:
    heavy = ("fastapi", "uvicorn", "aiohttp", "structlog", "server.serve", "server.gateway.app", "torch")
    program = f"import sys, server.cli\nprint(sorted({set(heavy)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
