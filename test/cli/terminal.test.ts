import assert from 'node:assert/strict';
import { printable, table } from '../../cli/terminal.js';

describe('text for terminals', () => {
  it('shows control sequences of foreign names as what they are, and keeps colors', () => {
    assert.equal(
      printable('a\x1b]0;title\x07b\x1b[2Jc\x9b2J\r'),
      'a\ufffd]0;title\ufffdb\ufffd[2Jc\ufffd2J\ufffd',
    );
    assert.equal(
      printable('\x1b[1mbold\x1b[22m\tand\nlines, ä, 值'),
      '\x1b[1mbold\x1b[22m\tand\nlines, ä, 值',
    );
  });

  it('aligns cells whatever colors they have', () => {
    const lines = table(
      [{ title: 'name' }, { title: 'n', align: 'right' }],
      [
        ['\x1b[32ma\x1b[39m', '1'],
        ['long name', '1000'],
      ],
    ).split('\n');
    assert.deepEqual(lines.slice(2), ['\x1b[32ma\x1b[39m             1', 'long name  1000']);
  });
});
