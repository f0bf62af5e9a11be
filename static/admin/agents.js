// Agents: the connected workers, their jobs, and what rooms want of them.

import { actions, ask, button, element, pager, percent, redraw, roomLink, section, table, tag, time } from './ui.js';
import { call, get, path, query } from './api.js';

const PAGE = 50;
const nameOf = (name) => name || 'for every room';

export async function agents(root, { signal }) {
  // list is a table over the pages of one of the API's lists.
  function list(field, caption, columns, empty) {
    const place = element('div', { id: field });
    const pages = pager(async (cursor) => {
      const page = await get(`/agents/${field}${query({ limit: PAGE, cursor })}`, signal);
      redraw(place, table(caption, columns, page[field], empty));
      return page.next_cursor;
    });
    return { pages, node: section(caption, place, pages.node) };
  }
  const workers = list('workers', 'Workers', [
    { head: 'Agent', cell: (one) => nameOf(one.kind.agent_name) },
    { head: 'Namespace', cell: (one) => one.kind.namespace },
    { head: 'Deployment', cell: (one) => one.kind.deployment },
    { head: 'Jobs for', cell: (one) => one.kind.type },
    { head: 'State', cell: (one) => [one.full ? tag('full', 'warning') : tag('takes jobs', 'ok')] },
    { head: 'Load', kind: 'num', cell: (one) => percent(one.load, 0) },
    { head: 'Jobs', kind: 'num', cell: (one) => String(one.jobs) },
    { head: 'Key', cell: (one) => one.key },
    { head: 'Connected', kind: 'tight', cell: (one) => time(one.connected_at) },
    { head: 'Id', cell: (one) => [element('code', {}, one.id)] },
  ], 'No worker is connected.');
  const jobs = list('jobs', 'Jobs that wait or run', [
    { head: 'Room', cell: (one) => [roomLink(one.room)] },
    { head: 'Agent', cell: (one) => nameOf(one.kind.agent_name) },
    { head: 'State', cell: (one) => [tag(one.state, one.state === 'running' ? 'ok' : 'warning')] },
    { head: 'Identity', cell: (one) => one.identity },
    { head: 'Worker', cell: (one) => [one.worker && element('code', {}, one.worker)] },
    { head: 'Since', kind: 'tight', cell: (one) => time(one.created_at) },
  ], 'No job waits or runs.');
  const dispatches = list('dispatches', 'Dispatches', [
    { head: 'Room', cell: (one) => [roomLink(one.room)] },
    { head: 'Agent', cell: (one) => nameOf(one.agent_name) },
    { head: 'Jobs', kind: 'num', cell: (one) => String(one.jobs) },
    { head: 'Metadata', cell: (one) => one.metadata },
    { head: 'Made', kind: 'tight', cell: (one) => time(one.created_at) },
    { head: 'Actions', cell: (one) => button('Delete', async () => {
      const sure = await ask({ title: 'Delete this dispatch?', text: `Its jobs in ${one.room} end, and their agents leave.`, confirm: 'Delete', bad: true });
      if (!sure) return;
      await call('DELETE', `/rooms${path(one.room)}/dispatches${path(one.id)}`);
      await Promise.all(all.map((other) => other.pages.again()));
    }, { least: 'moderate', kind: 'bad', name: `${nameOf(one.agent_name)}, ${one.room}` }) },
  ], 'No room wants an agent.');
  const all = [workers, jobs, dispatches];
  root.append(
    element('header', {}, element('h1', {}, 'Agents'), actions(button('Refresh', () => Promise.all(all.map((one) => one.pages.again()))))),
    ...all.map((one) => one.node),
  );
  await Promise.all(all.map((one) => one.pages.first()));
  return {};
}
