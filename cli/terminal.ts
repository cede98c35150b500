import pc from 'picocolors';

/** Colors for text on stdout; plain text when it is no terminal or NO_COLOR is set. */
export const colors = pc.createColors(process.stdout.isTTY === true && pc.isColorSupported);

/** Prints `text` and a line feed on stdout. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Prints a note for people on stderr, where it cannot disturb a JSON document. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Prints one JSON document on one line. Numbers that JSON lacks (NaN, infinities) become null. */
export function printJson(document: unknown): void {
  print(JSON.stringify(document));
}

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

/** Lines of a table with aligned columns; cells may hold color codes. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((column, c) =>
    Math.max(column.title.length, ...rows.map(row => visibleLength(row[c] ?? ''))),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, c) => {
        const padding = ' '.repeat(widths[c]! - visibleLength(cell));
        return columns[c]!.align === 'right' ? padding + cell : cell + padding;
      })
      .join('  ')
      .trimEnd();
  const titles = columns.map(column => colors.bold(column.title));
  return [line(titles), line(widths.map(width => colors.dim('─'.repeat(width)))), ...rows.map(line)].join(
    '\n',
  );
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character starts every color code.
const COLOR_CODE = /\x1b\[[0-9;]*m/g;

function visibleLength(text: string): number {
  return text.replace(COLOR_CODE, '').length;
}

const BAR_WIDTH = 24;

/** A progress bar on stderr: drawn only on a terminal, silent elsewhere. */
export class ProgressBar {
  private shown = false;

  constructor(private readonly stream: NodeJS.WriteStream = process.stderr) {}

  /** Shows that `done` of `total` steps are over and that the step `label` is under way. */
  update(done: number, total: number, label: string): void {
    if (!this.stream.isTTY) return;
    const filled = Math.round((done / Math.max(total, 1)) * BAR_WIDTH);
    const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
    const line = `${bar} ${done}/${total} ${label}`;
    this.stream.write(`\r\x1b[2K${line.slice(0, this.stream.columns - 1)}`);
    this.shown = true;
  }

  /** Removes the bar, leaving the line to what is printed next. */
  clear(): void {
    if (this.shown) this.stream.write('\r\x1b[2K');
    this.shown = false;
  }
}
