/**
 * A vhost-user backend for what real ones do not show: it enforces the order of messages and misbehaves only when told.
 * It serves one connection over any socket of the native interface, in memory or real.
 */
import { errnoOf } from '../../src/errors.ts';
import type { FdSocket, NativeFd, SocketHandlers } from '../../src/native/binding.ts';
import { encodeMessage, needReplyFlag, replyFlags } from '../../src/vhost-user/header.ts';
import { MessageOrder } from './message-order.ts';
import { decodeMemoryTable, describeMessage, MessageReader, type WireMessage, type WireRegion } from './wire.ts';

/** What to do instead of answering. Bytes are sent as they are. */
export type Misbehaviour =
  | { readonly kind: 'close' }
  | { readonly kind: 'nack' }
  | { readonly kind: 'silent' }
  | { readonly kind: 'bytes'; readonly bytes: Buffer; readonly fds?: readonly NativeFd[]; readonly close?: boolean }
  /** The right answer, cut into pieces of one byte. */
  | { readonly kind: 'byte by byte' };

export interface ScriptedOptions {
  readonly features: bigint;
  readonly protocolFeatures?: bigint;
  readonly queuePairs?: number;
  /** The peer is expected to look and leave. */
  readonly probed?: boolean;
  /** What GET_STATUS answers; default: what was set last. */
  readonly status?: number;
  /** GET_VRING_BASE of each ring; default 0. */
  readonly base?: number;
  /** Called before a message is answered; `count` is how often it came, from 1. */
  readonly misbehave?: (message: WireMessage, count: number) => Misbehaviour | null;
  /** Called after each message. */
  readonly onMessage?: (message: WireMessage) => void;
}

/** DPDK 22.11 net_vhost without TSO, as measured: features and protocol features. */
export const dpdkOffer = { features: 0xd7c66e7cbn, protocolFeatures: 0x10cbfn } as const;
/** VPP without GSO: no REPLY_ACK, no STATUS. */
export const vppOffer = { features: (1n << 32n) | (1n << 30n) | 0x1c628000n, protocolFeatures: 0x3n } as const;

export class ScriptedBackend {
  /** One line per message, in order. */
  readonly trace: string[] = [];
  /** Rules broken by the frontend; empty for a correct one. */
  readonly violations: string[] = [];
  /** Each SET_MEM_TABLE that kept the order, as decoded from the wire. */
  readonly memoryTables: (readonly WireRegion[])[] = [];
  /** Messages that did not come as one piece. */
  fragmented = 0;
  readonly order: MessageOrder;
  /** Resolves when the connection has ended. */
  readonly ended: Promise<void>;
  /** Resolves when it has not answered as told (`silent`). */
  readonly stalled: Promise<void>;

  readonly #options: ScriptedOptions;
  readonly #reader = new MessageReader();
  readonly #counts = new Map<string, number>();
  readonly #fds: NativeFd[] = [];
  #socket: FdSocket | null = null;
  #status = 0;
  #backChannel: NativeFd | null = null;
  #end: () => void = () => {};
  #stall: () => void = () => {};

  constructor(options: ScriptedOptions) {
    this.#options = options;
    this.order = new MessageOrder({
      features: options.features,
      protocolFeatures: options.protocolFeatures ?? 0n,
      queuePairs: options.queuePairs ?? 128,
      probed: options.probed ?? false,
    });
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.stalled = new Promise((resolve) => {
      this.#stall = resolve;
    });
  }

  /** Its end of the back channel, once it has been handed over. */
  get backChannel(): NativeFd | null {
    return this.#backChannel;
  }

  get running(): boolean {
    return this.order.running;
  }

  /** @param attach connects or accepts with these handlers */
  serve(attach: (handlers: SocketHandlers) => FdSocket): this {
    this.#socket = attach({
      onData: (bytes, fds) => this.#receive(bytes, fds),
      onClose: () => this.#finish(),
    });
    return this;
  }

  /** Sends what nobody asked for. */
  say(bytes: Buffer, fds: readonly NativeFd[] = []): void {
    this.#socket?.send(bytes, fds);
  }

  die(): void {
    this.#socket?.close();
    this.#finish();
  }

  #finish(): void {
    for (const fd of this.#fds.splice(0)) fd.close();
    this.#end();
  }

  #receive(bytes: Buffer, fds: readonly NativeFd[]): void {
    this.#fds.push(...fds);
    const messages = this.#reader.push(bytes, fds);
    if (messages.length === 0) this.fragmented += 1;
    for (const message of messages) this.#handle(message);
  }

  #handle(message: WireMessage): void {
    this.trace.push(describeMessage(message));
    const broken = this.order.take(message);
    if (broken !== null) {
      this.violations.push(broken);
      this.die();
      return;
    }
    if (message.name === 'SET_MEM_TABLE') this.memoryTables.push(decodeMemoryTable(message.payload));
    const count = (this.#counts.get(message.name) ?? 0) + 1;
    this.#counts.set(message.name, count);
    const misbehaviour = this.#options.misbehave?.(message, count) ?? null;
    if (misbehaviour === null) this.#answer(message);
    else this.#misbehave(message, misbehaviour);
    this.#options.onMessage?.(message);
  }

  #answer(message: WireMessage): void {
    const reply = this.#replyTo(message);
    if (reply !== null) this.#send(encodeMessage(message.request, replyFlags, reply));
  }

  #misbehave(message: WireMessage, misbehaviour: Misbehaviour): void {
    switch (misbehaviour.kind) {
      case 'silent':
        this.#stall();
        return;
      case 'close':
        this.die();
        return;
      case 'nack':
        this.order.refuse(message);
        if ((message.flags & needReplyFlag) === 0) this.die();
        else this.#send(encodeMessage(message.request, replyFlags, u64(1n)));
        return;
      case 'bytes':
        this.#send(misbehaviour.bytes, misbehaviour.fds ?? []);
        if (misbehaviour.close === true) this.die();
        return;
      case 'byte by byte': {
        const reply = this.#replyTo(message);
        if (reply === null) return;
        for (const byte of encodeMessage(message.request, replyFlags, reply)) this.#send(Buffer.of(byte));
      }
    }
  }

  #send(bytes: Buffer, fds: readonly NativeFd[] = []): void {
    try {
      this.#socket?.send(bytes, fds);
    } catch (thrown) {
      // A frontend that has left in the meantime; its end of file is on the way.
      if (errnoOf(thrown) !== 'EPIPE') throw thrown;
    }
  }

  #replyTo({ name, flags, payload, fds }: WireMessage): Buffer | null {
    switch (name) {
      case 'GET_FEATURES':
        return u64(this.#options.features);
      case 'GET_PROTOCOL_FEATURES':
        return u64(this.#options.protocolFeatures ?? 0n);
      case 'GET_QUEUE_NUM':
        return u64(BigInt(this.#options.queuePairs ?? 128));
      case 'GET_STATUS':
        return u64(BigInt(this.#options.status ?? this.#status));
      case 'GET_VRING_BASE': {
        const reply = Buffer.from(payload);
        reply.writeUInt32LE(this.#options.base ?? 0, 4);
        return reply;
      }
      case 'SET_BACKEND_REQ_FD':
        this.#backChannel = fds[0] ?? null;
        break;
      case 'SET_STATUS':
        this.#status = Number(payload.readBigUInt64LE(0) & 0xffn);
    }
    return (flags & needReplyFlag) === 0 ? null : u64(0n);
  }
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}
