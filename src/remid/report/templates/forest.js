// R-EMI per policy and subset with intervals, and the same view of the controls.
let forestView = '';
const errorBars = (rows) => ({
  type: 'data', symmetric: false, thickness: 1.6, width: 0,
  array: rows.map((row) => (row.ci_high === null ? 0 : row.ci_high - row.value)),
  arrayminus: rows.map((row) => (row.ci_low === null ? 0 : row.value - row.ci_low)),
});
function remiHover(row) {
  return [`<b>${label(row.policy, 60)}</b> · ${plain(subsetLabel(row, 60))}`, `R-EMI ${estimate(row)} ${row.unit}`,
    `interval ${interval(row)}`, `p ${pText(row.p_value)}, n = ${row.n}; ${row.n_missing} missing`].join('<br>');
}
// The rows to draw, as series: ID and the pooled shifts, or all subsets of one shift.
function forestSeries(rows) {
  if (forestView) return unique(rows.filter((row) => row.shift === forestView && row.subset !== null).map((row) => row.subset)).map((subset) => ({
    name: shortName(subset, 30), rows: rows.filter((row) => row.shift === forestView && row.subset === subset),
  }));
  return allShifts.map((shift) => {
    const mine = rows.filter((row) => row.shift === shift);
    const pooled = mine.filter((row) => row.subset === null);
    return { name: shiftLabel(shift, 30), rows: pooled.length ? pooled : unique(mine.map((row) => row.subset)).length === 1 ? mine : [] };
  });
}
function drawForest() {
  const rows = inUnit(result.remi).filter((row) => !isReference(row.policy));
  byId('remi-table').replaceChildren(makeTable({
    caption: `R-EMI in ${state.unit}`, rows, tall: true, pooled: (row) => row.subset === null,
    columns: [col.policy, col.subset, col.shift, col.value('R-EMI'), col.interval, col.p('p_value', 'p'), col.n('n', 'n'), col.n('n_missing', 'missing'), col.why],
  }));
  const series = forestSeries(rows).map((item) => ({ ...item, rows: item.rows.filter((row) => row.value !== null) })).filter((item) => item.rows.length);
  const names = policies.filter((policy) => series.some((item) => item.rows.some((row) => row.policy === policy)));
  if (!names.length) { nothing('remi-plot', 'No R-EMI could be estimated here; the table view gives the reasons.'); return; }
  const lane = 0.72 / Math.max(1, series.length - 1);
  const place = (row, k) => names.indexOf(row.policy) + (series.length > 1 ? -0.36 + k * lane : 0);
  const traces = series.map((item, k) => ({
    type: 'scatter', mode: 'markers', name: plain(item.name), hoverinfo: 'text', hovertext: item.rows.map(remiHover),
    x: item.rows.map((row) => row.value), y: item.rows.map((row) => place(row, k)),
    marker: { size: 8, color: colour(k), symbol: symbol(k) }, error_x: { ...errorBars(item.rows), color: colour(k) },
  }));
  const heads = names.map((policy) => label(policy, narrow() ? 14 : 24));
  const legend = 26 * Math.ceil(series.length / (narrow() ? 1.6 : 5)) + 20;
  const each = Math.max(46, 13 * series.length + 18);
  draw('remi-plot', traces, {
    height: legend + names.length * each + 56, showlegend: true, margin: { l: Math.min(190, widest(heads) + 18), r: 16, t: legend, b: 50 },
    xaxis: axis({ title: { text: `R-EMI, ${state.unit} (0 = reference)`, font: { size: 12, color: css('--soft') } }, zeroline: true, zerolinecolor: css('--ink'), zerolinewidth: 1.5, nticks: narrow() ? 5 : 9 }),
    yaxis: axis({ tickvals: names.map((_, k) => k), ticktext: heads, range: [names.length - 0.45, -0.55], showgrid: false, tickfont: { color: css('--ink') } }),
    shapes: names.slice(1).map((_, k) => ({ type: 'line', xref: 'paper', x0: 0, x1: 1, y0: k + 0.5, y1: k + 0.5, line: { color: css('--line'), width: 1 } })),
  }, `Forest plot of R-EMI in ${state.unit} for ${names.length} policies. The table view holds the same numbers.`);
}

