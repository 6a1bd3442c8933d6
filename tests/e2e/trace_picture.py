"""A trace as a picture: a bar a span, below its parent, coloured by service."""

from collections.abc import Iterator, Sequence
from html import escape

from span_receiver import ReceivedSpan

COLOURS = {
    "gateway": "#4c78a8",
    "rollout": "#f58518",
    "trainer": "#54a24b",
    "registry": "#b279a2",
    "loader": "#e45756",
}
LEFT, WIDTH, ROW, TOP = 400, 640, 18, 30
"""Pixels: of the names, of the time axis, of a row, and above the first one."""
INDENT = 9
MIN_BAR = 2.0


def draw(spans: Sequence[ReceivedSpan]) -> str:
    """Return an SVG of one trace. Spans of callers are left out: what they call says as much."""
    rows = list(_rows(spans))
    began = min(span.start_ns for _, span in rows)
    length_ns = max(span.end_ns for _, span in rows) - began
    height = TOP + ROW * len(rows) + 10
    size = f'viewBox="0 0 {LEFT + WIDTH + 80} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        *_axis(length_ns, height),
    ]
    for number, (depth, span) in enumerate(rows):
        y = TOP + ROW * number
        left = LEFT + WIDTH * (span.start_ns - began) / length_ns
        width = max(MIN_BAR, WIDTH * (span.end_ns - span.start_ns) / length_ns)
        place = f'x="{left:.1f}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}"'
        milliseconds = (span.end_ns - span.start_ns) / 1e6
        lines += [
            f'<text x="{8 + INDENT * depth}" y="{y + 12}">{escape(f"{span.service}: {span.name}")}</text>',
            f'<rect {place} fill="{COLOURS[span.service]}"/>',
            f'<text x="{left + width + 4:.1f}" y="{y + 12}" fill="#666">{milliseconds:.0f} ms</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _axis(length_ns: int, height: int) -> Iterator[str]:
    for part in range(5):
        x, seconds = LEFT + WIDTH * part / 4, length_ns * part / 4e9
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 6}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="16" text-anchor="middle" fill="#666">{seconds:.2f} s</text>'


def _rows(spans: Sequence[ReceivedSpan]) -> Iterator[tuple[int, ReceivedSpan]]:
    """Yield the spans with their depth, each behind its parent, those of one parent by time."""
    by_id = {span.span_id: span for span in spans}
    kept = [span for span in spans if not span.name.startswith("http ")]
    children: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(kept, key=lambda each: each.start_ns):
        children.setdefault(_parent(span, by_id), []).append(span)

    def below(parent_id: str, depth: int) -> Iterator[tuple[int, ReceivedSpan]]:
        for span in children.get(parent_id, ()):
            yield depth, span
            yield from below(span.span_id, depth + 1)

    yield from below("", 0)


def _parent(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> str:
    """Return the nearest parent that is drawn; "" for none."""
    parent = by_id.get(span.parent_id)
    while parent is not None and parent.name.startswith("http "):
        parent = by_id.get(parent.parent_id)
    return "" if parent is None else parent.span_id
