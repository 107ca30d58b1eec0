// The proven bounds with estimates put in, and the shares with their intervals, per policy and shift.
const BOUND_NAMES = ['T0', 'T1', 'T2', 'T3', 'T4'];
const plugin = (row, name) => (row.bounds && row.bounds[name]) || { value: null, reason: 'this run is older than these bounds' };
// The sparse share, or the paper's where there is none.
function shareOf(row, part) {
  const sparse = row.shares && row.shares.sparse;
  if (sparse) return sparse[part].value;
  return row.share ? row.share[part] : null;
}
function pluginColumn(name) {
  return {
    label: name, num: true, sort: (row) => plugin(row, name).value,
    cell: (row) => {
      const bound = plugin(row, name);
      if (bound.value === null) return el('span', { title: bound.reason || 'no reason recorded' }, 'n/a');
      const range = bound.ci_low === null || bound.ci_low === undefined ? '' : ` (${number(bound.ci_low, 1, false)} to ${number(bound.ci_high, 1, false)})`;
      return el(row.least === name ? 'strong' : 'span', {}, number(bound.value, 1, false), bound.exceeded ? ' !' : '', el('span', { class: 'fine' }, range));
    },
  };
}
function drawPluginBounds() {
  const rows = modelsFirst(result.bound.filter((row) => !isReference(row.policy)));
  const part = (key) => (row) => (row.ingredients ? row.ingredients[key] : null);
  byId('plugin-table').replaceChildren(makeTable({
    caption: 'Plug-in bounds in nats/response, interval of their information part; bold: the smallest; !: the measured R-EMID lies above it', rows, tall: true, portion: 60, pooled: (row) => row.subset === null,
    columns: [col.policy, col.subset, col.shift, col.num('R-EMID', (row) => row.remid, 1), ...BOUND_NAMES.map(pluginColumn), col.num("paper's form", (row) => row.value, 1),
      col.num('t', part('t'), 2), col.num('eps ID', part('eps_id'), 2), col.num('eps shifted', part('eps_ood'), 2)],
  }));
  const seen = new Set();
  const cells = result.bound.filter((row) => row.shares && !seen.has(`${row.shift}\n${row.subset}`) && seen.add(`${row.shift}\n${row.subset}`));
  const share = (kind, label) => PARTS.map((key) => ({
    label: `${label} ${key}`, num: true, sort: (row) => (row.shares[kind] ? row.shares[kind][key].value : null),
    cell: (row) => {
      const found = row.shares[kind] && row.shares[kind][key];
      if (!found || found.value === null) return el('span', { title: row.shares.reason || '' }, 'n/a');
      const range = found.ci_low === null ? '' : ` (${Math.round(100 * found.ci_low)} to ${Math.round(100 * found.ci_high)})`;
      return el('span', {}, `${Math.round(100 * found.value)}%`, el('span', { class: 'fine' }, range));
    },
  }));
  byId('shares-table').replaceChildren(makeTable({
    caption: 'Shares of the shift in per cent, with 95% intervals', rows: cells, tall: true, pooled: (row) => row.subset === null,
    columns: [col.subset, col.shift, ...share('sparse', 'Sparse'), { label: 'Leads in', num: true, sort: (row) => row.shares.leads, cell: (row) => (row.shares.leads === null ? 'n/a' : `${Math.round(100 * row.shares.leads)}%`) },
      ...share('shapley', 'Shapley'), ...share('paper', "Paper's")],
  }));
}
