// A receiver that verifies webhooks with LiveKit's own code.

import { createServer } from 'node:http';

import { WebhookReceiver } from 'livekit-server-sdk';

import { apiKey, apiSecret, webhookPort } from './common.js';

const receiver = new WebhookReceiver(apiKey, apiSecret);
const events = [];
const refused = [];

const server = createServer(async (req, res) => {
  let body = '';
  for await (const chunk of req) body += chunk;
  try {
    events.push(await receiver.receive(body, req.headers.authorization));
    res.writeHead(200).end();
  } catch (err) {
    refused.push(err);
    res.writeHead(401).end();
  }
});

export const listen = () => new Promise((resolve) => server.listen(webhookPort, '127.0.0.1', resolve));

export const close = () =>
  new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });

/** The room's events so far; throws if any delivery was not signed as it should be. */
export function eventsOf(room) {
  if (refused.length > 0) throw refused[0];
  return events.filter((e) => e.room?.name === room);
}
