// Starts the page. One part that fails must not take the others with it.
function safely(call) {
  try { call(); } catch (error) { console.error(error); }
}
function drawAll() {
  for (const node of document.querySelectorAll('.unit')) node.textContent = state.unit;
  for (const call of [drawHeatmap, drawForest, drawBound, drawCalibration]) safely(call);
}
onChange.push(drawAll);

safely(() => twin('remid-tools', 'remid-plot', 'remid-table'));
safely(startForest);
safely(startBound);
safely(drawAll);
safely(drawBoundTables);
safely(drawPluginBounds);
safely(drawContrasts);
safely(startSamples);

for (const input of document.querySelectorAll('#unit-switch input')) {
  // A reload may keep the choice of the last visit.
  if (input.checked) state.unit = input.value;
  input.addEventListener('change', () => {
    state.unit = input.value;
    redraw();
    safely(drawContrasts);
  });
}
if (state.unit !== MAIN_UNIT) redraw();

const wantsDark = window.matchMedia('(prefers-color-scheme: dark)');
byId('theme-switch').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : wantsDark.matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  try { window.localStorage.setItem('remid-theme', root.dataset.theme); } catch { /* refused on some file:// pages */ }
  redraw();
});
wantsDark.addEventListener('change', redraw);

// On paper everything is light, the figures as well.
let before = null;
window.addEventListener('beforeprint', () => {
  before = document.documentElement.dataset.theme || '';
  document.documentElement.dataset.theme = 'light';
  redraw();
});
window.addEventListener('afterprint', () => {
  if (before) document.documentElement.dataset.theme = before;
  else delete document.documentElement.dataset.theme;
  redraw();
});

let width = window.innerWidth;
let timer = 0;
window.addEventListener('resize', () => {
  if (window.innerWidth === width) return; // phones resize in height whenever their tool bar moves
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(redraw, 120);
});
document.documentElement.dataset.ready = 'true';
