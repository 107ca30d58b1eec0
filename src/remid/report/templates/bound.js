// The bound, split by part of the input, beside the measured R-EMID; worst cases; divergences; contrasts.
const PARTS = ['user', 'character', 'dialogue'];
let boundShift = null;
const boundRows = () => {
  const mine = result.bound.filter((row) => !isReference(row.policy));
  if (boundShift !== null) return mine.filter((row) => row.shift === boundShift && row.subset !== null);
  const pooled = mine.filter((row) => row.subset === null);
  return pooled.length ? pooled : mine;
};
function drawBound() {
  const all = result.bound.filter((row) => !isReference(row.policy));
  const part = (key) => col.num(`JS ${key}`, (row) => row.js && row.js[key]);
  byId('bound-table').replaceChildren(makeTable({
    caption: 'The bound in nats/response (a plug-in estimate, no interval) and Jensen-Shannon divergences in nats', rows: all, tall: true, pooled: (row) => row.subset === null,
    columns: [col.policy, col.subset, col.shift, col.num('Bound', (row) => row.value), col.num('Input term', (row) => row.input_term),
      ...PARTS.map((key) => ({ label: `${key} share (paper's)`, num: true, sort: (row) => row.share && row.share[key], cell: (row) => (row.share ? `${Math.round(100 * row.share[key])}%` : 'n/a') })),
      col.num('Reference term', (row) => row.reference_term), col.num('R-EMID', (row) => row.remid), col.num('H_hat', (row) => row.h_hat), col.num('Delta', (row) => row.delta),
      ...PARTS.map(part), col.n('n_id', 'n ID'), col.n('n_ood', 'n shifted'), col.n('n_missing', 'missing'), col.why],
  }));
  const rows = boundRows().filter((row) => row.value !== null);
  if (!rows.length) { nothing('bound-plot', 'No bound could be estimated; the table view gives the reasons, where they are known.'); return; }
  // One block per policy, one bar per shift or subset within it.
  const names = policies.filter((policy) => rows.some((row) => row.policy === policy));
  const sorted = names.flatMap((policy) => rows.filter((row) => row.policy === policy));
  let y = -1;
  let last = null;
  const heads = [];
  const at = sorted.map((row) => {
    if (row.policy !== last) { y += 1.1; heads.push({ y, text: label(row.policy, narrow() ? 16 : 24) }); last = row.policy; }
    y += 1;
    return y;
  });
  const tick = (row) => (row.subset === null ? SHIFT_WORDS.get(row.shift) || label(row.shift, 18) : label(row.subset, 18));
  const note = (row) => [`<b>${label(row.policy, 60)}</b> · ${plain(subsetLabel(row, 60))}`, `bound ${number(row.value, null, false)} nats/response (plug-in, no interval)`,
    `input term ${number(row.input_term, null, false)}, reference term ${number(row.reference_term, null, false)}`,
    shareOf(row, 'user') !== null ? PARTS.map((key) => `${key} ${Math.round(100 * shareOf(row, key))}%`).join(', ') : 'no split by part',
    `R-EMID ${number(row.remid)}`, `n = ${row.n_id} ID, ${row.n_ood} shifted`].join('<br>');
  const bar = (name, get, k) => ({
    type: 'bar', orientation: 'h', name, y: at, x: sorted.map(get), hoverinfo: 'text', hovertext: sorted.map(note), textposition: 'none', width: 0.72,
    marker: { color: colour(k), line: { width: 1, color: css('--panel') } },
  });
  const traces = PARTS.map((key, k) => bar(`input term: ${key}`, (row) => row.input_term * (shareOf(row, key) || 0), k));
  const whole = (row) => shareOf(row, 'user') === null;
  if (sorted.some(whole)) traces.push(bar('input term, not split', (row) => (whole(row) ? row.input_term : 0), 4));
  traces.push(bar('reference term', (row) => row.reference_term, 6));
  const seen = sorted.map((row, k) => [row, at[k]]).filter(([row]) => row.remid !== null);
  traces.push({
    type: 'scatter', mode: 'markers', name: 'R-EMID, measured', x: seen.map(([row]) => row.remid), y: seen.map(([, k]) => k), hoverinfo: 'text', hovertext: seen.map(([row]) => note(row)),
    marker: { symbol: 'diamond', size: 10, color: css('--ink'), line: { color: css('--panel'), width: 1.5 } },
  });
  const texts = sorted.map(tick);
  const left = Math.min(190, Math.max(widest(texts), widest(heads.map((head) => `${head.text}mm`))) + 20);
  const legend = narrow() ? 140 : 60;
  draw('bound-plot', traces, {
    height: legend + (y + 1) * 30 + 60, barmode: 'stack', margin: { l: left, r: 16, t: legend, b: 50 }, showlegend: true,
    xaxis: axis({ title: { text: 'nats/response', font: { size: 12, color: css('--soft') } }, zeroline: true, zerolinecolor: css('--ink'), nticks: narrow() ? 5 : 9 }),
    yaxis: axis({ tickvals: at, ticktext: texts, range: [y + 0.6, -0.6], showgrid: false }),
    annotations: heads.map((head) => ({ xref: 'paper', x: 0, xanchor: 'right', xshift: -6, y: head.y, yref: 'y', text: `<b>${head.text}</b>`, showarrow: false, font: { size: 12, color: css('--ink') } })),
  }, `Stacked bars of the bound in nats/response for ${names.length} policies. The table view holds the same numbers.`);
}
// Models are what a reader came for; the controls follow.
const isModel = (policy) => kinds.get(policy) === 'model';
const modelRank = (row) => (isModel(row.policy) ? 0 : 2) + (row.versus === undefined || isModel(row.versus) ? 0 : 1);
const modelsFirst = (rows) => rows.slice().sort((a, b) => modelRank(a) - modelRank(b));
function drawBoundTables() {
  const of = (row, key) => row[key] || {};
  const name = (value) => (value === null || value === undefined ? 'n/a' : nameNode(value));
  byId('worst-table').replaceChildren(makeTable({
    caption: 'In nats/response', rows: modelsFirst(result.worst_case.filter((row) => !isReference(row.policy))),
    columns: [col.policy, { label: 'Largest R-EMID on', name: true, cell: (row) => name(of(row, 'by_remid').subset), sort: (row) => of(row, 'by_remid').subset },
      { label: 'R-EMID', num: true, cell: (row) => estimate(of(row, 'by_remid')), sort: (row) => of(row, 'by_remid').value ?? null },
      { label: 'Interval', num: true, cell: (row) => interval(of(row, 'by_remid')) },
      { label: 'adjusted p', num: true, cell: (row) => pText(of(row, 'by_remid').p_adjusted), sort: (row) => of(row, 'by_remid').p_adjusted ?? null },
      { label: 'n', num: true, cell: worstCounts },
      { label: 'Largest bound on', name: true, cell: (row) => name(of(row, 'by_bound').subset), sort: (row) => of(row, 'by_bound').subset },
      { label: 'Bound', num: true, cell: (row) => number(of(row, 'by_bound').value, null, false), sort: (row) => of(row, 'by_bound').value ?? null }],
  }));
  byId('divergence-table').replaceChildren(makeTable({
    caption: 'In nats. Interval: of RJSD', rows: result.divergence, tall: true, pooled: (row) => row.subset === null,
    columns: [col.subset, col.shift, { label: 'Part', cell: (row) => row.component, sort: (row) => row.component }, col.num('RJSD', (row) => row.rjsd, 3), { label: 'Interval', num: true, sort: (row) => row.ci_low, cell: (row) => (halfWidth(row) === null ? 'no interval' : `${number(row.ci_low, 3, false)} to ${number(row.ci_high, 3, false)}`) }, col.p('p_value', 'p'),
      col.num('raw', (row) => row.rjsd_raw, 3), col.num('null mean', (row) => row.null_mean, 3), col.num('classifier', (row) => row.classifier, 3), col.n('n_id', 'n ID'), col.n('n_ood', 'n shifted')],
  }));
}
// The worst-case rows hold no n; the R-EMID row they came from does.
function worstCounts(row) {
  const subset = row.by_remid ? row.by_remid.subset : null;
  const source = result.remid.find((item) => item.policy === row.policy && item.subset === subset && subset !== null);
  return source ? `${source.n_id} ID, ${source.n_ood} shifted` : 'n/a';
}
let contrastOf = 'all';
function drawContrasts() {
  const rows = result.contrasts.filter((row) => contrastOf === 'all' || row.quantity === contrastOf).filter((row) => row.unit === state.unit || result.contrasts.every((item) => item.unit !== state.unit));
  const unit = rows.length ? rows[0].unit : state.unit;
  byId('contrasts-table').replaceChildren(makeTable({
    caption: `Policy minus versus, in ${unit}${unit === state.unit ? '' : ` (not estimated in ${state.unit})`}; * significant after correction`, rows: modelsFirst(rows), tall: true, portion: 60,
    columns: [col.policy, { label: 'Versus', name: true, cell: (row) => nameNode(row.versus), sort: (row) => row.versus },
      { label: 'Quantity', cell: (row) => (row.quantity === 'remid' ? 'R-EMID' : 'R-EMI'), sort: (row) => row.quantity }, col.shift, col.value('Difference'), col.interval,
      col.p('p_value', 'p'), col.p('p_adjusted', 'adjusted p'), col.n('n', 'n')],
  }));
}
function startBound() {
  const shifts = unique(result.bound.filter((row) => row.subset !== null).map((row) => row.shift));
  byId('bound-tools').append(selectBox('Show', [['', 'pooled shifts'], ...shifts.map((shift, k) => [String(k), `subsets: ${shiftLabel(shift, 24)}`])], (value) => {
    boundShift = value === '' ? null : shifts[Number(value)];
    redraw();
  }));
  twin('bound-tools', 'bound-plot', 'bound-table');
  byId('contrasts-tools').append(segmented('Quantity', [['all', 'Both'], ['remi', 'R-EMI'], ['remid', 'R-EMID']], 'all', (value) => { contrastOf = value; drawContrasts(); }));
}
