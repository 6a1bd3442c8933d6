"""Write every generated document, or say with ``--check`` which are not current."""

import importlib
import sys

from generated_page import make_parser

TOOLS = (
    "make_tinker_compat",
    "make_events_doc",
    "make_openapi",
    "make_openai_doc",  # reads what make_openapi writes
    "make_settings_doc",
    "make_metrics_doc",
    "make_chart",
    "make_dashboards",
    "make_uploads_doc",
    "make_benchmarks",
    "make_scale_tables",
)


def main() -> int:
    """Write or check each; return the exit status: 1 if one was to be current and is not."""
    make_parser(__doc__).parse_args()  # each tool reads the same arguments again
    return max([importlib.import_module(tool).main() for tool in TOOLS])


if __name__ == "__main__":
    sys.exit(main())
