/** Namespaces and the links in them, in memory. */
import { randomUUID } from 'node:crypto';
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NativeFd, PodLinkFilter, PodLinkState, PodLinkWatch } from '../../src/native/binding.ts';
import { turn } from './fake-clock.ts';
import { fault } from './gate.ts';

interface FakeLink extends PodLinkState {
  readonly netns: string;
  /** What the pod did to it beside its address. */
  readonly filter?: Partial<PodLinkFilter>;
}

interface FakeWatch extends PodLinkWatch {
  readonly onChange: () => void;
}

const noFilter = { promiscuous: false, allMulticast: false, unicast: [], multicast: [] } as const;

/** What outlives the agent: namespaces and links. */
export class FakeKernel {
  readonly directory: string;
  links: FakeLink[] = [];
  openFds = 0;
  #ifindex = 10;
  #process = 1;

  constructor(directory: string) {
    this.directory = directory;
  }

  addNetns(name: string = randomUUID()): string {
    const path = join(this.directory, name);
    writeFileSync(path, 'netns');
    return path;
  }

  /** Every descriptor of the process goes with it. */
  processDied(): void {
    this.#process += 1;
    this.openFds = 0;
  }

  /** As the runtime does it: the links go with the namespace. */
  removeNetns(path: string): void {
    const inode = String(statSync(path).ino);
    rmSync(path);
    this.links = this.links.filter((link) => link.netns !== inode);
  }

  fd(inode: bigint, device: bigint): NativeFd {
    let open = true;
    const process = this.#process;
    this.openFds += 1;
    return {
      close: () => {
        if (open && process === this.#process) this.openFds -= 1;
        open = false;
      },
      get isOpen() {
        return open;
      },
      identity: () => ({ inode, device }),
    };
  }

  open(path: string): NativeFd {
    if (!existsSync(path)) throw fault('ENOENT', 'open');
    const { ino, dev } = statSync(path, { bigint: true });
    return this.fd(ino, dev);
  }

  create(netns: string, name: string, mac: string, mtu: number): FakeLink {
    this.#ifindex += 1;
    const state = { kind: 'tun', mac, mtu, up: false, carrier: true, addresses: [], routes: [] };
    const link: FakeLink = { ...state, netns, ifindex: this.#ifindex, name } as FakeLink & { name: string };
    this.links.push(link);
    return link;
  }

  find(netns: string, name: string): (FakeLink & { readonly name: string }) | undefined {
    return (this.links as (FakeLink & { readonly name: string })[]).find(
      (link) => link.netns === netns && link.name === name,
    );
  }

  /** Watches that are open. */
  readonly watches = new Set<FakeWatch>();

  watch(netns: string, ifindex: number, onChange: () => void): PodLinkWatch {
    const watch: FakeWatch = {
      onChange,
      read: async () => {
        await turn();
        const link = this.links.find((other) => other.netns === netns && other.ifindex === ifindex);
        return link === undefined ? null : { ...noFilter, mac: link.mac, mtu: link.mtu, ...link.filter };
      },
      close: () => {
        this.watches.delete(watch);
      },
    };
    this.watches.add(watch);
    return watch;
  }

  change(link: FakeLink, change: Partial<FakeLink>): void {
    this.links = this.links.map((other) => (other === link ? { ...other, ...change } : other));
  }
}
