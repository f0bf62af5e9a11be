// How a participant behaves whom others try out, the same in a page and in Node:
// it answers RPC and streams, and tries others out itself when asked to.

/** Makes the Room's participant answer. media(identity) waits for that one's sound and picture. */
export function answer(room, media) {
  const me = room.localParticipant;
  const data = [];
  const waiting = new Map(); // by "topic identity"
  const arrived = (topic, from, content) => waiting.get(`${topic} ${from}`)?.(content);
  const expect = (topic, from) => new Promise((resolve) => waiting.set(`${topic} ${from}`, resolve));

  room.on('dataReceived', (payload, from, _, topic) => data.push(`${from?.identity} ${topic} ${new TextDecoder().decode(payload)}`));
  room.registerTextStreamHandler('ask', async (reader, { identity }) => {
    await me.sendText(`${await reader.readAll()}!`, { topic: 'answer', destinationIdentities: [identity] });
  });
  room.registerTextStreamHandler('answer', async (reader, { identity }) => arrived('text', identity, await reader.readAll()));
  room.registerByteStreamHandler('ask', async (reader, { identity }) => {
    const chunks = await reader.readAll();
    const writer = await me.streamBytes({ name: reader.info.name, topic: 'answer', destinationIdentities: [identity] });
    for (const chunk of chunks) await writer.write(chunk);
    await writer.close();
  });
  room.registerByteStreamHandler('answer', async (reader, { identity }) => {
    const chunks = await reader.readAll();
    arrived('bytes', identity, [reader.info.name, ...chunks.flatMap((chunk) => [...chunk])].join());
  });

  async function check(target) {
    const text = 'zwölf Boxkämpfer '.repeat(3000);
    const told = await me.performRpc({ destinationIdentity: target, method: 'echo', payload: text.slice(0, 5000), responseTimeout: 15_000 });
    if (told !== `${me.identity}: ${text.slice(0, 5000)}`) throw new Error(`RPC: ${told.slice(0, 100)}`);

    const back = expect('text', target);
    await me.sendText(text, { topic: 'ask', destinationIdentities: [target] });
    if (await back !== `${text}!`) throw new Error('the text is another');

    const bytes = Uint8Array.from({ length: 40_000 }, (_, n) => n % 251);
    const same = expect('bytes', target);
    const writer = await me.streamBytes({ name: 'numbers', topic: 'ask', destinationIdentities: [target] });
    await writer.write(bytes);
    await writer.close();
    if (await same !== ['numbers', ...bytes].join()) throw new Error('the bytes are others');
  }

  me.registerRpcMethod('echo', async ({ callerIdentity, payload }) => `${callerIdentity}: ${payload}`);
  me.registerRpcMethod('received', async () => JSON.stringify(data));
  for (const [method, run] of Object.entries({
    check,
    media,
    send: async () => {
      await me.publishData(new TextEncoder().encode('hello'), { reliable: true, topic: 'reliable' });
      await me.publishData(new TextEncoder().encode('hello'), { reliable: false, topic: 'lossy' });
    },
  })) {
    // What goes wrong is the answer: errors of other kinds tell callers little.
    me.registerRpcMethod(method, ({ payload }) => run(payload).then(() => 'ok', (error) => `${error.stack ?? error}`.slice(0, 2000)));
  }
}
