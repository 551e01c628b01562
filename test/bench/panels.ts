/** Panels of a Grafana dashboard, with Prometheus' answers, as SVG: what our one dashboard uses, and no more. */

export interface Panel {
  readonly type: string;
  readonly title: string;
  readonly targets: readonly { readonly expr: string; readonly legendFormat: string; readonly instant?: boolean }[];
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly fieldConfig: {
    readonly defaults: {
      readonly unit: string;
      readonly min?: number;
      readonly custom?: { readonly stacking: { readonly mode: string } };
      readonly thresholds?: { readonly steps: readonly { readonly color: string; readonly value: number | null }[] };
    };
    readonly overrides: readonly {
      readonly matcher: { readonly options: string };
      readonly properties: readonly { readonly id: string; readonly value: unknown }[];
    }[];
  };
  readonly options: { readonly textMode?: string };
}

export interface Series {
  readonly name: string;
  /** Seconds, value; ascending. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Range {
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

const column = 58;
const row = 38;
const gap = 8;
const colors = ['#73bf69', '#f2cc0c', '#5794f2', '#ff9830', '#f2495c', '#b877d9', '#37872d', '#e0b400', '#1f60c4'];
const [green, yellow, blue, orange, red, purple] = colors;
const named: Readonly<Record<string, string | undefined>> = { green, yellow, blue, orange, red, purple };

/** What the dashboard says of one series alone. */
function override({ fieldConfig }: Panel, name: string, id: string): unknown {
  const properties = fieldConfig.overrides.find(({ matcher }) => matcher.options === name)?.properties;
  return properties?.find((property) => property.id === id)?.value;
}

function colorOf(panel: Panel, name: string, index: number): string {
  const fixed = (override(panel, name, 'color') as { fixedColor: string } | undefined)?.fixedColor;
  return fixed === undefined ? (colors[index % colors.length] ?? '') : (named[fixed] ?? fixed);
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

function scaled(value: number, base: number, names: readonly string[], suffix: string): string {
  const power = Math.abs(value) < base ? 0 : Math.floor(Math.log(Math.abs(value)) / Math.log(base));
  const index = Math.min(power, names.length - 1);
  return `${Number((value / base ** index).toPrecision(3))}${names[index] ?? ''}${suffix}`;
}

const thousands = ['', ' k', ' M', ' G'];
const units: Readonly<Record<string, (value: number) => string>> = {
  short: (value) => scaled(value, 1000, thousands, ''),
  bps: (value) => scaled(value, 1000, [' b', ' kb', ' Mb', ' Gb'], '/s'),
  pps: (value) => scaled(value, 1000, thousands, ' p/s'),
  ops: (value) => scaled(value, 1000, thousands, ' ops/s'),
  reqps: (value) => scaled(value, 1000, thousands, ' req/s'),
  bytes: (value) => scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB'], ''),
  percentunit: (value) => `${Number((value * 100).toPrecision(3))} %`,
  s: (value) =>
    value !== 0 && Math.abs(value) < 1
      ? `${Number((value * 1000).toPrecision(3))} ms`
      : `${Number(value.toPrecision(3))} s`,
};

function formatter(unit: string): (value: number) => string {
  const format = units[unit];
  if (format === undefined) throw new Error(`unit ${unit}: not drawn yet`);
  return format;
}

/** Values of a scale from 0 (or less) that covers `largest`, at round steps. */
function ticks(smallest: number, largest: number, base: number): number[] {
  const rough = (largest - smallest || 1) / 4;
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const fine = base === 10 ? [1, 2, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const step = power * (fine.find((factor) => factor * power >= rough) ?? base);
  const first = Math.floor(smallest / step);
  return Array.from({ length: Math.ceil((largest || 1) / step) - first + 1 }, (_, index) => (first + index) * step);
}

/** As they are drawn: on top of each other, or below zero, where the dashboard says so. */
function placed(panel: Panel, series: readonly Series[]): Series[] {
  const sums = new Map<number, number>();
  const stacked = panel.fieldConfig.defaults.custom?.stacking.mode === 'normal';
  return series.map(({ name, points }) => {
    const sign = override(panel, name, 'custom.transform') === 'negative-Y' ? -1 : 1;
    const place = (at: number, value: number): number => {
      const sum = (stacked ? (sums.get(at) ?? 0) : 0) + sign * value;
      sums.set(at, sum);
      return sum;
    };
    return { name, points: points.map(([at, value]) => [at, place(at, value)] as const) };
  });
}

/** A line is broken where there is no value; a value alone is a dot. */
function path(points: Series['points'], step: number, x: (at: number) => number, y: (value: number) => number): string {
  return points
    .map(([at, value], index) => {
      const joined = index > 0 && at - (points[index - 1]?.[0] ?? 0) <= step * 1.5;
      const alone = !joined && (points[index + 1]?.[0] ?? Infinity) - at > step * 1.5;
      return `${joined ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value).toFixed(1)}${alone ? 'h.1' : ''}`;
    })
    .join('');
}

/** Name and colour of each series, in as many lines as that takes. */
function legend(
  panel: Panel,
  series: readonly Series[],
  width: number,
): { readonly lines: number; readonly svg: string } {
  let [x, line] = [0, 0];
  const parts = series.map(({ name }, index) => {
    const length = 28 + name.length * 6.6;
    if (x > 0 && x + length > width) [x, line] = [0, line + 1];
    const color = colorOf(panel, name, index);
    const item = `<path d="M${x} ${line * 15 + 7}h12" stroke="${color}" stroke-width="3"/><text x="${x + 16}" y="${line * 15 + 11}">${escape(name)}</text>`;
    x += length;
    return item;
  });
  return { lines: line + 1, svg: parts.join('') };
}

function timeseries(panel: Panel, series: readonly Series[], range: Range, width: number, height: number): string {
  const { unit, min = 0 } = panel.fieldConfig.defaults;
  const format = formatter(unit);
  const { lines, svg } = legend(panel, series, width - 20);
  const [left, top, right, bottom] = [68, 34, width - 12, height - 28 - lines * 15];
  const drawn = placed(panel, series);
  const values = drawn.flatMap(({ points }) => points.map(([, value]) => value));
  const scale = ticks(Math.min(min, ...values), Math.max(0, ...values), unit === 'bytes' ? 1024 : 10);
  const [low, high] = [scale[0] ?? 0, scale.at(-1) ?? 1];
  const x = (at: number): number => left + ((at - range.start) / (range.end - range.start)) * (right - left);
  const y = (value: number): number => bottom - ((value - low) / (high - low)) * (bottom - top);
  const grid = scale.map(
    (value) =>
      `<path d="M${left} ${y(value).toFixed(1)}H${right}" class="grid"/><text x="${left - 6}" y="${(y(value) + 4).toFixed(1)}" text-anchor="end">${format(value)}</text>`,
  );
  for (let second = 0; second <= range.end - range.start; second += 30) {
    const clock = `${Math.floor(second / 60)}:${String(second % 60).padStart(2, '0')}`;
    grid.push(
      `<text x="${x(range.start + second).toFixed(1)}" y="${bottom + 15}" text-anchor="middle">${clock}</text>`,
    );
  }
  const curves = drawn.map(({ name, points }, index) => {
    const line = path(points, range.step, x, y);
    return `<path d="${line}" class="line" stroke="${colorOf(panel, name, index)}"/>`;
  });
  return `${grid.join('')}${curves.toReversed().join('')}<g transform="translate(12 ${bottom + 22})">${svg}</g>`;
}

function stat(panel: Panel, series: readonly Series[], width: number, height: number): string {
  const { unit, thresholds } = panel.fieldConfig.defaults;
  return series
    .map(({ name, points }, index) => {
      const value = points.at(-1)?.[1] ?? NaN;
      const reached =
        thresholds?.steps.findLast((step) => step.value === null || value >= step.value)?.color ?? 'green';
      const middle = ((index + 0.5) * width) / series.length;
      const label = series.length > 1 || panel.options.textMode === 'value_and_name' ? name : '';
      return `<text x="${middle}" y="${height / 2 + 20}" class="value" style="fill:${named[reached]}">${formatter(unit)(value)}</text><text x="${middle}" y="${height - 12}" text-anchor="middle">${escape(label)}</text>`;
    })
    .join('');
}

function bars(panel: Panel, series: readonly Series[], width: number, height: number): string {
  const format = formatter(panel.fieldConfig.defaults.unit);
  const values = series.map(({ points }) => points.at(-1)?.[1] ?? NaN);
  const [left, top, pitch] = [150, 36, (height - 46) / series.length];
  return series
    .map(({ name }, index) => {
      const [value, y] = [values[index] ?? NaN, top + index * pitch];
      const length = (value / Math.max(...values)) * (width - left - 50);
      return `<text x="${left - 8}" y="${y + pitch / 2 + 4}" text-anchor="end">${escape(name)}</text><rect x="${left}" y="${y}" width="${length}" height="${pitch - 4}" fill="${named['green']}"/><text x="${left + length + 6}" y="${y + pitch / 2 + 4}">${format(value)}</text>`;
    })
    .join('');
}

function body(panel: Panel, series: readonly Series[], range: Range, width: number, height: number): string {
  if (series.length === 0) return `<text x="${width / 2}" y="${height / 2}" text-anchor="middle">No data</text>`;
  if (panel.type === 'stat') return stat(panel, series, width, height);
  if (panel.type === 'bargauge') return bars(panel, series, width, height);
  if (panel.type === 'timeseries') return timeseries(panel, series, range, width, height);
  throw new Error(`panel ${panel.title}: type ${panel.type} is not drawn yet`);
}

export function drawDashboard(panels: readonly (readonly [Panel, readonly Series[]])[], range: Range): string {
  const bottom = Math.max(...panels.map(([{ gridPos }]) => gridPos.y + gridPos.h));
  const [width, height] = [24 * column + gap, bottom * row + gap];
  const drawn = panels.map(([panel, series]) => {
    const { x, y, w, h } = panel.gridPos;
    const [inner, outer] = [w * column - gap, h * row - gap];
    return `<g transform="translate(${x * column + gap} ${y * row + gap})"><rect width="${inner}" height="${outer}" class="panel"/><text x="12" y="21" class="title">${escape(panel.title)}</text>${body(panel, series, range, inner, outer)}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="The dashboard, with measured data">
<style>text{font:11px system-ui,sans-serif;fill:#555}.title{font-weight:600;font-size:13px;fill:#222}.value{font-size:34px;text-anchor:middle}.panel{fill:#fff;stroke:#dcdfe3}.grid{stroke:#e6e8eb}.line{fill:none;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}</style>
<rect width="100%" height="100%" fill="#f4f5f5"/>
${drawn.join('\n')}
</svg>
`;
}
