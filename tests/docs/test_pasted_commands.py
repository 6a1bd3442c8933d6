"""Every fenced command of README and of the Start pages runs as pasted, in order, at 80 columns.

The pages run in a copy of the checkout with a home of its own. What a page printed is in ``out/docs``.
"""

import os
import re
import shutil
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/start/researcher.md", "docs/start/application.md", "docs/start/operator.md")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = 8321
WIDTH = 80
PAGE_SECONDS = 3600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PAGE_SECONDS)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tracked files; a stack that a failed page leaves there is stopped."""
    folder = tmp_path_factory.mktemp("pasted") / "mint"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in tracked.stdout.strip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    yield folder
    if (folder / ".venv/bin/mint").exists():
        for state in ([], ["--dir", "restored"]):
            subprocess.run(
                [".venv/bin/mint", "down", *state], cwd=folder, env=environment(folder), check=False
            )


def environment(folder: Path) -> dict[str, str]:
    """Return that of a new user; downloads come from this user's cache."""
    caches = {"UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))}
    taken = {
        name: value for name, value in os.environ.items() if not re.match("MINT_|OPENAI_|ANTHROPIC_", name)
    }
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    return {**taken, **caches, "HOME": str(home), "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}


def script_of(page: str) -> str:
    """Return a page's commands as one script that names each block and ends with the first failure."""
    text = (ROOT / page).read_text()
    parts = ["set -eo pipefail"]
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        line = text.count("\n", 0, block.start()) + 1
        parts.append(f"printf '\\n== {page}:{line}\\n'")
        parts.append(code if language == "sh" else f"python - <<'PYTHON'\n{code}PYTHON")
    return on_a_free_port("\n".join(parts))


def on_a_free_port(script: str) -> str:
    """Return the script with another port where a stack of this machine has the usual one."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) != 0:
            return script
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return script.replace(str(PORT), port).replace("mint up", f"mint up --port {port}")


def run_on_terminal(script: str, folder: Path, transcript: Path) -> int:
    """Run a script on a terminal of 80 columns, write what it showed, and return its exit code."""
    ours, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, WIDTH))
    with transcript.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        os.set_blocking(ours, False)
        until = time.monotonic() + PAGE_SECONDS
        while process.poll() is None and time.monotonic() < until:
            copy(ours, out.fileno())
            time.sleep(0.05)
        process.kill()
        code = process.wait()
        copy(ours, out.fileno())
    os.close(ours)
    return code


def copy(source: int, target: int) -> None:
    """Copy what a terminal has; one that every process has closed has nothing more."""
    try:
        while part := os.read(source, 65536):
            os.write(target, part)
    except OSError:
        return


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_pasted(page: str, checkout: Path) -> None:
    transcript = ROOT / "out/docs" / f"{Path(page).stem}.txt"
    transcript.parent.mkdir(parents=True, exist_ok=True)

    code = run_on_terminal(script_of(page), checkout, transcript)

    assert code == 0, transcript.read_text(errors="replace")[-4000:]
