/** What a command prints: aligned columns for people, JSON for programs. */

export interface Column<T> {
  readonly title: string;
  readonly value: (row: T) => string;
  readonly align?: 'left' | 'right';
}

/** Columns two spaces apart, no trailing blanks. An empty cell is `-`, so that `awk` counts fields right. */
export function renderTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cells = rows.map((row) => columns.map((column) => printable(column.value(row)) || '-'));
  const widths = columns.map((column, index) =>
    Math.max(column.title.length, ...cells.map((line) => displayWidth(line[index] ?? ''))),
  );
  const renderLine = (line: readonly string[]): string =>
    line
      .map((cell, index) => {
        const padding = ' '.repeat(Math.max(0, (widths[index] ?? 0) - displayWidth(cell)));
        return columns[index]?.align === 'right' ? padding + cell : cell + padding;
      })
      .join('  ')
      .trimEnd();
  return [columns.map((column) => column.title.toUpperCase()), ...cells]
    .map((line) => `${renderLine(line)}\n`)
    .join('');
}

/** `name:  value` lines, names aligned; a list goes on below itself. */
export function renderFields(fields: readonly (readonly [name: string, value: string | readonly string[]])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length)) + 2;
  return fields
    .map(([name, value]) => {
      const lines = (typeof value === 'string' ? [value] : value).map(printable);
      const [first = '-', ...rest] = lines.filter((line) => line !== '');
      return [`${`${name}:`.padEnd(width)}${first}`, ...rest.map((line) => ' '.repeat(width) + line)].join('\n');
    })
    .map((line) => `${line}\n`)
    .join('');
}

/** Masks become `0x…`, so that no program rounds them; other bigints become decimal text. */
export function renderJson(value: unknown): string {
  return `${JSON.stringify(value, (_key, item: unknown) => (typeof item === 'bigint' ? item.toString() : item), 2)}\n`;
}

/** Control characters of strangers (pod names, error texts) never reach the terminal. */
function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

function displayWidth(text: string): number {
  return Array.from(text).length;
}
