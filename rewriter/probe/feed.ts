import { isFloating } from '../graph/data-type.js';
import type { Value } from '../graph/value.js';
import { DataType } from '../onnx/spec.js';
import { coordinates, type Sample } from './sample.js';

/**
 * What the graph inputs hold. Integer and boolean inputs stand for masks and token ids, floating ones of rank 2
 * for masks too; every other floating input is data.
 */
export interface Feed {
  /** Distinguishes feeds, and with it the numbers that stand for data. */
  readonly seed: number;
  /** Element of a mask or of ids; `position` holds its coordinates. */
  mask(input: Value, position: readonly number[]): number;
}

/** Every mask element and token id `value`; 1 is what masks call present. */
export function uniform(seed: number, value: number): Feed {
  return { seed, mask: () => value };
}

/** Mask elements and token ids `value` in the first batch row and `rest` in the others. */
export function firstRow(seed: number, value: number, rest: number): Feed {
  return { seed, mask: (_, position) => (position[0] === 0 ? value : rest) };
}

/** Mask elements and token ids drawn independently from `choices`. */
export function drawn(seed: number, choices: readonly number[]): Feed {
  return {
    seed,
    mask: (input, position) => choices[Math.floor(hashUnit(seed, input.name, position) * choices.length)]!,
  };
}

/** Numbers of keys longer than any sample. */
const WHOLE_LENGTH = 2 ** 24;

/**
 * The elements that a graph input of this shape holds under a feed. Integers in a list are lengths of
 * sequences, whole ones or, where the feed has an absent token, short ones; positions, which only their name
 * tells, count up.
 */
export function feedInput(input: Value, dims: readonly number[], feed: Feed): Sample {
  const dataType = input.declared!.dataType;
  const { name } = input;
  const rank = dims.length;
  if (isFloating(dataType)) {
    if (rank !== 2) return dataSample(name, dims, dataType, feed.seed);
  } else if (/position/i.test(name)) {
    const last = dims[rank - 1] ?? 1;
    return { dims, dataType, at: index => index % last };
  } else if (rank === 1 && dataType !== DataType.BOOL) {
    return {
      dims,
      dataType,
      at: index => (feed.mask(input, [index]) === 0 ? 1 + (index % 3) : WHOLE_LENGTH),
    };
  }
  return { dims, dataType, at: index => feed.mask(input, coordinates(index, dims)) };
}

/** Numbers in place of data that is not followed: floating ones from -1 to 1, integers and booleans 0 or 1. */
export function dataSample(
  name: string,
  dims: readonly number[],
  dataType: Sample['dataType'],
  seed: number,
): Sample {
  const at = (index: number) => hashUnit(seed, name, [index]);
  return isFloating(dataType)
    ? { dims, dataType, at: index => 2 * at(index) - 1 }
    : { dims, dataType, at: index => (at(index) < 0.5 ? 0 : 1) };
}

/** A number in [0, 1) that depends on all arguments (FNV-1a with a final avalanche). */
function hashUnit(seed: number, name: string, position: readonly number[]): number {
  let hash = 0x811c9dc5 ^ seed;
  const mix = (word: number) => {
    hash = Math.imul(hash ^ word, 0x01000193);
  };
  for (let i = 0; i < name.length; i++) mix(name.charCodeAt(i));
  for (const word of position) {
    mix(word & 0xffff);
    mix(word >>> 16);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}
