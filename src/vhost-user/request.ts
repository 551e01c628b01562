/**
 * Requests from frontend to backend: number, payload and reply size, and whether `need_reply` may be set.
 * Source: QEMU docs/interop/vhost-user.rst, "Front-end message types"; DPDK lib/vhost/vhost_user.h.
 */

export interface RequestSpec {
  readonly number: number;
  /** Exact payload bytes, or null where it depends on the content (SET_MEM_TABLE). */
  readonly payloadBytes: number | null;
  /** Exact bytes of the reply that this request always has, or null: it has none, only an ack where asked for. */
  readonly replyBytes: number | null;
  /**
   * Configuration that is acknowledged where F_REPLY_ACK is negotiated. Not SET_OWNER and SET_PROTOCOL_FEATURES, which
   * come before the agreement is in force, nor requests with a reply of their own.
   */
  readonly acknowledged: boolean;
}

const asks = (number: number, payloadBytes: number, replyBytes: number): RequestSpec => ({
  number,
  payloadBytes,
  replyBytes,
  acknowledged: false,
});
const sets = (number: number, payloadBytes: number | null, acknowledged = true): RequestSpec => ({
  number,
  payloadBytes,
  replyBytes: null,
  acknowledged,
});

/** Those that we send. */
export const requests = {
  GET_FEATURES: asks(1, 0, 8),
  SET_FEATURES: sets(2, 8),
  SET_OWNER: sets(3, 0, false),
  SET_MEM_TABLE: sets(5, null),
  SET_VRING_NUM: sets(8, 8),
  SET_VRING_ADDR: sets(9, 40),
  SET_VRING_BASE: sets(10, 8),
  GET_VRING_BASE: asks(11, 8, 8),
  SET_VRING_KICK: sets(12, 8),
  SET_VRING_CALL: sets(13, 8),
  SET_VRING_ERR: sets(14, 8),
  GET_PROTOCOL_FEATURES: asks(15, 0, 8),
  SET_PROTOCOL_FEATURES: sets(16, 8, false),
  GET_QUEUE_NUM: asks(17, 0, 8),
  SET_VRING_ENABLE: sets(18, 8),
  NET_SET_MTU: sets(20, 8),
  SET_BACKEND_REQ_FD: sets(21, 0),
  SET_STATUS: sets(39, 8),
  GET_STATUS: asks(40, 0, 8),
} as const satisfies Readonly<Record<string, RequestSpec>>;

export type RequestName = keyof typeof requests;

/** An acknowledgement (REPLY_ACK) is a u64. */
export const ackBytes = 8;

const nameByNumber: ReadonlyMap<number, string> = new Map(
  Object.entries(requests).map(([name, { number }]) => [number, name]),
);

/** For people: `SET_MEM_TABLE`, or `request 99`. */
export function requestName(number: number): string {
  return nameByNumber.get(number) ?? `request ${number}`;
}
