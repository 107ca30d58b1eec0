// Runs before the page is drawn, so that a chosen theme does not flash. Storage is refused on some file:// pages.
(() => {
  try {
    const chosen = window.localStorage.getItem('remid-theme');
    if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
  } catch { /* the system's theme is used */ }
})();
