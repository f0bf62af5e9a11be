// The source of the access token: the address, or a server in dev mode.

export class NoTokenError extends Error {}
export class TokenRequestError extends Error {}
export class UnreachableError extends Error {}

const base64url = (part) => {
  const bytes = Uint8Array.from(atob(part.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
  return new TextDecoder().decode(bytes);
};

// readToken decodes a token to show its identity. It does not verify the token, which is
// the server's task. It returns null if the text is not a JWT.
export function readToken(token) {
  try {
    const claims = JSON.parse(base64url(token.split('.')[1]));
    return {
      room: claims.video?.room ?? '',
      identity: claims.sub ?? '',
      name: claims.name || claims.sub || '',
      expired: typeof claims.exp === 'number' && claims.exp * 1000 < Date.now(),
    };
  } catch {
    return null;
  }
}

// newIdentity is a unique identity for each join that still shows an operator the
// person's name.
export function newIdentity(name) {
  const readable = name.normalize('NFKD').toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 32);
  const random = [...crypto.getRandomValues(new Uint8Array(4))].map((b) => b.toString(16).padStart(2, '0')).join('');
  return `${readable || 'guest'}-${random}`;
}

// requestToken asks a server in dev mode for a token. NoTokenError means that this server
// issues none, UnreachableError that there was no answer.
export async function requestToken({ room, identity, name }) {
  const response = await fetch('dev/token', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ room, identity, name }),
    signal: AbortSignal.timeout(10_000),
  }).catch((error) => {
    throw new UnreachableError(error.message);
  });
  if (response.status === 404 || response.status === 405) throw new NoTokenError();
  if (!response.ok) throw new TokenRequestError((await response.text()).trim() || `status ${response.status}`);
  const { token, url } = await response.json();
  return { token, url: url || ownServer() };
}

// handsOutTokens reports whether requestToken can work at all, so that a person learns it
// before filling in the form.
export async function handsOutTokens() {
  try {
    await requestToken({ room: 'lobby', identity: 'lobby', name: '' });
  } catch (error) {
    return !(error instanceof NoTokenError);
  }
  return true;
}

// ownServer is the address of the server that the page came from.
export function ownServer() {
  const url = new URL('.', location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.search = '';
  url.hash = '';
  return url.href.replace(/\/$/, '');
}

// whyRefused asks the server why it refuses the bearer of a token, because a refused
// WebSocket does not show the reason. It returns null if the server would admit the
// bearer, or does not answer.
export async function whyRefused(server, token) {
  const url = new URL(`${server.replace(/^ws/, 'http')}/rtc/validate`);
  try {
    const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(5000) });
    return response.ok ? null : { status: response.status, message: (await response.text()).trim() };
  } catch {
    return null;
  }
}
