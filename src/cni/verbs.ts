/** The verbs: from a frame to an answer. Nothing else prints what a runtime reads. */
import { z } from 'zod';
import type { Attachments, CallContext, RemoveRequest } from '../attachment/api.ts';
import { identityOf, sameNetns } from '../attachment/netns.ts';
import { VirtioUserError } from '../errors.ts';
import type { NativeBinding, NativeFd } from '../native/binding.ts';
import { type CniEnvironment, parseEnvironment } from './environment.ts';
import { errorBody } from './error.ts';
import { type CniAnswer, type CniFrame, fdRole } from './frame.ts';
import { answerVersion, attachmentSpec, type NetconfOptions, parseRawNetconf, type RawNetconf } from './netconf.ts';
import { parsePrevResult } from './prev-result.ts';
import { renderResult } from './result.ts';

export interface VerbDependencies {
  readonly attachments: Attachments;
  readonly binding: Pick<NativeBinding, 'checkNetns' | 'ownNetns'>;
  readonly netconf: NetconfOptions;
}

/** What the server does with a frame. `undo` takes a successful ADD back when the caller never got the answer. */
export interface Outcome {
  readonly answer: CniAnswer;
  readonly error: VirtioUserError | null;
  readonly undo: (() => Promise<void>) | null;
}

/** Of an ADD whose caller vanished: nobody waits, but nothing may hang. */
const undoTimeoutMs = 30_000;

const validAttachments = z.array(z.object({ containerID: z.string(), ifname: z.string() })).max(100_000);

export class Verbs {
  readonly #dependencies: VerbDependencies;

  constructor(dependencies: VerbDependencies) {
    this.#dependencies = dependencies;
  }

  /** Never rejects. `fds` are borrowed, in the order of the frame's roles. */
  async run(frame: CniFrame, fds: readonly NativeFd[], context: CallContext): Promise<Outcome> {
    try {
      return await this.#dispatch(frame, fds, context);
    } catch (thrown) {
      return failure(frame, thrown);
    }
  }

  async #dispatch(frame: CniFrame, fds: readonly NativeFd[], context: CallContext): Promise<Outcome> {
    const environment = parseEnvironment(frame.verb, frame.environment);
    const raw = parseRawNetconf(frame.stdin, frame.verb);
    switch (frame.verb) {
      case 'ADD':
        return this.#add(frame, fds, raw, environment, context);
      case 'DEL':
        await this.#dependencies.attachments.remove(removeRequest(raw, environment, now), context);
        return silence;
      case 'CHECK':
        await this.#check(raw, environment, context);
        return silence;
      case 'GC':
        await this.#collectGarbage(raw, environment, context);
        return silence;
      case 'STATUS':
        await this.#dependencies.attachments.status(raw.ipam, environment.path, context);
        return silence;
    }
  }

  async #add(
    frame: CniFrame,
    fds: readonly NativeFd[],
    raw: RawNetconf,
    environment: CniEnvironment,
    context: CallContext,
  ): Promise<Outcome> {
    const netns = fds[frame.fdRoles.indexOf(fdRole.netns)];
    if (netns === undefined) {
      throw new VirtioUserError('INPUT_FRAME', 'ADD: the executable sent no descriptor of the namespace');
    }
    this.#checkNetns(netns, environment);
    const spec = attachmentSpec(raw, environment, this.#dependencies.netconf);
    const previous = parsePrevResult(raw.json);
    const result = await this.#dependencies.attachments.add(spec, netns, context);
    const request = removeRequest(raw, environment, now);
    return {
      answer: { exitCode: 0, body: JSON.stringify(renderResult(result, raw.cniVersion, previous)) },
      error: null,
      undo: () =>
        this.#dependencies.attachments.remove(request, { ...context, signal: AbortSignal.timeout(undoTimeoutMs) }),
    };
  }

  #checkNetns(netns: NativeFd, environment: CniEnvironment): void {
    const { binding } = this.#dependencies;
    try {
      binding.checkNetns(netns);
    } catch (cause) {
      throw new VirtioUserError('NETNS_INVALID', `CNI_NETNS ${environment.netnsPath} is not a network namespace`, {
        cause,
      });
    }
    if (environment.netnsOverride) return;
    const own = binding.ownNetns();
    try {
      if (sameNetns(identityOf(netns), identityOf(own))) {
        throw new VirtioUserError(
          'NETNS_INVALID',
          `CNI_NETNS ${environment.netnsPath} is the host's own network namespace`,
          {
            remedy: 'pass the namespace of the pod, or set CNI_NETNS_OVERRIDE=1',
          },
        );
      }
    } finally {
      own.close();
    }
  }

  async #check(raw: RawNetconf, environment: CniEnvironment, context: CallContext): Promise<void> {
    if (raw.cniVersion.startsWith('0.3.')) {
      throw new VirtioUserError('INPUT_VERSION', `cniVersion ${raw.cniVersion} has no CHECK; it came with 0.4.0`);
    }
    const prevResult = raw.json['prevResult'];
    if (prevResult === undefined || prevResult === null) {
      throw new VirtioUserError('CONFIG_INVALID', 'CHECK: prevResult is missing', { details: { key: 'prevResult' } });
    }
    const spec = attachmentSpec(raw, environment, this.#dependencies.netconf);
    await this.#dependencies.attachments.check({ spec, prevResult }, context);
  }

  async #collectGarbage(raw: RawNetconf, environment: CniEnvironment, context: CallContext): Promise<void> {
    const valid = validAttachments.safeParse(raw.json['cni.dev/valid-attachments']);
    if (!valid.success) {
      throw new VirtioUserError(
        'CONFIG_INVALID',
        'GC: cni.dev/valid-attachments is missing or not a list of {containerID, ifname}; nothing was removed',
        {
          details: { key: 'cni.dev/valid-attachments' },
        },
      );
    }
    await this.#dependencies.attachments.collectGarbage(
      {
        networkName: raw.name,
        valid: valid.data.map(({ containerID, ifname }) => ({ containerId: containerID, ifName: ifname })),
        ipam: raw.ipam,
        cniPath: environment.path,
      },
      context,
    );
  }
}

/** Asked now: meant is whatever there is, also if the clock of this node was set back since it was made. */
const now = Number.MAX_SAFE_INTEGER;

const silence: Outcome = { answer: { exitCode: 0, body: '' }, error: null, undo: null };

/** The answer to a call that failed, in the version that its caller speaks. */
export function failure(frame: CniFrame, thrown: unknown): Outcome {
  const error = VirtioUserError.from(thrown, frame.verb);
  const body = errorBody(error, frame.verb, answerVersion(frame.stdin));
  return { answer: { exitCode: 1, body }, error, undo: null };
}

export function removeRequest(raw: RawNetconf, environment: CniEnvironment, askedAtMs: number): RemoveRequest {
  return {
    key: { networkName: raw.name, containerId: environment.containerId, ifName: environment.ifName },
    netnsPath: environment.netnsPath,
    cniArgs: environment.args,
    cniPath: environment.path,
    ipam: raw.ipam,
    askedAtMs,
  };
}
