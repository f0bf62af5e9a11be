// What was refused, and why.

import { element, roomLink, table, tag, time } from './ui.js';
import { get } from './api.js';

export async function refused(root, { signal }) {
  const place = element('div', { id: 'refusals' });
  const about = element('p', { className: 'quiet' });
  let total = -1;
  async function refresh() {
    const list = await get('/refusals', signal);
    total = list.total;
    about.textContent = `${list.total} since the start; the newest ${list.refusals.length} are here.`;
    place.replaceChildren(table('Refused joins and calls', [
      { head: 'When', cell: (one) => time(one.at) },
      { head: 'What', cell: (one) => [tag(one.what), one.call ? element('code', {}, one.call) : ''] },
      { head: 'Status', kind: 'num', cell: (one) => String(one.status) },
      { head: 'Why', kind: 'wide', cell: (one) => one.why },
      { head: 'Room', cell: (one) => (one.room ? roomLink(one.room) : '') },
      { head: 'Identity', cell: (one) => one.identity ?? '' },
      { head: 'Key', cell: (one) => one.key ?? '' },
      { head: 'Address', cell: (one) => one.address },
      { head: 'Client', cell: (one) => one.agent ?? '' },
    ], list.refusals, 'Nothing was refused since the start.'));
  }
  root.append(element('header', {}, element('h1', {}, 'Refused')), about, element('section', {}, place));
  await refresh();
  return {
    overview(overview) {
      if (overview.refused !== total) refresh().catch(() => {});
    },
  };
}
