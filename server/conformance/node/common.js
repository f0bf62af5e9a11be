// What all tests of this folder share.

import { AccessToken, RoomServiceClient } from 'livekit-server-sdk';

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

export const host = required('PARLOR_URL'); // http://…
export const url = host.replace(/^http/, 'ws');
/** A server as it is by default. */
export const plainURL = () => required('PARLOR_PLAIN_URL').replace(/^http/, 'ws');
export const apiKey = required('PARLOR_KEY');
export const apiSecret = required('PARLOR_SECRET');
export const webhookPort = Number(required('PARLOR_WEBHOOK_PORT'));
export const reference = process.env.PARLOR_REF !== undefined;

export const api = new RoomServiceClient(host, apiKey, apiSecret);

let rooms = 0;

/** A room that no other test uses. */
export const roomName = () => `node-${process.pid}-${++rooms}`;

export async function token(room, identity, grant = {}, claims = {}) {
  const at = new AccessToken(apiKey, apiSecret, { identity, ...claims });
  at.addGrant({ roomJoin: true, room, ...grant });
  return at.toJwt();
}

/** Waits until ok returns something true, and returns that. */
export async function eventually(what, ok, within = 60_000) {
  for (const end = Date.now() + within; ; ) {
    const value = await ok();
    if (value) return value;
    if (Date.now() > end) throw new Error(`this did not happen within ${within} ms: ${what}`);
    await sleep(20);
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
