"""Exit 0 when the service of this container is ready. Usage: healthcheck.py PORT."""

import sys
import urllib.request

with urllib.request.urlopen(f"http://127.0.0.1:{int(sys.argv[1])}/readyz", timeout=3) as answer:
    sys.exit(answer.status != 200)
