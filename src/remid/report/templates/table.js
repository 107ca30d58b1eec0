// Tables with a heading that stays, sorting by any column (nulls last), and rows drawn in portions.
// column: {label, cell(row) -> Node or text, sort(row) -> number, text or null, num: align right}
function makeTable({ caption, columns, rows, portion = 150, sortable = true, pooled = () => false, tall = false }) {
  const box = el('div', { class: tall ? 'scroll tall' : 'scroll', tabindex: '0', role: 'region', 'aria-label': caption });
  if (!rows.length) {
    box.append(el('p', { class: 'fine more-rows' }, 'Nothing to show here.'));
    return box;
  }
  let shown = portion;
  let sorted = rows;
  const body = el('tbody');
  const more = el('div', { class: 'more-rows' });
  const heads = columns.map((column) => {
    const th = el('th', { scope: 'col', class: column.num ? 'num' : null });
    if (!sortable || !column.sort) { th.append(column.label); return th; }
    th.append(el('button', { type: 'button', on: { click: () => sortBy(column, th) } }, column.label));
    return th;
  });
  function draw() {
    body.replaceChildren(...sorted.slice(0, shown).map((row) => el('tr', { class: pooled(row) ? 'pooled' : null },
      columns.map((column, k) => {
        const value = column.cell(row);
        const tag = k === 0 ? 'th' : 'td';
        const css = [column.num && 'num', column.name && 'name', value === 'n/a' && 'na'].filter(Boolean).join(' ');
        return el(tag, { class: css || null, scope: k === 0 ? 'row' : null }, value);
      }))));
    more.replaceChildren();
    if (sorted.length > shown) {
      const text = `Show ${Math.min(portion, sorted.length - shown)} more of ${sorted.length} rows`;
      more.append(el('button', { type: 'button', on: { click: () => { shown += portion; draw(); } } }, text));
    }
  }
  function sortBy(column, th) {
    const down = th.getAttribute('aria-sort') === 'ascending';
    for (const head of heads) head.removeAttribute('aria-sort');
    th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const sign = down ? -1 : 1;
    sorted = rows.slice().sort((a, b) => {
      const x = column.sort(a);
      const y = column.sort(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === 'string' ? x.localeCompare(y) : x - y);
    });
    draw();
  }
  draw();
  box.append(el('table', {}, el('caption', {}, caption), el('thead', {}, el('tr', {}, heads)), body), more);
  return box;
}

// Columns that many tables share.
const col = {
  policy: { label: 'Policy', name: true, cell: (row) => nameNode(row.policy), sort: (row) => row.policy },
  subset: {
    label: 'Subset', name: true, sort: (row) => subsetLabel(row),
    cell: (row) => (row.subset === null ? 'all, pooled' : nameNode(row.subset)),
  },
  shift: { label: 'Shift', name: true, cell: (row) => shiftLabel(row.shift), sort: (row) => row.shift },
  value: (label) => ({
    label, num: true, sort: (row) => row.value,
    cell: (row) => (row.value === null ? el('span', { title: reason(row) }, 'n/a') : estimate(row) + (row.significant ? ' *' : '')),
  }),
  interval: { label: 'Interval', num: true, cell: interval, sort: (row) => row.ci_low },
  p: (key, label) => ({ label, num: true, cell: (row) => pText(row[key]), sort: (row) => row[key] }),
  n: (key, label) => ({ label, num: true, cell: (row) => (row[key] === null ? 'n/a' : String(row[key])), sort: (row) => row[key] }),
  num: (label, get, digits = null) => ({ label, num: true, cell: (row) => number(get(row), digits, false), sort: get }),
  why: { label: 'Note', name: true, cell: (row) => (row.value === null ? reason(row) : '') },
};
