// The API, as the dashboard speaks it: /v1 with the session's cookie, which the server
// believes only with the header.

export class Problem extends Error {
  constructor(status, { code, detail } = {}) {
    super(detail || `The server answered ${status}.`);
    this.status = status;
    this.code = code;
  }
}

const listeners = new Set();

// onSignedOut tells when the session is over.
export function onSignedOut(listener) {
  listeners.add(listener);
}

async function send(method, path, { body, signal, accept, lastEventID } = {}) {
  const headers = { 'Parlor-Admin': '1', Accept: accept ?? 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (lastEventID) headers['Last-Event-ID'] = lastEventID;
  let answer;
  try {
    answer = await fetch(`/v1${path}`, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), credentials: 'same-origin', cache: 'no-store',
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { code: 'unreachable', detail: 'The server cannot be reached.' });
  }
  if (answer.ok) return answer;
  let problem;
  try {
    problem = await answer.json();
  } catch {
    problem = {};
  }
  if (answer.status === 401 && path !== '/admin/session') for (const listener of listeners) listener();
  throw new Problem(answer.status, problem);
}

export async function call(method, path, body, signal) {
  const answer = await send(method, path, { body, signal });
  return answer.status === 204 ? null : answer.json();
}

export const get = (path, signal) => call('GET', path, undefined, signal);

// query writes parameters without those that are empty.
export function query(parameters) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== '') values.append(name, value);
  }
  const text = values.toString();
  return text ? `?${text}` : '';
}

export const path = (...parts) => parts.map((part) => `/${escape(part)}`).join('');

// escape is a name as one segment of a path; what stands for a folder elsewhere is a name
// as any other.
function escape(part) {
  const text = encodeURIComponent(part);
  return text === '.' || text === '..' ? text.replaceAll('.', '%2E') : text;
}

// pages gathers the items of a list over its pages, at most that many.
export async function pages(at, parameters, field, most) {
  const all = [];
  for (let cursor = ''; all.length < most;) {
    const page = await get(at + query({ ...parameters, limit: 500, cursor }));
    all.push(...page[field]);
    cursor = page.next_cursor;
    if (!cursor) break;
  }
  return all.slice(0, most);
}

// Live is a stream, by default the one of the dashboard: what happens, and every other second
// how the server fares. It is open only while somebody looks.
export class Live {
  #at;
  #begin;
  #take;
  #state;
  #filter = {};
  #last = '';
  #running = null;
  #wanted = false;

  constructor({ take, state, at = '/live', begin = 'latest' }) {
    this.#at = at;
    this.#begin = begin;
    this.#take = take;
    this.#state = state;
    document.addEventListener('visibilitychange', this.#seen);
  }

  #seen = () => this.#follow();

  // watch begins, or begins again with another filter.
  watch(filter = {}) {
    const same = this.#running && JSON.stringify(filter) === JSON.stringify(this.#filter);
    this.#filter = filter;
    this.#wanted = true;
    if (same) return;
    this.#last = '';
    this.#stop();
    this.#follow();
  }

  close() {
    this.#wanted = false;
    this.#stop();
  }

  // end closes it for good.
  end() {
    this.close();
    document.removeEventListener('visibilitychange', this.#seen);
  }

  #stop() {
    this.#running?.abort();
    this.#running = null;
  }

  #follow() {
    if (!this.#wanted || document.hidden) this.#stop();
    else if (!this.#running) this.#run(this.#running = new AbortController());
  }

  async #run(own) {
    for (let wait = 500; !own.signal.aborted; wait = Math.min(wait * 2, 8000)) {
      try {
        const answer = await send('GET', `${this.#at}${query({ ...this.#filter, after: this.#last ? '' : this.#begin })}`,
          { signal: own.signal, accept: 'text/event-stream', lastEventID: this.#last });
        this.#state('open');
        wait = 500;
        await this.#read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      } catch (error) {
        if (own.signal.aborted) return;
        if (error.status === 401 || error.status === 403) {
          this.#state('over');
          return;
        }
        // What the log has no more: go on with what is yet to come.
        if (error.status === 410 || error.status === 409) this.#last = '';
      }
      if (own.signal.aborted) return;
      this.#state('lost');
      await new Promise((done) => { setTimeout(done, wait); });
    }
  }

  async #read(reader) {
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const frames = rest.split('\n\n');
      rest = frames.pop();
      for (const frame of frames) this.#frame(frame);
    }
  }

  #frame(frame) {
    let name = 'message';
    let data = '';
    for (const line of frame.split('\n')) {
      if (line.startsWith('id: ')) this.#last = line.slice(4);
      else if (line.startsWith('event: ')) name = line.slice(7);
      else if (line.startsWith('data: ')) data += line.slice(6);
    }
    if (data) this.#take(name, JSON.parse(data));
  }
}
