// How long and how often a page that lost its server tries to reconnect.

const FIRST = [0, 300, 1000, 2000]; // delays of the first attempts, ms
const LATER = 4000; // delay of each further attempt, ms
const SPREAD = 1000; // largest random extra delay, ms: many pages must not reconnect at once
const GIVEN_UP_AFTER = 10 * 60_000; // ms

// reconnectPolicy is livekit-client's policy with more patience: the server keeps a
// participant's place for a minute, and admits the participant again after that too.
export const reconnectPolicy = {
  nextRetryDelayInMs({ retryCount, elapsedMs }) {
    if (elapsedMs > GIVEN_UP_AFTER) return null;
    return (FIRST[retryCount] ?? LATER) + (retryCount > 1 ? Math.random() * SPREAD : 0);
  },
};
