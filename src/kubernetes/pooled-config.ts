/**
 * A KubeConfig whose connections can be trusted to fail. The stock client makes a connection per request, speaks HTTP/2
 * and then hangs for ever on a connection that goes silent without closing; here one HTTP/1.1 agent is kept per set of
 * credentials, with deadlines on connect and headers. A hang of a body is found by the caller's own deadline.
 */
import { createHash } from 'node:crypto';
import type { RequestOptions } from 'node:https';
import { Agent } from 'undici';
import { KubeConfig } from './client-node.ts';

type Context = Parameters<KubeConfig['applySecurityAuthentication']>[0];

/** Deadline of a call that is not a watch, milliseconds. */
export const callTimeoutMs = 15_000;

export class PooledKubeConfig extends KubeConfig {
  #kept: { readonly hash: string; readonly agent: Agent } | null = null;

  override async applySecurityAuthentication(context: Context): Promise<void> {
    await super.applySecurityAuthentication(context);
    await context.getDispatcher()?.close();
    context.setDispatcher(await this.#agent());
    context.setSignal(AbortSignal.timeout(callTimeoutMs)); // Watch does not look at it
  }

  /** The files of CA, certificate and key are read each time, so that a rotation gets a new agent. */
  async #agent(): Promise<Agent> {
    const options: RequestOptions = {};
    await this.applyToHTTPSOptions(options);
    const { ca, cert, key, servername, rejectUnauthorized } = options;
    const hash = createHash('sha256')
      .update(JSON.stringify([ca, cert, key]))
      .digest('hex');
    if (this.#kept?.hash === hash) return this.#kept.agent;
    void this.#kept?.agent.close();
    const connect = { ca, cert, key, servername, rejectUnauthorized, keepAlive: true, keepAliveInitialDelay: 30_000 };
    const given = Object.fromEntries(Object.entries(connect).filter(([, value]) => value !== undefined));
    const agent = new Agent({
      connect: given,
      allowH2: false,
      connectTimeout: 5_000,
      headersTimeout: callTimeoutMs,
      bodyTimeout: 0,
      keepAliveTimeout: 30_000,
    });
    this.#kept = { hash, agent };
    return agent;
  }

  /** Ends every connection, watches included. */
  async closeConnections(): Promise<void> {
    await this.#kept?.agent.destroy();
    this.#kept = null;
  }
}
