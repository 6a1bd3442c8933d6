"""Sources that try to reach what they may not. Each must end in a fault; a reward says what it reached.

As a program of root: grades every source in confined processes of another user, and prints what came of it.
"""

import importlib
import json
import os
import socket
import sys

from mint_common.graders import GradedSample, GraderFault
from mint_common.runtime.graders import fork_server, process
from mint_common.runtime.graders.process import ProcessSandbox, SandboxUnavailable
from mint_common.runtime.graders.python import PythonSandbox

NOBODY = 65534
_BODIES = {
    "read a file": "return len(open('/etc/passwd').read())",
    "write a file": "open('/tmp/grader-was-here', 'w').write('x')\nreturn 1",
    "list a folder": "import os\nreturn len(os.listdir('/'))",
    "look at a file": "import os\nreturn os.stat('/etc/passwd').st_size",
    "read the environment": "import os\nreturn len(os.environ['PATH'])",
    "read its parent's environment": "import os\nreturn len(open(f'/proc/{os.getppid()}/environ').read())",
    "make a socket": "import socket\nsocket.socket()\nreturn 1",
    "look a host up": "import socket\nsocket.getaddrinfo('localhost', 80)\nreturn 1",
    "fetch an address": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')\nreturn 1",
    "fork": "import os\nreturn os.fork() * 0 + 1",
    "start a program": "import subprocess\nsubprocess.run(['/usr/bin/id'], check=True)\nreturn 1",
    "run a shell": "import os\nreturn 1 / (os.system('true') == 0)",
    "kill its parent": "import os\nos.kill(os.getppid(), 9)\nreturn 1",
    "start a thread": "import threading\nthreading.Thread(target=print).start()\nreturn 1",
    "take 1 GiB": "return len(bytearray(1 << 30))",
    "take more and more": "held = []\nwhile True: held.append('x' * (1 << 20) + str(len(held)))",
    "loop for ever": "while True: pass",
    "loop for ever in C": "return sum(range(1 << 60))",
    "catch everything for ever": "while True:\n  try: 1 / 0\n  except BaseException: pass",
    "recurse for ever": "return grade(sample, item)",
    "import a module of the service": "from mint_common.runtime.graders import runner\nreturn 1",
    "import by the back door": "return __import__('subprocess').run(['id']).returncode + 1",
    "import a package": "import torch\nreturn 1",
    "find classes": (
        "found = [c for c in ().__class__.__bases__[0].__subclasses__() if c.__name__ == 'Popen']\n"
        "return found[0](['/usr/bin/id']).wait() + 1"
    ),
    "find builtins": "return len(grade.__globals__['__builtins__']['open']('/etc/passwd').read())",
    "find a file by its codec": "import codecs\nreturn len(codecs.open('/etc/passwd').read())",
    "exit": "import sys\nsys.exit(0)",
    "raise its own exit": "raise SystemExit(1.0)",
    "raise an error without end": "raise ValueError('x' * 60_000_000)",
    "raise an error of zeros": "raise ValueError('\\0' * 100)",
    "return nothing": "pass",
    "return true": "return True",
    "return a text": "return '1.0'",
    "return no number": "return float('nan')",
    "return more than any number": "return float('inf')",
    "return a huge number": "return 10 ** 400",
    "return a number of too many digits": "return 10 ** 5000",
    "return a reward beyond the greatest": "return -1e10",
    "return a text without end": "a = [0] * 10\nfor i in range(30): a = [a] * 10\nreturn a",
    "return a list nested too deep": "a = []\nfor i in range(100_000): a = [a]\nreturn a",
    "return an odd text of its own": "class T:\n    def __repr__(self): return '\\ud800'\nreturn T()",
    "return an object of its own": "class Score:\n    def __float__(self): return 1.0\nreturn Score()",
}
SOURCES = {
    name: "def grade(sample, item):\n    " + body.replace("\n", "\n    ") for name, body in _BODIES.items()
} | {
    "nothing": "",
    "no function": "grade = 1.0",
    "another function": "def score(sample, item): return 1.0",
    "one argument": "def grade(sample): return 1.0",
    "no Python": "def grade(sample, item) return 1",
    "nested for ever": "x = " + "(" * 50_000,
    "an endless beginning": "while True: pass\ndef grade(sample, item): return 1.0",
}
HONEST = "import re\ndef grade(sample, item):\n    return float(re.search(r'\\d+', sample['output_text'])[0])"


def outcome(sandbox: PythonSandbox, source: str) -> str:
    """Return the kind of fault that a source ends in, or its reward."""
    try:
        return str(sandbox.grade(source, GradedSample(output_text="it is 42", item={"answer": "42"})))
    except GraderFault as fault:
        return fault.kind if "\x00" not in fault.message else "a fault that cannot be stored"


def main() -> None:
    """Print the outcome of every source, and of an honest one."""
    for name in fork_server.MODULES:
        importlib.import_module(name)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    process._spawn = _forked  # type: ignore[attr-defined]
    sandbox = ProcessSandbox(workers=1, seconds=1.0, memory_bytes=64 << 20)
    try:
        sandbox.start()
    except SandboxUnavailable as problem:
        sys.exit(f"no sandbox: {problem}")
    found = {name: outcome(sandbox, source) for name, source in {**SOURCES, "": HONEST}.items()}
    sys.stdout.write(json.dumps(found))
    sandbox.close()


class _Forked:
    """A fork server that was not started as a program: NOBODY may not read root's Python."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def _forked(seconds: float, memory_bytes: int) -> tuple[_Forked, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        ours.close()
        sys.argv[1:] = [str(theirs.detach()), str(seconds), str(memory_bytes)]
        fork_server.main()
        os._exit(0)
    theirs.close()
    return _Forked(pid), ours


if __name__ == "__main__":
    main()
