/** Looks at a vhost-user backend: connects, reads what it offers, leaves. Sets nothing beyond what reading needs. */
import { basename, dirname } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { NativeBinding } from '../native/binding.ts';
import { decodeHeader, headerBytes, replyFlag } from '../vhost-user/header.ts';
import { decodeU64, encodeU64 } from '../vhost-user/payload.ts';
import { hasProtocolFeature, protocolFeatureMask, protocolFeatureNames } from '../vhost-user/protocol-feature.ts';
import { featureBit, featureNames, hasFeature } from '../virtio/feature.ts';
import { Channel, type ChannelOptions } from './channel.ts';
import { readQueuePairs } from './vhost-user.ts';

export interface ProbeReport {
  readonly path: string;
  readonly backendPid: number | null;
  readonly features: bigint;
  readonly featureNames: readonly string[];
  /** null: the backend has no protocol features. */
  readonly protocolFeatures: bigint | null;
  readonly protocolFeatureNames: readonly string[];
  /** As GET_QUEUE_NUM answers, in pairs; null where it cannot be asked (one pair). */
  readonly queuePairs: number | null;
}

/** @throws VirtioUserError BACKEND_ABSENT, SOCKET_PATH, TIMEOUT, PROTOCOL_VIOLATION, DISCONNECTED */
export async function probeBackend(
  path: string,
  binding: Pick<NativeBinding, 'connectUnix'>,
  options: Omit<ChannelOptions, 'name'> = {},
): Promise<ProbeReport> {
  const channel = connect(path, binding, options);
  try {
    const features = decodeU64(await channel.ask('GET_FEATURES'));
    const extended = hasFeature(features, featureBit.PROTOCOL_FEATURES);
    const protocol = extended ? decodeU64(await channel.ask('GET_PROTOCOL_FEATURES')) : null;
    let queuePairs: number | null = null;
    if (protocol !== null && hasProtocolFeature(protocol, 'MQ')) {
      // rust-vmm answers GET_QUEUE_NUM only after MQ was acked; nothing else needs to be.
      await channel.tell('SET_PROTOCOL_FEATURES', encodeU64(protocolFeatureMask('MQ')));
      queuePairs = await readQueuePairs(channel);
    }
    return {
      path,
      backendPid: channel.backendPid,
      features,
      featureNames: featureNames(features),
      protocolFeatures: protocol,
      protocolFeatureNames: protocolFeatureNames(protocol ?? 0n),
      queuePairs,
    };
  } catch (thrown) {
    if (thrown instanceof VirtioUserError && sentRequest(thrown)) throw frontendFound(path, thrown);
    throw thrown;
  } finally {
    channel.close();
  }
}

/** Whether what broke the protocol is a request: no reply, and as empty as those with which a frontend begins. */
function sentRequest({ code, details }: VirtioUserError): boolean {
  const bytes = Buffer.from(String(details['header'] ?? ''), 'hex');
  if (code !== 'PROTOCOL_VIOLATION' || bytes.length < headerBytes) return false;
  const { flags, size } = decodeHeader(bytes);
  return (flags & replyFlag) === 0 && size === 0;
}

function frontendFound(path: string, cause: VirtioUserError): VirtioUserError {
  return new VirtioUserError(
    'PROTOCOL_VIOLATION',
    `${path}: the peer sends requests: it is a frontend, not a backend`,
    {
      details: cause.details,
      remedy:
        "With `server: true` this is the agent's own socket, to which the switch connects: " +
        '`virtio-user-cni attachments show ID` tells of it.',
      cause,
    },
  );
}

function connect(
  path: string,
  binding: Pick<NativeBinding, 'connectUnix'>,
  options: Omit<ChannelOptions, 'name'>,
): Channel {
  const socketPath = { baseDirectory: dirname(path), relativePath: basename(path) };
  try {
    return new Channel((handlers) => binding.connectUnix(socketPath, handlers), { ...options, name: path });
  } catch (thrown) {
    if (thrown instanceof VirtioUserError) throw thrown;
    const errno = errnoOf(thrown);
    const absent = errno === 'ENOENT' || errno === 'ECONNREFUSED' || errno === 'EAGAIN';
    throw new VirtioUserError(absent ? 'BACKEND_ABSENT' : 'SOCKET_PATH', `connect ${path}: ${messageOf(thrown)}`, {
      details: { errno, path },
      remedy: absent
        ? 'Start the switch, or check that it listens on this path (in server mode it connects to us instead).'
        : 'Give the path of a vhost-user socket that this process may open.',
      cause: thrown,
    });
  }
}
