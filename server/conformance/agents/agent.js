// A worker of LiveKit's agents framework. Its agent says in the room what its job asks for,
// and writes down, as frameworks do, what ada said.
import { fileURLToPath } from 'node:url';
import { ServerOptions, cli, defineAgent } from '@livekit/agents';

export default defineAgent({
  entry: async (ctx) => {
    ctx.addShutdownCallback(async () => console.log('the agent has left'));
    await ctx.connect();
    const text = `${ctx.agent.identity} heard ${ctx.job.metadata}`;
    const writer = await ctx.room.localParticipant.streamText({ topic: 'lk.transcription', senderIdentity: 'ada' });
    await writer.write('what ada said');
    await writer.close();
    await ctx.room.localParticipant.publishData(new TextEncoder().encode(text), { reliable: true });
  },
});

cli.runApp(new ServerOptions({
  agent: fileURLToPath(import.meta.url),
  agentName: process.env.PARLOR_AGENT_NAME,
  host: '127.0.0.1',
  initializeProcessTimeout: 60_000,
}));
