// The list of samples. Only what is shown is in the page: items in portions, one opened sample at a time.
const PORTION = 60;
const browse = { details: null, byId: new Map(), search: '', subset: '', policy: '', order: 'most', shown: PORTION, open: null, found: [] };

function loadDetails() {
  if (browse.details) return;
  browse.details = read('data-details');
  browse.details.forEach((sample, k) => { browse.byId.set(sample.sample_id, k); });
}
const responseOf = (sample, policy) => sample.responses.find((item) => item.policy === policy);
// The contribution to sort by: the chosen policy's, or of all policies' the one that pulls hardest.
function contribution(sample) {
  if (browse.policy) {
    const item = responseOf(sample, browse.policy);
    return item ? item.contribution : null;
  }
  let most = null;
  for (const item of sample.responses) {
    if (item.contribution === null || isReference(item.policy) || item.policy === 'reference') continue;
    if (most === null || Math.abs(item.contribution) > Math.abs(most)) most = item.contribution;
  }
  return most;
}
const haystacks = [];
function haystack(sample, k) {
  if (haystacks[k] === undefined) {
    const texts = [sample.sample_id, sample.subset, sample.user, sample.character, sample.reference, sample.trace,
      ...sample.dialogue.map((turn) => turn.text), ...sample.responses.map((item) => item.text)];
    haystacks[k] = texts.filter(Boolean).join('\n').toLowerCase();
  }
  return haystacks[k];
}
function find() {
  const words = browse.search.toLowerCase().trim();
  const found = [];
  browse.details.forEach((sample, k) => {
    if (browse.subset !== '' && sample.subset !== browse.subsets[Number(browse.subset)]) return;
    if (words && !haystack(sample, k).includes(words)) return;
    found.push({ k, value: contribution(sample) });
  });
  const key = { most: (item) => -Math.abs(item.value), low: (item) => item.value, high: (item) => -item.value }[browse.order];
  if (key) found.sort((a, b) => (a.value === null) - (b.value === null) || (a.value === null ? 0 : key(a) - key(b)) || a.k - b.k);
  browse.found = found;
}

function listItem({ k, value }) {
  const sample = browse.details[k];
  const last = sample.dialogue.length ? sample.dialogue[sample.dialogue.length - 1].text : sample.user;
  const button = el('button', { type: 'button', class: 'item', 'data-k': k, 'aria-current': browse.open === k ? 'true' : null },
    el('span', { class: 'row' }, el('bdi', {}, shortName(sample.sample_id, 60)), el('span', {}, number(value, value === null ? null : 1))),
    el('span', { class: 'fine' }, el('bdi', {}, shortName(sample.subset, 40))), el('span', { class: 'fine', dir: 'auto' }, shortName(last.slice(0, 400), 90)));
  button.addEventListener('click', () => openSample(k));
  return el('li', {}, button);
}
function drawList() {
  const { found, shown, details } = browse;
  const items = found.slice(0, shown).map(listItem);
  if (found.length > shown) {
    const more = el('button', { type: 'button' }, `Show ${Math.min(PORTION, found.length - shown)} more`);
    more.addEventListener('click', () => {
      browse.shown += PORTION;
      drawList();
      const next = byId('sample-list').querySelectorAll('button.item')[shown];
      if (next) next.focus();
    });
    items.push(el('li', {}, more));
  }
  byId('sample-list').replaceChildren(...items);
  byId('sample-count').textContent = `${found.length} of ${details.length} samples. Number: contribution in nats/response, ${browse.policy ? `of ${shortName(browse.policy, 30)}` : 'of the policy that pulls hardest'}.`;
}
function refresh() {
  browse.shown = PORTION;
  find();
  drawList();
}
function openSample(k, focus = true) {
  const before = byId('sample-list').querySelector('[aria-current]');
  if (before) before.removeAttribute('aria-current');
  browse.open = k;
  const item = byId('sample-list').querySelector(`[data-k="${k}"]`);
  if (item) item.setAttribute('aria-current', 'true');
  const view = sampleView(browse.details[k]);
  byId('sample-panel').replaceChildren(view);
  if (!focus) return;
  const heading = view.querySelector('h3');
  heading.focus({ preventScroll: true });
  byId('sample-panel').scrollIntoView({ block: 'start' });
}
// From a pair to the sample it was paired with: filters that hide it are dropped.
function jumpTo(id) {
  const k = browse.byId.get(id);
  if (k === undefined) return;
  if (!browse.found.some((item) => item.k === k)) {
    browse.search = '';
    browse.subset = '';
    byId('sample-search').value = '';
    byId('sample-subset').value = '';
    find();
  }
  browse.shown = Math.max(browse.shown, browse.found.findIndex((item) => item.k === k) + 1);
  drawList();
  openSample(k);
  const item = byId('sample-list').querySelector(`[data-k="${k}"]`);
  if (item) byId('sample-list').scrollTop = item.offsetTop - 40;
}

function field(label, id, control) {
  control.id = id;
  return el('label', { for: id }, label, control);
}
function startSamples() {
  const app = byId('samples-app');
  const start = () => {
    loadDetails();
    if (!browse.details.length) { app.replaceChildren(el('p', { class: 'fine' }, 'This run kept no samples.')); return; }
    browse.subsets = unique(browse.details.map((sample) => sample.subset));
    const choices = (list) => list.map(([value, text]) => el('option', { value }, text));
    const search = el('input', { type: 'search', placeholder: 'words in any text', autocomplete: 'off' });
    const subset = el('select', {}, choices([['', 'all'], ...browse.subsets.map((name, k) => [String(k), shortName(name, 40)])]));
    const policy = el('select', {}, choices([['', 'all'], ...policies.map((name, k) => [String(k), shortName(name, 40)])]));
    const order = el('select', {}, choices([['most', 'strongest contribution'], ['low', 'most negative first'], ['high', 'most positive first'], ['file', 'order of the data']]));
    let timer = 0;
    search.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(() => { browse.search = search.value; refresh(); }, 150); });
    subset.addEventListener('change', () => { browse.subset = subset.value; refresh(); });
    policy.addEventListener('change', () => {
      browse.policy = policy.value === '' ? '' : policies[Number(policy.value)];
      refresh();
      if (browse.open !== null) openSample(browse.open, false);
    });
    order.addEventListener('change', () => { browse.order = order.value; refresh(); });
    app.replaceChildren(
      el('div', { class: 'filters', role: 'search' }, field('Search', 'sample-search', search), field('Subset', 'sample-subset', subset), field('Policy', 'sample-policy', policy), field('Order', 'sample-order', order)),
      el('p', { class: 'count', id: 'sample-count', role: 'status' }),
      el('div', { class: 'browser' }, el('ul', { class: 'list', id: 'sample-list', 'aria-label': 'Samples' }),
        el('div', { class: 'panel', id: 'sample-panel' }, el('p', { class: 'empty' }, 'Choose a sample to read its input, its trace and what every policy answered.'))),
    );
    refresh();
  };
  // Reading the samples can take a moment in a large run; wait until they come near the window.
  app.append(el('p', { class: 'fine' }, 'Loading samples…'));
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    start();
  }, { rootMargin: '800px' });
  watch.observe(app);
}
