/** Horizontal bar charts as SVG: one bar per row, the spread as a thin line, the value at its end. */
import type { Summary } from './statistics.ts';

export interface Bar {
  readonly label: string;
  readonly summary: Summary;
  readonly ours: boolean;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

function readable(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export interface Panel {
  readonly title: string;
  readonly bars: readonly Bar[];
}

export function barChart(title: string, panels: readonly Panel[]): string {
  const width = 760;
  const left = 250;
  const right = 80;
  const parts: string[] = [];
  let y = 34;
  for (const panel of panels) {
    parts.push(`<text x="16" y="${y + 14}" class="panel">${escape(panel.title)}</text>`);
    y += 24;
    const largest = Math.max(...panel.bars.map((bar) => bar.summary.max)) || 1;
    const scale = (value: number): number => (value / largest) * (width - left - right);
    for (const bar of panel.bars) {
      const { median, min, max } = bar.summary;
      parts.push(
        `<text x="${left - 8}" y="${y + 13}" text-anchor="end">${escape(bar.label)}</text>`,
        `<rect x="${left}" y="${y + 2}" width="${scale(median).toFixed(1)}" height="14" rx="2" class="${bar.ours ? 'ours' : 'other'}"/>`,
        `<line x1="${(left + scale(min)).toFixed(1)}" x2="${(left + scale(max)).toFixed(1)}" y1="${y + 9}" y2="${y + 9}" class="spread"/>`,
        `<text x="${(left + scale(max) + 6).toFixed(1)}" y="${y + 13}">${readable(median)}</text>`,
      );
      y += 21;
    }
    y += 10;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}" role="img" aria-label="${escape(title)}">
<style>text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:700;font-size:14px}.panel{font-weight:600}.ours{fill:#1f6f8b}.other{fill:#b8c4ca}.spread{stroke:#333;stroke-width:1.2}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="16" y="22" class="title">${escape(title)}</text>
${parts.join('\n')}
</svg>
`;
}