// ID rows: pooled, or the only subset's.
function idRow(policy) {
  const rows = inUnit(result.remi).filter((row) => row.policy === policy && row.shift === 'id');
  return rows.find((row) => row.subset === null) || (rows.length === 1 ? rows[0] : null);
}
function drawCalibration() {
  const rows = policies.map(idRow).filter((row) => row && row.value !== null).sort((a, b) => b.value - a.value);
  const cards = byId('calibration-cards');
  const models = rows.filter((row) => kinds.get(row.policy) === 'model');
  const known = Object.keys(controls);
  const extra = result.policies.filter((row) => row.kind === 'control' && !known.includes(row.policy)).map((row) => row.policy);
  cards.replaceChildren(...[...known, ...extra].map((name) => {
    const [what, means] = known.includes(name) ? controls[name] : ['A control of this run.', ''];
    const row = idRow(name);
    const card = el('article', { class: 'card' }, el('h3', {}, nameNode(name)), el('p', {}, what));
    if (name === 'reference') card.append(el('p', { class: 'big' }, '0'), el('p', { class: 'fine' }, `${state.unit}, by definition`));
    else if (!kinds.has(name)) card.append(el('p', { class: 'big' }, 'n/a'), el('p', { class: 'fine' }, 'not part of this run'));
    else if (!row || row.value === null) card.append(el('p', { class: 'big' }, 'n/a'), el('p', { class: 'fine' }, row ? reason(row) : 'no R-EMI on ID data'));
    else {
      const above = models.filter((model) => model.value > row.value).length;
      card.append(el('p', { class: 'big' }, estimate(row)), el('p', { class: 'fine' }, `${state.unit} on ID data, interval ${interval(row)}, n = ${row.n}. `
        + `${above} of ${models.length} models lie above it.`));
    }
    card.append(el('p', {}, means));
    return card;
  }));
  if (!rows.length) { nothing('calibration-plot', 'No R-EMI on ID data could be estimated, so the scale cannot be checked.'); return; }
  const group = (kind, k) => {
    const mine = rows.filter((row) => (kinds.get(row.policy) === 'model') === (kind === 'model'));
    return {
      type: 'scatter', mode: 'markers', name: kind === 'model' ? 'Models' : 'Controls', hoverinfo: 'text', hovertext: mine.map(remiHover),
      x: mine.map((row) => row.value), y: mine.map((row) => rows.indexOf(row)),
      marker: { size: 10, color: colour(k), symbol: kind === 'model' ? 'circle' : 'diamond-open', line: { width: 2 } }, error_x: { ...errorBars(mine), color: colour(k) },
    };
  };
  const heads = rows.map((row) => label(row.policy, narrow() ? 14 : 24));
  draw('calibration-plot', [group('model', 0), group('control', 1)], {
    height: rows.length * 34 + 110, showlegend: true, margin: { l: Math.min(190, widest(heads) + 18), r: 16, t: 40, b: 50 },
    xaxis: axis({ title: { text: `R-EMI on ID data, ${state.unit} (0 = reference)`, font: { size: 12, color: css('--soft') } }, zeroline: true, zerolinecolor: css('--ink'), zerolinewidth: 1.5, nticks: narrow() ? 5 : 9 }),
    yaxis: axis({ tickvals: rows.map((_, k) => k), ticktext: heads, range: [rows.length - 0.4, -0.6], tickfont: { color: css('--ink') } }),
  }, `R-EMI on ID data of ${rows.length} policies in order; the cards below hold the controls' numbers.`);
}
function startForest() {
  const options = allShifts.filter((shift) => result.remi.some((row) => row.shift === shift && row.subset !== null));
  byId('remi-tools').append(selectBox('Show', [['', 'ID and pooled shifts'], ...options.map((shift, k) => [String(k), `subsets: ${shiftLabel(shift, 24)}`])], (value) => {
    forestView = value === '' ? '' : options[Number(value)];
    redraw();
  }));
  twin('remi-tools', 'remi-plot', 'remi-table');
}
