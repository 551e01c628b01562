/** ±10 %, so that the nodes of a cluster do not act in step. */
export function jittered(delayMs: number): number {
  return Math.round(delayMs * (0.9 + Math.random() * 0.2));
}
