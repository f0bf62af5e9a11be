// One tile of the stage: a person's camera, or a shared screen.

import { settingsOf } from './devices.js';
import { $, hue, initials } from './dom.js';
import { handOf } from './hands.js';
import { t, translate } from './texts.js';

const { ConnectionQuality, Track, TrackPublication } = window.LivekitClient;

const qualityTexts = {
  [ConnectionQuality.Excellent]: 'tile.excellent',
  [ConnectionQuality.Good]: 'tile.good',
  [ConnectionQuality.Poor]: 'tile.poor',
  [ConnectionQuality.Lost]: 'tile.lost',
};

export const nameOf = (participant) => participant.name || participant.identity || t('people.somebody');

export class Tile {
  #video;
  #track; // track in the video element
  #parts;
  #reacting;

  // source is Track.Source.Camera or Track.Source.ScreenShare.
  constructor(participant, source, { pinClicked }) {
    this.participant = participant;
    this.source = source;
    this.node = $('#tile-template').content.firstElementChild.cloneNode(true);
    translate(this.node);
    this.#parts = {
      avatar: $('.avatar', this.node), note: $('.tile-note', this.node), name: $('.tile-name', this.node),
      quality: $('.quality', this.node), muted: $('.muted-mark', this.node),
      pin: $('.tile-pin', this.node), full: $('.tile-full', this.node), float: $('.tile-float', this.node),
      hand: $('.hand-mark', this.node), reaction: $('.reaction', this.node),
    };
    this.#video = $('video', this.node);
    this.node.dataset.identity = participant.identity;
    this.node.dataset.source = source;
    this.node.classList.toggle('screen', this.isScreen);
    this.node.classList.toggle('self', participant.isLocal);
    this.node.style.setProperty('--hue', hue(participant.identity));
    this.#parts.pin.addEventListener('click', pinClicked);
    this.node.addEventListener('dblclick', pinClicked);
    this.#parts.full.addEventListener('click', () => this.#fullScreen());
    this.#parts.float.addEventListener('click', () => this.#float());
    this.#parts.float.hidden = !document.pictureInPictureEnabled;
    this.#parts.full.hidden = !document.fullscreenEnabled;
    for (const type of ['loadeddata', 'playing', 'resize', 'emptied']) {
      this.#video.addEventListener(type, () => this.#shapeChanged());
    }
  }

  get isScreen() {
    return this.source === Track.Source.ScreenShare;
  }

  // update shows the present state of the participant.
  update({ pinned }) {
    const { participant } = this;
    const publication = participant.getTrackPublication(this.source);
    const microphone = participant.getTrackPublication(Track.Source.Microphone);
    const track = publication && !publication.isMuted ? publication.videoTrack : undefined;
    this.#show(track);

    const who = { name: nameOf(participant) };
    const name = this.isScreen ? t(participant.isLocal ? 'tile.own-screen' : 'tile.screen', who) : participant.isLocal ? t('people.you', who) : who.name;
    const silent = !microphone || microphone.isMuted;
    this.#parts.name.textContent = name;
    this.#parts.avatar.textContent = initials(nameOf(participant));
    this.#parts.muted.toggleAttribute('hidden', this.isScreen || !silent);
    this.#parts.hand.toggleAttribute('hidden', this.isScreen || !handOf(participant));
    this.node.classList.toggle('speaking', !this.isScreen && participant.isSpeaking && !silent);
    this.#updateQuality(participant.connectionQuality);
    this.#updateNote(publication, track);

    const { pin } = this.#parts;
    pin.setAttribute('aria-pressed', String(pinned));
    pin.setAttribute('aria-label', t(pinned ? 'tile.unpin' : 'tile.pin', { name }));
    pin.title = t(pinned ? 'tile.unpin-tip' : 'tile.pin-tip');
    this.node.setAttribute('aria-label', this.#describe(name, silent, track));
  }

  // place moves the tile to a rectangle in pixels.
  place({ x, y, width, height }, large) {
    const { style } = this.node;
    this.node.hidden = false;
    style.width = `${Math.floor(width)}px`;
    style.height = `${Math.floor(height)}px`;
    style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
    this.node.classList.toggle('large', large);
    this.node.classList.toggle('tiny', width < 150 || height < 90);
    this.#shapeChanged();
  }

  // hide removes the tile from the stage while another page is shown. The server need not
  // send its video then.
  hide() {
    this.node.hidden = true;
    this.node.classList.remove('large');
  }

  // react shows an emoji for that many ms.
  react(emoji, ms) {
    clearTimeout(this.#reacting);
    this.#parts.reaction.textContent = emoji;
    this.#parts.reaction.hidden = false;
    this.#reacting = setTimeout(() => {
      this.#parts.reaction.hidden = true;
    }, ms);
  }

  remove() {
    if (document.pictureInPictureElement === this.#video) document.exitPictureInPicture().catch(() => {});
    clearTimeout(this.#reacting);
    this.#show(undefined);
    this.node.remove();
  }

  #show(track) {
    if (this.#track === track) return;
    this.#track?.detach(this.#video);
    this.#track = track;
    this.node.classList.remove('has-picture');
    if (track) {
      track.attach(this.#video);
      const facing = settingsOf(track).facingMode;
      this.node.classList.toggle('mirrored', this.participant.isLocal && !this.isScreen && facing !== 'environment');
      this.#shapeChanged();
    } else {
      this.#video.srcObject = null;
    }
  }

  // shapeChanged shows the video once it has a size. It never crops an upright video into
  // a wide tile, nor the other way round.
  #shapeChanged() {
    const { videoWidth, videoHeight } = this.#video;
    this.node.classList.toggle('has-picture', Boolean(this.#track) && videoWidth > 0 && this.#video.readyState >= 2);
    const box = this.node.getBoundingClientRect();
    const stretch = (videoWidth / videoHeight) / (box.width / box.height);
    this.node.classList.toggle('whole', stretch < 0.55 || stretch > 1.9);
  }

  #updateQuality(quality) {
    const text = quality in qualityTexts ? t(qualityTexts[quality]) : '';
    this.#parts.quality.setAttribute('data-quality', quality);
    this.#parts.quality.toggleAttribute('hidden', this.isScreen || text === '');
    const title = $('title', this.#parts.quality);
    if (title.textContent !== text) title.textContent = text;
  }

  #updateNote(publication, track) {
    let text = '';
    if (track?.streamState === 'paused') text = t('tile.paused');
    else if (publication?.permissionStatus === TrackPublication.PermissionStatus.NotAllowed) text = t('tile.not-shared');
    this.#parts.note.textContent = text;
    this.#parts.note.hidden = text === '';
  }

  #describe(name, silent, track) {
    if (this.isScreen) return name;
    const parts = [name, t(silent ? 'people.off.microphone' : 'people.on.microphone'), t(track ? 'people.on.camera' : 'people.off.camera')];
    if (handOf(this.participant)) parts.push(t('people.raised'));
    if (this.node.classList.contains('speaking')) parts.push(t('people.speaking'));
    return parts.join(', ');
  }

  // float shows the video in a small window above all others, or takes it back.
  async #float() {
    if (document.pictureInPictureElement === this.#video) await document.exitPictureInPicture();
    else if (this.#track) await this.#video.requestPictureInPicture().catch(() => {});
  }

  async #fullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.node.requestFullscreen().catch(() => {});
  }
}
