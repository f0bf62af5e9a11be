// How long and how often a page that lost its server tries to come back.

const FIRST = [0, 300, 1000, 2000]; // ms before each of the first tries
const LATER = 4000; // ms before each further one
const SPREAD = 1000; // ms at most on top, so that a crowd does not come in one instant
const GIVEN_UP_AFTER = 10 * 60_000; // ms

// reconnectPolicy is livekit-client's, with more patience: the server keeps
// somebody's place for a minute, and lets people in again after that, too.
export const reconnectPolicy = {
  nextRetryDelayInMs({ retryCount, elapsedMs }) {
    if (elapsedMs > GIVEN_UP_AFTER) return null;
    return (FIRST[retryCount] ?? LATER) + (retryCount > 1 ? Math.random() * SPREAD : 0);
  },
};
