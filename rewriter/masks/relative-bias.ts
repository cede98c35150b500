import type { MaskRule } from './mask-rule.js';
import type { Table } from './table.js';

/**
 * The logits of visible keys carry a bias that is a function of the relative position of query and key alone, a
 * learned table (T5, Swin) or a slope (ALiBi).
 */
export const relativeBias: MaskRule = { kind: 'relative-bias', holds: facts => facts.bias === 'relative' };

/**
 * Whether the biases of visible keys depend on head and relative position only: along the sequence, or along
 * rows and columns of a grid of some width. A term common to a whole row does not count, since the softmax
 * does not see it.
 */
export function isRelative(table: Table): boolean {
  const { rows, columns } = table.extent;
  const widths = [columns];
  if (rows === columns)
    for (let width = 2; width * width <= columns; width++) if (columns % width === 0) widths.push(width);
  return widths.some(width => dependsOnDistance(table, width));
}

function dependsOnDistance(table: Table, width: number): boolean {
  const { rows, columns } = table.extent;
  const shift = columns - rows;
  const reference = new Map<string, number>();
  for (const { b, h, i, j, hidden, bias } of table.entries) {
    if (!hidden && j === i + shift) reference.set(`${b} ${h} ${i}`, bias);
  }
  const biases = new Map<string, number>();
  for (const { b, h, i, j, hidden, bias } of table.entries) {
    const own = reference.get(`${b} ${h} ${i}`);
    if (hidden || own === undefined) continue;
    const position = i + shift;
    const across = (j % width) - (position % width);
    const down = Math.floor(j / width) - Math.floor(position / width);
    const key = `${h} ${down} ${across}`;
    const known = biases.get(key) ?? bias - own;
    if (Math.abs(known - (bias - own)) > 1e-4 * (1 + Math.abs(known) + Math.abs(own))) return false;
    biases.set(key, known);
  }
  return true;
}
