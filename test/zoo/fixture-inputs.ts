import { type TensorValue, tensorFrom } from '../../cli/data/tensor.js';
import type { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { Fixture, FixtureInput } from './fixtures.js';

/** What the symbols in the shapes of the fixtures stand for, but for `total_sequence`, their sum with the past. */
export interface Sizes {
  readonly batch: number;
  readonly sequence: number;
  readonly encoder_sequence: number;
  readonly past_sequence: number;
}

/** Which tokens of a batch row are real, in a sequence of `length`. */
export type Padding = (row: number, length: number) => (token: number) => boolean;

/** By turns: no padding; a third at the end; a third at the start; a third in the middle. */
export const raggedPadding: Padding = (row, length) => {
  const third = Math.floor(length / 3);
  const from = [length, length - third, 0, third][row % 4]!;
  return token => token < from || token >= from + third;
};

/** The first row has no token at all, the others all of them. */
export const firstRowEmpty: Padding = row => () => row > 0;

/** Values for the inputs of a fixture; `flag` is what its switch inputs say. */
export function fixtureInputs(
  fixture: Fixture,
  sizes: Sizes,
  padding: Padding,
  flag: boolean,
  random: SeededRandom,
): ReadonlyMap<string, TensorValue> {
  const size = sizesBySymbol(fixture, sizes);
  return new Map(
    fixture.inputs.map(input => {
      const dims = input.dims.map(dim => (typeof dim === 'number' ? dim : size(dim)));
      const count = dims.reduce((product, dim) => product * dim, 1);
      const element = elementRule(input, dims, size, padding, flag, random);
      return [
        input.name,
        tensorFrom(
          input.dtype,
          dims,
          Float64Array.from({ length: count }, (_, i) => element(i)),
        ),
      ];
    }),
  );
}

/** Keys that a self-attention of the fixture sees at all, by batch row; the mask is over past and new keys. */
export function realKeys(
  fixture: Fixture,
  sizes: Sizes,
  padding: Padding,
): (row: number, key: number) => boolean {
  const symbols = ['sequence', 'total_sequence'];
  const mask = fixture.inputs.find(
    ({ fill, dims }) => ['padding', 'visible', 'hidden'].includes(fill) && symbols.includes(String(dims[1])),
  );
  if (mask === undefined) return () => true;
  const length = sizesBySymbol(fixture, sizes)(String(mask.dims[1]));
  return (row, key) => padding(row, length)(key);
}

function sizesBySymbol(fixture: Fixture, sizes: Sizes): (symbol: string) => number {
  const hasPast = fixture.inputs.some(({ dims }) => dims.includes('past_sequence'));
  const bySymbol: Readonly<Record<string, number>> = {
    ...sizes,
    total_sequence: sizes.sequence + (hasPast ? sizes.past_sequence : 0),
  };
  return symbol => {
    const size = bySymbol[symbol];
    if (size === undefined) throw new RangeError(`${fixture.name}: no size for ${symbol}`);
    return size;
  };
}

/** The element at a place in row-major order. */
function elementRule(
  { name, fill }: FixtureInput,
  dims: readonly number[],
  size: (symbol: string) => number,
  padding: Padding,
  flag: boolean,
  random: SeededRandom,
): (index: number) => number {
  const [kind, argument = ''] = fill.split(':');
  const length = dims.at(-1) ?? 1;
  const isReal = (index: number) => padding(Math.floor(index / length), length)(index % length);
  switch (kind) {
    case 'ids':
      return () => random.below(Number(argument));
    case 'normal':
      return () => random.normal();
    case 'padding':
    case 'visible':
      return index => Number(isReal(index));
    case 'hidden':
      return index => Number(!isReal(index));
    case 'lengths':
      return row => size(argument) - Math.floor(((row % 4) * size(argument)) / 5);
    case 'last':
      return () => size(argument) - 1;
    case 'size':
      return () => size(argument);
    case 'flag':
      return () => Number(flag);
    default:
      throw new RangeError(`input ${name}: unknown fill ${fill}`);
  }
}
