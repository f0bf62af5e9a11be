// Drawing from the room's state: a view is called when something may have changed, and
// reads the room itself.

const { RoomEvent } = window.LivekitClient;

const LOOKED_AT_EVERY = 1000; // ms

// Events that come many times a second and do not concern the views.
const UNSEEN = new Set([RoomEvent.DataReceived, RoomEvent.TranscriptionReceived, RoomEvent.MetricsReceived, RoomEvent.DCBufferStatusChanged]);

// watch calls draw once for any number of events in the same turn, and also once a
// second. An event can be lost, for example one that came before its handler, and the
// view would be wrong until the next event. It returns a function that triggers draw, and
// one that ends the watching.
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
