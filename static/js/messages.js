// The texts for all failures: what happened, and what to do about it. Each has a code,
// which the page writes into data-code, and on which tests rely.

import { InvitationError } from './invitation.js';
import { UnreachableError } from './token.js';

const { ConnectionError, ConnectionErrorReason, DisconnectReason } = window.LivekitClient;

const nouns = { camera: 'camera', microphone: 'microphone', screen: 'screen' };

// deviceProblem explains why a camera, a microphone or the screen cannot be used.
export function deviceProblem(kind, error) {
  const noun = nouns[kind];
  const problem = (code, text) => ({ code: `${kind}-${code}`, text });
  if (!window.isSecureContext || !navigator.mediaDevices) {
    return problem('insecure', `Browsers give a page the ${noun} only over https or on localhost. You can still watch and listen.`);
  }
  switch (error?.name) {
    case 'NotAllowedError':
    case 'PermissionDeniedError':
    case 'SecurityError':
      if (kind === 'screen') return problem('denied', 'Sharing the screen was not allowed.');
      if (/system/i.test(error.message)) {
        return problem('denied', `Your computer's privacy settings keep the browser from the ${noun}. Allow it there, then turn it on again.`);
      }
      return problem('denied', `The browser does not let this page use your ${noun}. Allow it with the icon beside the address, then turn it on again.`);
    case 'NotFoundError':
    case 'DevicesNotFoundError':
      if (kind === 'screen') return problem('missing', 'There is no screen or window here that could be shared.');
      return problem('missing', `No ${noun} was found. Plug one in, or go on without.`);
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return problem('busy', `The ${noun} cannot be started. Another program may be using it: close that and try again.`);
    case 'OverconstrainedError':
    case 'ConstraintNotSatisfiedError':
      return problem('unsuitable', `That ${noun} is gone or cannot do what is asked of it. Choose another.`);
    case 'NotSupportedError':
      return problem('unsupported', `This browser cannot use the ${noun}.`);
    case 'PublishTrackError':
    case 'TrackInvalidError':
      return problem('refused', `The server did not take your ${noun}: ${error.message}`);
    default:
      return problem('failed', `The ${noun} did not start${error?.message ? `: ${error.message}` : '.'}`);
  }
}

// joinProblem explains why a call could not be joined. again: another attempt with the
// same token is useful. refused is the server's answer to whyRefused, {status, message},
// because livekit-client reports only some reasons.
export function joinProblem(error, refused) {
  const problem = (code, text, again = false) => ({ code, text, again });
  const detail = error?.message ? ` (${error.message})` : '';
  const gone = () => problem('server-gone', 'The server does not answer. Check your connection and try again.', true);
  if (error instanceof UnreachableError) return gone();
  if (error instanceof InvitationError) return problem(error.code, error.message, true);
  if (!(error instanceof ConnectionError)) {
    return problem('failed', `The call could not be joined${detail}.`, true);
  }
  switch (error.reason) {
    case ConnectionErrorReason.NotAllowed:
      return refusal(error);
    case ConnectionErrorReason.LeaveRequest:
      return { ...ending(error.context), again: true };
    case ConnectionErrorReason.ServerUnreachable:
      return gone();
    case ConnectionErrorReason.Timeout:
      return problem('server-slow', 'The server took too long to answer. Try again.', true);
    case ConnectionErrorReason.ServiceNotFound:
      return problem('not-a-server', 'There is no call server at this address.');
    case ConnectionErrorReason.Cancelled:
      return problem('cancelled', 'Joining was cancelled.', true);
    default:
      if (refused) return refusal(refused);
      if (/pc connection|peer ?connection/i.test(error.message)) {
        return problem('media-blocked', 'The server answers, but sound and picture cannot get through. A firewall or VPN may be in the way.', true);
      }
      return problem('failed', `The call could not be joined${detail}. The server may be busy: try again.`, true);
  }
}

const isFull = (text) => /\bfull\b|max(imum)?[ _-]?participants|exceed/i.test(text ?? '');
const full = () => ({ code: 'room-full', text: 'This room is full. Try again when somebody has left.', again: true });

function refusal({ message = '', status }) {
  if (isFull(message)) return full();
  if (/\blocked\b/i.test(message)) {
    return { code: 'room-locked', text: 'This room is locked: somebody who runs it lets nobody else in at the moment.', again: true };
  }
  if (status === 409) {
    return { code: 'already-here', text: 'You are in this room already, in another window or on another device. Leave it there first.', again: true };
  }
  if (status >= 500) {
    return { code: 'server-busy', text: 'The server cannot let you in at the moment. Try again shortly.', again: true };
  }
  if (status === 404 || /room does not exist/i.test(message)) {
    return { code: 'no-room', text: 'This room does not exist, and rooms here are not opened by joining.', again: true };
  }
  if (/expired/i.test(message)) {
    return { code: 'token-expired', text: 'This invitation has expired. Ask for a new one.', again: false };
  }
  if (/not valid yet/i.test(message)) {
    return { code: 'token-early', text: 'This invitation is not valid yet. Try again at its time.', again: true };
  }
  if (/revoked|removed|banned/i.test(message)) {
    return { code: 'token-revoked', text: 'You were removed from this room and cannot come back with this invitation.', again: false };
  }
  if (/permission/i.test(message)) {
    return { code: 'token-no-join', text: 'This invitation does not allow joining the room.', again: false };
  }
  return { code: 'token-bad', text: 'The server does not accept this invitation. It may be incomplete or meant for another server.', again: false };
}

// ending explains why a call that was joined has ended.
export function ending(reason) {
  const end = (code, title, text = '', rejoin = 'Join again') => ({ code, title, text, rejoin });
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return end('left', 'You left the call');
    case DisconnectReason.DUPLICATE_IDENTITY:
      return end('duplicate-identity', 'You joined from somewhere else', 'The call goes on in your other window or device, so this one stepped back.', 'Take the call here');
    case DisconnectReason.SERVER_SHUTDOWN:
      return end('server-shutdown', 'The server is stopping', 'It may be back in a moment.');
    case DisconnectReason.PARTICIPANT_REMOVED:
      return end('removed', 'You were removed from the call', 'Somebody who runs this room removed you.');
    case DisconnectReason.ROOM_DELETED:
      return end('room-deleted', 'The call was ended', 'Somebody who runs this room closed it for everyone.');
    case DisconnectReason.ROOM_CLOSED:
      return end('room-closed', 'The room was closed', 'Everyone else had left.');
    case DisconnectReason.STATE_MISMATCH:
      return end('state-mismatch', 'The call lost its place', 'Page and server no longer agree about it. Joining again puts that right.');
    case DisconnectReason.JOIN_FAILURE:
      return end('join-failed', 'The call did not come about', 'Sound and picture cannot get through to the server. A firewall or VPN may be in the way.');
    case DisconnectReason.CONNECTION_TIMEOUT:
    case DisconnectReason.MEDIA_FAILURE:
      return end('media-lost', 'Sound and picture were lost', 'The connection for them broke and did not come back.');
    default:
      return end('server-gone', 'The connection was lost', 'The server could not be reached again. Check your network.');
  }
}
