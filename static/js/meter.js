// A level meter for the microphone.

// Meter controls one element with role=meter. It has an AudioContext only while it
// measures.
export class Meter {
  #element;
  #bar;
  #context;
  #source;
  #frame;

  constructor(element) {
    this.#element = element;
    this.#bar = element.firstElementChild;
  }

  // measure shows the level of a MediaStreamTrack from now on; null stops.
  measure(mediaTrack) {
    this.#release();
    if (!mediaTrack || mediaTrack.readyState !== 'live') return;
    this.#context = new AudioContext();
    // Before the first click on the page, the context may be suspended.
    const resume = () => this.#context?.resume();
    if (this.#context.state === 'suspended') {
      for (const type of ['pointerdown', 'keydown']) addEventListener(type, resume, { once: true, capture: true });
    }
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 512;
    this.#source = this.#context.createMediaStreamSource(new MediaStream([mediaTrack]));
    this.#source.connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    let shown = 0;
    const step = () => {
      analyser.getFloatTimeDomainData(samples);
      let sum = 0;
      for (const sample of samples) sum += sample * sample;
      const decibels = 10 * Math.log10(sum / samples.length + 1e-10);
      // -60 dB is a quiet room, -10 dB a loud voice.
      const level = Math.min(1, Math.max(0, (decibels + 60) / 50));
      shown = Math.max(level, shown * 0.9);
      this.#show(shown);
      this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  #show(level) {
    this.#bar.style.transform = `scaleX(${level.toFixed(3)})`;
    this.#element.setAttribute('aria-valuenow', String(Math.round(level * 100)));
  }

  #release() {
    cancelAnimationFrame(this.#frame);
    this.#source?.disconnect();
    this.#context?.close();
    this.#source = undefined;
    this.#context = undefined;
    this.#show(0);
  }
}
