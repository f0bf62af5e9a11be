// Invitations: a link whose secret stands after the hash, where no server and no log sees it.
// The server exchanges the secret for a token.

import { t } from './texts.js';

const KNOCK_EVERY = 3000; // ms
const LINK_LASTS = 24 * 3600 * 1000; // ms, of a link that a host makes in the call

export class InvitationError extends Error {
  // key and values: the text for the person.
  constructor(code, key, values) {
    super(t(key, values));
    Object.assign(this, { code, key, values });
  }
}

const keptAs = (secret) => `parlor.invitation.${secret.split('.')[0]}`;

// redeem returns {token, room, role}. A reload of the page takes the token of before: it
// counts no second use, and the person comes back as the same participant. Where a host lets
// people in, waits(cancel) is called and the server is asked until a host has decided, or
// cancel() is called: then it fails with the code cancelled.
export async function redeem(secret, name, waits) {
  const before = admitted(secret);
  if (before?.name === name) return before;
  let admission = await call('v1/admissions', { secret, name });
  let cancelled = false;
  const withdraw = async (knock) => {
    await call('v1/admissions/withdraw', { secret, knock }).catch(() => {}); // it is forgotten soon, too
    throw new InvitationError('cancelled', 'cancel');
  };
  while (admission.waiting) {
    const { knock } = admission;
    await new Promise((resolve) => {
      waits(() => {
        cancelled = true;
        resolve();
      });
      setTimeout(resolve, KNOCK_EVERY);
    });
    if (cancelled) await withdraw(knock);
    try {
      admission = await call('v1/admissions', { secret, name, knock });
    } catch (error) {
      if (!passing.has(error.code)) throw error;
    }
    if (cancelled) await withdraw(knock); // while the server answered, which may have admitted
  }
  try {
    sessionStorage.setItem(keptAs(secret), JSON.stringify(admission));
  } catch {
    // Without a store a reload counts as one more use.
  }
  return admission;
}

// admitted is what an invitation was exchanged for before, while its token can be used to
// join; null if it was not.
export function admitted(secret) {
  try {
    const before = JSON.parse(sessionStorage.getItem(keptAs(secret)));
    return Date.parse(before?.expires_at) > Date.now() ? before : null;
  } catch {
    return null;
  }
}

// forget drops a token that the server does not take.
export function forget(secret) {
  try {
    sessionStorage.removeItem(keptAs(secret));
  } catch {
    // Nothing was kept.
  }
}

// guestLink makes a link for guests with the token of a host. passphrase: the call is
// encrypted with it.
export async function guestLink(location, room, token, passphrase) {
  const { secret } = await call(`v1/rooms/${encodeURIComponent(room)}/invitations`, {
    role: 'guest', expires_at: new Date(Date.now() + LINK_LASTS).toISOString(),
  }, token);
  const link = new URL(location.pathname, location.origin);
  link.hash = new URLSearchParams({ invite: secret, ...(passphrase && { e2ee: passphrase }) }).toString();
  return link.href;
}

async function call(path, body, token) {
  let response;
  try {
    response = await fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new InvitationError('server-gone', 'join.server-gone');
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await response.json().catch(() => ({}));
  throw new InvitationError((problem.code ?? 'failed').replaceAll('_', '-'), keys[problem.code] ?? 'join.invitation-failed', { reason: problem.detail ?? response.status });
}

// Failures that pass while a person waits.
const passing = new Set(['server-gone', 'rate-limited', 'unavailable', 'internal']);

const keys = {
  invitation_unknown: 'join.unknown',
  invitation_revoked: 'join.withdrawn',
  invitation_expired: 'join.expired',
  invitation_used: 'join.used',
  invitations_off: 'join.invitations-off',
  knock_refused: 'join.not-let-in',
  too_many_knocks: 'join.many-wait',
  rate_limited: 'join.rate-limited',
};
