// Draws the curves of a page with uPlot in place of their SVG; what a person zoomed to stays when steps arrive.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const zooms = new Map();

function draw(place) {
  const { name, labels, columns } = JSON.parse(place.dataset.chart);
  if (columns[0].length < 2 || !window.uPlot) return;
  const brief = (value) => (value == null ? "–" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4))));
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const options = {
    width: Math.max(240, place.clientWidth),
    height: 180,
    scales: { x: { time: false } },
    axes: [axis, { ...axis, size: 66, values: (_, ticks) => ticks.map(brief) }],
    series: [
      { label: "step" },
      ...labels.map((label, at) => ({ label, stroke: colour(`--c${at % 8}`), width: 2, spanGaps: true, value: (_, value) => brief(value), points: { size: 5 } })),
    ],
    hooks: {
      setSelect: [(plot) => plot.select.width > 0 && zooms.set(name, [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")])],
      init: [(plot) => plot.over.addEventListener("dblclick", () => zooms.delete(name))],
    },
  };
  place.replaceChildren();
  const plot = new window.uPlot(options, columns, place);
  const zoom = zooms.get(name);
  if (zoom) plot.setScale("x", { min: zoom[0], max: zoom[1] });
}

const drawAll = () => document.querySelectorAll("[data-chart]").forEach(draw);
document.addEventListener("htmx:after:swap", drawAll);
document.addEventListener("htmx:afterSwap", drawAll);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let resizing;
window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 200); });
if (document.readyState === "complete") drawAll(); else window.addEventListener("load", drawAll);
