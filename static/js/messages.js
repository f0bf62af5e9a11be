// The failures in words: what happened, and what to do about it. Each has a code, which the
// page writes into data-code, and on which tests rely.

import { InvitationError } from './invitation.js';
import { t } from './texts.js';
import { UnreachableError } from './token.js';

const { ConnectionError, ConnectionErrorReason, DisconnectReason } = window.LivekitClient;

// problemOf is a problem with the text of a key, in the language that the page has when the
// text is read. again: another attempt is useful.
export const problemOf = (code, key, values, again = false) => ({
  code,
  again,
  get text() {
    return t(key, values);
  },
});

// deviceProblem explains why a camera, a microphone or the screen cannot be used. Its member
// both is the key of the text for camera and microphone together. An error may bring its problem.
export function deviceProblem(kind, error) {
  if (error?.problem) return error.problem;
  const problem = (code, key = `trouble.${code}`, both = '') => ({
    code: `${kind}-${code}`,
    both,
    get text() {
      return t(key, { the: t(`the.${kind}`), The: t(`The.${kind}`), reason: error?.message ?? '' });
    },
  });
  if (!window.isSecureContext || !navigator.mediaDevices) return problem('insecure', 'trouble.insecure', 'trouble.both.insecure');
  switch (error?.name) {
    case 'NotAllowedError':
    case 'PermissionDeniedError':
    case 'SecurityError':
      if (kind === 'screen') return problem('denied', 'trouble.denied-screen');
      if (/system/i.test(error.message)) return problem('denied', 'trouble.system');
      return problem('denied', 'trouble.denied', 'trouble.both.denied');
    case 'NotFoundError':
    case 'DevicesNotFoundError':
      return problem('missing', `trouble.missing.${kind}`, 'trouble.both.missing');
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return problem('busy');
    case 'OverconstrainedError':
    case 'ConstraintNotSatisfiedError':
      return problem('unsuitable');
    case 'NotSupportedError':
      return problem('unsupported');
    case 'PublishTrackError':
    case 'TrackInvalidError':
      return problem('refused');
    default:
      return problem('failed');
  }
}

// joinProblem explains why a call could not be joined. again: another attempt with the
// same token is useful. refused is the server's answer to whyRefused, {status, message},
// because livekit-client reports only some reasons.
export function joinProblem(error, refused) {
  const reason = error?.message ?? '';
  const gone = () => problemOf('server-gone', 'join.server-gone', {}, true);
  if (error instanceof UnreachableError) return gone();
  if (error instanceof InvitationError) return problemOf(error.code, error.key, error.values, true);
  if (!(error instanceof ConnectionError)) return problemOf('failed', 'join.failed', { reason }, true);
  switch (error.reason) {
    case ConnectionErrorReason.NotAllowed:
      return refusal(error);
    case ConnectionErrorReason.LeaveRequest: {
      const end = ending(error.context);
      return problemOf(end.code, end.text || end.title, {}, true);
    }
    case ConnectionErrorReason.ServerUnreachable:
      return gone();
    case ConnectionErrorReason.Timeout:
      return problemOf('server-slow', 'join.server-slow', {}, true);
    case ConnectionErrorReason.ServiceNotFound:
      return problemOf('not-a-server', 'join.not-a-server');
    case ConnectionErrorReason.Cancelled:
      return problemOf('cancelled', 'join.cancelled', {}, true);
    default:
      if (refused) return refusal(refused);
      if (/pc connection|peer ?connection/i.test(error.message)) return problemOf('media-blocked', 'join.media-blocked', {}, true);
      return problemOf('failed', 'join.failed-busy', { reason }, true);
  }
}

const isFull = (text) => /\bfull\b|max(imum)?[ _-]?participants|exceed/i.test(text ?? '');

function refusal({ message = '', status }) {
  const again = (code, key) => problemOf(code, key, {}, true);
  if (isFull(message)) return again('room-full', 'join.full');
  if (/\blocked\b/i.test(message)) return again('room-locked', 'join.locked');
  if (status === 409) return again('already-here', 'join.already-here');
  if (status >= 500) return again('server-busy', 'join.server-busy');
  if (status === 404 || /room does not exist/i.test(message)) return again('no-room', 'join.no-room');
  if (/expired/i.test(message)) return problemOf('token-expired', 'join.expired');
  if (/not valid yet/i.test(message)) return again('token-early', 'join.early');
  if (/revoked|removed|banned/i.test(message)) return problemOf('token-revoked', 'join.removed');
  if (/permission/i.test(message)) return problemOf('token-no-join', 'join.no-join');
  return problemOf('token-bad', 'join.bad');
}

// ending explains why a call that was joined has ended: title, text ('' = none) and rejoin
// are keys of texts.
export function ending(reason) {
  const end = (code, { text = true, rejoin = 'end.again' } = {}) => ({
    code, title: `end.${code}.title`, text: text ? `end.${code}.text` : '', rejoin,
  });
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return end('left', { text: false });
    case DisconnectReason.DUPLICATE_IDENTITY:
      return end('duplicate-identity', { rejoin: 'end.take-here' });
    case DisconnectReason.SERVER_SHUTDOWN:
      return end('server-shutdown');
    case DisconnectReason.PARTICIPANT_REMOVED:
      return end('removed');
    case DisconnectReason.ROOM_DELETED:
      return end('room-deleted');
    case DisconnectReason.ROOM_CLOSED:
      return end('room-closed');
    case DisconnectReason.STATE_MISMATCH:
      return end('state-mismatch');
    case DisconnectReason.JOIN_FAILURE:
      return end('join-failed');
    case DisconnectReason.CONNECTION_TIMEOUT:
    case DisconnectReason.MEDIA_FAILURE:
      return end('media-lost');
    default:
      return end('server-gone');
  }
}
