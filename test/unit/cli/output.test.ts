import { describe, expect, it } from '@jest/globals';
import { renderFields, renderJson, renderTable } from '../../../src/cli/output.ts';

interface Row {
  readonly name: string;
  readonly frames: number;
}

describe('a table', () => {
  it('aligns columns, numbers to the right, and ends lines without blanks', () => {
    const text = renderTable<Row>(
      [
        { title: 'name', value: ({ name }) => name },
        { title: 'frames', value: ({ frames }) => String(frames), align: 'right' },
        { title: 'note', value: ({ frames }) => (frames > 10 ? 'busy' : '') },
      ],
      [
        { name: 'vu1', frames: 7 },
        { name: 'vu-longer', frames: 1234567 },
      ],
    );
    expect(text).toBe(['NAME        FRAMES  NOTE', 'vu1              7  -', 'vu-longer  1234567  busy', ''].join('\n'));
  });

  it('without rows is its heading', () => {
    expect(renderTable([{ title: 'id', value: () => '' }], [])).toBe('ID\n');
  });

  it('control characters of strangers do not reach the terminal', () => {
    const hostile = '\u001b[2Jpod\nname\u009b';
    expect(renderTable([{ title: 'pod', value: () => hostile }], [0])).toBe('POD\n?[2Jpod?name?\n');
    expect(renderFields([['pod', hostile]])).toBe('pod: ?[2Jpod?name?\n');
  });
});

describe('fields', () => {
  it('align their values, continue lists below, and show what is empty as a dash', () => {
    expect(
      renderFields([
        ['id', 'vu1'],
        ['features', ['CSUM', 'VERSION_1']],
        ['drops', []],
        ['reason', ''],
      ]),
    ).toBe(['id:       vu1', 'features: CSUM', '          VERSION_1', 'drops:    -', 'reason:   -', ''].join('\n'));
  });
});

describe('JSON', () => {
  it('keeps every digit of a 64-bit number', () => {
    expect(renderJson({ frames: 18446744073709551615n })).toBe('{\n  "frames": "18446744073709551615"\n}\n');
  });
});
