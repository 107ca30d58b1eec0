// Plotly, tamed: our colours, plain text labels, no tool bar, redrawn on a change of unit, theme or size.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Plotly reads a small HTML of its own in labels; data text must not be read so, nor as its %{...} templates.
const plain = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/\n/g, ' ');
const label = (text, limit = 22) => plain(shortName(text, limit));
const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7', '--c8'];
const SYMBOLS = ['circle', 'square', 'diamond', 'triangle-up', 'triangle-down', 'cross', 'x', 'star'];
const colour = (k) => css(COLOURS[k % COLOURS.length]);
const symbol = (k) => SYMBOLS[k % SYMBOLS.length];

const ruler = document.createElement('canvas').getContext('2d');
function widest(labels, size = 12) {
  ruler.font = `${size}px ${css('--sans')}`;
  return labels.reduce((most, text) => Math.max(most, ruler.measureText(text.replace(/<\/?b>/g, '')).width), 0);
}
const narrow = () => window.innerWidth < 640;
const room = (node) => Math.max(280, (node.parentElement || node).clientWidth - 24);

function layout(extra) {
  const base = {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', dragmode: false, hovermode: 'closest', autosize: false,
    font: { family: css('--sans'), size: 12, color: css('--ink') },
    hoverlabel: { bgcolor: css('--panel'), bordercolor: css('--strong'), font: { family: css('--sans'), size: 12, color: css('--ink') }, align: 'left' },
    legend: { orientation: 'h', x: 0, y: 1, yanchor: 'bottom', xanchor: 'left', itemclick: 'toggle', traceorder: 'normal', font: { color: css('--ink') } },
  };
  return { ...base, ...extra };
}
const axis = (extra) => ({ fixedrange: true, gridcolor: css('--line'), zeroline: false, ticks: '', tickfont: { color: css('--soft') }, ...extra });

// One figure in its own scroll box. describe: what a screen reader hears instead of the picture.
function draw(hostId, traces, extra, describe, width = 0) {
  const host = byId(hostId);
  let node = host.querySelector('.plot');
  if (!node) {
    node = el('div', { class: 'plot' });
    host.replaceChildren(el('div', { class: 'figure', role: 'img' }, node));
  }
  node.parentElement.setAttribute('aria-label', describe);
  if (host.hidden) return;
  Plotly.react(node, traces, layout({ width: Math.max(room(node.parentElement), width), ...extra }), { displayModeBar: false, responsive: false });
}
function nothing(hostId, text) {
  byId(hostId).replaceChildren(el('p', { class: 'fine' }, text));
}
