// The options in the address of the page. Each may stand in the query or after the hash.
// Those after the hash are not sent to the server, and so not written to its log.
//
//   room, name, identity   who joins what; room and name are also typed by hand
//   token                  an access token; without it the server's own dev token is tried
//   invite                 the secret of an invitation, after the hash alone
//   autojoin=1             join without a click, with microphone and camera off
//   lang=en|de|es|fr|zh    the page's language, for this visit
//   audio=0, video=0       start with microphone or camera off
//   single=0               two peer connections instead of one
//   simulcast=0, dynacast=0, adaptive=0, red=0, dtx=0, subscribe=0
//   codec=vp8|h264|vp9|av1|h265
//   resolution=90…2160     height of the camera's picture, 720 when not given
//   e2ee=passphrase        end-to-end encryption; only after the hash
//   log=debug|info|warn    what livekit-client writes to the console

export function readOptions(location) {
  const params = new URLSearchParams(location.search);
  params.delete('e2ee'); // the server got the query, so it is not secret any more
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (!params.has(name)) params.set(name, value);
  }
  const text = (name) => (params.get(name) ?? '').trim();
  const flag = (name, otherwise) => {
    if (!params.has(name)) return otherwise;
    return !['0', 'false', 'no', 'off'].includes(text(name).toLowerCase());
  };
  const height = Number.parseInt(text('resolution').replace(/^h/, ''), 10);
  return {
    room: text('room'),
    name: text('name'),
    identity: text('identity'),
    token: text('token'),
    invite: new URLSearchParams(location.hash.slice(1)).get('invite') ?? '',
    language: text('lang'),
    autojoin: flag('autojoin', false),
    audio: flag('audio', undefined),
    video: flag('video', undefined),
    single: flag('single', true),
    simulcast: flag('simulcast', true),
    dynacast: flag('dynacast', true),
    adaptive: flag('adaptive', true),
    red: flag('red', true),
    dtx: flag('dtx', true),
    subscribe: flag('subscribe', true),
    codec: text('codec').toLowerCase() || 'vp8',
    resolution: height >= 90 && height <= 2160 ? height : 720,
    passphrase: text('e2ee'),
    log: text('log') || 'warn',
  };
}

// inviteLink contains the room and the passphrase of the call, and no data of the person
// who shares it.
export function inviteLink(location, room, passphrase = '') {
  const link = new URL(location.pathname, location.origin);
  link.searchParams.set('room', room);
  if (passphrase) link.hash = new URLSearchParams({ e2ee: passphrase }).toString();
  return link.href;
}

// showRoom writes the room into the address bar, so that a reload returns to it.
export function showRoom(room) {
  const url = new URL(location.href);
  if (new URLSearchParams(url.hash.slice(1)).has('room')) return;
  url.searchParams.set('room', room);
  history.replaceState(null, '', url);
}
