// Helpers shared by all parts. Text reaches the page through textContent only: el() has no way to set HTML.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const result = read('data-result');
const controls = read('data-controls');
const MAIN_UNIT = 'nats/response';
const state = { unit: MAIN_UNIT };
const onChange = [];
const byId = (id) => document.getElementById(id);

// Marks that are unseen or reorder text, as in text.py.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
function visible(text) {
  const mark = (found) => `⟨U+${found.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`;
  return String(text).replace(/\r\n/g, '\n').replace(UNSEEN, mark);
}
// Cuts between characters, not inside a surrogate pair.
function short(text, limit) {
  if (text.length <= limit) return text;
  const last = text.charCodeAt(limit - 2);
  return `${text.slice(0, last >= 0xd800 && last < 0xdc00 ? limit - 2 : limit - 1)}…`;
}

function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'class') node.className = value;
    else if (key === 'on') for (const [name, call] of Object.entries(value)) node.addEventListener(name, call);
    else node.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

// A name from the data: isolated from its surroundings, shortened, in full on demand.
function nameNode(text, limit = 48) {
  const full = visible(text);
  const bdi = el('bdi', {}, short(full, limit));
  if (full.length <= limit) return bdi;
  const button = el('button', { type: 'button', class: 'link', 'aria-label': `show all ${full.length} characters` }, 'show all');
  button.addEventListener('click', () => { bdi.textContent = full; button.remove(); });
  return el('span', {}, bdi, ' ', button);
}
const shortName = (text, limit = 48) => short(visible(text), limit);

// A text of any length; the rest of a long one is put into the page only when asked for.
function textNode(text, limit = 1200) {
  const full = visible(text);
  const body = el('div', { class: 'prose', dir: 'auto' }, short(full, limit));
  if (full.length <= limit) return body;
  const label = (open) => (open ? 'show less' : `show all ${full.length.toLocaleString('en')} characters`);
  const button = el('button', { type: 'button', class: 'link', 'aria-expanded': 'false' }, label(false));
  button.addEventListener('click', () => {
    const open = button.getAttribute('aria-expanded') !== 'true';
    button.setAttribute('aria-expanded', String(open));
    body.textContent = open ? full : short(full, limit);
    button.textContent = label(open);
  });
  return el('div', {}, body, button);
}

// Numbers, as in text.py.
function decimals(scale) {
  if (scale === null || scale === undefined || scale === 0) return 2;
  return Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(Math.abs(scale)))));
}
function number(value, places = null, sign = true) {
  if (value === null || value === undefined) return 'n/a';
  const text = Math.abs(value).toFixed(places === null ? decimals(value) : places);
  if (Number(text) === 0) return text;
  return (value < 0 ? '−' : sign ? '+' : '') + text;
}
const halfWidth = (row) => (row.ci_low === null || row.ci_low === undefined || row.ci_high === null ? null
  : Math.abs(row.ci_high - row.ci_low) / 2);
const places = (row) => { const half = halfWidth(row); return half === null ? null : decimals(half); };
const estimate = (row) => number(row.value, places(row));
const interval = (row) => (halfWidth(row) === null ? 'no interval'
  : `${number(row.ci_low, places(row))} to ${number(row.ci_high, places(row))}`);
function pText(value) {
  if (value === null || value === undefined) return 'n/a';
  if (value < 0.001) return '< 0.001';
  return value < 0.1 ? String(Number(value.toPrecision(2))) : value.toFixed(2);
}

// Why a number is null, as far as the run recorded it.
function reason(row) {
  const policy = row.policy === undefined ? null : row.policy;
  const fits = (item) => (item.policy === null || item.policy === policy) && (row.subset === null || item.subset === null || item.subset === row.subset);
  const all = result.missing.filter(fits);
  const own = all.filter((item) => item.policy !== null || (row.subset !== null && item.subset !== null));
  const found = (own.length ? own : all).slice(0, 2).map((item) => `${item.n} × ${item.what}: ${shortName(item.reason, 80)}`);
  const few = [row.n, row.n_id, row.n_ood].filter((n) => typeof n === 'number' && n < 2);
  if (few.length) found.unshift(`n = ${few[0]}`);
  return found.length ? `n/a (${found.join('; ')})` : 'n/a (no reason recorded)';
}

const SHIFT_WORDS = new Map([['id', 'In distribution (ID)'], ['user', 'User shift'], ['character', 'Character shift'], ['dialogue', 'Dialogue shift']]);
const shiftLabel = (shift, limit = 40) => SHIFT_WORDS.get(shift) || `Shift “${shortName(shift, limit)}”`;
const subsetLabel = (row, limit = 48) => (row.subset === null ? `${shiftLabel(row.shift, limit)}, pooled` : shortName(row.subset, limit));
const kinds = new Map(result.policies.map((row) => [row.policy, row.kind]));
// The reference is the origin of the scale, so its rows are 0 and stay out of plots and tables.
const isReference = (policy) => policy === 'reference' && kinds.get(policy) !== 'model';
const policies = result.policies.map((row) => row.policy).filter((policy) => !isReference(policy));
policies.sort((a, b) => (kinds.get(a) === 'model' ? 0 : 1) - (kinds.get(b) === 'model' ? 0 : 1));
const unique = (items) => [...new Set(items)];
const allShifts = unique(result.subsets.map((row) => row.shift).concat(result.remi.map((row) => row.shift)));
const inUnit = (rows) => rows.filter((row) => row.unit === state.unit);

function segmented(legend, options, chosen, call) {
  const name = `seg-${segmented.count = (segmented.count || 0) + 1}`;
  return el('fieldset', { class: 'segmented' }, el('legend', { class: 'sr' }, legend), options.map(([value, label]) => {
    const input = el('input', { type: 'radio', name, value, checked: value === chosen });
    input.addEventListener('change', () => call(value));
    return el('label', {}, input, el('span', {}, label));
  }));
}
function selectBox(label, options, call) {
  const select = el('select', {}, options.map(([value, text]) => el('option', { value }, text)));
  select.addEventListener('change', () => call(select.value));
  return el('label', {}, label, select);
}
// The same numbers as a figure and as a real table.
function twin(tools, plot, table) {
  byId(tools).append(segmented('Show as', [['chart', 'Chart'], ['table', 'Table']], 'chart', (value) => {
    byId(plot).hidden = value !== 'chart';
    byId(table).hidden = value !== 'table';
    redraw();
  }));
}
function redraw() { for (const call of onChange) call(); }
