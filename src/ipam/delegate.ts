/**
 * IPAM by CNI plugins (host-local, static, dhcp, whereabouts), run by the agent with only the CNI variables in their
 * environment. The configuration goes to the plugin as it came; `cniVersion` alone is lowered to what the plugin says
 * that it supports, since plugins older than the runtime refuse what they do not know.
 */
import { isExhaustion, VirtioUserError } from '../errors.ts';
import { isAtLeast, loweredVersion, parseRecord, type Plugin, PluginCatalog } from './plugin-catalog.ts';
import { outputLimitBytes, type PluginOutcome, type PluginRunTerms, runPlugin } from './plugin-process.ts';
import type { Ipam, IpamAnswer, IpamCall, IpamResult } from './result.ts';
import { parseIpamResult } from './schema.ts';

type Verb = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';

export type IpamTimeouts = Readonly<Record<Verb | 'undo', number>>;

/** Below what the executable gives each verb. `undo`: of a failed ADD, which may come after the caller's deadline. */
const defaultTimeoutsMs: IpamTimeouts = {
  ADD: 20_000,
  DEL: 10_000,
  CHECK: 4_000,
  GC: 20_000,
  STATUS: 1_500,
  undo: 5_000,
};

export interface IpamOptions {
  /** Searched after the caller's CNI_PATH. */
  readonly binDirs: readonly string[];
  readonly timeoutsMs?: Partial<IpamTimeouts>;
}

/** Which CNI version brought the verb: a plugin that is spoken to in an older one is not asked. */
const sinceVersion: Readonly<Partial<Record<Verb, string>>> = { CHECK: '0.4.0', GC: '1.1.0', STATUS: '1.1.0' };

/** A plugin is being replaced right now: what libcni does for those that it starts, a little quicker. */
const busyRetries = 5;
const busyRetryMs = 200;

/** CNI 1.1.0, "Error": invalid necessary environment variables; what older plugins say of a verb they do not know. */
const badEnvironmentCode = 4;

type NetworkCall = Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>;

export class DelegatedIpam implements Ipam {
  readonly #catalog: PluginCatalog;
  readonly #timeoutsMs: IpamTimeouts;

  constructor(options: IpamOptions) {
    this.#catalog = new PluginCatalog(options.binDirs);
    this.#timeoutsMs = { ...defaultTimeoutsMs, ...options.timeoutsMs };
  }

