/** Exit codes of the command line, promised to scripts. The CNI executable has its own: CNI's. */
export const exitCode = {
  ok: 0,
  /** The command was understood and failed. */
  failure: 1,
  /** The command line, an option or a value is wrong. */
  usage: 2,
  /** No agent answers on the run directory. */
  agentUnreachable: 3,
  /** `doctor` found something that keeps the node from working. */
  unhealthy: 4,
  /** There is no such attachment. */
  notFound: 5,
  /** The agent met an error that nobody foresaw (EX_SOFTWARE of sysexits.h). */
  crash: 70,
} as const;

export type ExitCode = (typeof exitCode)[keyof typeof exitCode];
