"""A bundle's code as the Model Zoo's style tools want it."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from liver_ct.files import shipped
from liver_ct.zoo.bundle import installed

STYLE = ("black", "isort", "flake8", "flake8-bugbear", "flake8-comprehensions", "flake8-executable", "pep8-naming")


def missing_tools() -> list[str]:
    """The packages the checks need and this environment lacks."""
    return [name for name in (*STYLE, "jsonschema") if installed(name) is None]


def check_style(root: Path) -> list[str]:
    """black, isort and flake8 with this repository's settings, which are the zoo's, from where the zoo runs them."""
    settings = shipped("pyproject.toml")
    tools = {
        "black": (("--check", "--config", str(settings)), r"(?:would reformat|error: cannot format) (\S+?):?(?: .*)?"),
        "isort": (("--check-only", "--settings-file", str(settings)), r"ERROR: (\S+) .*"),
        "flake8": (
            ("--config", str(shipped(".flake8")), "--format=%(path)s: %(text)s (%(code)s, line %(row)d)"),
            r"(.+)",
        ),
    }
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda tool: _run_tool(root, tool, *tools[tool][0]), tools)
    return [
        line for (tool, (_, pattern)), text in zip(tools.items(), done) for line in _style_lines(tool, pattern, text)
    ]


def _run_tool(root: Path, tool: str, *options: str) -> str:
    """Everything a tool says of the bundle, with paths from the bundle's folder; nothing where it finds nothing."""
    command = [sys.executable, "-m", tool, *options, root.name]
    done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True)
    said = (done.stdout + done.stderr).replace(f"{root}/", "").replace(f"{root.name}/", "")
    return said if done.returncode else ""


def _style_lines(tool: str, pattern: str, text: str) -> list[str]:
    found = [match[1] for line in text.splitlines() if (match := re.fullmatch(pattern, line))]
    if text and not found:
        return [f"scripts: {tool} failed ({' '.join(text.split())[-200:]}). Run it by hand."]
    if tool == "flake8":
        return [f"{line}. Fix it, as flake8 asks." for line in found]
    return [f"{line}: {tool} would write it otherwise. Run {tool} on it." for line in found]
