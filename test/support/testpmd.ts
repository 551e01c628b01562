/**
 * A private dpdk-testpmd with net_vhost ports: DPDK's own backend, for handshakes and as a wire between two pods.
 * Interactive, so that a test can read counters and start forwarding; ended by pid, and by itself when its stdin closes.
 *
 * `--no-huge`: the frontend's memory is what is shared, so that DPDK's own needs no hugepages, which other backends on
 * the machine may be using up. `--no-shconf`: no files below /var/run/dpdk, so that several run at once.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import type { Cleanup } from './cleanup.ts';

export interface VhostPort {
  readonly path: string;
  readonly queues: number;
  /** true: connects to our socket (we are the server), again every second. false: listens. */
  readonly client: boolean;
  /** Offers HOST_TSO4/6 besides the checksum offloads. */
  readonly tso: boolean;
}

export type ForwardMode = 'io' | 'macswap' | 'txonly' | 'rxonly';

export interface TestpmdOptions {
  readonly ports: readonly VhostPort[];
  readonly forward: ForwardMode;
  /** CPU of the polling thread. */
  readonly cpu?: number;
}

export interface PortStatistics {
  /** Seen from testpmd: what the pod sent. */
  readonly rxFrames: number;
  readonly rxBytes: number;
  readonly txFrames: number;
  readonly txBytes: number;
}

const prompt = 'testpmd> ';
const outputLimit = 1 << 20;

export class Testpmd {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<void>;
  #output = '';
  #log = '';
  #exit: string | null = null;
  #onOutput: () => void = () => undefined;

  private constructor(options: TestpmdOptions) {
    this.#child = spawn('stdbuf', ['-oL', 'dpdk-testpmd', ...argumentsFor(options)], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#child.stdin.on('error', () => undefined); // it may die before it reads
    this.#child.stdout.on('data', (chunk: Buffer) => this.#take(chunk.toString(), true));
    this.#child.stderr.on('data', (chunk: Buffer) => this.#take(chunk.toString(), false));
    this.#child.on('error', (error) => {
      this.#exit = error.message;
    });
    this.#ended = once(this.#child, 'close').then(([code, signal]) => {
      this.#exit ??= signal === null ? `exit ${code}` : String(signal);
      this.#onOutput();
    });
  }

  /** Returns when it answers. A listening port's socket file of a killed predecessor is removed: DPDK does not. */
  static async start(options: TestpmdOptions, cleanup: Cleanup): Promise<Testpmd> {
    const listening = options.ports.filter(({ client }) => !client);
    for (const { path } of listening) rmSync(path, { force: true });
    const testpmd = new Testpmd(options);
    cleanup.add('testpmd', () => testpmd.kill());
    await testpmd.#untilPrompt(20_000);
    await testpmd.command('start');
    return testpmd;
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error(`testpmd did not start: ${this.#exit}`);
    return this.#child.pid;
  }

  get alive(): boolean {
    return this.#exit === null;
  }

  /** What it said last, for messages. */
  get log(): string {
    return this.#log.split('\n').slice(-25).join('\n');
  }

  /** Runs a command of testpmd's prompt. @returns what it printed */
  async command(text: string, timeoutMs = 10_000): Promise<string> {
    this.#output = '';
    this.#child.stdin.write(`${text}\n`);
    const printed = await this.#untilPrompt(timeoutMs);
    if (/^Bad arguments|^Command not found/m.test(printed)) throw new Error(`testpmd: ${text}: ${printed.trim()}`);
    return printed;
  }

  async statistics(port: number): Promise<PortStatistics> {
    const text = await this.command(`show port stats ${port}`);
    const read = (name: string): number => {
      const value = new RegExp(`${name}:\\s+(\\d+)`).exec(text)?.[1];
      if (value === undefined) throw new Error(`testpmd shows no ${name} of port ${port}:\n${text}`);
      return Number(value);
    };
    return {
      rxFrames: read('RX-packets'),
      rxBytes: read('RX-bytes'),
      txFrames: read('TX-packets'),
      txBytes: read('TX-bytes'),
    };
  }

  /** Frames that each port did not take from the forwarding loop: the pod had no receive buffer in time. */
  async dropped(): Promise<number[]> {
    const text = await this.command('show fwd stats all');
    // Ports first, then (with more than one) their sum.
    return Array.from(text.matchAll(/statistics for port \d+[^+]*?TX-dropped: (\d+)/g), ([, frames]) => Number(frames));
  }

  async linkUp(port: number): Promise<boolean> {
    return /Link status: up/.test(await this.command(`show port info ${port}`));
  }

  /** Frames that each queue pair of a connected port has received from the pod since it was connected. */
  async queueFrames(port: number): Promise<number[]> {
    const text = await this.command(`show port xstats ${port}`);
    return Array.from(text.matchAll(/^rx_q(\d+)_good_packets: (\d+)/gm), ([, , frames]) => Number(frames));
  }

  /** In order: forwarding stops, connections close, sockets are removed. */
  async quit(): Promise<void> {
    if (this.alive) this.#child.stdin.write('quit\n');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 5_000);
    await this.#ended;
    clearTimeout(timer);
  }

  /** SIGKILL, as a crash. Returns when the process is gone. */
  async kill(): Promise<void> {
    if (this.alive) this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #take(text: string, answer: boolean): void {
    if (answer) this.#output += text;
    this.#log = (this.#log + text).slice(-outputLimit);
    this.#onOutput();
  }

  #untilPrompt(timeoutMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const finish = (error: Error | null): void => {
        clearTimeout(timer);
        this.#onOutput = () => undefined;
        if (error === null) resolve(this.#output);
        else reject(error);
      };
      const timer = setTimeout(
        () => finish(new Error(`testpmd does not answer within ${timeoutMs} ms:\n${this.log}`)),
        timeoutMs,
      );
      this.#onOutput = () => {
        if (this.#output.endsWith(prompt)) finish(null);
        else if (this.#exit !== null) finish(new Error(`testpmd ended (${this.#exit}):\n${this.log}`));
      };
      this.#onOutput();
    });
  }
}

function argumentsFor({ ports, forward, cpu = 1 }: TestpmdOptions): string[] {
  const queues = Math.max(...ports.map((port) => port.queues));
  return [
    // One thread waits for commands, one polls.
    `--lcores=0@0,1@${cpu}`,
    ...['--no-huge', '-m', '512', '--no-pci', '--no-shconf', '--no-telemetry'],
    ...ports.flatMap((port, index) => ['--vdev', vdev(port, index)]),
    '--',
    '-i',
    // Its events would be printed in the middle of the prompt.
    '--mask-event=intr_lsc',
    ...['--nb-cores=1', `--rxq=${queues}`, `--txq=${queues}`, '--total-num-mbufs=32768'],
    ...['--port-topology', ports.length > 1 ? 'paired' : 'loop', '--forward-mode', forward],
  ];
}

/**
 * legacy-ol-flags: a frame's offloads are passed on as its sender gave them, so that forwarding keeps a partial checksum
 * and a segmentation header; without it testpmd's io mode would lose both.
 */
function vdev({ path, queues, client, tso }: VhostPort, index: number): string {
  const flags = `client=${Number(client)},tso=${Number(tso)},legacy-ol-flags=1`;
  return `net_vhost${index},iface=${path},queues=${queues},${flags}`;
}
