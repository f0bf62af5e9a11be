// The numbers of a participant's tracks, from the browser's statistics.

import { t } from './texts.js';

const { Track } = window.LivekitClient;

const nouns = { [Track.Source.Camera]: 'camera', [Track.Source.Microphone]: 'microphone', [Track.Source.ScreenShare]: 'screen' };

// Quality measures one participant. The first measure has no rates, which need two readings.
export class Quality {
  #before = new Map(); // report id → {bytes, packets, lost, at}

  // measure returns one line for each track that is sent or received.
  async measure(participant) {
    const lines = [];
    for (const publication of participant.trackPublications.values()) {
      const { track, source } = publication;
      const stats = await (track?.receiver ?? track?.sender)?.getStats().catch(() => null);
      if (!stats || publication.isMuted || !(source in nouns)) continue;
      const line = this.#line([...stats.values()]);
      if (line) lines.push(t('quality.line', { source: t(`quality.${nouns[source]}`), numbers: line }));
    }
    return lines;
  }

  #line(reports) {
    const media = reports.filter(({ type }) => type === 'inbound-rtp' || type === 'outbound-rtp').filter(({ active }) => active !== false);
    if (media.length === 0) return '';
    const largest = media.reduce((a, b) => ((b.frameHeight ?? 0) > (a.frameHeight ?? 0) ? b : a));
    const number = (value, digits = 0) => value.toLocaleString(document.documentElement.lang, { maximumFractionDigits: digits });
    const parts = [];
    const codec = reports.find(({ id }) => id === largest.codecId)?.mimeType?.split('/')[1];
    if (codec) parts.push(codec);
    if (largest.frameWidth) parts.push(`${largest.frameWidth} × ${largest.frameHeight}`);
    if (largest.framesPerSecond) parts.push(t('quality.frames', { count: number(largest.framesPerSecond) }));
    const rate = media.map((report) => this.#rates(report));
    if (rate.every(Boolean)) {
      parts.push(t('quality.rate', { rate: number(rate.reduce((sum, { bits }) => sum + bits, 0) / 1000) }));
      if (largest.type === 'inbound-rtp') parts.push(t('quality.loss', { percent: number(rate[0].loss * 100, 1) }));
    }
    if (largest.jitter !== undefined) parts.push(t('quality.jitter', { time: number(largest.jitter * 1000) }));
    const pair = reports.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded');
    if (pair?.currentRoundTripTime !== undefined) parts.push(t('quality.round-trip', { time: number(pair.currentRoundTripTime * 1000) }));
    return parts.join(' · ');
  }

  // rates compares a report with the one before: bits per second, and the share of packets
  // that were lost.
  #rates(report) {
    const now = {
      bytes: report.bytesReceived ?? report.bytesSent ?? 0, packets: report.packetsReceived ?? 0, lost: report.packetsLost ?? 0, at: report.timestamp,
    };
    const before = this.#before.get(report.id);
    this.#before.set(report.id, now);
    if (!before || now.at <= before.at) return null;
    const lost = Math.max(0, now.lost - before.lost);
    const due = lost + now.packets - before.packets;
    return { bits: (8 * 1000 * (now.bytes - before.bytes)) / (now.at - before.at), loss: due > 0 ? lost / due : 0 };
  }
}
