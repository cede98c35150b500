import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import type { ElementwiseParameters } from './parameters.js';
import { type ElementwiseInputs, elementwiseAttention } from './reference.js';

/** The cases on which every form of ElementwiseAttention is compared with `reference.ts`. */
export interface ElementwiseCase {
  readonly name: string;
  readonly batch: number;
  readonly rows: number;
  /** The same as `rows` under causality. */
  readonly keys: number;
  readonly channels: number;
  readonly parameters: ElementwiseParameters;
  /** Tokens before these ones, whose state is given; null = input not connected. */
  readonly past: number | null;
  /**
   * `random`: about a third hidden; `first`: the first keys hidden, so that causal rows come out empty; `all`:
   * everything of the last batch row hidden.
   */
  readonly keyMask: 'none' | 'random' | 'first' | 'all';
  /**
   * `normal`: standard normal; `large`: keys and queries up to 30; `falling`: keys from 30 down to 0, so that
   * the weights of all earlier tokens vanish beside the last; `rising`: the reverse.
   */
  readonly data: 'normal' | 'large' | 'falling' | 'rising';
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
}

type Shape = Partial<Omit<ElementwiseCase, 'name' | 'parameters' | 'rows'>>;

/** The same case with and without causality. */
function both(name: string, order: number, rows: number, shape: Shape = {}): ElementwiseCase[] {
  return [false, true].map(causal => ({
    name: `${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    rows,
    keys: rows,
    channels: 8,
    past: null,
    keyMask: 'none',
    data: 'normal',
    float16: false,
    ...shape,
    parameters: { order, causal },
  }));
}

const acausal = (...given: Parameters<typeof both>) => both(...given).slice(0, 1);

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const ELEMENTWISE_CASES: readonly ElementwiseCase[] = [
  ...[0, 2, 4, 6, 8].flatMap(order => both(`order ${order}`, order, 70, { batch: 2 })),
  ...both('order 2, long', 2, 700, { channels: 5 }),
  ...both('order 6, many channels', 6, 90, { channels: 83, batch: 2 }),
  ...both('order 2, whole vectors', 2, 64, { channels: 64 }),
  ...both('order 2, many chunks', 2, 2100, { channels: 3 }),
  ...[0, 2, 6].flatMap(order => [
    ...both(`order ${order}, one channel`, order, 33, { channels: 1 }),
    ...both(`order ${order}, one token`, order, 1),
    ...both(`order ${order}, nothing`, order, 0),
    ...both(`order ${order}, random mask`, order, 90, { batch: 2, keyMask: 'random', channels: 19 }),
    ...both(`order ${order}, first keys hidden`, order, 90, { keyMask: 'first' }),
    ...both(`order ${order}, everything hidden`, order, 40, { batch: 2, keyMask: 'all' }),
    ...both(`order ${order}, large`, order, 300, { data: 'large' }),
    ...both(`order ${order}, falling`, order, 300, { data: 'falling' }),
    ...both(`order ${order}, rising`, order, 300, { data: 'rising' }),
    ...both(`order ${order}, float16`, order, 80, { float16: true, channels: 21 }),
    ...acausal(`order ${order}, fewer queries`, order, 20, { keys: 120 }),
    ...acausal(`order ${order}, more queries`, order, 120, { keys: 20 }),
    ...acausal(`order ${order}, no keys`, order, 5, { keys: 0 }),
    ...acausal(`order ${order}, no queries`, order, 0, { keys: 5 }),
  ]),
  ...[2, 6].flatMap(order => [
    ...both(`order ${order}, empty state`, order, 30, { past: 0 }),
    ...both(`order ${order}, chunk after a state`, order, 60, { past: 40, batch: 2, keyMask: 'random' }),
    ...both(`order ${order}, step`, order, 1, { past: 100, batch: 3, channels: 40 }),
    ...both(`order ${order}, falling step`, order, 1, { past: 50, data: 'falling' }),
    ...both(`order ${order}, large step`, order, 1, { past: 50, data: 'large' }),
    ...both(`order ${order}, hidden step`, order, 1, { past: 50, keyMask: 'first' }),
    ...both(`order ${order}, float16 step`, order, 1, { past: 50, float16: true }),
  ]),
];

/** Keys hidden at the start in a `first` mask. */
const HIDDEN_FIRST = 10;

/** The inputs of a case, the same on every call. */
export function caseInputs(shared: ElementwiseCase): ElementwiseInputs {
  const random = SeededRandom.named(shared.name);
  const { batch, rows, keys, channels, past, parameters } = shared;
  const earlier = past ?? 0;
  const rounded = (data: Float32Array) => (shared.float16 ? float16ToFloat32(float32ToFloat16(data)) : data);
  const normals = (length: number): Tensor => ({
    dims: [batch, length, channels],
    data: rounded(random.normals(batch * length * channels)),
  });
  const keysFrom = (start: number, length: number): Tensor => {
    const all = earlier + keys;
    const data = Float32Array.from({ length: batch * length * channels }, (_, at) => {
      const n = start + (Math.floor(at / channels) % length);
      const sign = random.uniform() < 0.5 ? -1 : 1;
      switch (shared.data) {
        case 'normal':
          return random.normal();
        case 'large':
          return 60 * random.uniform() - 30;
        case 'falling':
          return sign * (30 * (1 - n / all) + 0.5 * random.uniform());
        case 'rising':
          return sign * (30 * (n / all) + 0.5 * random.uniform());
      }
    });
    return { dims: [batch, length, channels], data: rounded(data) };
  };
  const wide = shared.data !== 'normal';
  const query = (): Tensor =>
    wide ? { ...keysFrom(0, rows), dims: [batch, rows, channels] } : normals(rows);
  const state =
    past === null
      ? null
      : elementwiseAttention(
          { query: normals(0), key: keysFrom(0, past), value: normals(past) },
          { ...parameters, causal: false },
        ).present;
  const mask = keyMask(shared, random);
  return {
    query: query(),
    key: keysFrom(earlier, keys),
    value: normals(keys),
    ...(mask && { keyMask: mask }),
    ...(state && { past: state }),
  };
}

function keyMask(
  { keyMask, batch, keys }: ElementwiseCase,
  random: SeededRandom,
): Uint8Array<ArrayBuffer> | null {
  if (keyMask === 'none') return null;
  return Uint8Array.from({ length: batch * keys }, (_, at) => {
    const visible = {
      random: random.uniform() < 0.67,
      first: at % keys >= HIDDEN_FIRST,
      all: Math.floor(at / keys) < batch - 1,
    };
    return Number(visible[keyMask]);
  });
}
