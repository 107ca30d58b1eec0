// One opened sample: its input as a chat, its trace, and every policy's response with the numbers behind R-EMI.
const perToken = (value, tokens) => (value === null || !tokens ? null : value / tokens);
function metric(label, text) { return el('div', {}, el('dt', {}, `${label} `), el('dd', {}, text)); }
const nats = (value, sign = true) => (value === null || value === undefined ? 'n/a' : number(value, 1, sign));

function sampleView(sample) {
  const title = el('h3', { tabindex: '-1' }, 'Sample ', nameNode(sample.sample_id, 60));
  const facts = el('p', { class: 'fine' }, nameNode(sample.subset), ` · ${shiftLabel(sample.shift)} · prompt of ${sample.prompt_tokens} tokens`,
    sample.dropped_turns ? ` · ${sample.dropped_turns} oldest turns dropped to fit` : '');
  const back = el('button', { type: 'button', class: 'back' }, '↑ Back to the list');
  back.addEventListener('click', () => {
    const item = byId('sample-list').querySelector('[aria-current]') || byId('sample-list').querySelector('button');
    byId('samples').scrollIntoView();
    if (item) item.focus();
  });
  const persona = el('div', { class: 'pair-cards' }, el('div', {}, el('h4', {}, 'User'), textNode(sample.user, 500)), el('div', {}, el('h4', {}, 'Character'), textNode(sample.character, 500)));
  const chat = el('div', { class: 'chat', role: 'list', 'aria-label': 'Dialogue' }, sample.dialogue.map((turn) => el('div', { class: `turn ${turn.role === 'user' ? 'user' : 'agent'}`, role: 'listitem' },
    el('span', { class: 'who' }, turn.role === 'user' ? 'User' : turn.role === 'agent' ? 'Character' : shortName(turn.role, 30)), textNode(turn.text, 900))));
  const trace = sample.trace === null ? el('p', { class: 'fine' }, 'No trace was used for this sample.')
    : el('details', { class: 'fold' }, el('summary', {}, 'Reasoning trace, as used in the prompt'), textNode(sample.trace, 1500));
  const reference = responseOf(sample, 'reference');
  const order = [...sample.responses].sort((a, b) => rank(a) - rank(b));
  const spread = order.map((item) => item.density).filter((value) => value !== null);
  const span = [Math.min(0, ...spread), Math.max(0, ...spread)];
  const list = el('div', { class: 'responses' }, order.map((item) => responseCard(item, reference, span)));
  return el('article', { class: 'sample' }, el('header', {}, back, title, facts), persona, chat, trace, el('h3', {}, 'Responses'),
    el('p', { class: 'fine' }, 'Bar: density from 0 (thin mark); black mark: the reference’s density. n = 1 for every number here, so none has an interval.'), list);
}
const rank = (item) => (item.policy === 'reference' ? 0 : item.policy === browse.policy ? 1 : kinds.get(item.policy) === 'model' ? 2 : 3);

function responseCard(item, reference, span) {
  const isRef = item.policy === 'reference';
  const kind = isRef ? 'the reference response' : kinds.get(item.policy) || '';
  const css_ = ['response', isRef && 'reference', item.policy === browse.policy && 'picked'].filter(Boolean).join(' ');
  const card = el('article', { class: css_ }, el('h4', {}, nameNode(item.policy), el('span', { class: 'kind' }, kind)));
  if (item.text === null) {
    card.append(el('p', { class: 'fine' }, 'n/a: ', item.missing ? nameNode(item.missing, 200) : 'no response, no reason recorded'));
    return card;
  }
  card.append(el('div', { class: 'body' }, textNode(item.text, 900)));
  if (item.missing) card.append(el('p', { class: 'fine' }, 'Not scored: ', nameNode(item.missing, 200)));
  if (item.density !== null) card.append(densityBar(item.density, reference ? reference.density : null, span));
  const token = perToken(item.logp, item.n_tokens);
  card.append(el('dl', { class: 'metrics' },
    metric('Log-likelihood', item.logp === null ? 'n/a' : `${nats(item.logp)} nats/response, ${number(token, 2)} nats/token`),
    metric('Length', item.n_tokens === null ? 'n/a' : `${item.n_tokens} tokens`),
    metric('Under other inputs', `${nats(item.negative_mean)}${item.negative_mean === null ? '' : ' nats/response'}`),
    metric('Density', `${nats(item.density)}${item.density === null ? '' : ' nats/response'}`),
    metric('Contribution', isRef ? '0 by definition' : `${nats(item.contribution)}${item.contribution === null ? '' : ' nats/response'}`)));
  if (item.pairs && item.pairs.length) {
    card.append(el('p', { class: 'pulls' }, 'Pulls hardest against the input of ', item.pairs.map((pair, k) => {
      const known = browse.byId.has(pair.sample_id);
      const link = known ? el('button', { type: 'button', class: 'link' }, el('bdi', {}, shortName(pair.sample_id, 40))) : el('bdi', {}, shortName(pair.sample_id, 40));
      if (known) link.addEventListener('click', () => jumpTo(pair.sample_id));
      return [k ? '; ' : '', link, ` (${nats(pair.logp)} nats/response)`];
    }).flat()));
  }
  return card;
}
function densityBar(density, reference, [low, high]) {
  const width = high - low || 1;
  const at = (value) => (100 * (value - low)) / width;
  const bar = el('i');
  bar.style.left = `${at(Math.min(0, density))}%`;
  bar.style.width = `${Math.max(0.5, at(Math.max(0, density)) - at(Math.min(0, density)))}%`;
  const zero = el('u');
  zero.style.left = `${at(0)}%`;
  const box = el('div', { class: 'density', 'aria-hidden': 'true' }, bar, zero);
  if (reference !== null) {
    const mark = el('b');
    mark.style.left = `calc(${at(reference)}% - 1px)`;
    box.append(mark);
  }
  return box;
}
