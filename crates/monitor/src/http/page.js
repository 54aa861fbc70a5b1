'use strict';
// The table is made anew in place, so that what is open stays open and nothing jumps.
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch('/', { headers: { accept: 'text/html' } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const open = new Set([...document.querySelectorAll('details[open]')].map(one => one.id));
    for (const one of page.querySelectorAll('details')) one.open = open.has(one.id);
    document.querySelector('main').replaceWith(page.querySelector('main'));
  } catch { /* the monitor is away: what is shown stays until it is back */ }
}
setInterval(refresh, 5000);
