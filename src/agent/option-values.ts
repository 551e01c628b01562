/** How the text of an option becomes a value. A parser throws {@link Unacceptable} with what would be accepted. */
import { isIP } from 'node:net';
import { longestSocketPathBytes } from '../native/binding.ts';
import { confEnding } from './network-conf.ts';

/** Carries only "what is accepted"; the caller knows the option, its source and the value. */
export class Unacceptable extends Error {}

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** From a flag or the environment: text. From a YAML file: whatever stands there. */
export type RawValue = unknown;
export type Parser<T> = (raw: RawValue) => T;

function textOf(raw: RawValue): string | null {
  if (typeof raw === 'string') return raw.trim();
  return typeof raw === 'number' || typeof raw === 'boolean' || typeof raw === 'bigint' ? String(raw) : null;
}

export function integer(least: number, most: number): Parser<number> {
  return (raw) => {
    const text = textOf(raw) ?? '';
    const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
    if (!(value >= least && value <= most)) throw new Unacceptable(`an integer from ${least} to ${most}`);
    return value;
  };
}

/** The bare flag (`--name`, an empty text) means true. */
export const truth: Parser<boolean> = (raw) => {
  const text = textOf(raw);
  if (text === 'true' || text === '') return true;
  if (text === 'false') return false;
  throw new Unacceptable('true or false');
};

export function oneOf<T extends string>(...choices: readonly T[]): Parser<T> {
  return (raw) => {
    const found = choices.find((choice) => choice === textOf(raw));
    if (found === undefined) throw new Unacceptable(`one of ${choices.join(', ')}`);
    return found;
  };
}

/** Absolute, normalised. `reserveBytes`: longest name of a socket that will lie below it. */
export function directory(reserveBytes = 0): Parser<string> {
  return (raw) => {
    const path = absolutePath(raw, 'an absolute path of a directory');
    if (reserveBytes > 0 && Buffer.byteLength(path) + reserveBytes > longestSocketPathBytes) {
      throw new Unacceptable(`a path of at most ${longestSocketPathBytes - reserveBytes} bytes: sockets lie below it`);
    }
    return path;
  };
}

export const socketPath: Parser<string> = (raw) => {
  const path = absolutePath(raw, 'an absolute path');
  if (Buffer.byteLength(path) > longestSocketPathBytes)
    throw new Unacceptable(`a path of at most ${longestSocketPathBytes} bytes`);
  return path;
};

/** Path of a network configuration; the empty text is none. */
export const confFile: Parser<string | null> = (raw) => {
  if (textOf(raw) === '') return null;
  const accepted = 'an absolute path of a .conf, .conflist or .json file';
  const path = absolutePath(raw, accepted);
  if (!confEnding.test(path)) throw new Unacceptable(accepted);
  return path;
};

function absolutePath(raw: RawValue, accepted: string): string {
  const text = textOf(raw) ?? '';
  if (!text.startsWith('/') || text.includes('\0')) throw new Unacceptable(accepted);
  if (text.split('/').includes('..')) throw new Unacceptable(`${accepted} without ".."`);
  return text.replace(/\/{2,}/g, '/').replace(/(?<=.)\/$/, '');
}

/** Comma-separated text, or a list in a file. */
export const directories: Parser<readonly string[]> = (raw) => {
  const items: readonly unknown[] = Array.isArray(raw) ? raw : (textOf(raw) ?? '').split(',');
  const accepted = 'absolute paths of directories, separated by commas';
  if (items.length > 64) throw new Unacceptable('at most 64 directories');
  return [...new Set(items.map((item) => absolutePath(item, accepted)))];
};

/** Cores as the kernel lists them (`1,3-5`), or a list in a file. Ascending. */
export const coreList: Parser<readonly number[]> = (raw) => {
  const ranges: readonly unknown[] = Array.isArray(raw) ? raw : (textOf(raw) ?? '').split(',');
  const cores = ranges.flatMap((range) => {
    const [, first, last] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(textOf(range) ?? '') ?? [];
    const length = Number(last ?? first) - Number(first) + 1;
    if (!(length >= 1)) throw new Unacceptable('cores such as 1,3-5');
    return Array.from({ length }, (_, index) => Number(first) + index);
  });
  return [...new Set(cores)].sort((a, b) => a - b);
};

/** `ovs`, `none`, or cores. */
export const pollingCores: Parser<'ovs' | readonly number[]> = (raw) => {
  if (textOf(raw) === 'ovs') return 'ovs';
  if (textOf(raw) === 'none') return [];
  try {
    return coreList(raw);
  } catch (error) {
    throw error instanceof Unacceptable ? new Unacceptable(`ovs, none, or ${error.message}`) : error;
  }
};

/** `HOST:PORT`, `[IPV6]:PORT`; port 0 lets the kernel choose. */
export const listenAddress: Parser<ListenAddress> = (raw) => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(textOf(raw) ?? '');
  const host = match?.[1] ?? match?.[2] ?? '';
  const port = Number(match?.[3] ?? NaN);
  if (isIP(host) === 0 || !(port <= 65_535))
    throw new Unacceptable('ADDRESS:PORT, such as 127.0.0.1:9473 or [::1]:9473');
  return { host, port };
};

/** As ovs-vsctl writes it; over TCP the database would accept anybody, so only the socket is offered. */
export const ovsdbRemote: Parser<string> = (raw) => {
  const text = textOf(raw) ?? '';
  if (!text.startsWith('unix:')) throw new Unacceptable('unix:PATH with an absolute path');
  return `unix:${socketPath(text.slice('unix:'.length))}`;
};

/** A Kubernetes node name (DNS-1123 subdomain); it goes into external_ids and MAC derivation. */
export const nodeName: Parser<string> = (raw) => {
  const text = textOf(raw) ?? '';
  if (text.length > 253 || !/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text)) {
    throw new Unacceptable('a Kubernetes node name: lower-case letters, digits, "-" and "."');
  }
  return text;
};

/** Name or number of a group; the empty text is none. */
export const groupName: Parser<string | null> = (raw) => {
  const text = textOf(raw) ?? '';
  if (text === '') return null;
  if (!/^([a-z_][a-z0-9_-]{0,31}|\d{1,9})$/.test(text)) throw new Unacceptable('the name or number of a group');
  return text;
};
