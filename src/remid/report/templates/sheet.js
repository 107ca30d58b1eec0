(() => {
'use strict';
// Figures of a sheet. Their texts were escaped for plotly's own small HTML before they came here.
const figures = JSON.parse(document.getElementById('data-figures').textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7', '--c8'];
const SYMBOLS = ['circle', 'square', 'diamond', 'triangle-up', 'triangle-down', 'cross', 'x', 'star'];

function axis(extra) {
  return { fixedrange: true, gridcolor: css('--line'), zeroline: false, tickfont: { color: css('--soft') }, automargin: true, ...extra };
}
function draw() {
  figures.forEach((figure, index) => {
    const node = document.getElementById(`figure-${index}`);
    const width = Math.max(280, node.parentElement.clientWidth - 24);
    const traces = figure.traces.map(({ k, ...trace }) => ({
      ...trace,
      line: { width: 1.5, ...trace.line, color: css(COLOURS[k % COLOURS.length]) },
      marker: { size: 8, symbol: SYMBOLS[k % SYMBOLS.length], ...trace.marker, color: css(COLOURS[k % COLOURS.length]) },
      ...(trace.error_y ? { error_y: { ...trace.error_y, color: css(COLOURS[k % COLOURS.length]) } } : {}),
    }));
    const { xaxis, yaxis, ...rest } = figure.layout;
    const layout = {
      width, height: 420, autosize: false, dragmode: false, hovermode: 'closest', paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: { family: css('--sans'), size: 12, color: css('--ink') }, margin: { l: 60, r: 16, t: 30, b: 60 }, showlegend: true,
      hoverlabel: { bgcolor: css('--panel'), bordercolor: css('--strong'), font: { family: css('--sans'), size: 12, color: css('--ink') } },
      legend: { orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', xanchor: 'left' }, ...rest, xaxis: axis(xaxis), yaxis: axis(yaxis),
    };
    Plotly.react(node, traces, layout, { displayModeBar: false, responsive: false });
  });
}
draw();
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
let width = window.innerWidth;
let timer = 0;
window.addEventListener('resize', () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(draw, 120);
});
document.documentElement.dataset.ready = 'true';
})();