  async add(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<IpamAnswer> {
    const plugin = await this.#catalog.find(call.type, call.cniPath);
    const early = Promise.withResolvers<string>();
    const terms = { signal, timeoutMs: this.#timeoutsMs.ADD, permission, onPrinted: early.resolve };
    const ended = this.#run(plugin, 'ADD', call, {}, terms);
    const first = await Promise.race([early.promise, ended]);
    await permission; // without it the plugin was never told anything, and there is nothing to undo
    if (typeof first === 'string') {
      const parsed = parseIpamResult(parseRecord(first));
      if ('result' in parsed) return { result: parsed.result, confirmed: this.#confirm(call.type, ended, first) };
    }
    return { result: await this.#conclude(plugin, call, await ended), confirmed: Promise.resolve() };
  }

  /** The result of an ADD that has ended; what it may have taken in vain is given back. */
  async #conclude(plugin: Plugin, call: IpamCall, outcome: PluginOutcome): Promise<IpamResult> {
    try {
      const stdout = this.#succeeded(call.type, 'ADD', outcome);
      const parsed = parseIpamResult(parseRecord(stdout));
      if ('result' in parsed) return parsed.result;
      throw unusable(call.type, stdout, parsed.reason);
    } catch (error) {
      if (outcome.kind === 'unstartable') throw error;
      // Half an ADD may have taken a lease.
      const { undo: timeoutMs } = this.#timeoutsMs;
      const undone = await this.#run(plugin, 'DEL', call, {}, { signal: AbortSignal.timeout(timeoutMs), timeoutMs });
      throw undone.kind === 'exited' && undone.code === 0 ? error : notUndone(VirtioUserError.from(error, 'IPAM ADD'));
    }
  }

  #confirm(type: string, ended: Promise<PluginOutcome>, printed: string): Promise<void> {
    const confirmed = ended.then((outcome) => {
      const stdout = this.#succeeded(type, 'ADD', outcome);
      if (stdout.trimEnd() !== printed.trimEnd()) throw unusable(type, stdout, 'it goes on after its end');
    });
    confirmed.catch(() => undefined); // the caller may have failed by itself meanwhile
    return confirmed;
  }

  async del(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<void> {
    const plugin = await this.#catalog.find(call.type, call.cniPath);
    const outcome = await this.#run(plugin, 'DEL', call, {}, { signal, timeoutMs: this.#timeoutsMs.DEL, permission });
    await permission;
    this.#succeeded(call.type, 'DEL', outcome);
  }

  async check(call: IpamCall, prevResult: unknown, signal: AbortSignal): Promise<void> {
    await this.#optional('CHECK', call, { prevResult }, signal);
  }

  async gc(
    call: NetworkCall,
    valid: readonly Pick<IpamCall, 'containerId' | 'ifName'>[],
    signal: AbortSignal,
  ): Promise<void> {
    const listed = valid.map(({ containerId, ifName }) => ({ containerID: containerId, ifname: ifName }));
    await this.#optional('GC', ofNetwork(call), { 'cni.dev/valid-attachments': listed }, signal);
  }

  async status(call: NetworkCall, signal: AbortSignal): Promise<void> {
    await this.#optional('STATUS', ofNetwork(call), {}, signal);
  }

  /** A verb that not every plugin knows. */
  async #optional(
    verb: 'CHECK' | 'GC' | 'STATUS',
    call: IpamCall,
    extra: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): Promise<void> {
    const plugin = await this.#catalog.find(call.type, call.cniPath);
    const spoken = loweredVersion(versionIn(parseRecord(call.netconf)), plugin.versions);
    if (!isAtLeast(spoken, sinceVersion[verb] ?? '')) return;
    const outcome = await this.#run(plugin, verb, call, extra, { signal, timeoutMs: this.#timeoutsMs[verb] });
    if (outcome.kind === 'exited' && doesNotKnow(verb, outcome.stdout)) return;
    this.#succeeded(call.type, verb, outcome);
  }

  async #run(
    plugin: Plugin,
    verb: Verb,
    call: IpamCall,
    extra: Readonly<Record<string, unknown>>,
    terms: PluginRunTerms,
  ): Promise<PluginOutcome> {
    const environment: Record<string, string> = {
      CNI_COMMAND: verb,
      CNI_PATH: this.#catalog.searchPath(call.cniPath),
      ...(call.containerId === ''
        ? {}
        : { CNI_CONTAINERID: call.containerId, CNI_IFNAME: call.ifName, CNI_NETNS: call.netnsPath }),
      ...(call.cniArgs === '' ? {} : { CNI_ARGS: call.cniArgs }),
    };
    const stdin = stdinFor(call.netconf, plugin.versions, extra);
    for (let attempt = 1; ; attempt++) {
      const outcome = await runPlugin({ path: plugin.path, environment, stdin, ...terms });
      if (outcome.kind !== 'unstartable' || outcome.errno !== 'ETXTBSY' || attempt > busyRetries) return outcome;
      await new Promise((resolve) => setTimeout(resolve, busyRetryMs));
    }
  }

  /** stdout of a plugin that did what was asked. @throws VirtioUserError IPAM_FAILED, RESOURCE_EXHAUSTED, CANCELLED */
  #succeeded(type: string, verb: Verb, outcome: PluginOutcome): string {
    const failed = (what: string, remedy?: string): VirtioUserError =>
      new VirtioUserError('IPAM_FAILED', `IPAM plugin ${type} ${verb}: ${what}`, {
        details: { plugin: type, verb },
        ...(remedy === undefined ? {} : { remedy }),
      });
    switch (outcome.kind) {
      case 'exited':
        if (outcome.code === 0) return outcome.stdout;
        throw failed(pluginError(outcome.stdout)?.text ?? exitText(outcome));
      case 'signalled':
        throw failed(`killed by ${outcome.signal}`);
      case 'timeout':
        throw failed(`no answer within ${this.#timeoutsMs[verb]} ms, killed`);
      case 'flooded':
        throw failed(`more than ${outputLimitBytes} bytes of output, killed`);
      case 'unstartable':
        if (isExhaustion(outcome.errno)) {
          throw new VirtioUserError(
            'RESOURCE_EXHAUSTED',
            `IPAM plugin ${type} ${verb}: cannot be started: ${outcome.errno}`,
            {
              details: { plugin: type, verb, errno: outcome.errno },
              remedy: 'raise the limit of open files of the agent, or its memory limit',
            },
          );
        }
        // The file was there a moment ago, so it is its ELF interpreter that the kernel did not find.
        if (outcome.errno !== 'ENOENT') throw failed(`cannot be started: ${outcome.errno}`);
        throw failed(
          'it exists but its interpreter does not (a dynamically linked plugin without its C library)',
          'use statically linked plugins, or an image with glibc',
        );
      case 'aborted':
        throw new VirtioUserError('CANCELLED', `IPAM plugin ${type} ${verb}: the caller is gone or its time is over`);
    }
  }
}

function unusable(type: string, stdout: string, reason: string): VirtioUserError {
  return new VirtioUserError(
    'IPAM_FAILED',
    `IPAM plugin ${type} ADD: it printed no usable result: ${reason.slice(0, 300)}`,
    { details: { plugin: type, verb: 'ADD', printed: stdout.slice(0, 120) } },
  );
}

/** The same failure, saying that a lease may be left. */
function notUndone({ code, message, details, remedy, cause }: VirtioUserError): VirtioUserError {
  const options = { details: { ...details, undone: false }, cause };
  return new VirtioUserError(code, message, remedy === null ? options : { ...options, remedy });
}

function ofNetwork(call: NetworkCall): IpamCall {
  return { ...call, containerId: '', netnsPath: '', ifName: '', cniArgs: '' };
}

function versionIn(netconf: Readonly<Record<string, unknown>> | null): string {
  const version = netconf?.['cniVersion'];
  return typeof version === 'string' ? version : '0.3.1';
}

function stdinFor(netconf: string, versions: readonly string[], extra: Readonly<Record<string, unknown>>): string {
  const value = parseRecord(netconf);
  if (value === null) return netconf;
  return JSON.stringify({ ...value, ...extra, cniVersion: loweredVersion(versionIn(value), versions) });
}

/** A plugin's own error, in its words, or null. */
function pluginError(stdout: string): { readonly code: number; readonly text: string } | null {
  const value = parseRecord(stdout);
  if (typeof value?.['code'] !== 'number') return null;
  const words = [value['msg'], value['details']].filter((part) => typeof part === 'string' && part !== '');
  return { code: value['code'], text: `${words.join('; ') || 'no message'} (code ${value['code']})` };
}

function doesNotKnow(verb: Verb, stdout: string): boolean {
  const error = pluginError(stdout);
  return error?.code === badEnvironmentCode && error.text.includes(`unknown CNI_COMMAND: ${verb}`);
}

function exitText({ code, stdout, stderr }: Extract<PluginOutcome, { kind: 'exited' }>): string {
  const said = (stderr.trim() || stdout.trim()).slice(0, 300);
  return `exit ${code}${said === '' ? ', nothing printed' : `: ${said}`}`;
}
