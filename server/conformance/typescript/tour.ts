// The API by a client generated from its description: makes a room, looks at it,
// changes it and closes it. Run with PARLOR_URL, PARLOR_KEY and PARLOR_SECRET.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

declare const process: { env: Record<string, string | undefined> };

const env = (name: string): string => {
  const value = process.env[name];
  if (value === undefined) throw new Error(name + ' is not set');
  return value;
};
const credentials = btoa(env('PARLOR_KEY') + ':' + env('PARLOR_SECRET'));
const api = createClient<paths>({
  baseUrl: env('PARLOR_URL') + '/v1',
  headers: { Authorization: 'Basic ' + credentials },
});

function done<T>(answer: { data?: T; error?: components['schemas']['Problem']; response: Response }): T {
  if (answer.error) throw new Error(`${answer.response.status} ${answer.error.code}: ${answer.error.detail}`);
  return answer.data as T;
}

function same(got: unknown, want: unknown): void {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

const name = 'typescript ' + Date.now();
const path = { name };
const made = done(await api.POST('/rooms', {
  params: { header: { 'Idempotency-Key': name } },
  body: { name, empty_timeout: 'never', departure_timeout: 20, tags: { team: 'red' } },
}));
same([made.name, made.empty_timeout, made.departure_timeout, made.state], [name, 'never', 20, 'open']);

const listed: components['schemas']['RoomPage'] = done(await api.GET('/rooms', { params: { query: { name, tag: ['team=red'] } } }));
same(listed.rooms.map((r) => r.sid), [made.sid]);

const seen = await api.GET('/rooms/{name}', { params: { path } });
const tag = seen.response.headers.get('ETag') ?? '';
const edited = done(await api.PATCH('/rooms/{name}', { params: { path, header: { 'If-Match': tag } }, body: { metadata: 'weekly', locked: true } }));
same([edited.metadata, edited.locked], ['weekly', true]);
const stale = await api.PATCH('/rooms/{name}', { params: { path, header: { 'If-Match': tag } }, body: { locked: false } });
same([stale.response.status, stale.error?.code], [412, 'failed_precondition']);

const token = done(await api.POST('/tokens', { body: { identity: 'ada', room: name } }));
same(token.token.split('.').length, 3);
same(done(await api.GET('/rooms/{name}/participants', { params: { path } })).participants, []);
same(done(await api.POST('/rooms/{name}/mute', { params: { path }, body: { sources: ['microphone'], hold: true } })).tracks, []);
// @ts-expect-error a source that does not exist does not compile, and is refused.
const wrong = await api.POST('/rooms/{name}/mute', { params: { path }, body: { sources: ['nose'] } });
same(wrong.response.status, 400);

done(await api.DELETE('/rooms/{name}', { params: { path } }));
const ended = done(await api.GET('/history/{sid}', { params: { path: { sid: made.sid } } }));
same([ended.state, ended.end_reason], ['ended', 'closed']);
console.log('tour done');
