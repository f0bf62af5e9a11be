// Drawing from the room's state: a view is called when something may have changed,
// and looks at the room itself.

const { RoomEvent } = window.LivekitClient;

const LOOKED_AT_EVERY = 1000; // ms

// Events that come many times a second and change nothing that a view shows.
const UNSEEN = new Set([RoomEvent.DataReceived, RoomEvent.TranscriptionReceived, RoomEvent.MetricsReceived, RoomEvent.DCBufferStatusChanged]);

// watch calls draw once for any number of events in the same turn, and every
// second besides: an event can be lost, such as one that came before its handler,
// and a view that waits for the next one would be wrong until then. It returns
// draw's trigger, and what ends the watching.
export function watch(room, draw) {
  let due = false;
  let ended = false;
  const update = () => {
    if (due || ended) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      if (!ended) draw();
    });
  };
  const events = Object.values(RoomEvent).filter((event) => !UNSEEN.has(event));
  for (const event of events) room.on(event, update);
  const timer = setInterval(update, LOOKED_AT_EVERY);
  update();
  return {
    update,
    end() {
      ended = true;
      clearInterval(timer);
      for (const event of events) room.off(event, update);
    },
  };
}
