import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { InputError } from '../../rewriter/errors.js';
import { elementCount } from '../../rewriter/onnx/element-size.js';
import type { ModelInput } from './model-inputs.js';
import { type TensorValue, tensorFrom } from './tensor.js';

export interface GenerationOptions {
  /** Tokens along every dynamic sequence axis. */
  readonly length: number;
  /** Rows along every dynamic batch axis. */
  readonly batch: number;
  /** Whether every batch row but the first ends in padding, where there is a mask to say so. */
  readonly padded: boolean;
  readonly seed: number;
}

/** Ids drawn when the graph does not tell the size of the vocabulary. */
const SMALL_VOCABULARY = 100;
/** Height and width of an image whose size is dynamic. */
const IMAGE_SIZE = 224;
const COLOR_CHANNELS = 3;

/** What inputs are for, by the names that exporters and model authors give them. */
const MASK = /mask/i;
/** PyTorch's `key_padding_mask` marks the keys to hide, every other mask those to see. */
const MARKS_PADDING = /padding_mask/i;
const POSITIONS = /position/i;
const SEGMENTS = /token_type|segment/i;
const PAST = /past|cache/i;
const IMAGE = /pixel|image/i;

/** Whether a batch of rows of different lengths can be described to the model. */
export function takesPadding(inputs: readonly ModelInput[]): boolean {
  return inputs.some(
    input => MASK.test(input.name) && input.dims.length === 2 && typeof input.dims[0] !== 'number',
  );
}

/** Whether the values of an input follow from the sizes of the others by convention. */
export function isConventional(input: ModelInput): boolean {
  return [MASK, POSITIONS, SEGMENTS, PAST].some(pattern => pattern.test(input.name));
}

/**
 * Inputs that respect types, static sizes and the conventions of exporters: masks mark the visible keys,
 * positions count up, segment ids and caches of past keys are zero or empty, ids stay within the vocabulary;
 * everything else is standard normal.
 * @throws InputError when an input would not fit in memory
 */
export function generateInputs(
  inputs: readonly ModelInput[],
  options: GenerationOptions,
): Map<string, TensorValue> {
  const random = new SeededRandom(options.seed);
  const symbols = new Map<string, number>();
  return new Map(
    inputs.map(input => {
      const dims = input.dims.map((_, axis) => sizeOf(input, axis, options, symbols));
      checkSize(input.name, dims);
      return [input.name, tensorFrom(input.type, dims, generateElements(input, dims, options, random))];
    }),
  );
}

/** Most elements of a generated input: 1 GiB of what they are drawn as. */
const MOST_ELEMENTS = 2 ** 27;

function checkSize(name: string, dims: readonly number[]): void {
  if (elementCount(dims) <= MOST_ELEMENTS) return;
  throw new InputError(`input "${name}" of shape [${dims.join(', ')}] is too large to be generated`, {
    remedy: 'Choose a shorter --length, or give --inputs.',
  });
}

/** Size of one axis; a symbol has the same size wherever it occurs. */
function sizeOf(
  input: ModelInput,
  axis: number,
  options: GenerationOptions,
  symbols: Map<string, number>,
): number {
  const dim = input.dims[axis]!;
  if (typeof dim === 'number') return dim;
  const known = dim === null ? undefined : symbols.get(dim);
  if (known !== undefined) return known;
  const size = dynamicSize(input, axis, options);
  if (dim !== null) symbols.set(dim, size);
  return size;
}

function dynamicSize(input: ModelInput, axis: number, options: GenerationOptions): number {
  const rank = input.dims.length;
  const dim = input.dims[axis]!;
  const symbol = typeof dim === 'string' ? dim : '';
  if (/batch/i.test(symbol)) return options.batch;
  // The keys of a mask are those of the past, of which there are none, and the new ones.
  if (PAST.test(symbol)) return symbol.includes('+') ? options.length : 0;
  if (axis === 0 && rank > 1) return options.batch;
  if (PAST.test(input.name) && rank === 4 && axis === 2) return 0;
  if (IMAGE.test(input.name) && rank === 4) return axis === 1 ? COLOR_CHANNELS : IMAGE_SIZE;
  return options.length;
}

function generateElements(
  input: ModelInput,
  dims: readonly number[],
  options: GenerationOptions,
  random: SeededRandom,
): Float64Array {
  const elements = new Float64Array(elementCount(dims));
  const last = dims.at(-1) ?? 1;
  const floating = input.type.startsWith('float');
  if (MASK.test(input.name)) {
    // A float mask of rank 4 is added to the scores: zero hides nothing.
    if (!(floating && dims.length === 4))
      fillMask(elements, dims, MARKS_PADDING.test(input.name) ? 0 : 1, options.padded);
  } else if (POSITIONS.test(input.name)) {
    for (let i = 0; i < elements.length; i++) elements[i] = i % last;
  } else if (SEGMENTS.test(input.name) || PAST.test(input.name)) {
    elements.fill(0);
  } else if (floating) {
    for (let i = 0; i < elements.length; i++) elements[i] = random.normal();
  } else if (input.type !== 'bool') {
    const vocabulary = input.vocabulary ?? SMALL_VOCABULARY;
    for (let i = 0; i < elements.length; i++) elements[i] = random.below(vocabulary);
  }
  return elements;
}

/** In a padded mask `[batch, keys]`, row b ends in b sixths of padding, at most half of the row; all else is visible. */
function fillMask(elements: Float64Array, dims: readonly number[], visible: 0 | 1, padded: boolean): void {
  elements.fill(visible);
  const [batch, keys] = dims;
  if (!padded || dims.length !== 2 || batch === undefined || keys === undefined) return;
  for (let row = 1; row < batch; row++) {
    const padding = Math.floor(keys * Math.min(row / 6, 1 / 2));
    elements.fill(1 - visible, (row + 1) * keys - padding, (row + 1) * keys);
  }
}
