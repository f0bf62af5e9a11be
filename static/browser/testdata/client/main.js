// Runs scenarios by name for the test that drives this page. The query says
// where the server is (url), how to connect (single), and which list to run.

import { forget, leaveAll } from './peer.js';

const list = new URLSearchParams(location.search).get('list');
const { scenarios } = await import(`./${list}.js`);

/** Runs one scenario; the result is empty, or says what went wrong. */
async function run(name) {
  try {
    await scenarios.find(([known]) => known === name)[1]();
    return '';
  } catch (error) {
    return `${error.stack ?? error}\n${leaveAll.told()}`;
  } finally {
    await leaveAll();
    forget();
  }
}

window.parlor = { screen: list, names: scenarios.map(([name]) => name), run };
