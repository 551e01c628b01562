/** Medians and spreads of repeated measurements. */

export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly runs: number;
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length === 0) return Number.NaN;
  const position = (sorted.length - 1) * q;
  const low = sorted[Math.floor(position)] ?? Number.NaN;
  const high = sorted[Math.ceil(position)] ?? Number.NaN;
  return low + (high - low) * (position - Math.floor(position));
}

export function summarize(values: readonly number[]): Summary {
  return {
    median: quantile(values, 0.5),
    min: Math.min(...values),
    max: Math.max(...values),
    runs: values.length,
  };
}

/** Collects values under (row, metric) while rounds are interleaved. */
export class Samples {
  readonly #values = new Map<string, Map<string, number[]>>();

  add(row: string, metric: string, value: number): void {
    const metrics = this.#values.get(row) ?? new Map<string, number[]>();
    this.#values.set(row, metrics);
    const list = metrics.get(metric) ?? [];
    metrics.set(metric, list);
    list.push(value);
  }

  summary(): Readonly<Record<string, Readonly<Record<string, Summary>>>> {
    return Object.fromEntries(
      [...this.#values].map(([row, metrics]) => [
        row,
        Object.fromEntries([...metrics].map(([metric, values]) => [metric, summarize(values)])),
      ]),
    );
  }
}
