// R-EMID, policy by subset, grouped by shift. Blue to orange stays apart for all common kinds of colour blindness.
const SCALES = {
  light: ['#2166ac', '#92bfe0', '#f4f2ee', '#f0b67c', '#b1500b'],
  dark: ['#62a9f3', '#2d5580', '#24282d', '#85532a', '#f4974a'],
};
const isDark = () => css('color-scheme') === 'dark' || getComputedStyle(document.documentElement).colorScheme === 'dark';
function mix(scale, at) {
  const place = Math.min(0.9999, Math.max(0, at)) * 4;
  const k = Math.floor(place);
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) => part(scale[k], i) + (part(scale[k + 1], i) - part(scale[k], i)) * (place - k));
}
const light = ([r, g, b]) => 0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 > 0.24;

// Groups of rows: one per shift, the pooled row first.
function remidGroups(rows) {
  return unique(rows.map((row) => row.shift)).map((shift) => {
    const names = unique(rows.filter((row) => row.shift === shift).map((row) => row.subset));
    return { shift, names: names.sort((a, b) => (a === null ? 0 : 1) - (b === null ? 0 : 1)) };
  });
}
function hover(row) {
  if (!row) return 'not measured';
  const lines = [`<b>${label(row.policy, 60)}</b> · ${plain(subsetLabel(row, 60))}`];
  if (row.value === null) lines.push(plain(reason(row)));
  else lines.push(`R-EMID ${estimate(row)} ${row.unit}`, `interval ${interval(row)}`, `adjusted p ${pText(row.p_adjusted)} (p ${pText(row.p_value)})`);
  lines.push(`n = ${row.n_id} ID, ${row.n_ood} shifted; ${row.n_missing} missing`);
  return lines.join('<br>');
}

function drawHeatmap() {
  const rows = inUnit(result.remid).filter((row) => !isReference(row.policy));
  byId('remid-note').textContent = kinds.has('reference') || !rows.length
    ? 'The reference is the origin of this scale: its R-EMID is 0 everywhere by definition, so it has no column.' : '';
  byId('remid-table').replaceChildren(makeTable({
    caption: `R-EMID in ${state.unit}; * significant after correction`, rows, tall: true, pooled: (row) => row.subset === null,
    columns: [col.policy, col.subset, col.shift, col.value('R-EMID'), col.interval, col.p('p_value', 'p'), col.p('p_adjusted', 'adjusted p'),
      col.n('n_id', 'n ID'), col.n('n_ood', 'n shifted'), col.n('n_missing', 'missing'), col.why],
  }));
  if (!rows.length) { nothing('remid-plot', 'No R-EMID: nothing was compared with ID data.'); return; }
  const names = policies.filter((policy) => rows.some((row) => row.policy === policy));
  const at = new Map(rows.map((row) => [JSON.stringify([row.policy, row.shift, row.subset]), row]));
  // Controls may lie far out and would wash out the models, so the models set the scale; stronger cells saturate.
  const sized = (keep) => rows.filter((row) => row.value !== null && keep(row)).map((row) => Math.abs(row.value));
  const most = Math.max(0, ...sized((row) => kinds.get(row.policy) === 'model')) || Math.max(0, ...sized(() => true)) || 1;
  const scale = SCALES[isDark() ? 'dark' : 'light'];
  const traces = [];
  const ticks = { vals: [], text: [] };
  const notes = [];
  let y = 0;
  for (const group of remidGroups(rows)) {
    notes.push({ x: 0, xref: 'paper', xanchor: 'right', xshift: -8, y, yref: 'y', showarrow: false, text: `<b>${plain(shiftLabel(group.shift, narrow() ? 8 : 20))}</b>`, font: { size: 12, color: css('--ink') } });
    const first = y + 1;
    const grid = group.names.map((subset) => names.map((policy) => at.get(JSON.stringify([policy, group.shift, subset]))));
    group.names.forEach((subset, k) => {
      ticks.vals.push(first + k);
      ticks.text.push(subset === null ? '<b>all, pooled</b>' : label(subset, narrow() ? 15 : 22));
    });
    traces.push({
      type: 'heatmap', x0: 0, dx: 1, y0: first, dy: 1, xgap: 3, ygap: 3, coloraxis: 'coloraxis', hoverinfo: 'text', hoverongaps: true,
      z: grid.map((line) => line.map((row) => (row && row.value !== null ? row.value : null))),
      text: grid.map((line) => line.map(hover)),
    });
    const cells = grid.flatMap((line, k) => line.map((row, j) => ({ row, x: j, y: first + k })));
    traces.push({
      type: 'scatter', mode: 'text', hoverinfo: 'skip', showlegend: false, x: cells.map((cell) => cell.x), y: cells.map((cell) => cell.y),
      text: cells.map(({ row }) => (!row || row.value === null ? 'n/a' : row.significant ? `<b>${estimate(row)}*</b>` : estimate(row))),
      textfont: {
        size: 12, family: css('--sans'),
        color: cells.map(({ row }) => {
          if (!row || row.value === null) return css('--soft');
          return light(mix(scale, (row.value / most + 1) / 2)) ? '#14171a' : '#ffffff';
        }),
      },
    });
    y = first + group.names.length + 0.15;
  }
  const limit = narrow() ? 12 : 22;
  const heads = names.map((policy) => label(policy, limit));
  const roomy = (room(byId('remid-plot')) - 240) / names.length > widest(heads) + 10;
  const left = Math.min(190, 26 + Math.max(widest(ticks.text), widest(notes.map((note) => note.text))));
  const fits = narrow() ? 54 : 74;
  const top = roomy ? 34 : 30 + Math.sin(0.61) * widest(heads);
  const height = top + y * 34 + 80;
  draw('remid-plot', traces, {
    height, margin: { l: left, r: 46, t: top, b: 76 }, showlegend: false,
    annotations: notes,
    xaxis: axis({ side: 'top', tickvals: names.map((_, k) => k), ticktext: heads, tickangle: roomy ? 0 : -35, range: [-0.5, names.length - 0.5], showgrid: false, tickfont: { color: css('--ink') } }),
    yaxis: axis({ tickvals: ticks.vals, ticktext: ticks.text, range: [y - 0.4, -0.5], showgrid: false, tickfont: { color: css('--soft') } }),
    coloraxis: {
      cmin: -most, cmax: most, cmid: 0, colorscale: scale.map((value, k) => [k / 4, value]),
      colorbar: { orientation: 'h', y: 0, yanchor: 'top', ypad: 22, x: 0, xanchor: 'left', len: 1, lenmode: 'fraction', thickness: 8, outlinewidth: 0, nticks: 5, tickfont: { color: css('--soft'), size: 11 }, title: { text: `← gains · R-EMID, ${state.unit} · loses →`, side: 'bottom', font: { size: 11, color: css('--soft') } } },
    },
  }, `Heat map of R-EMID in ${state.unit}, ${names.length} policies by ${ticks.vals.length} rows. The table view holds the same numbers.`, left + 46 + names.length * fits);
}
